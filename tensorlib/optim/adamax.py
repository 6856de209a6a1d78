"""Adamax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.optim.inplace import addcdiv_, lerp_, mul_, shift_
from tensorlib.optim.optimizer import Group
from tensorlib.optim.rule import Rule, check_betas, check_lr, check_options, number
from tensorlib.tensor import Tensor

__all__ = ["Adamax"]


class Adamax(Rule):
    """Adam by the infinity norm (Kingma and Ba, 2015).

    m = beta1 · m + (1 - beta1) · g          u = max(beta2 · u, |g| + eps)
    param -= lr / (1 - beta1^t) · m / u
    """

    _late: ClassVar[Group] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    _shaped = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_lr("Adamax", lr)
        check_options("Adamax", eps=eps)
        check_betas("Adamax", betas)
        check_options("Adamax", weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group) -> None:
        lr, eps, (beta1, beta2) = number(group["lr"]), group["eps"], group["betas"]
        for x, g, (m, norm), step, (w, _, u, _) in self._live(group, self._shaped):
            lerp_(m, g, 1 - beta1, w)
            mul_(norm, beta2, w)
            np.abs(g, u)
            shift_(u, eps)
            np.maximum(norm, u, out=norm)
            addcdiv_(x, m, norm, -(lr / (1 - beta1**step)), w)
