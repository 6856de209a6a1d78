"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensorlib.device import array_namespace
from tensorlib.optim.optimizer import Array, Group, Optimizer
from tensorlib.tensor import Tensor

__all__ = ["SGD", "sgd"]


class SGD(Optimizer):
    """Gradient descent with momentum (Sutskever et al., 2013, as torch writes it).

        g = grad + weight_decay · param
        buffer = momentum · buffer + (1 - dampening) · g        (the first: g itself)
        param -= lr · (g + momentum · buffer  if nesterov else  buffer)

    `foreach` and `fused` choose among torch's own loops and are accepted without effect.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
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

    def update(self, param: Tensor, grad: Array, group: Group) -> None:
        buffer, dampening = None, group["dampening"]
        if group["momentum"]:
            state = self.state[param]
            if state.get("momentum_buffer") is None:
                # the first gradient enters the buffer as it is
                zeros = array_namespace(grad).zeros_like(param.array)
                state["momentum_buffer"], dampening = Tensor._wrap(zeros), 0
            buffer = state["momentum_buffer"].array
        sgd(
            param.array,
            grad,
            buffer,
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=dampening,
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            scratch=(self.scratch(param.array), self.scratch(param.array, 1)),
        )


def sgd(
    param: Array,
    grad: Array,
    buffer: Array | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    scratch: tuple[Array, Array],
) -> None:
    """One step on arrays of one shape; changes `param` and `buffer`, overwrites `scratch`."""
    xp = array_namespace(param)
    work, spare = scratch
    direction = grad
    if weight_decay:
        direction = xp.multiply(param, weight_decay, out=work)
        direction += grad
    if momentum and buffer is not None:
        buffer *= momentum
        if dampening:
            direction = xp.multiply(direction, 1 - dampening, out=work)
        buffer += direction
        if nesterov:
            # the buffer already holds momentum · old + g
            direction = xp.add(direction, xp.multiply(buffer, momentum, out=spare), out=work)
        else:
            direction = buffer
    param -= xp.multiply(direction, lr, out=work)
