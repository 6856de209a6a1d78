"""Masks and places: `masked_fill masked_select masked_scatter where nonzero`, and indices of
triangles, sorted boundaries and flat places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DTypeError, InvalidValueError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    called,
    expect_tensor,
    promoted,
    record,
    scalar_operand,
    shape_of,
    wrap,
)
from tensorlib.ops.indexing.getitem import getitem
from tensorlib.ops.out import takes_distinct_out, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _mask(where: str, mask: Any) -> Array:
    expect_tensor(where, "mask", mask)
    if mask.array.dtype.kind != "b":
        raise DTypeError(
            where,
            f"expected BoolTensor for mask, got {dtypes.of(mask.array.dtype)}",
            hint="use mask.bool()",
        )
    array: Array = mask.array
    return array


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`value` where `mask` is true, `input` elsewhere."""
    m = _mask("masked_fill", mask)
    x = input.array
    is_tensor = hasattr(value, "array")
    if is_tensor:
        if value.array.ndim:
            raise ShapeError(
                "masked_fill",
                f"masked_fill only supports a 0-dimensional value tensor, but got tensor with "
                f"{value.array.ndim} dimension(s)",
            )
        given = value.array
        if not dtypes.can_cast(dtypes.of(given.dtype), dtypes.of(x.dtype)):
            raise DTypeError(
                "masked_fill", f"value of {value.dtype} cannot be converted to {input.dtype}"
            )
        fill = given.astype(x.dtype)
    else:
        fill = np.asarray(dtypes.fitting(value, x.dtype), x.dtype)
    try:
        output = np.where(m, fill, x)
    except ValueError:
        raise ShapeError(
            "masked_fill", f"mask of shape {m.shape} does not broadcast with input {x.shape}"
        ) from None
    if not output.flags.c_contiguous:
        output = output.copy("C")

    def backward(grad: Array) -> Grads:
        return (np.where(m, 0, grad),)

    if not is_tensor:
        return record(output, backward, input)

    def backward_value(grad: Array) -> Grads:
        return np.where(m, 0, grad), np.where(m, grad, 0).sum()

    return record(output, backward_value, input, value)


