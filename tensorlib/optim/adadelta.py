"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.optim.inplace import add_, addcmul_, mul_
from tensorlib.optim.optimizer import Group
from tensorlib.optim.rule import Rule, check, check_lr, check_options, number
from tensorlib.tensor import Tensor

__all__ = ["Adadelta"]


class Adadelta(Rule):
    """Adadelta (Zeiler, 2012).

    v = rho · v + (1 - rho) · g²
    delta = sqrt(u + eps) / sqrt(v + eps) · g          u = rho · u + (1 - rho) · delta²
    param -= lr · delta
    """

    _late: ClassVar[Group] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    _shaped = ("square_avg", "acc_delta")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr("Adadelta", lr)
        check("Adadelta", "Invalid rho value", rho, 0.0 <= rho <= 1.0, "between 0 and 1")
        check_options("Adadelta", eps=eps, weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group) -> None:
        lr, rho, eps = -number(group["lr"]), group["rho"], group["eps"]
        for x, g, (v, total), _, (w, _, u, delta) in self._live(group, self._shaped):
            mul_(v, rho, w)
            addcmul_(v, g, g, 1 - rho, w)
            np.add(v, eps, u)
            np.sqrt(u, u)
            np.add(total, eps, delta)
            np.sqrt(delta, delta)
            np.divide(delta, u, delta)
            np.multiply(delta, g, delta)
            mul_(total, rho, w)
            addcmul_(total, delta, delta, 1 - rho, w)
            add_(x, delta, lr, w)
