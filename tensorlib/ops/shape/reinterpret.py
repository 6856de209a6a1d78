"""Views that read the memory itself anew: other strides, another dtype, complex numbers as pairs;
diagonals and windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import address
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    dim_index,
    record_view,
    shape_of,
    wrap,
)
from tensorlib.ops.strides import extent, overlaps, strided

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_COMPLEX = {"e": None, "f": np.dtype(np.complex64), "d": np.dtype(np.complex128)}


def storage_of(input: Tensor) -> Any:
    """The array that stands for all the memory `input` is a part of."""
    root = input if input._base is None else input._base
    extra = root._extra
    return root.array if extra is None else extra.get("memory", root.array)


def unrecorded(input: Tensor, array: Any) -> Tensor:
    """A tensor around `array`, a view of the memory of `input`, without history."""
    result = wrap(array)
    result._counter = input._counter
    memory = storage_of(input)
    if memory is not array:
        result._extra = {"memory": memory}
    return result


def alias(input: Tensor) -> Tensor:
    """The same elements, as a view."""

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record_view(input.array[...], backward, input)


# -- strides ---------------------------------------------------------------------------------------


def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """A view with given sizes and strides (in elements) into the memory that `input` is part of."""
    x = input.array
    held = storage_of(input)
    shape, steps, offset = placed("as_strided", held, x, size, stride, storage_offset)
    output = strided(
        held, shape, tuple(s * x.itemsize for s in steps), offset * x.itemsize, x.dtype
    )
    before, own = x.shape, x.strides
    begin = (address(x) - address(held)) // x.itemsize if x.size else 0
    item = x.itemsize

    def places() -> tuple[Any, Any, int, Any]:
        """Places in memory of the input's elements and of the output's, and how many there are."""
        low = min(begin, offset)
        last = [begin + extent(before, own) // item] if 0 not in before else []
        last += [offset + extent(shape, steps)] if 0 not in shape else []
        count = max(last, default=low - 1) - low + 1
        flat = np.arange(count)
        inner = strided(flat, before, tuple(s // item * 8 for s in own), (begin - low) * 8)
        outer = strided(flat, shape, tuple(s * 8 for s in steps), (offset - low) * 8)
        shared = None
        if 0 not in before and overlaps(strided(flat, before, inner.strides, (begin - low) * 8)):
            shared = np.maximum(np.bincount(inner.reshape(-1), minlength=count), 1)
        return inner, outer, count, shared

    def backward(grad: Array) -> Grads:
        inner, outer, count, shared = places()
        flat = np.zeros_like(grad, shape=(count,))
        np.add.at(flat, outer.reshape(-1), grad.reshape(-1))
        if shared is not None:
            flat = (flat / shared).astype(grad.dtype)
        return (flat[inner],)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.indexing import getitem

        inner, outer, count, shared = places()
        flat = added_at(grad, outer, (count,))
        if shared is not None:
            flat = flat / wrap(shared.astype(grad.array.dtype))
        return (getitem(flat, wrap(inner)),)

    return record_view(output, backward, input, smooth=smooth)


def placed(
    where: str, held: Any, x: Any, size: Any, stride: Any, storage_offset: int | None
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Sizes, strides and offset in elements, checked against the memory `held`."""
    shape, steps = shape_of(where, (size,)), shape_of(where, (stride,))
    if len(shape) != len(steps):
        raise ShapeError(
            where, f"mismatch in length of strides and shape: {steps} and {shape}", "equal lengths"
        )
    if any(s < 0 for s in steps):
        raise ShapeError(
            where,
            f"Negative strides are not supported at the moment, got strides: {list(steps)}",
        )
    if any(n < 0 for n in shape):
        raise ShapeError(where, f"sizes {shape}", "no negative size")
    if storage_offset is None:
        storage_offset = (address(x) - address(held)) // x.itemsize
    if storage_offset < 0:
        raise ShapeError(where, f"Tensor: invalid storage offset {storage_offset}")
    needed = 0 if 0 in shape else (storage_offset + extent(shape, steps) + 1) * x.itemsize
    have = held.size and extent(held.shape, held.strides) + held.itemsize
    if needed > have:
        raise ShapeError(
            where,
            f"setStorage: sizes {list(shape)}, strides {list(steps)}, storage offset "
            f"{storage_offset}, and itemsize {x.itemsize} requiring a storage size of {needed} are "
            f"out of bounds for storage of size {have}",
        )
    return shape, steps, 0 if 0 in shape else storage_offset


