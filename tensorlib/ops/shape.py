"""Shapes: views (`reshape transpose expand unfold`) and rearrangements (`cat stack repeat flip
roll`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ArgumentError, DimensionError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    broadcast_shapes,
    dim_index,
    dims_of,
    expect_tensor,
    record,
    record_view,
    shape_of,
    wrap,
)

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _resolve(
    where: str, shape: tuple[int, ...], size: int, original: tuple[int, ...]
) -> tuple[int, ...]:
    """Fill in -1 and check the number of elements."""
    unknown = [i for i, n in enumerate(shape) if n == -1]
    known = 1
    for n in shape:
        if n < -1:
            raise ShapeError(
                where, f"invalid shape dimension {n} in {shape}", "sizes of at least 0, or one -1"
            )
        known *= n if n != -1 else 1
    if len(unknown) > 1:
        raise ShapeError(
            where, f"shape {shape}: only one dimension can be inferred", "at most one -1"
        )
    if unknown:
        if known == 0:
            raise ShapeError(
                where,
                f"cannot reshape tensor of shape {original} into {shape}: -1 is ambiguous",
                "an explicit size",
            )
        if size % known == 0:
            return tuple(size // known if n == -1 else n for n in shape)
    elif known == size:
        return shape
    raise ShapeError(
        where,
        f"shape '{list(shape)}' is invalid for input of size {size}, shape {original}",
        "the same number of elements",
    )


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape; a view where strides allow it."""
    x = input.array
    before = x.shape
    sizes = _resolve(
        "reshape", shape_of("reshape", shape[0] if _nested(shape) else shape), x.size, before
    )
    output = x.reshape(sizes)

    def backward(grad: Array) -> Grads:
        return (grad.reshape(before),)

    if np.may_share_memory(output, x):
        return record_view(output, backward, input)
    return record(output, backward, input)


def _nested(shape: tuple[Any, ...]) -> bool:
    return len(shape) == 1 and isinstance(shape[0], tuple | list)


def view(input: Tensor, *shape: Any) -> Tensor:
    """As `reshape`, but never a copy; with a dtype, the same bytes read as that type."""
    from tensorlib import dtypes

    if len(shape) == 1 and isinstance(shape[0], dtypes.dtype):
        return wrap(input.array.view(shape[0].numpy))
    x = input.array
    before = x.shape
    sizes = _resolve(
        "view", shape_of("view", shape[0] if _nested(shape) else shape), x.size, before
    )
    try:
        output = x.reshape(sizes, copy=False) if isinstance(x, np.ndarray) else x.reshape(sizes)
    except ValueError:
        raise ShapeError(
            "view",
            f"view size {sizes} is not compatible with input tensor's size {before} and stride "
            f"{tuple(s // x.itemsize for s in x.strides)} (at least one dimension spans across "
            f"two contiguous subspaces)",
            hint="use .reshape(...) instead",
        ) from None

    def backward(grad: Array) -> Grads:
        return (grad.reshape(before),)

    return record_view(output, backward, input)


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.view(other.shape)`."""
    return view(input, other.array.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.reshape(other.shape)`."""
    return reshape(input, other.array.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions `start_dim` to `end_dim` joined into one."""
    shape = input.array.shape
    if not shape:
        return reshape(input, (1,))
    start, end = (
        dim_index(start_dim, len(shape), "flatten"),
        dim_index(end_dim, len(shape), "flatten"),
    )
    if start > end:
        raise ShapeError(
            "flatten",
            f"flatten() has invalid args: start_dim {start_dim} comes after end_dim {end_dim}",
        )
    if start == end:
        return input
    joined = 1
    for n in shape[start : end + 1]:
        joined *= n
    return reshape(input, (*shape[:start], joined, *shape[end + 1 :]))


