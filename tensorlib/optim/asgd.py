"""Averaged SGD."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.optim.inplace import add_, mul_
from tensorlib.optim.optimizer import Group, State, counter
from tensorlib.optim.rule import Rule, check_lr, check_options, number
from tensorlib.tensor import Tensor

__all__ = ["ASGD"]


class ASGD(Rule):
    """Averaged SGD (Polyak and Juditsky, 1992); the average of each parameter is its state "ax".

    param = (1 - lambd · eta) · param - eta · g          ax += mu · (param - ax)
    eta = lr / (1 + lambd · lr · t)^alpha                mu = 1 / max(1, t - t0)
    """

    _late: ClassVar[Group] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    _counters = ("step", "eta", "mu")
    _shaped = ("ax",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_lr("ASGD", lr)
        check_options("ASGD", weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _start(self, state: State, param: Tensor, group: Group) -> None:
        state["step"] = counter(0.0, group)
        state["eta"] = counter(number(group["lr"]), group)
        state["mu"] = counter(1.0, group)
        state["ax"] = wrap(np.zeros_like(param.array))

    def _update(self, group: Group) -> None:
        lr, lambd, alpha, t0 = number(group["lr"]), group["lambd"], group["alpha"], group["t0"]

        def advance(state: State, param: Tensor, step: float) -> tuple[float, float]:
            eta, mu = state["eta"].array, state["mu"].array
            now = eta.item(), mu.item()
            eta[()] = lr / ((1 + lambd * lr * step) ** alpha)
            mu[()] = 1 / max(1, step - t0)
            return now

        for x, g, (mean,), (eta, mu), (w, _, u, _) in self._live(group, self._shaped, advance):
            mul_(x, 1 - lambd * eta, w)
            add_(x, g, -eta, w)
            if mu == 1:
                np.copyto(mean, x)
            else:
                np.subtract(x, mean, u)
                mul_(u, mu, w)
                np.add(mean, u, mean)