def added_at(values: Tensor, places: Array, size: tuple[int, ...]) -> Tensor:
    """Zeros of `size` with `values` added at flat `places`."""
    from tensorlib.ops.indexing import index_add
    from tensorlib.ops.shape.views import reshape

    zeros = wrap(np.zeros(int(np.prod(size)), values.array.dtype))
    flat = index_add(zeros, 0, wrap(places.reshape(-1)), reshape(values, (-1,)))
    return reshape(flat, size)


# -- dtypes ----------------------------------------------------------------------------------------


def view_dtype(input: Tensor, dtype: Any) -> Tensor:
    """The bytes of `input` read as `dtype`, without history; where the sizes differ, the last
    dimension grows or shrinks and must be contiguous.
    """
    kind = dtypes.numpy_dtype(dtype)
    x = input.array
    item = x.itemsize
    if kind.itemsize == item:
        return unrecorded(input, strided(x, x.shape, x.strides, 0, kind))
    what = f"view {dtypes.of(x.dtype)} as {dtypes.of(kind)} (different element sizes)"
    if not x.ndim:
        raise ShapeError("view", f"self.dim() cannot be 0 to {what}")
    if x.strides[-1] != item:
        raise ShapeError(
            "view", f"self.stride(-1) must be 1 to {what}, but got {x.strides[-1] // item}"
        )
    if kind.itemsize > item:
        ratio = kind.itemsize // item
        offset = (address(x) - address(storage_of(input))) // item
        if x.shape[-1] % ratio:
            raise ShapeError(
                "view", f"self.size(-1) must be divisible by {ratio} to {what}, got {x.shape[-1]}"
            )
        if offset % ratio:
            raise ShapeError(
                "view", f"self.storage_offset() must be divisible by {ratio} to {what}"
            )
        for d, step in enumerate(x.strides[:-1]):
            if step % kind.itemsize:
                raise ShapeError(
                    "view",
                    f"self.stride({d}) must be divisible by {ratio} to {what}, got {step // item}",
                )
    shape = (*x.shape[:-1], x.shape[-1] * item // kind.itemsize)
    return unrecorded(input, strided(x, shape, (*x.strides[:-1], kind.itemsize), 0, kind))


def view_as_real(input: Tensor) -> Tensor:
    """Complex numbers as a last dimension of real and imaginary part; a view."""
    x = input.array
    if x.dtype.kind != "c":
        raise DTypeError(
            "view_as_real", f"only supported for complex tensors, got {dtypes.of(x.dtype)}"
        )
    half = x.itemsize // 2
    kind = np.dtype(f"f{half}")
    output = strided(x, (*x.shape, 2), (*x.strides, half), 0, kind)

    def backward(grad: Array) -> Grads:
        return (grad[..., 0] + 1j * grad[..., 1],)

    def smooth(grad: Any) -> Grads:
        return (view_as_complex(grad.contiguous()),)

    return record_view(output, backward, input, smooth=smooth)


def view_as_complex(input: Tensor) -> Tensor:
    """Pairs in the last dimension as complex numbers; a view."""
    x = input.array
    kind = _COMPLEX.get(x.dtype.char)
    if kind is None:
        raise DTypeError(
            "view_as_complex",
            f"only supported for half, float and double tensors, but got {dtypes.of(x.dtype)}",
            "float32 or float64",
        )
    if not x.ndim:
        raise ShapeError("view_as_complex", "Input tensor must have one or more dimensions")
    if x.shape[-1] != 2:
        raise ShapeError(
            "view_as_complex", f"Tensor must have a last dimension of size 2, got {x.shape}"
        )
    if x.strides[-1] != x.itemsize:
        raise ShapeError("view_as_complex", "Tensor must have a last dimension with stride 1")
    if any(s % kind.itemsize for s in x.strides[:-1]):
        raise ShapeError(
            "view_as_complex", "Tensor must have a stride divisible by 2 for all but last dimension"
        )
    if (address(x) - address(storage_of(input))) % kind.itemsize:
        raise ShapeError("view_as_complex", "Tensor must have a storage_offset divisible by 2")
    output = strided(x, x.shape[:-1], x.strides[:-1], 0, kind)

    def backward(grad: Array) -> Grads:
        return (np.stack([grad.real, grad.imag], -1),)

    return record_view(output, backward, input)


# -- diagonals and windows -------------------------------------------------------------------------


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of the planes (dim1, dim2), as last dimension; a view."""
    from tensorlib.ops.shape.rearranging import diag_embed

    x = input.array
    a, b = dim_index(dim1, x.ndim, "diagonal"), dim_index(dim2, x.ndim, "diagonal")
    if a == b:
        raise ShapeError("diagonal", f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    shape = x.shape

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        diagonal_of(out, offset, a, b)[...] = grad
        return (out,)

    def smooth(grad: Any) -> Grads:
        return (diag_embed(grad, offset, a, b, size=(shape[a], shape[b])),)

    return record_view(diagonal_of(x, offset, a, b), backward, input, smooth=smooth)


def diagonal_of(x: Any, offset: int, a: int, b: int) -> Any:
    """The array view that `diagonal` returns."""
    rows, columns = x.shape[a], x.shape[b]
    length = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
    begin = (
        (max(-offset, 0) * x.strides[a] + max(offset, 0) * x.strides[b]) if length and x.size else 0
    )
    rest = [i for i in range(x.ndim) if i not in (a, b)]
    shape = (*(x.shape[i] for i in rest), length)
    strides = (*(x.strides[i] for i in rest), x.strides[a] + x.strides[b])
    return strided(x, shape, strides, begin)


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` every `step` along `dimension`, as a new last dimension; a view."""
    from tensorlib.ops.shape.views import reshape

    x = input.array
    axis = dim_index(dimension, x.ndim, "unfold")
    length = x.shape[axis] if x.ndim else 1
    if size < 0:
        raise ShapeError("unfold", f"size is {size} but must be >= 0")
    if size > length:
        raise ShapeError(
            "unfold", f"maximum size for tensor at dimension {axis} is {length} but size is {size}"
        )
    if step < 1:
        raise ShapeError("unfold", f"step is {step} but must be > 0")
    if not x.ndim:
        output = strided(x, (size,), (x.itemsize,))
        return record_view(output, lambda grad: (grad.sum(),), input)
    shape = x.shape
    count = (length - size) // step + 1

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        lead = (slice(None),) * axis
        for i in range(size):
            out[(*lead, slice(i, i + (count - 1) * step + 1, step))] += grad[..., i]
        return (out,)

    def smooth(grad: Any) -> Grads:
        places = _windows(np.arange(int(np.prod(shape))).reshape(shape), axis, size, step, count)
        return (reshape(added_at(grad, places, shape), shape),)

    return record_view(_windows(x, axis, size, step, count), backward, input, smooth=smooth)


def _windows(x: Any, axis: int, size: int, step: int, count: int) -> Any:
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :], size)
    strides = (*x.strides[:axis], x.strides[axis] * step, *x.strides[axis + 1 :], x.strides[axis])
    return strided(x, shape, strides)
