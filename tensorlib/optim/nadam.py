"""NAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.optim.inplace import addcdiv_, addcmul_, lerp_, mul_, shift_
from tensorlib.optim.optimizer import Group, State, counter
from tensorlib.optim.rule import Rule, check_betas, check_lr, check_options, number
from tensorlib.tensor import Tensor

__all__ = ["NAdam"]


class NAdam(Rule):
    """Adam with Nesterov momentum (Dozat, 2016).

        mu_t = beta1 · (1 - 0.96^(t · momentum_decay) / 2)
        param -= lr · ((1 - mu_t) / (1 - prod mu) · g + mu_t+1 / (1 - prod mu · mu_t+1) · m)
                 / (sqrt(v / (1 - beta2^t)) + eps)

    m and v as in Adam.
    """

    _late: ClassVar[Group] = {
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "decoupled_weight_decay": False,
    }
    _counters = ("step", "mu_product")
    _shaped = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr("NAdam", lr)
        check_options("NAdam", eps=eps)
        check_betas("NAdam", betas)
        check_options("NAdam", weight_decay=weight_decay, momentum_decay=momentum_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _start(self, state: State, param: Tensor, group: Group) -> None:
        super()._start(state, param, group)
        averages = [(name, state.pop(name)) for name in self._shaped]
        state["mu_product"] = counter(1.0, group)
        state.update(averages)

    def _update(self, group: Group) -> None:
        lr, eps, (beta1, beta2) = number(group["lr"]), group["eps"], group["betas"]
        decay = group["momentum_decay"]

        def advance(state: State, param: Tensor, step: float) -> tuple[float, Any, Any]:
            mu = beta1 * (1.0 - 0.5 * (0.96 ** (step * decay)))
            mu_next = beta1 * (1.0 - 0.5 * (0.96 ** ((step + 1) * decay)))
            product = state["mu_product"].array
            product *= mu
            past = product.item()
            return (
                1 - beta2**step,
                -lr * (1.0 - mu) / (1.0 - past),
                (-lr * mu_next) / (1.0 - past * mu_next),
            )

        for x, g, (m, v), (bias, now, then), (w, _, u, _) in self._live(
            group, self._shaped, advance
        ):
            lerp_(m, g, 1 - beta1, w)
            mul_(v, beta2, w)
            addcmul_(v, g, g, 1 - beta2, w)
            np.divide(v, bias, u, dtype=w.dtype)
            np.sqrt(u, u)
            shift_(u, eps)
            addcdiv_(x, g, u, now, w)
            addcdiv_(x, m, u, then, w)
