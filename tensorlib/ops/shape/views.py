"""Views: tensors that share the memory of their input, under another shape or other strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ArgumentError, DimensionError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    broadcast_shapes,
    dim_index,
    dims_of,
    named,
    record,
    record_view,
    shape_of,
)
from tensorlib.ops.strides import restrided, seen_as, strided

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def resolve(
    where: str, shape: tuple[int, ...], size: int, original: tuple[int, ...]
) -> tuple[int, ...]:
    """Fill in -1 and check the number of elements."""
    known, unknown = 1, -1
    for i, n in enumerate(shape):
        if n >= 0:
            known *= n
        elif n < -1:
            raise ShapeError(
                where, f"invalid shape dimension {n} in {shape}", "sizes of at least 0, or one -1"
            )
        elif unknown >= 0:
            raise ShapeError(
                where, f"shape {shape}: only one dimension can be inferred", "at most one -1"
            )
        else:
            unknown = i
    if unknown >= 0:
        if known == 0:
            raise ShapeError(
                where,
                f"cannot reshape tensor of shape {original} into {shape}: -1 is ambiguous",
                "an explicit size",
            )
        if size % known == 0:
            return (*shape[:unknown], size // known, *shape[unknown + 1 :])
    elif known == size:
        return shape
    raise ShapeError(
        where,
        f"shape '{list(shape)}' is invalid for input of size {size}, shape {original}",
        "the same number of elements",
    )


def numbers(where: str, given: tuple[Any, ...], named: Any) -> tuple[int, ...]:
    """Integers given one by one, as one sequence, or by name."""
    if named is not None:
        if given:
            raise ArgumentError(where, f"sizes given twice: {given} and {named}")
        given = (named,)
    elif not given:
        raise ArgumentError(where, "missing 1 required argument: the sizes")
    if len(given) == 1 and isinstance(given[0], tuple | list):
        given = tuple(given[0])
    for n in given:
        if type(n) is not int:
            return shape_of(where, given)
    return given


def reshape(input: Tensor, *sizes: Any, shape: Any = None) -> Tensor:
    """The same elements in another shape; a view where strides allow it."""
    x = input.array
    return _reshape(input, resolve("reshape", numbers("reshape", sizes, shape), x.size, x.shape))


def _reshape(input: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """`reshape` to a checked size."""
    x = input.array
    before = x.shape

    def backward(grad: Array) -> Grads:
        return (grad.reshape(before),)

    output = seen_as(x, wanted)
    if output is None:
        return record(x.reshape(wanted), backward, input)
    return record_view(output, backward, input)


def view(input: Tensor, *sizes: Any, size: Any = None, dtype: Any = None) -> Tensor:
    """As `reshape`, but never a copy; with a dtype, the same bytes read as that type."""
    from tensorlib import dtypes

    if len(sizes) == 1 and isinstance(sizes[0], dtypes.dtype):
        dtype, sizes = sizes[0], ()
    if dtype is not None:
        from tensorlib.ops.shape.reinterpret import view_dtype

        return view_dtype(input, dtype)
    x = input.array
    before = x.shape
    wanted = resolve("view", numbers("view", sizes, size), x.size, before)
    output = seen_as(x, wanted)
    if output is None:
        raise ShapeError(
            "view",
            f"view size {wanted} is not compatible with input tensor's size {before} and stride "
            f"{tuple(s // x.itemsize for s in x.strides)} (at least one dimension spans across "
            f"two contiguous subspaces)",
            hint="use .reshape(...) instead",
        )

    def backward(grad: Array) -> Grads:
        return (grad.reshape(before),)

    return record_view(output, backward, input)


def reshaped(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`view` of a result nobody else holds, not noted as a view."""
    result = view(input, shape)
    result._base, result._counter = None, [0]
    return result


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.view(other.shape)`."""
    return view(input, other.array.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.reshape(other.shape)`."""
    return reshape(input, other.array.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions `start_dim` to `end_dim` joined into one."""
    shape = input.array.shape
    start = dim_index(start_dim, len(shape), "flatten")
    end = dim_index(end_dim, len(shape), "flatten")
    if start > end:
        raise ShapeError(
            "flatten",
            f"flatten() has invalid args: start_dim {start_dim} comes after end_dim {end_dim}",
        )
    if not shape:
        return _reshape(input, (1,))
    if start == end:
        return input
    joined = 1
    for n in shape[start : end + 1]:
        joined *= n
    return _reshape(input, (*shape[:start], joined, *shape[end + 1 :]))


