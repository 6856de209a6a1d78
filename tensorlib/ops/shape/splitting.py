"""Splitting: a tensor's parts along a dimension, as views."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ArgumentError, DimensionError, ShapeError
from tensorlib.ops._common import Array, Grads, called, dim_index, record_views, shape_of
from tensorlib.ops.shape.reinterpret import storage_of
from tensorlib.ops.shape.views import narrow

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of at most `split_size` along `dim`, or of the given sizes."""
    if not hasattr(split_size_or_sections, "__index__"):
        return split_with_sizes(tensor, split_size_or_sections, dim)
    axis, sizes = _equal_sizes(tensor, split_size_or_sections.__index__(), dim)
    outputs, backward = _parts(tensor.array, axis, sizes)

    def split_backward(*grads: Array | None) -> Grads:
        return backward(*grads)

    return record_views(outputs, split_backward, tensor)


def _equal_sizes(tensor: Tensor, size: int, dim: int) -> tuple[int, list[int]]:
    shape = tensor.array.shape
    if not shape:
        raise ShapeError("split", "split expects at least a 1-dimensional tensor")
    axis = dim_index(dim, len(shape), "split")
    total = shape[axis]
    if size < 0:
        raise ShapeError(
            "split", f"split expects split_size be non-negative, but got split_size={size}"
        )
    if size == 0 and total:
        raise ShapeError(
            "split",
            f"split_size can only be 0 if dimension size is 0, but got dimension size of {total}",
        )
    sizes = [min(size, total - start) for start in range(0, total, size)] if total else [0]
    return axis, sizes


