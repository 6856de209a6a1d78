"""Limits on gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from types import GeneratorType
from typing import Any

from tensorlib.autograd.tape import bump
from tensorlib.device import array_namespace
from tensorlib.tensor import Tensor

__all__ = [
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
]


def _listed(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _grads(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors as one vector (0-dim Tensor). `foreach` has no effect."""
    arrays = [t.array for t in _listed(tensors)]
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
    kind = xp.empty(0, array.dtype).real.dtype
    if array.dtype.itemsize < 4:
        flat = flat.astype("float32")
    if order == 2.0:
        return xp.sqrt(xp.vdot(flat, flat).real).astype(kind)
    return xp.linalg.norm(flat, order).astype(kind)


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Scale all gradients by max_norm / total_norm where that is less than one. `foreach` has no
    effect.
    """
    total = total_norm.array
    factor = array_namespace(total).minimum(float(max_norm) / (total + 1e-6), 1)  # NaN stays
    for grad in _grads(_listed(parameters)):
        grad.array *= factor.astype(grad.array.dtype)
        bump(grad)


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
    listed = _listed(parameters)
    if isinstance(parameters, GeneratorType) and not listed:
        warnings.warn(
            "`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2
        )
    total = get_total_norm(_grads(listed), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(listed, max_norm, total)
    return total


def clip_grad_norm(*args: Any, **kwargs: Any) -> Tensor:
    """The old name of `clip_grad_norm_`."""
    warnings.warn(
        "`nn.utils.clip_grad_norm` is now deprecated in favor of `nn.utils.clip_grad_norm_`.",
        FutureWarning,
        stacklevel=2,
    )
    return clip_grad_norm_(*args, **kwargs)


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Limit every component of the gradients to [-clip_value, clip_value]."""
    limit = float(clip_value)
    for grad in _grads(_listed(parameters)):
        array_namespace(grad.array).clip(grad.array, -limit, limit, out=grad.array)
        bump(grad)
