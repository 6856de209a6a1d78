"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.autograd.tape import bump, wrap
from tensorlib.errors import InvalidValueError
from tensorlib.kernels.optimizer import sgd_step
from tensorlib.optim import rule
from tensorlib.optim.inplace import add_, mul_
from tensorlib.optim.optimizer import Group, State
from tensorlib.optim.rule import Rule, check_lr, check_options, gradient_like, number
from tensorlib.tensor import Tensor

__all__ = ["SGD"]


class SGD(Rule):
    """Gradient descent with momentum (Sutskever et al., 2013, as torch writes it).

        g = grad + weight_decay · param
        buffer = momentum · buffer + (1 - dampening) · g        (the first: g itself)
        param -= lr · (g + momentum · buffer  if nesterov else  buffer)

    Raises ValueError for negative options, and for `nesterov` without momentum or with dampening.
    """

    _late: ClassVar[Group] = {
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": False,
    }
    _counters = ()
    _shaped = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr("SGD", lr)
        check_options("SGD", momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise InvalidValueError(
                "SGD",
                "Nesterov momentum requires a momentum and zero dampening, but got momentum"
                f" {momentum} and dampening {dampening}",
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _start(self, state: State, param: Tensor, group: Group) -> None:
        if group["momentum"]:
            state["momentum_buffer"] = None

    def _update(self, group: Group) -> None:
        lr, momentum, nesterov = -number(group["lr"]), group["momentum"], group["nesterov"]
        rest = 1 - group["dampening"]
        taken, group = self._together(group, sgd_step)
        if taken:
            self._update_together(taken, group)
        if not momentum:
            if type(lr) is float and not group["maximize"] and not group["weight_decay"]:
                self._check_flags(group)
                group = self._small_steps(group, lr)
            for x, g, _, _, (w, _, _, _) in self._live(group, ()):
                add_(x, g, lr, w)
            return
        for x, g, (buffer,), first, (w, t, _, _) in self._live(
            group, ("momentum_buffer",), self._buffer
        ):
            if first:
                buffer[...] = g
            else:
                mul_(buffer, momentum, w)
                add_(buffer, g, rest, w)
            if nesterov:
                add_(g, buffer, momentum, w, t)
                add_(x, t, lr, w)
            else:
                add_(x, buffer, lr, w)

    def _update_together(self, params: list[Tensor], group: Group) -> None:
        momentum = group["momentum"]
        names, advance = (("momentum_buffer",), self._buffer) if momentum else ((), None)
        rows = []
        for param in params:
            buffers, first = self._begin(param, group, names, advance)
            rows.append((param.array, gradient_like(param), *buffers, float(first)))
        numbers = (group["lr"], momentum, 1 - group["dampening"], group["weight_decay"])
        flags = bool(momentum and group["nesterov"]), group["maximize"]
        sgd_step(rows, *(float(number(value)) for value in numbers), *flags)
        for param in params:
            bump(param)

    def _small_steps(self, group: Group, lr: float) -> Group:
        """Update the small parameters of the plain rule at once, whose time is that of Python;
        returns the group with the others only.
        """
        others = []
        for param in group["params"]:
            x = param.array
            if x.size > rule.BLOCK or x.dtype.char not in "fd":
                others.append(param)
            elif param._grad is not None:
                work = self._work(x)[0]
                np.multiply(param._grad.array, lr, work)
                np.add(x, work, x)
                bump(param)
        return {**group, "params": others}

    def _buffer(self, state: State, param: Tensor, step: float) -> bool:
        """Whether this is the first step; makes room for the gradient to become the buffer."""
        if state.get("momentum_buffer") is not None:
            return False
        state["momentum_buffer"] = wrap(np.empty_like(param.array))
        return True