@takes_distinct_out
@called("MaskedSelectBackward0")
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask` is true, in one dimension."""
    from tensorlib.ops.shape import broadcast_tensors

    _mask("masked_select", mask)
    input, mask = broadcast_tensors(input, mask)
    found = getitem(input, mask)
    if not input.array.ndim:
        from tensorlib.ops.shape import reshaped

        return reshaped(found, (-1,))
    return found


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Elements where `mask` is true replaced by those of `source` in order."""
    from tensorlib.ops.shape import broadcast_tensors

    expect_tensor("masked_scatter", "source", source)
    _mask("masked_scatter", mask)
    if input.array.dtype != source.array.dtype:
        raise DTypeError(
            "masked_scatter",
            f"masked_scatter: expected self and source to have same dtypes but got "
            f"{input.dtype} and {source.dtype}",
        )
    input, mask = broadcast_tensors(input, mask)
    m = mask.array
    count = int(np.count_nonzero(m))
    if source.array.size < count:
        raise ShapeError(
            "masked_scatter",
            f"source has {source.array.size} elements, mask selects {count}",
            "at least as many",
        )
    output = input.array.copy("C")
    shape, size = source.array.shape, source.array.size
    output[m] = source.array.reshape(-1)[:count]

    def backward(grad: Array) -> Grads:
        back = np.zeros_like(grad, shape=(size,))
        back[:count] = grad[m]
        return np.where(m, 0, grad), back.reshape(shape)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.padding import pad_constant
        from tensorlib.ops.shape import reshape

        back = pad_constant(getitem(grad, wrap(m)), [(0, size - count)], 0.0)
        return masked_fill(grad, wrap(m), 0), reshape(back, shape)

    return record(output, backward, input, source, smooth=smooth)


@takes_out
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """`input` where `condition` is true, `other` elsewhere; with the condition alone,
    `nonzero(as_tuple=True)`.
    """
    expect_tensor("where", "condition", condition)
    if input is None and other is None:
        return nonzero(condition, as_tuple=True)
    c = condition.array
    if c.dtype.kind != "b":
        if c.dtype != np.uint8:
            raise DTypeError(
                "where",
                f"expected condition to be a boolean tensor, but got {dtypes.of(c.dtype)}",
                hint="use .bool()",
            )
        c = c.astype(bool)
    a, b = _where_pair(input, other)
    x, y = a.array, b.array
    try:
        output = np.where(c, x, y)
    except ValueError:
        raise ShapeError(
            "where", f"shapes {c.shape}, {x.shape} and {y.shape} do not broadcast"
        ) from None

    def backward(grad: Array) -> Grads:
        return np.where(c, grad, 0), np.where(c, 0, grad)

    return record(output, backward, a, b)


def _where_pair(input: Any, other: Any) -> tuple[Any, Any]:
    if hasattr(input, "array") and hasattr(other, "array"):
        return promoted(input, other)
    if hasattr(input, "array"):
        input = scalar_operand(input, other, "where")
        return input, wrap(np.asarray(other, input.array.dtype))
    if hasattr(other, "array"):
        other = scalar_operand(other, input, "where")
        return wrap(np.asarray(input, other.array.dtype)), other
    for value in (input, other):
        if not isinstance(value, bool | int | float | complex):
            raise ArgumentError(
                "where", f"input must be Tensor or a number, not {type(value).__name__}"
            )
    kind = dtypes.scalar_numpy(dtypes.scalar_numpy(np.dtype(bool), input), other)
    return wrap(np.asarray(input, kind)), wrap(np.asarray(other, kind))


# -- places ----------------------------------------------------------------------------------------


def nonzero(input: Tensor, *, out: Tensor | None = None, as_tuple: bool = False) -> Any:
    """Indices of the nonzero elements: one row each; `as_tuple`: one tensor per dimension."""
    if not as_tuple:
        return _nonzero(input) if out is None else _nonzero(input, out=out)  # type: ignore[call-arg]  # by takes_out
    if out is not None:
        expect_tensor("nonzero", "out", out)
        raise ShapeError("nonzero", "nonzero does not support the out kwarg when as_tuple is True")
    from tensorlib.ops.shape import reshape, unbind

    return unbind(_nonzero(input if input.array.ndim else reshape(input, (1,))), 1)


@takes_exact_out
def _nonzero(input: Tensor) -> Tensor:
    x = input.array
    if not x.ndim:
        return wrap(np.zeros((int(x != 0), 0), np.int64))
    return wrap(np.stack(np.nonzero(x), 0).T)  # one column after the other, as PyTorch's


_nonzero.__name__ = "nonzero"


@takes_exact_out
def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """`nonzero(input)` cut to `size` rows, or filled up with `fill_value`."""
    if size < 0:
        raise ShapeError(
            "nonzero_static", f"nonzero_static: 'size' must be an non-negative integer, got {size}"
        )
    found = _nonzero(input).array[:size]
    output = np.full((size, input.array.ndim), fill_value, np.int64)
    output[: len(found)] = found
    return wrap(output)


def argwhere(input: Tensor) -> Tensor:
    """`nonzero(input)`."""
    return _nonzero(input)


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Flat places as one tensor of coordinates per dimension of `shape`."""
    expect_tensor("unravel_index", "indices", indices)
    i = indices.array
    if i.dtype.kind not in "iu":
        raise ArgumentError(
            "unravel_index", f"expected 'indices' to be integer dtype, but got {indices.dtype}"
        )
    if not isinstance(shape, int | list | tuple) and not hasattr(shape, "array"):
        raise ArgumentError(
            "unravel_index",
            f"expected 'shape' to be int or sequence of ints, but got {type(shape).__name__}",
        )
    if isinstance(shape, list | tuple) and not all(hasattr(n, "__index__") for n in shape):
        raise ArgumentError("unravel_index", f"expected 'shape' to be a sequence of ints: {shape}")
    sizes = shape_of("unravel_index", (shape,))
    if any(n < 0 for n in sizes):
        raise InvalidValueError(
            "unravel_index", f"'shape' cannot have negative values, but got {sizes}"
        )
    from tensorlib.ops.shape import unbind

    found = []
    for n in reversed(sizes):
        found.append(i % max(n, 1))
        i = i // max(n, 1)
    if not found:
        return ()
    return unbind(wrap(np.stack(found[::-1], -1)), -1)