def split_with_sizes(tensor: Tensor, split_sizes: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of the given sizes along `dim`."""
    axis, sizes = _given_sizes(tensor, split_sizes, dim)
    outputs, backward = _parts(tensor.array, axis, sizes)

    def split_with_sizes_backward(*grads: Array | None) -> Grads:
        return backward(*grads)

    return record_views(outputs, split_with_sizes_backward, tensor)


def _given_sizes(tensor: Tensor, split_sizes: Any, dim: int) -> tuple[int, list[int]]:
    where, shape = "split_with_sizes", tensor.array.shape
    if not shape:
        raise ShapeError(where, "split_with_sizes expects at least a 1-dimensional tensor")
    axis = dim_index(dim, len(shape), where)
    if not isinstance(split_sizes, list | tuple):
        raise ArgumentError(where, f"split_sizes is {type(split_sizes).__name__}", "ints")
    sizes = list(shape_of(where, (split_sizes,)))
    if any(n < 0 for n in sizes):
        raise ShapeError(
            where,
            f"split_with_sizes expects split_sizes have only non-negative entries, but got "
            f"split_sizes={sizes}",
        )
    if sum(sizes) != shape[axis]:
        raise ShapeError(
            where,
            f"split_with_sizes expects split_sizes to sum exactly to {shape[axis]} (input "
            f"tensor's size at dimension {axis}), but got split_sizes={sizes}",
        )
    return axis, sizes


def _parts(x: Any, axis: int, sizes: list[int]) -> tuple[tuple[Any, ...], Callable[..., Grads]]:
    """The views, and how their gradients are joined."""
    lead = (slice(None),) * axis
    edges = [0]
    for n in sizes:
        edges.append(edges[-1] + n)
    shape = x.shape

    def backward(*grads: Array | None) -> Grads:
        some = next(g for g in grads if g is not None)
        parts = [
            np.zeros_like(some, shape=(*shape[:axis], n, *shape[axis + 1 :])) if g is None else g
            for g, n in zip(grads, sizes, strict=True)
        ]
        return (np.concatenate(parts, axis),)

    return tuple(x[(*lead, slice(b, e))] for b, e in pairwise(edges)), backward


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along `dim` (the last may be smaller)."""
    return split(input, *_chunk_sizes("chunk", input, chunks, dim))


def _chunk_sizes(where: str, input: Tensor, chunks: int, dim: int) -> tuple[Any, int]:
    if not input.array.ndim:
        raise ShapeError(where, "chunk expects at least a 1-dimensional tensor")
    if not hasattr(chunks, "__index__"):
        raise ArgumentError(where, f"chunks must be int, not {type(chunks).__name__}")
    if chunks < 1:
        raise ShapeError(where, f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    axis = dim_index(dim, input.array.ndim, where)
    size = -(-input.array.shape[axis] // chunks)
    return (size or [0] * chunks), axis


def tensor_split(
    input: Tensor,
    indices_or_sections: Any = None,
    dim: int = 0,
    *,
    indices: Any = None,
    sections: Any = None,
) -> tuple[Tensor, ...]:
    """Views of nearly equal size along `dim`, or cut at the given indices."""
    given = (c for c in (indices_or_sections, indices, sections) if c is not None)
    cuts: Any = next(given, None)
    if not input.array.ndim:
        raise ShapeError("tensor_split", "expected at least a 1-dimensional tensor, got 0-dim")
    axis = dim_index(dim, input.array.ndim, "tensor_split")
    total = input.array.shape[axis]
    if hasattr(cuts, "array"):
        if cuts.array.dtype != np.int64 or cuts.array.ndim > 1:
            raise ShapeError(
                "tensor_split",
                "tensor_split expected tensor_indices_or_sections to be a zero-dimensional or "
                f"one-dimensional int64 tensor, got {cuts.dtype} of shape {cuts.array.shape}",
            )
        cuts = cuts.array.tolist()
    if isinstance(cuts, list | tuple):
        edges = [0, *shape_of("tensor_split", (cuts,)), total]
        ends = [slice(None, e).indices(total)[1] for e in edges[1:]]
        begins = [slice(b, None).indices(total)[0] for b in edges[:-1]]
        return tuple(
            narrow(input, axis, b, max(e - b, 0)) for b, e in zip(begins, ends, strict=True)
        )
    if not hasattr(cuts, "__index__"):
        raise ArgumentError(
            "tensor_split",
            f"indices_or_sections must be int, a sequence of ints or a tensor, not "
            f"{type(cuts).__name__}",
        )
    if cuts < 1:
        raise ShapeError("tensor_split", f"number of sections must be larger than 0, got {cuts}")
    small, larger = divmod(total, cuts)
    begins = [i * small + min(i, larger) for i in range(cuts + 1)]
    return tuple(narrow(input, axis, b, e - b) for b, e in pairwise(begins))


def _split_along(
    where: str, input: Tensor, cuts: Any, axis: int, needed: int
) -> tuple[Tensor, ...]:
    shape = input.array.shape
    if len(shape) < needed:
        raise ShapeError(
            where,
            f"torch.{where} requires a tensor with at least {needed} dimension, but got a tensor "
            f"with {len(shape)} dimensions",
        )
    if hasattr(cuts, "__index__") and not hasattr(cuts, "array"):
        if cuts < 1 or shape[axis] % cuts:
            raise ShapeError(
                where,
                f"attempted to split along dimension {axis}, but the size of the dimension "
                f"{shape[axis]} is not divisible by the split_size {cuts}",
            )
    elif not isinstance(cuts, list | tuple):
        raise ArgumentError(
            where, f"indices_or_sections is {type(cuts).__name__}", "int or tuple of ints"
        )
    return tensor_split(input, cuts, axis)


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along dimension 1 (0 for one dimension), into equal sections."""
    axis = 0 if input.array.ndim == 1 else 1
    return _split_along("hsplit", input, indices_or_sections, axis, 1)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along dimension 0, into equal sections."""
    return _split_along("vsplit", input, indices_or_sections, 0, 2)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along dimension 2, into equal sections."""
    return _split_along("dsplit", input, indices_or_sections, 2, 3)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along `dim`, without it; views."""
    x = input.array
    axis = dim_index(dim, x.ndim, "unbind")
    if not x.ndim:
        raise DimensionError("unbind", "Dimension specified as 0 but tensor has no dimensions")
    lead = (slice(None),) * axis
    outputs = tuple(x[(*lead, i, ...)] for i in range(x.shape[axis]))

    def backward(*grads: Array | None) -> Grads:
        some = next(g for g in grads if g is not None)
        return (np.stack([np.zeros_like(some) if g is None else g for g in grads], axis),)

    return record_views(outputs, backward, input)


# -- without views ---------------------------------------------------------------------------------


def _unsafe(input: Tensor, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The parts as tensors of their own: they share memory, but a change in place is not followed
    from one to the other.
    """
    for output in outputs:
        output._base, output._counter = None, [0]
        output._extra = {"memory": storage_of(input)}
    return outputs


@called("UnsafeSplitBackward0")
def unsafe_split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """As `split`, its results not noted as views."""
    return _unsafe(tensor, split(tensor, split_size_or_sections, dim))


def unsafe_split_with_sizes(tensor: Tensor, split_sizes: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """As `split_with_sizes`, its results not noted as views."""
    return _unsafe(tensor, split_with_sizes(tensor, split_sizes, dim))


@called("UnsafeSplitBackward0")
def unsafe_chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """As `chunk`, its results not noted as views."""
    return _unsafe(input, chunk(input, chunks, dim))
