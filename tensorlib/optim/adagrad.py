"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.optim.inplace import addcdiv_, addcmul_, shift_
from tensorlib.optim.optimizer import Group, State, counter
from tensorlib.optim.rule import Rule, check_lr, check_options, number
from tensorlib.tensor import Tensor

__all__ = ["Adagrad"]


class Adagrad(Rule):
    """Adagrad (Duchi et al., 2011).

        sum = sum + g²
        param -= lr / (1 + (t - 1) · lr_decay) · g / (sqrt(sum) + eps)

    The state exists from the start, as in torch.
    """

    _late: ClassVar[Group] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "fused": None,
    }
    _shaped = ("sum",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr("Adagrad", lr)
        check_options(
            "Adagrad",
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for param in group["params"]:
                self._start(self.state[param], param, group)

    def _start(self, state: State, param: Tensor, group: Group) -> None:
        first: Any = self.defaults["initial_accumulator_value"]
        state["step"] = counter(0.0, group)
        if param.is_complex():
            first = complex(first, first)
        state["sum"] = wrap(np.full_like(param.array, first))

    def _update(self, group: Group) -> None:
        lr, decay, eps = number(group["lr"]), group["lr_decay"], group["eps"]
        for x, g, (total,), step, (w, _, u, _) in self._live(group, self._shaped):
            addcmul_(total, g, g, 1, w)
            np.sqrt(total, u)
            shift_(u, eps)
            addcdiv_(x, g, u, -(lr / (1 + (step - 1) * decay)), w)
