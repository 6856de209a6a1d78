"""Muon."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorlib.autograd.tape import bump, wrap
from tensorlib.errors import AutogradError, InvalidValueError
from tensorlib.optim.inplace import add_, lerp_, mul_
from tensorlib.optim.optimizer import Array, Group
from tensorlib.optim.rule import Rule, check, check_lr, number
from tensorlib.tensor import Tensor

__all__ = ["Muon"]


class Muon(Rule):
    """Muon (Jordan, 2024; `adjust_lr_fn="match_rms_adamw"`: Liu et al., 2025): momentum whose
    singular values a Newton-Schulz iteration brings close to one. For matrices only.

        buffer = momentum · buffer + (1 - momentum) · g
        param -= lr · weight_decay · param + adjusted lr · orthogonal(buffer, or with nesterov
                 momentum · buffer + (1 - momentum) · g)

    The iteration is computed in bfloat16 as in torch: float32 arrays rounded to its 8 bits.
    """

    _counters = ()
    _shaped = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        check_lr("Muon", lr, "Learning rate should be >= 0 but is")
        good = momentum >= 0.0
        check("Muon", "momentum should be >= 0 but is", momentum, good, ">= 0")
        good = weight_decay >= 0.0
        check("Muon", "weight decay should be >= 0 but is", weight_decay, good, ">= 0")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise InvalidValueError(
                "Muon",
                f"Adjust learning rate function {adjust_lr_fn} is not supported",
                "None, 'original' or 'match_rms_adamw'",
            )
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for param in group["params"]:
                if param.ndim != 2:
                    raise InvalidValueError(
                        "Muon",
                        "Muon only supports 2D parameters whereas we found a parameter with size:"
                        f" {tuple(param.shape)}",
                        hint="give the others to AdamW",
                    )

    def _update(self, group: Group) -> None:
        lr, momentum = number(group["lr"]), group["momentum"]
        for param in group["params"]:
            if param._grad is None:
                continue
            x, g = param.array, param._grad.array
            if x.dtype.kind == "c":
                raise AutogradError("Muon.step", "Muon does not support complex parameters")
            state = self.state[param]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = wrap(np.zeros_like(g))
            buffer = state["momentum_buffer"].array
            work = np.empty_like(x, dtype=np.promote_types(x.dtype, np.float32))
            lerp_(buffer, g, 1 - momentum, work)
            direction = buffer
            if group["nesterov"]:
                direction = g.copy()
                lerp_(direction, buffer, momentum, work)
            update = orthogonal(
                direction, group["ns_coefficients"], group["ns_steps"], group["eps"]
            )
            mul_(x, 1 - lr * group["weight_decay"], work)
            add_(x, update, -_adjusted(lr, group["adjust_lr_fn"], x.shape), work)
            bump(param)


def orthogonal(
    matrix: Array, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Array:
    """The matrix with singular values near one, by `steps` of a quintic Newton-Schulz iteration."""
    if steps >= 100:
        raise InvalidValueError(
            "Muon.step",
            "Number of steps must be less than 100 for computational efficiency",
            f"ns_steps is {steps}",
        )
    if len(coefficients) != 3:
        raise InvalidValueError(
            "Muon.step", f"Coefficients must be a tuple of exactly 3 values, got {coefficients}"
        )
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = _bfloat16(matrix.T if tall else matrix)
    x = _bfloat16(x / np.maximum(_bfloat16(np.linalg.norm(x)), _bfloat16(eps)))
    for _ in range(steps):
        gram = _bfloat16(x @ x.T)
        change = _bfloat16(b * gram + c * (gram @ gram))
        x = _bfloat16(a * x + change @ x)
    return x.T if tall else x


def _bfloat16(value: Any) -> Array:
    """`value` in float32, rounded to the nearest bfloat16."""
    bits = np.array(value, np.float32, order="C").view(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    bits &= np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _adjusted(lr: Any, how: str | None, shape: tuple[int, ...]) -> Any:
    rows, columns = shape
    if how == "match_rms_adamw":
        return lr * 0.2 * math.sqrt(max(rows, columns))
    return lr * math.sqrt(max(1, rows / columns))