def ravel(input: Tensor) -> Tensor:
    """One dimension; a copy unless the memory is in row-major order."""
    from tensorlib.ops.shape.rearranging import contiguous

    return view(contiguous(input), (-1,))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` split into `sizes` (one may be -1)."""
    shape = input.array.shape
    axis = dim_index(dim, len(shape), "unflatten")
    inner = shape_of("unflatten", (sizes,))
    if not inner:
        raise ShapeError("unflatten", "sizes must be non-empty")
    if not shape:
        raise ShapeError("unflatten", "a 0-dim tensor has no dimension to split")
    inner = resolve("unflatten", inner, shape[axis], shape)
    return view(input, shape[:axis] + inner + shape[axis + 1 :])


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without dimensions of size 1 (all, or those in `dim`)."""
    x = input.array
    before = x.shape
    if dim is None:
        axes = tuple(i for i, n in enumerate(before) if n == 1)
    else:
        axes = tuple(i for i in dims_of(dim, x.ndim, "squeeze") if before and before[i] == 1)

    def backward(grad: Array) -> Grads:
        return (grad.reshape(before),)

    result = record_view(x.squeeze(axes) if axes else x[...], backward, input)
    if dim is not None:
        named(result, f"SqueezeBackward{1 if hasattr(dim, '__index__') else 2}")
    return result


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 inserted at `dim`."""
    x = input.array
    shape, strides = x.shape, x.strides
    axis = dim_index(dim, len(shape) + 1, "unsqueeze")
    step = shape[axis] * strides[axis] if axis < len(shape) else x.itemsize
    output = restrided(
        x, (*shape[:axis], 1, *shape[axis:]), (*strides[:axis], step, *strides[axis:])
    )

    def backward(grad: Array) -> Grads:
        return (grad.squeeze(axis),)

    return record_view(output, backward, input)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged; a view."""
    x = input.array
    a, b = dim_index(dim0, x.ndim, "transpose"), dim_index(dim1, x.ndim, "transpose")

    def backward(grad: Array) -> Grads:
        return (grad.swapaxes(a, b) if grad.ndim else grad,)

    return record_view(x.swapaxes(a, b) if x.ndim else x[...], backward, input)


def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """`transpose(input, axis0, axis1)`."""
    return transpose(input, axis0, axis1)


def swapdims(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """`transpose(input, dim0, dim1)`."""
    return transpose(input, dim0, dim1)


def t(input: Tensor) -> Tensor:
    """A matrix transposed; fewer dimensions unchanged."""
    if input.array.ndim > 2:
        raise ShapeError(
            "t",
            f"t() expects a tensor with <= 2 dimensions, but self is {input.array.ndim}D, shape "
            f"{input.array.shape}",
        )
    return named(transpose(input, 0, 1 if input.array.ndim == 2 else 0), "TBackward0")


def adjoint(input: Tensor) -> Tensor:
    """The last two dimensions exchanged, complex numbers conjugated."""
    from tensorlib.ops.elementwise import conj

    if input.array.ndim == 1:
        raise ShapeError(
            "adjoint",
            f"tensor.adjoint() is only supported on matrices or batches of matrices. Got 1-D "
            f"tensor of shape {input.array.shape}",
        )
    return conj(transpose(input, -2, -1) if input.array.ndim else input)


def permute(input: Tensor, *order: Any, dims: Any = None) -> Tensor:
    """Dimensions in the given order; a view."""
    x = input.array
    given = numbers("permute", order, dims)
    if len(given) != x.ndim:
        raise ShapeError(
            "permute",
            f"number of dimensions in the tensor ({x.ndim}) does not match the length of dims "
            f"{given}",
        )
    axes = dims_of(given, x.ndim, "permute")
    inverse = tuple(axes.index(i) for i in range(len(axes)))

    def backward(grad: Array) -> Grads:
        return (grad.transpose(inverse),)

    return record_view(x.transpose(axes), backward, input)


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to new places; the others keep their order."""
    ndim = input.array.ndim
    sources = dims_of(source, ndim, "movedim")
    targets = dims_of(destination, ndim, "movedim")
    if len(sources) != len(targets):
        raise ShapeError(
            "movedim", f"source {source} and destination {destination}", "equally many"
        )
    if not ndim:
        return transpose(input, 0, 0)
    order = [d for d in range(ndim) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return permute(input, order)


def moveaxis(input: Tensor, source: Any, destination: Any) -> Tensor:
    """`movedim(input, source, destination)`."""
    return movedim(input, source, destination)


def expand(input: Tensor, *sizes: Any, size: Any = None, implicit: bool = False) -> Tensor:
    """Dimensions of size 1 repeated without copying; -1 keeps a size."""
    x = input.array
    given = numbers("expand", sizes, size)
    before, steps = x.shape, x.strides
    extra = len(given) - len(before)
    if extra < 0:
        raise ShapeError(
            "expand",
            f"the number of sizes provided ({len(given)}) must be greater or equal to the number "
            f"of dimensions in the tensor ({x.ndim}), shape {before}",
        )
    shape, strides = list(given), [0] * len(given)
    if not before:  # PyTorch leaves the strides of an expanded 0-dim tensor at 0
        extra = 0
        before, steps = (1,) * len(given), strides
    for d in range(len(given) - 1, -1, -1):
        n = given[d]
        if d < extra:
            if n < 0:
                raise ShapeError(
                    "expand", f"{n} is not allowed in a leading, non-existing dimension: {given}"
                )
            if n == 1:
                strides[d] = shape[d + 1] * strides[d + 1] if d + 1 < len(given) else x.itemsize
            continue
        held = before[d - extra]
        if n == -1 or n == held:
            shape[d], strides[d] = held, steps[d - extra]
        elif held != 1 or n < 0:
            raise ShapeError(
                "expand",
                f"The expanded size of the tensor ({n}) must match the existing size ({held}) at "
                f"non-singleton dimension {d}: sizes {given}, shape {before}",
            )

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record_view(strided(x, tuple(shape), tuple(strides)), backward, input)


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.expand(other.shape)`."""
    return expand(input, other.array.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`input.expand(size)`."""
    return expand(input, shape_of("broadcast_to", (size,)))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape; those that have it are returned as they are."""
    given: Any = tensors
    if len(given) == 1 and isinstance(given[0], list | tuple):
        tensors = tuple(given[0])
    shape = broadcast_shapes(*(x.array.shape for x in tensors))
    return tuple(x if x.array.shape == shape else expand(x, shape) for x in tensors)


# -- parts -----------------------------------------------------------------------------------------


def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements along `dim` from `start`; a view."""
    x = input.array
    if hasattr(start, "array") and (start.array.ndim or start.array.dtype.kind not in "iu"):
        raise ShapeError("narrow", "start must be an 0-dim integral Tensor", f"not {start.dtype}")
    if not x.ndim:
        raise ShapeError("narrow", "narrow() cannot be applied to a 0-dim tensor")
    axis = dim_index(dim, x.ndim, "narrow")
    size, begin = x.shape[axis], int(start)
    if length < 0:
        raise ShapeError("narrow", f"length {length}: narrow(): length must be non-negative")
    if not -size <= begin <= size:
        raise DimensionError(
            "narrow", f"start {begin}", f"in range of [{-size}, {size}] for shape {x.shape}"
        )
    begin += size if begin < 0 else 0
    if begin + length > size:
        raise ShapeError(
            "narrow", f"start ({begin}) + length ({length}) exceeds dimension size ({size})"
        )
    return part(input, axis, begin, length)


