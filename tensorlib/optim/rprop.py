"""Rprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.errors import InvalidValueError
from tensorlib.optim.optimizer import Group, State, counter
from tensorlib.optim.rule import Rule, check_lr, number
from tensorlib.tensor import Tensor

__all__ = ["Rprop"]


class Rprop(Rule):
    """Resilient backpropagation (Riedmiller and Braun, 1993): each element moves by its own step
    size against the sign of its gradient. The size grows by etas[1] while the sign stays and
    shrinks by etas[0] when it changes, within `step_sizes`; an element whose sign changed waits.
    """

    _late: ClassVar[Group] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    _shaped = ("prev", "step_size")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr("Rprop", lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise InvalidValueError(
                "Rprop", f"Invalid eta values: {etas[0]}, {etas[1]}", "0 < etas[0] < 1 < etas[1]"
            )
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _start(self, state: State, param: Tensor, group: Group) -> None:
        size = number(group["lr"])
        state["step"] = counter(0.0, group)
        state["prev"] = wrap(np.zeros_like(param.array))
        if param.is_complex():  # two real numbers, each with its size
            size = complex(size, size)
        state["step_size"] = wrap(np.full_like(param.array, size))

    def _update(self, group: Group) -> None:
        (shrink, grow), (least, most) = group["etas"], group["step_sizes"]
        for x, g, (before, size), _, (_, t, u, _) in self._live(group, self._shaped):
            np.multiply(g, before, u)
            kept, turned = u > 0, u < 0
            u.fill(1)
            np.copyto(u, grow, where=kept)
            np.copyto(u, shrink, where=turned)
            np.multiply(size, u, size)
            np.minimum(np.maximum(size, least, out=size), most, out=size)
            np.copyto(before, g)
            np.copyto(before, 0, where=turned)
            np.sign(before, t)
            np.copyto(t, 0, where=t != t)  # torch's sign of NaN
            np.multiply(t, size, t)
            np.subtract(x, t, x)
