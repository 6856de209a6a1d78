"""Copies in another arrangement: repeated, reversed, rolled, triangles, diagonals; `clone` and
`contiguous`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ArgumentError, DimensionError, DTypeError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    called,
    dim_index,
    dims_of,
    record,
    wrap,
)
from tensorlib.ops.out import takes_out
from tensorlib.ops.shape.reinterpret import diagonal_of
from tensorlib.ops.shape.views import expand, flatten, numbers, reshape, unsqueeze
from tensorlib.ops.strides import copied, empty_channels_last, empty_like, is_channels_last

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def repeat(input: Tensor, *sizes: Any, repeats: Any = None) -> Tensor:
    """The tensor tiled `repeats` times along each dimension."""
    return _tiled(input, numbers("repeat", sizes, repeats), "repeat")


def _tiled(input: Tensor, times: tuple[int, ...], where: str) -> Tensor:
    x = input.array
    if len(times) < x.ndim:
        raise ShapeError(
            where,
            f"Number of dimensions of repeat dims {times} can not be smaller than number of "
            f"dimensions of tensor {x.shape}",
        )
    if any(n < 0 for n in times):
        raise ShapeError(where, f"Trying to create tensor with negative dimension: repeats {times}")
    shape = (1,) * (len(times) - x.ndim) + x.shape

    def backward(grad: Array) -> Grads:
        split = [n for pair in zip(times, shape, strict=True) for n in pair]
        return (grad.reshape(split).sum(axis=tuple(range(0, 2 * len(times), 2))),)

    wide = np.broadcast_to(
        x.reshape([n for size in shape for n in (1, size)]),
        [n for pair in zip(times, shape, strict=True) for n in pair],
    )
    whole = tuple(n * size for n, size in zip(times, shape, strict=True))
    output = np.empty_like(x, shape=wide.shape, order="C")
    output[...] = wide
    return record(output.reshape(whole), backward, input)


def tile(input: Tensor, *sizes: Any, dims: Any = None) -> Tensor:
    """As `repeat`; missing leading repeats are 1."""
    times = numbers("tile", sizes, dims) if sizes or dims is not None else ()
    return _tiled(input, (1,) * (input.array.ndim - len(times)) + times, "tile")


def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element (along `dim`, or of the flattened tensor) repeated in place."""
    from tensorlib.ops.indexing import index_select

    if repeats is None:
        x = input.array
        if x.ndim != 1:
            raise ShapeError("repeat_interleave", f"only accept 1D vector as repeat, got {x.shape}")
        if x.dtype not in (np.int64, np.int32):
            raise DTypeError(
                "repeat_interleave", f"repeats has to be Long or Int tensor, got {input.dtype}"
            )
        return wrap(np.repeat(np.arange(x.size), _counts(x, x.size, None, output_size)))
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    axis = dim_index(dim, input.array.ndim, "repeat_interleave")
    scalar = not input.array.ndim
    if scalar:
        input = reshape(input, (1,))
    if hasattr(repeats, "array"):
        given = repeats.array
        if given.dtype not in (np.int64, np.int32):
            raise DTypeError(
                "repeat_interleave", f"repeats has to be Long or Int tensor, got {repeats.dtype}"
            )
    elif hasattr(repeats, "__index__"):
        if scalar:
            raise DimensionError("repeat_interleave", f"dim {dim} of a 0-dim tensor")
        return _each_repeated(input, repeats.__index__(), axis, output_size)
    elif isinstance(repeats, list | tuple):
        given = np.asarray(repeats, np.int64)
    else:
        raise ArgumentError(
            "repeat_interleave",
            f"argument 'repeats' must be Tensor or int, not {type(repeats).__name__}",
        )
    size = input.array.shape[axis]
    order = np.repeat(np.arange(size), _counts(given, size, axis, output_size))
    return index_select(input, axis, wrap(order))


def _each_repeated(input: Tensor, count: int, axis: int, output_size: int | None) -> Tensor:
    """All elements equally often: expanded, copied, flattened."""
    shape = input.array.shape
    if count < 0:
        raise ShapeError("repeat_interleave", f"Repeats must be non-negative, got {count}")
    _expect_size(output_size, shape[axis] * count)
    wide = expand(unsqueeze(input, axis + 1), (*shape[: axis + 1], count, *shape[axis + 1 :]))
    return flatten(clone(wide, memory_format="contiguous_format"), axis, axis + 1)


def _expect_size(output_size: int | None, total: int) -> None:
    if output_size is not None and output_size != total:
        raise ShapeError(
            "repeat_interleave",
            f"allocated size {output_size} does not match required size {total}",
        )


