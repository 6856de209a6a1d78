"""Several steps of arithmetic in one: `lerp addcmul addcdiv`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DTypeError
from tensorlib.ops._common import (
    Array,
    Grads,
    Number,
    astype,
    check_dtype,
    common_dtype,
    conjugate,
    differ,
    expect_tensor,
    record,
    times,
    wide,
)
from tensorlib.ops.out import takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@takes_out
def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """`input + weight * (end - input)`; floating-point or complex tensors of one type."""
    expect_tensor("lerp", "end", end)
    a, b = input.array, end.array
    if a.dtype != b.dtype:
        _same_dtype("lerp", a, end=b)
    check_dtype("lerp", a, "fc", "floating point")
    if hasattr(weight, "array"):
        if TYPE_CHECKING:
            assert isinstance(weight, Tensor)
        if weight.array.ndim:
            _same_dtype("lerp", a, weight=weight.array)
        weight = astype(weight, a.dtype)
        w = weight.array

        def backward(grad: Array) -> Grads:
            return (
                grad * conjugate(1 - w),
                grad * conjugate(w),
                grad * conjugate(b - a),
            )

        return record(_lerped(a, b, w), backward, input, end, weight)
    if not isinstance(weight, int | float | complex):
        raise ArgumentError("lerp", f"weight is {type(weight).__name__}", "a Tensor or a number")
    part = weight.conjugate()

    def backward_scalar(grad: Array) -> Grads:
        return times(grad, 1 - part), times(grad, part)

    plain = a.dtype.char in "fd" and not isinstance(weight, complex)
    w = weight if plain else np.asarray(weight).astype(wide(a).dtype)
    return record(_lerped(a, b, w), backward_scalar, input, end)


def _lerped(a: Array, b: Array, w: Any) -> Any:
    kind = a.dtype
    if kind.char not in "fd":
        a, b, w = wide(a), wide(b), wide(w)
    try:
        gap = b - a
        if getattr(w, "ndim", 0):
            output = np.where(np.abs(w) < 0.5, a + w * gap, b - gap * (1 - w))
        else:
            output = a + w * gap if abs(w) < 0.5 else b - gap * (1 - w)
        return output.astype(kind, copy=False)
    except ValueError:
        raise differ("lerp", a, b) from None


def _same_dtype(where: str, first: Array, **others: Array) -> None:
    for name, array in others.items():
        if array.dtype != first.dtype:
            raise DTypeError(
                where,
                f"expected dtype {dtypes.of(first.dtype)} for `{name}` but got dtype "
                f"{dtypes.of(array.dtype)}",
            )


@takes_out
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """`input + value * tensor1 * tensor2`."""
    x, y, z = _three("addcmul", input, tensor1, tensor2)
    a, b, c = x.array, y.array, z.array
    check_dtype("addcmul", a, "iufc", "numbers")
    try:
        if a.dtype.char in "fd" and not isinstance(value, complex):
            output = a + (b if value == 1 else value * b) * c
        else:
            factor = np.asarray(value).astype(wide(a).dtype)
            output = (wide(a) + factor * wide(b) * wide(c)).astype(a.dtype, copy=False)
    except ValueError:
        raise differ("addcmul", a, b * c) from None

    def backward(grad: Array) -> Grads:
        return grad, grad * conjugate(times(c, value)), grad * conjugate(times(b, value))

    return record(output, backward, x, y, z)


@takes_out
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """`input + value * tensor1 / tensor2`; not with two integer tensors."""
    if all(hasattr(t, "array") and t.array.dtype.kind in "iub" for t in (tensor1, tensor2)):
        raise DTypeError("addcdiv", "integer division is not supported", "floating-point tensors")
    x, y, z = _three("addcdiv", input, tensor1, tensor2)
    a, b, c = x.array, y.array, z.array
    try:
        if a.dtype.char in "fd" and not isinstance(value, complex):
            output = a + (b if value == 1 else value * b) / c
        else:
            factor = np.asarray(value).astype(wide(a).dtype)
            output = (wide(a) + factor * wide(b) / wide(c)).astype(a.dtype, copy=False)
    except ValueError:
        raise differ("addcdiv", a, b / c) from None

    def backward(grad: Array) -> Grads:
        return (
            grad,
            grad * conjugate(times(1 / c, value)),
            -grad * conjugate(times(b, value) / (c * c)),
        )

    return record(output, backward, x, y, z)


def _three(where: str, *tensors: Any) -> tuple[Tensor, ...]:
    """Three tensors in their common type."""
    try:
        a, b, c = (t.array for t in tensors)
    except AttributeError:
        for name, one in zip(("input", "tensor1", "tensor2"), tensors, strict=True):
            expect_tensor(where, name, one)
        raise
    if a.dtype == b.dtype == c.dtype:
        return tensors
    common = common_dtype(a, b, c)
    return tuple(astype(t, common) for t in tensors)