def ravel(input: Tensor) -> Tensor:
    """One dimension."""
    return reshape(input, (-1,))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` split into `sizes` (one may be -1)."""
    shape = input.array.shape
    axis = dim_index(dim, len(shape), "unflatten")
    inner = tuple(sizes)
    if not inner:
        raise ShapeError("unflatten", "sizes must be non-empty")
    inner = _resolve("unflatten", inner, shape[axis], shape)
    return view(input, shape[:axis] + inner + shape[axis + 1 :])


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without dimensions of size 1 (all, or those in `dim`)."""
    x = input.array
    before = x.shape
    if dim is None:
        axes = tuple(i for i, n in enumerate(before) if n == 1)
    else:
        axes = tuple(i for i in dims_of(dim, x.ndim, "squeeze") if before and before[i] == 1)
    output = x.reshape(tuple(n for i, n in enumerate(before) if i not in axes)) if axes else x[...]
    if axes:
        output = x.squeeze(axes)

    def backward(grad: Array) -> Grads:
        return (grad.reshape(before),)

    return record_view(output, backward, input)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 inserted at `dim`."""
    x = input.array
    axis = dim_index(dim, x.ndim + 1, "unsqueeze")

    def backward(grad: Array) -> Grads:
        return (grad.squeeze(axis),)

    return record_view(np.expand_dims(x, axis), backward, input)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged; a view."""
    x = input.array
    a, b = dim_index(dim0, x.ndim, "transpose"), dim_index(dim1, x.ndim, "transpose")

    def backward(grad: Array) -> Grads:
        return (np.swapaxes(grad, a, b) if grad.ndim else grad,)

    return record_view(np.swapaxes(x, a, b) if x.ndim else x[...], backward, input)


swapaxes = swapdims = transpose


def t(input: Tensor) -> Tensor:
    """A matrix transposed; fewer dimensions unchanged."""
    if input.array.ndim > 2:
        raise ShapeError(
            "t",
            f"t() expects a tensor with <= 2 dimensions, but self is {input.array.ndim}D, shape "
            f"{input.array.shape}",
        )
    if input.array.ndim < 2:
        return reshape(input, input.array.shape)
    return transpose(input, 0, 1)


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Dimensions in the given order; a view."""
    x = input.array
    order = dims[0] if _nested(dims) else dims
    if len(order) != x.ndim:
        raise ShapeError(
            "permute",
            f"number of dimensions in the tensor ({x.ndim}) does not match the length of dims "
            f"{tuple(order)}",
        )
    axes = dims_of(order, x.ndim, "permute")
    inverse = tuple(axes.index(i) for i in range(len(axes)))

    def backward(grad: Array) -> Grads:
        return (np.transpose(grad, inverse),)

    return record_view(x.transpose(axes), backward, input)


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to new places; the others keep their order."""
    ndim = input.array.ndim
    sources, targets = dims_of(source, ndim, "movedim"), dims_of(destination, ndim, "movedim")
    if len(sources) != len(targets):
        raise ShapeError(
            "movedim", f"source {source} and destination {destination}", "equally many"
        )
    order = [d for d in range(ndim) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return permute(input, order)


moveaxis = movedim


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Dimensions of size 1 repeated without copying; -1 keeps a size."""
    x = input.array
    given = shape_of("expand", sizes[0] if _nested(sizes) else sizes)
    if len(given) < x.ndim:
        raise ShapeError(
            "expand",
            f"the number of sizes provided ({len(given)}) must be greater or equal to the number "
            f"of dimensions in the "
            f"tensor ({x.ndim}), shape {x.shape}",
        )
    extra = len(given) - x.ndim
    if any(n == -1 for n in given[:extra]):
        raise ShapeError(
            "expand", f"-1 is not allowed in a leading, non-existing dimension: {given}"
        )
    shape = tuple(x.shape[i - extra] if n == -1 else n for i, n in enumerate(given))
    try:
        output = np.broadcast_to(x, shape)
    except ValueError:
        raise ShapeError(
            "expand",
            f"sizes {given} do not match the existing shape {x.shape}",
            "equal sizes where they are not 1",
        ) from None
    output = _writeable(x, output)

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record_view(output, backward, input)


def _writeable(x: Any, output: Any) -> Any:
    """A writeable view as PyTorch's; NumPy's broadcast_to gives a read-only one."""
    if isinstance(output, np.ndarray) and x.flags.writeable:
        return np.lib.stride_tricks.as_strided(x, output.shape, output.strides)
    return output


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.expand(other.shape)`."""
    return expand(input, other.array.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`input.expand(size)`."""
    return expand(input, tuple(size))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape."""
    given: Any = tensors
    if len(given) == 1 and isinstance(given[0], list | tuple):
        tensors = tuple(given[0])
    shape = broadcast_shapes(*(x.array.shape for x in tensors))
    return tuple(expand(x, shape) for x in tensors)


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The tensor tiled `repeats` times along each dimension."""
    x = input.array
    times = shape_of("repeat", repeats[0] if _nested(repeats) else repeats)
    if len(times) < x.ndim:
        raise ShapeError(
            "repeat",
            f"Number of dimensions of repeat dims {times} can not be smaller than number of "
            f"dimensions of tensor {x.shape}",
        )
    if any(n < 0 for n in times):
        raise ShapeError("repeat", f"repeats {times}", "non-negative numbers")
    shape = (1,) * (len(times) - x.ndim) + x.shape

    def backward(grad: Array) -> Grads:
        split = [n for pair in zip(times, shape, strict=True) for n in pair]
        return (grad.reshape(split).sum(axis=tuple(range(0, 2 * len(times), 2))),)

    return record(np.tile(x, times) if x.ndim or times else x.copy(), backward, input)