def _counts(given: Any, size: int, axis: int | None, output_size: int | None) -> Any:
    """Repeats, checked: one for all, or one each."""
    if given.ndim > 1:
        raise ShapeError("repeat_interleave", "repeats must be 0-dim or 1-dim tensor")
    if given.size not in (1, size):
        raise ShapeError(
            "repeat_interleave",
            f"repeats must have the same size as input along dim, but got repeats.size(0) = "
            f"{given.size} and input.size({axis}) = {size}",
        )
    if (given < 0).any():
        raise ShapeError("repeat_interleave", f"repeats can not be negative: {given.tolist()}")
    counts = given.reshape(-1) if given.ndim else given
    total = int(counts.sum()) * (size if counts.size == 1 != size else 1)
    _expect_size(output_size, total)
    return counts


# -- order -----------------------------------------------------------------------------------------


def flip(input: Tensor, *axes: Any, dims: Any = None) -> Tensor:
    """Reversed along `dims`; a copy."""
    x = input.array
    given = numbers("flip", axes, dims) if axes or dims is not None else ()
    places = dims_of(given, x.ndim, "flip") if x.ndim or given else ()

    def backward(grad: Array) -> Grads:
        return (np.flip(grad, places) if grad.ndim else grad,)

    output = empty_like(x)
    output[...] = np.flip(x, places) if x.ndim else x
    return record(output, backward, input)


def fliplr(input: Tensor) -> Tensor:
    """Reversed along dimension 1."""
    if input.array.ndim < 2:
        raise ShapeError("fliplr", f"Input must be >= 2-d, shape {input.array.shape}")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """Reversed along dimension 0."""
    if input.array.ndim < 1:
        raise ShapeError("flipud", "Input must be >= 1-d, got a 0-dim tensor")
    return flip(input, 0)


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Rotated by 90 degrees `k` times in the plane of `dims`."""
    x = input.array
    if len(dims) != 2:
        raise ShapeError("rot90", f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if x.ndim < 2:
        raise ShapeError("rot90", f"expected total dims >= 2, but got total dims = {x.ndim}")
    axes: Any = tuple(dim_index(d, x.ndim, "rot90") for d in dims)
    if axes[0] == axes[1]:
        raise ShapeError("rot90", f"expected rotation dims to be different, but got {tuple(dims)}")
    turns = k % 4

    def backward(grad: Array) -> Grads:
        return (np.rot90(grad, -turns, axes),)

    if turns in (1, 3):  # a reversed copy, transposed
        place = axes[1] if turns == 1 else axes[0]
        output = empty_like(x)
        output[...] = np.flip(x, place)
        output = output.swapaxes(*axes)
    elif turns == 2:
        output = empty_like(x)
        output[...] = np.flip(x, axes)
    else:
        output = x.copy("C")
    return record(output, backward, input)


@called("RollBackward0")
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted along `dims`, those pushed out coming in at the other end."""
    x = input.array
    if not x.size:  # nothing is checked then, as in PyTorch
        return clone(input)
    steps = numbers("roll", (shifts,), None)
    given = numbers("roll", (dims,), None) if dims is not None else ()
    if not steps:
        raise ShapeError("roll", "`shifts` required")
    if len(given) != len(steps) and not (not given and len(steps) == 1):
        raise ShapeError(
            "roll",
            f"shifts and dimensions must align. shifts: {len(steps)}, dims:{len(given)}",
        )
    if given and not x.ndim:
        raise DimensionError("roll", f"Dimension specified as {given[0]} but tensor has none")
    axes = tuple(dim_index(d, x.ndim, "roll") for d in given)
    back = tuple(-s for s in steps)

    def backward(grad: Array) -> Grads:
        if not grad.ndim:
            return (grad,)
        return (np.roll(grad, back if axes else back[0], axes or None),)

    last = axes and is_channels_last(x)
    output = x
    for axis, step in zip(axes, steps, strict=True) if axes else ((0, steps[0]),):
        source = output if axes else x.reshape(-1)
        output = empty_channels_last(x, x.shape) if last else np.empty_like(source, order="C")
        _roll_into(output, source, step, axis)
    return record(output.reshape(x.shape), backward, input)


def _roll_into(output: Any, source: Any, step: int, axis: int) -> None:
    n, lead = source.shape[axis], (slice(None),) * axis
    cut = -step % n
    output[(*lead, slice(n - cut, None))] = source[(*lead, slice(cut))]
    output[(*lead, slice(n - cut))] = source[(*lead, slice(cut, None))]


# -- diagonals and triangles -----------------------------------------------------------------------


