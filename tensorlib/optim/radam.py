"""RAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.optim.inplace import addcmul_, lerp_, mul_, shift_
from tensorlib.optim.optimizer import Group
from tensorlib.optim.rule import Rule, check_betas, check_lr, check_options, number
from tensorlib.tensor import Tensor

__all__ = ["RAdam"]


class RAdam(Rule):
    """Rectified Adam (Liu et al., 2020): while too few gradients were seen to know their variance,
    param -= lr · m / (1 - beta1^t); afterwards Adam's step times the rectification.
    """

    _late: ClassVar[Group] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "decoupled_weight_decay": False,
        "capturable": False,
    }
    _shaped = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr("RAdam", lr)
        check_options("RAdam", eps=eps)
        check_betas("RAdam", betas)
        check_options("RAdam", weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group) -> None:
        lr, eps, (beta1, beta2) = number(group["lr"]), group["eps"], group["betas"]
        longest = 2 / (1 - beta2) - 1  # of the simple moving average that is approximated
        for x, g, (m, v), step, (w, _, u, s) in self._live(group, self._shaped):
            lerp_(m, g, 1 - beta1, w)
            mul_(v, beta2, w)
            addcmul_(v, g, g, 1 - beta2, w)
            bias = 1 - beta2**step
            length = longest - 2 * step * (beta2**step) / bias
            np.divide(m, 1 - beta1**step, u, dtype=w.dtype)
            mul_(u, lr, w)
            if length > 5.0:
                np.sqrt(v, s)
                shift_(s, eps)
                np.reciprocal(s, s)
                mul_(s, bias**0.5, w)
                np.multiply(u, s, u)
                rectified = (length - 4) * (length - 2) * longest
                mul_(u, (rectified / ((longest - 4) * (longest - 2) * length)) ** 0.5, w)
            np.subtract(x, u, x)
