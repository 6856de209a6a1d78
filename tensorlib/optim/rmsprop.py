"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.optim.inplace import add_, addcdiv_, addcmul_, lerp_, mul_, shift_
from tensorlib.optim.optimizer import Group
from tensorlib.optim.rule import Rule, check_lr, check_options, number
from tensorlib.tensor import Tensor

__all__ = ["RMSprop"]


class RMSprop(Rule):
    """RMSprop (Hinton's lecture 6; centred as in Graves, 2013).

        v = alpha · v + (1 - alpha) · g²          a = alpha · a + (1 - alpha) · g
        buffer = momentum · buffer + g / (sqrt(v - a²  if centered else  v) + eps)
        param -= lr · buffer

    Without momentum the buffer is the last quotient.
    """

    _late: ClassVar[Group] = {
        "momentum": 0,
        "centered": False,
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    _shaped = ("square_avg", "momentum_buffer", "grad_avg")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr("RMSprop", lr)
        check_options("RMSprop", eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _names(self, group: Group) -> tuple[str, ...]:
        names = ["square_avg"]
        if group["momentum"] > 0:
            names.append("momentum_buffer")
        if group["centered"]:
            names.append("grad_avg")
        return tuple(names)

    def _update(self, group: Group) -> None:
        lr, alpha, eps = -number(group["lr"]), group["alpha"], group["eps"]
        momentum, centered = group["momentum"], group["centered"]
        for x, g, (v, *more), _, (w, _, u, _) in self._live(group, self._names(group)):
            mul_(v, alpha, w)
            addcmul_(v, g, g, 1 - alpha, w)
            if centered:
                mean = more[-1]
                lerp_(mean, g, 1 - alpha, w)
                np.multiply(mean, mean, w, dtype=w.dtype)
                np.subtract(v, w, u)
                np.sqrt(u, u)
            else:
                np.sqrt(v, u)
            shift_(u, eps)
            if momentum > 0:
                mul_(more[0], momentum, w)
                addcdiv_(more[0], g, u, 1, w)
                add_(x, more[0], lr, w)
            else:
                addcdiv_(x, g, u, lr, w)