def diag_embed(
    input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1, *, size: Any = None
) -> Tensor:
    """Matrices with the last dimension of `input` on their diagonal."""
    x = input.array
    a = dim_index(dim1, x.ndim + 1, "diag_embed")
    b = dim_index(dim2, x.ndim + 1, "diag_embed")
    if a == b:
        raise ShapeError("diag_embed", f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    if not x.ndim:
        raise DimensionError("diag_embed", "a 0-dim tensor has no diagonal")
    side = x.shape[-1] + abs(offset)
    rows, columns = size or (side, side)
    shape = list(x.shape[:-1])
    for axis, n in sorted([(a, rows), (b, columns)]):
        shape.insert(axis, n)
    output = np.zeros_like(x, shape=tuple(shape), order="C")
    diagonal_of(output, offset, a, b)[...] = x

    def backward(grad: Array) -> Grads:
        return (np.diagonal(grad, offset, a, b),)

    return record(output, backward, input)


@takes_out
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix from its diagonal, or the diagonal of a matrix (a copy)."""
    x = input.array
    if x.ndim == 1:
        return diag_embed(input, diagonal)
    if x.ndim != 2:
        raise ShapeError(
            "diag", f"diag(): Supports 1D or 2D tensors. Got {x.ndim}D, shape {x.shape}"
        )
    offset, shape = diagonal, x.shape

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        diagonal_of(out, offset, 0, 1)[...] = grad
        return (out,)

    def smooth(grad: Any) -> Grads:
        return (diag_embed(grad, offset, 0, 1, size=shape),)

    return record(diagonal_of(x, offset, 0, 1).copy(), backward, input, smooth=smooth)


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements of `input` on its diagonal."""
    return diag_embed(reshape(input, (-1,)), offset)


@takes_out
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, other elements 0."""
    return _triangle(input, diagonal, np.tril, "tril")


@takes_out
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, other elements 0."""
    return _triangle(input, diagonal, np.triu, "triu")


def _triangle(input: Tensor, diagonal: int, function: Any, where: str) -> Tensor:
    x = input.array
    if x.ndim < 2:
        raise ShapeError(where, f"input tensor must have at least 2 dimensions, shape {x.shape}")

    def backward(grad: Array) -> Grads:
        return (function(grad, diagonal),)

    output = function(x, diagonal)
    return record(np.ascontiguousarray(output), backward, input)


# -- copies ----------------------------------------------------------------------------------------


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with its own memory, in the order of the original unless a format is given."""
    if memory_format is not None and not str(memory_format).endswith("preserve_format"):
        output = in_format("clone", input.array, memory_format)
    else:
        output = copied(input.array)

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record(output, backward, input)


def in_format(where: str, x: Any, memory_format: Any) -> Any:
    """A copy of an array in a memory format."""
    name = str(memory_format).rpartition(".")[2]
    if name in ("channels_last", "channels_last_3d"):
        wanted = 4 if name == "channels_last" else 5
        if x.ndim != wanted:
            raise ShapeError(
                where, f"required rank {wanted} tensor to use {name} format, shape {x.shape}"
            )
        output = empty_channels_last(x, x.shape)
        output[...] = x
        return output
    if name != "contiguous_format":
        raise ShapeError(where, f"memory format {name} is not supported")
    return x.copy("C")


def is_contiguous_in(x: Any, memory_format: Any) -> bool:
    """Whether an array lies in a memory format."""
    name = "contiguous_format" if memory_format is None else str(memory_format).rpartition(".")[2]
    if name in ("channels_last", "channels_last_3d"):
        order = (0, *range(2, x.ndim), 1)
        wanted = 4 if name == "channels_last" else 5
        return x.ndim == wanted and bool(x.transpose(order).flags.c_contiguous)
    if name not in ("contiguous_format", "preserve_format"):
        raise ShapeError("is_contiguous", f"memory format {name} is not supported")
    return name == "preserve_format" or bool(x.flags.c_contiguous)


def laid_out_like(made: Tensor, image: Tensor) -> Tensor:
    """`made` in row-major memory, or with its channels innermost where those of `image` are."""
    if not is_channels_last(image.array):
        return contiguous(made)
    return contiguous(made, "channels_last" if made.array.ndim == 4 else "channels_last_3d")


def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """Itself if its memory is in row-major order (or the format asked for), otherwise a copy that
    is.
    """
    x = input.array
    if memory_format is None:
        if x.flags.c_contiguous:
            return input
        memory_format = "contiguous_format"
    if is_contiguous_in(x, memory_format):
        return input
    return clone(input, memory_format=memory_format)