def part(input: Tensor, axis: int, begin: int, length: int) -> Tensor:
    """`narrow` without its checks."""
    x = input.array
    place = (slice(None),) * axis + (slice(begin, begin + length),)
    shape = x.shape

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        out[place] = grad
        return (out,)

    def smooth(grad: Any) -> Grads:
        sides = [(0, 0)] * len(shape)
        sides[axis] = (begin, shape[axis] - begin - length)
        from tensorlib.ops.padding import pad_constant

        return (pad_constant(grad, sides, 0.0),)

    return record_view(x[place], backward, input, smooth=smooth)


def slice_along(
    input: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """`input[..., start:end:step, ...]` along `dim`; a view."""
    from tensorlib.ops.indexing import getitem

    if not input.array.ndim:
        raise ShapeError("slice", "slice() cannot be applied to a 0-dim tensor")
    axis = dim_index(dim, input.array.ndim, "slice")
    if step <= 0:
        raise ShapeError("slice", f"slice step must be positive, got {step}")
    return getitem(input, (slice(None),) * axis + (slice(start, end, step),))


def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """The slice at `index` along `dim`, without that dimension; a view."""
    x = input.array
    if not x.ndim:
        raise DimensionError("select", "select() cannot be applied to a 0-dim tensor")
    axis = dim_index(dim, x.ndim, "select")
    shape = x.shape
    place = int(index)
    if not -shape[axis] <= place < shape[axis]:
        raise DimensionError(
            "select",
            f"index {place} out of range for tensor of size {shape} at dimension {axis}",
            f"[{-shape[axis]}, {shape[axis] - 1}]",
        )
    where: Any = (slice(None),) * axis + (place, ...)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        out[where] = grad
        return (out,)

    def smooth(grad: Any) -> Grads:
        begin = place if place >= 0 else place + shape[axis]
        sides = [(0, 0)] * len(shape)
        sides[axis] = (begin, shape[axis] - begin - 1)
        from tensorlib.ops.padding import pad_constant

        return (pad_constant(unsqueeze(grad, axis), sides, 0.0),)

    return record_view(x[where], backward, input, smooth=smooth)