def tile(input: Tensor, *dims: Any) -> Tensor:
    """As `repeat`; missing leading repeats are 1."""
    times = shape_of("tile", dims[0] if _nested(dims) else dims)
    return repeat(input, (1,) * (input.array.ndim - len(times)) + times)


def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element (along `dim`, or of the flattened tensor) repeated in place."""
    from tensorlib.ops.indexing import index_select

    if repeats is None:
        return wrap(np.repeat(np.arange(input.array.size), input.array))
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    axis = dim_index(dim, input.array.ndim, "repeat_interleave")
    counts = repeats.array if hasattr(repeats, "array") else np.asarray(repeats)
    if counts.size not in (1, input.array.shape[axis]):
        raise ShapeError(
            "repeat_interleave",
            f"repeats of size {counts.size} for dim {dim} of shape {input.array.shape}",
            "one, or one each",
        )
    if (counts < 0).any():
        raise ShapeError("repeat_interleave", f"repeats {counts.tolist()} can not be negative")
    order = np.repeat(
        np.arange(input.array.shape[axis]), counts.reshape(-1) if counts.ndim else counts
    )
    return index_select(input, axis, wrap(order))


# -- joining and splitting -------------------------------------------------------------------------


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along `dim`; other sizes must be equal."""
    from tensorlib.dtypes import result_numpy

    if hasattr(tensors, "array"):
        raise ArgumentError("cat", "argument 'tensors' is one Tensor", "a list or tuple of Tensors")
    tensors = list(tensors)
    if not tensors:
        raise InvalidValueError2("cat", "expected a non-empty list of Tensors")
    for x in tensors:
        expect_tensor("cat", "tensors", x)
    kept = [x for x in tensors if x.array.shape != (0,)] or tensors[:1]
    dropped = [x for x in tensors if x.array.shape == (0,) and x is not kept[0]]
    common = kept[0].array.dtype
    for x in tensors:
        if x.array.dtype != common:
            common = result_numpy(common, 1, x.array.dtype, 1)
    kept = [astype(x, common) for x in kept]
    arrays = [x.array for x in kept]
    if any(a.ndim == 0 for a in arrays):
        raise ShapeError(
            "cat", "zero-dimensional tensor cannot be concatenated", hint="use stack()"
        )
    axis = dim_index(dim, arrays[0].ndim, "cat")
    try:
        output = np.concatenate(arrays, axis)
    except ValueError:
        raise ShapeError(
            "cat",
            f"Sizes of tensors must match except in dimension {axis}; got "
            f"{[a.shape for a in arrays]}",
            hint="check dim, or the sizes of the inputs",
        ) from None
    edges = np.cumsum([a.shape[axis] for a in arrays]).tolist()
    lead = (slice(None),) * axis

    def backward(grad: Array) -> Grads:
        parts = [grad[(*lead, slice(b, e))] for b, e in zip([0, *edges[:-1]], edges, strict=True)]
        return (*parts, *(np.zeros_like(x.array) for x in dropped))

    return record(output, backward, *kept, *dropped)


