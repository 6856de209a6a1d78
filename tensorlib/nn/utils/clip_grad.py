"""Limits on gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tensorlib.autograd.tape import bump
from tensorlib.device import array_namespace
from tensorlib.tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "get_total_norm"]


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in parameters if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors as one vector (0-dim Tensor). `foreach` has no effect."""
    arrays = [t.array for t in ([tensors] if isinstance(tensors, Tensor) else tensors)]
    if not arrays:
        return Tensor._wrap(array_namespace().asarray(0.0, dtype="float32"))
    xp = array_namespace(arrays[0])
    norms = xp.stack([xp.asarray(_norm(xp, array, float(norm_type))) for array in arrays])
    total = Tensor._wrap(xp.asarray(_norm(xp, norms, float(norm_type))))
    if error_if_nonfinite and not math.isfinite(float(total.item())):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite"
            f" ({total.item()}), so it cannot be clipped. Hint: error_if_nonfinite=False scales by"
            " it anyway."
        )
    return total


def _norm(xp: Any, array: Any, order: float) -> Any:
    flat = array.reshape(-1)
    if order == 2.0:
        return xp.sqrt(xp.dot(flat, flat)).astype(array.dtype)
    return xp.linalg.norm(flat, order).astype(array.dtype)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients together so that their norm is at most `max_norm`; returns the norm
    before. `foreach` chooses among torch's own loops and has no effect.
    """
    grads = _grads(parameters)
    total = get_total_norm(grads, norm_type, error_if_nonfinite)
    factor = max_norm / (float(total.item()) + 1e-6)
    if not factor >= 1.0:  # also NaN, which must not vanish
        for grad in grads:
            grad.array *= factor
            bump(grad)
    return total


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Limit every component of the gradients to [-clip_value, clip_value]."""
    limit = float(clip_value)
    for grad in _grads(parameters):
        array_namespace(grad.array).clip(grad.array, -limit, limit, out=grad.array)
        bump(grad)