class InvalidValueError2(ShapeError, ValueError):
    """Nothing to join (RuntimeError in PyTorch)."""


concat = concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of equal shape joined along a new dimension `dim`."""
    tensors = list(tensors)
    if not tensors:
        raise InvalidValueError2("stack", "stack expects a non-empty TensorList")
    for x in tensors:
        expect_tensor("stack", "tensors", x)
    first = tensors[0].array.shape
    for i, x in enumerate(tensors):
        if x.array.shape != first:
            raise ShapeError(
                "stack",
                f"stack expects each tensor to be equal size, but got {first} at entry 0 and "
                f"{x.array.shape} at entry {i}",
            )
    axis = dim_index(dim, len(first) + 1, "stack")
    return cat([unsqueeze(x, axis) for x in tensors], axis)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 1 (0 for one-dimensional tensors)."""
    grown = [atleast_1d(x) for x in tensors]
    return cat(grown, 0 if grown[0].array.ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 0, as rows."""
    return cat([atleast_2d(x) for x in tensors], 0)


row_stack = vstack


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 2."""
    return cat([atleast_3d(x) for x in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined as columns."""
    return hstack([x if x.array.ndim > 1 else reshape(x, (-1, 1)) for x in tensors])


def atleast_1d(input: Tensor) -> Tensor:
    """With at least one dimension."""
    return input if input.array.ndim else reshape(input, (1,))


def atleast_2d(input: Tensor) -> Tensor:
    """With at least two dimensions."""
    return input if input.array.ndim > 1 else unsqueeze(atleast_1d(input), 0)


def atleast_3d(input: Tensor) -> Tensor:
    """With at least three dimensions."""
    return input if input.array.ndim > 2 else unsqueeze(atleast_2d(input), -1)


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of at most `split_size` along `dim`, or of the given sizes."""
    shape = tensor.array.shape
    axis = dim_index(dim, len(shape), "split")
    if not shape:
        raise ShapeError("split", "split expects at least a 1-dimensional tensor")
    total = shape[axis]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 0 or (size == 0 and total):
            raise ShapeError(
                "split", f"split_size {size} for a dimension of size {total}", "a positive number"
            )
        sizes = [min(size, total - start) for start in range(0, total, size)] if total else [0]
    else:
        sizes = [int(n) for n in split_size_or_sections]
        if sum(sizes) != total or any(n < 0 for n in sizes):
            raise ShapeError(
                "split_with_sizes",
                f"split_sizes {sizes} must sum exactly to {total}, the size of dimension {axis} "
                f"of shape {shape}",
            )
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return tuple(narrow(tensor, axis, b, n) for b, n in zip(starts, sizes, strict=True))


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of nearly equal size along `dim`, or cut at the given indices."""
    axis = dim_index(dim, input.array.ndim, "tensor_split")
    total = input.array.shape[axis]
    cuts = (
        indices_or_sections.tolist()
        if hasattr(indices_or_sections, "array")
        else indices_or_sections
    )
    if isinstance(cuts, int):
        small, larger = divmod(total, cuts)
        return split(input, [small + 1] * larger + [small] * (cuts - larger), axis)
    edges = [0, *(slice(None, c).indices(total)[1] for c in cuts), total]
    return tuple(narrow(input, axis, b, max(e - b, 0)) for b, e in pairwise(edges))


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along `dim` (the last may be smaller)."""
    if not isinstance(chunks, int) or chunks < 1:
        raise ShapeError("chunk", f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    axis = dim_index(dim, input.array.ndim, "chunk")
    if not input.array.ndim:
        raise ShapeError("chunk", "chunk expects at least a 1-dimensional tensor")
    total = input.array.shape[axis]
    size = -(-total // chunks)
    return split(input, size, axis) if size else split(input, [0] * chunks, axis)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along `dim`, without it; views."""
    from tensorlib.autograd import tape

    x = input.array
    if not x.ndim:
        raise ShapeError("unbind", "Dimension specified as 0 but tensor has no dimensions")
    axis = dim_index(dim, x.ndim, "unbind")
    lead = (slice(None),) * axis
    outputs = tuple(x[(*lead, i, ...)] for i in range(x.shape[axis]))

    def backward(*grads: Array | None) -> Grads:
        some = next(g for g in grads if g is not None)
        return (np.stack([np.zeros_like(some) if g is None else g for g in grads], axis),)

    if len(outputs) == 1:
        return (select(input, axis, 0),)
    results = tape.record_outputs(outputs, backward, input)
    for result in results:
        result._base = input if input._base is None else input._base
        result._counter = input._counter
        result._seen = input._counter[0]
    return results


def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements along `dim` from `start`; a view."""
    x = input.array
    if not x.ndim:
        raise ShapeError("narrow", "narrow() cannot be applied to a 0-dim tensor")
    axis = dim_index(dim, x.ndim, "narrow")
    size = x.shape[axis]
    begin = int(start)
    if not -size <= begin <= size:
        raise DimensionError(
            "narrow", f"start {begin}", f"in range of [{-size}, {size}] for shape {x.shape}"
        )
    begin += size if begin < 0 else 0
    if length < 0 or begin + length > size:
        raise ShapeError(
            "narrow", f"start ({begin}) + length ({length}) exceeds dimension size ({size})"
        )
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


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """The slice at `index` along `dim`, without that dimension; a view."""
    x = input.array
    if not x.ndim:
        raise DimensionError("select", "select() cannot be applied to a 0-dim tensor")
    axis = dim_index(dim, x.ndim, "select")
    size = x.shape[axis]
    place = int(index)
    if not -size <= place < size:
        raise DimensionError(
            "select",
            f"index {place} out of range for tensor of size {x.shape} at dimension {axis}",
            f"[{-size}, {size - 1}]",
        )
    return squeeze(
        narrow(input, axis, place, 1) if place >= 0 else narrow(input, axis, place + size, 1), axis
    )


def flip(input: Tensor, *dims: Any) -> Tensor:
    """Reversed along `dims`; a copy."""
    axes = dims_of(dims[0] if _nested(dims) else dims, input.array.ndim, "flip")

    def backward(grad: Array) -> Grads:
        return (np.flip(grad, axes),)

    return record(
        np.ascontiguousarray(np.flip(input.array, axes))
        if input.array.ndim
        else input.array.copy(),
        backward,
        input,
    )


def fliplr(input: Tensor) -> Tensor:
    """Reversed along dimension 1."""
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """Reversed along dimension 0."""
    return flip(input, 0)


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Rotated by 90 degrees `k` times in the plane of `dims`."""
    axes: Any = dims_of(dims, input.array.ndim, "rot90")

    def backward(grad: Array) -> Grads:
        return (np.rot90(grad, -k, axes),)

    return record(np.ascontiguousarray(np.rot90(input.array, k, axes)), backward, input)


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted along `dims`, those pushed out coming in at the other end."""
    steps = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    if dims is None or dims == () or dims == []:
        if len(steps) != 1:
            raise ShapeError(
                "roll", f"shifts and dimensions must align. shifts: {len(steps)}, dims:0"
            )
        axes = None
    else:
        given = (dims,) if isinstance(dims, int) else tuple(dims)
        if len(given) != len(steps):
            raise ShapeError(
                "roll", f"shifts and dimensions must align. shifts: {len(steps)}, dims:{len(given)}"
            )
        axes = tuple(dim_index(d, input.array.ndim, "roll") for d in given)
    back = tuple(-s for s in steps)

    def backward(grad: Array) -> Grads:
        return (np.roll(grad, back if axes else back[0], axes),)

    return record(np.roll(input.array, steps if axes else steps[0], axes), backward, input)


# -- diagonals and windows -------------------------------------------------------------------------


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of the planes (dim1, dim2), as last dimension; a view."""
    x = input.array
    a, b = dims_of((dim1, dim2), x.ndim, "diagonal")
    shape = x.shape
    output = np.diagonal(x, offset, a, b)
    if isinstance(output, np.ndarray) and x.flags.writeable:
        output.setflags(write=True) if output.flags.writeable else None
        output = _diagonal_view(x, offset, a, b)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        _diagonal_view(out, offset, a, b)[...] = grad
        return (out,)

    def smooth(grad: Any) -> Grads:
        return (diag_embed(grad, offset, a, b, size=(shape[a], shape[b])),)

    return record_view(output, backward, input, smooth=smooth)


def _diagonal_view(x: Any, offset: int, a: int, b: int) -> Any:
    rows, columns = x.shape[a], x.shape[b]
    length = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
    rest = [i for i in range(x.ndim) if i not in (a, b)]
    lead: list[Any] = [slice(None)] * x.ndim
    lead[a], lead[b] = slice(max(-offset, 0), None), slice(max(offset, 0), None)
    start = x[tuple(lead)]
    shape = [x.shape[i] for i in rest] + [length]
    strides = [x.strides[i] for i in rest] + [x.strides[a] + x.strides[b]]
    return np.lib.stride_tricks.as_strided(start, shape, strides)


def diag_embed(
    input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1, *, size: Any = None
) -> Tensor:
    """Matrices with the last dimension of `input` on their diagonal."""
    x = input.array
    side = x.shape[-1] + abs(offset)
    rows, columns = size or (side, side)
    a, b = dims_of((dim1, dim2), x.ndim + 1, "diag_embed")
    shape = list(x.shape[:-1])
    for axis, n in sorted([(a, rows), (b, columns)]):
        shape.insert(axis, n)
    output = np.zeros_like(x, shape=tuple(shape))
    _diagonal_view(output, offset, a, b)[...] = x

    def backward(grad: Array) -> Grads:
        return (np.diagonal(grad, offset, a, b),)

    return record(output, backward, input)


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix from its diagonal, or the diagonal of a matrix (a copy)."""
    if input.array.ndim == 1:
        return diag_embed(input, diagonal)
    if input.array.ndim != 2:
        raise ShapeError(
            "diag",
            f"diag(): Supports 1D or 2D tensors. Got {input.array.ndim}D, shape "
            f"{input.array.shape}",
        )
    offset = diagonal
    x = input.array
    shape = x.shape

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        _diagonal_view(out, offset, 0, 1)[...] = grad
        return (out,)

    def smooth(grad: Any) -> Grads:
        return (diag_embed(grad, offset, 0, 1, size=shape),)

    return record(np.diagonal(x, offset).copy(), backward, input, smooth=smooth)


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, other elements 0."""
    return _triangle(input, diagonal, np.tril, "tril")


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, other elements 0."""
    return _triangle(input, diagonal, np.triu, "triu")


def _triangle(input: Tensor, diagonal: int, function: Any, where: str) -> Tensor:
    x = input.array
    if x.ndim < 2:
        raise ShapeError(where, f"input tensor must have at least 2 dimensions, shape {x.shape}")

    def backward(grad: Array) -> Grads:
        return (function(grad, diagonal),)

    return record(function(x, diagonal), backward, input)


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` every `step` along `dimension`, as a new last dimension; a view."""
    x = input.array
    axis = dim_index(dimension, x.ndim, "unfold")
    length = x.shape[axis] if x.ndim else 1
    if size < 0 or size > length:
        raise ShapeError(
            "unfold", f"maximum size for tensor at dimension {axis} is {length} but size is {size}"
        )
    if step < 1:
        raise ShapeError("unfold", f"step is {step} but must be > 0")
    source = x if x.ndim else x.reshape(1)
    before, shape = x.shape, source.shape
    count = (length - size) // step + 1
    output = _windows(source, axis, size, step, count)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        lead = (slice(None),) * axis
        for i in range(size):
            out[(*lead, slice(i, i + (count - 1) * step + 1, step))] += grad[..., i]
        return (out,)

    def smooth(grad: Any) -> Grads:
        places = _windows(np.arange(int(np.prod(shape))).reshape(shape), axis, size, step, count)
        return (reshape(_added_at(grad, places, shape), before),)

    return record_view(output, backward, input, smooth=smooth)


def _added_at(values: Tensor, places: Array, size: tuple[int, ...]) -> Tensor:
    """Zeros of `size` with `values` added at flat `places`."""
    from tensorlib.ops.indexing import index_add

    zeros = wrap(np.zeros(int(np.prod(size)), values.array.dtype))
    flat = index_add(zeros, 0, wrap(places.reshape(-1)), reshape(values, (-1,)))
    return reshape(flat, size)


def _windows(x: Any, axis: int, size: int, step: int, count: int) -> Any:
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :], size)
    strides = (*x.strides[:axis], x.strides[axis] * step, *x.strides[axis + 1 :], x.strides[axis])
    return np.lib.stride_tricks.as_strided(x, shape, strides)


def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int = 0
) -> Tensor:
    """A view with given sizes and strides (in elements) into the memory of `input`."""
    x = input.array
    if needs := [s for s in stride if s < 0]:
        raise ShapeError("as_strided", f"negative strides {needs} are not supported")
    last = storage_offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if not x.flags.c_contiguous or (x.size and last >= x.size):
        raise ShapeError(
            "as_strided",
            f"size {tuple(size)}, stride {tuple(stride)} out of bounds for {x.size} elements",
        )
    shape = x.shape

    def place(buffer: Any) -> Any:
        flat = buffer.reshape(-1)[storage_offset:]
        return np.lib.stride_tricks.as_strided(
            flat, tuple(size), tuple(s * buffer.itemsize for s in stride)
        )

    index = place(np.arange(x.size).reshape(shape))

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=(int(np.prod(shape)),))
        np.add.at(out, index.reshape(-1), grad.reshape(-1))
        return (out.reshape(shape),)

    def smooth(grad: Any) -> Grads:
        return (_added_at(grad, index, shape),)

    return record_view(place(x), backward, input, smooth=smooth)


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Coordinate grids from one-dimensional tensors; `indexing` "ij" (default) or "xy"."""
    given = (
        list(tensors[0])
        if len(tensors) == 1 and isinstance(tensors[0], list | tuple)
        else list(tensors)
    )
    if indexing not in (None, "ij", "xy"):
        raise ShapeError("meshgrid", f"indexing={indexing!r}", "'ij' or 'xy'")
    flat = [reshape(x, (-1,)) for x in given]
    swap = indexing == "xy" and len(flat) > 1
    if swap:
        flat[0], flat[1] = flat[1], flat[0]
    shape = tuple(x.array.shape[0] for x in flat)
    grids = []
    for i, x in enumerate(flat):
        grid = expand(reshape(x, (1,) * i + (-1,) + (1,) * (len(flat) - i - 1)), shape)
        grids.append(grid)
    if swap:
        grids[0], grids[1] = grids[1], grids[0]
    return tuple(grids)


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with its own memory."""

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record(input.array.copy("K"), backward, input)


def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """Itself if its memory is in row-major order, otherwise a copy that is."""
    if memory_format is not None and str(memory_format).endswith("channels_last"):
        if input.array.ndim != 4:
            raise ShapeError(
                "contiguous", f"channels_last needs 4 dimensions, shape {input.array.shape}"
            )
        return permute(contiguous(permute(input, 0, 2, 3, 1)), 0, 3, 1, 2)
    if input.array.flags.c_contiguous:
        return input

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record(np.ascontiguousarray(input.array), backward, input)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of elements of one-dimensional tensors, as rows."""
    if len(tensors) == 1:
        return tensors[0]
    return stack([reshape(g, (-1,)) for g in meshgrid(*tensors, indexing="ij")], 1)


def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix with the given ones along its diagonal."""
    from tensorlib.ops.padding import pad_constant

    parts = [atleast_2d(x) for x in tensors]
    width = sum(p.array.shape[1] for p in parts)
    rows, left = [], 0
    for part in parts:
        n = part.array.shape[1]
        rows.append(pad_constant(part, [(0, 0), (left, width - left - n)], 0.0))
        left += n
    return cat(rows, 0)
