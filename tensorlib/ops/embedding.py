"""Rows looked up by index: `embedding embedding_bag one_hot`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import (
    DimensionError,
    DTypeError,
    InvalidValueError,
    ShapeError,
    UnsupportedError,
)
from tensorlib.kernels import embedding as kernels
from tensorlib.ops import elementwise, reduction, shape
from tensorlib.ops._common import Array, Grads, broadcast_shapes, called, check_dtype, record, wrap
from tensorlib.ops.shape import broadcast_to
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _indices(where: str, input: Tensor, rows: int) -> Array:
    i: Array = input.array
    if i.dtype.kind not in "iu":
        raise DTypeError(
            where,
            f"Expected tensor for argument 'indices' to have scalar type Long or Int; but got "
            f"{dtypes.of(i.dtype)}",
            hint="use .long()",
        )
    if i.size and (i.min() < 0 or i.max() >= rows):
        bad = i[(i < 0) | (i >= rows)].reshape(-1)[0]
        raise DimensionError(where, f"index out of range in self: {bad}", f"0 to {rows - 1}")
    return i


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of `weight` [V, D] that the integers in `input` [...] name: [..., D]; row
    `padding_idx` gets no gradient.
    """
    w = weight.array
    if w.ndim != 2:
        raise ShapeError("embedding", f"'weight' must be 2-D, shape {w.shape}")
    if sparse:
        raise UnsupportedError(
            "embedding", "sparse=True gives a sparse gradient", "sparse=False", hint="leave it out"
        )
    if padding_idx is not None:
        if not -len(w) <= padding_idx < len(w):
            raise DimensionError(
                "embedding", f"padding_idx {padding_idx}", f"within num_embeddings {len(w)}"
            )
        padding_idx += len(w) if padding_idx < 0 else 0
    i = _indices("embedding", input, len(w))
    if max_norm is not None:
        _renormalize(weight, i, max_norm, norm_type)
    rows, size = i.reshape(-1), w.shape

    def backward(grad: Array) -> Grads:
        values = grad.reshape(-1, size[1]) if grad.size else grad.reshape(len(rows), size[1])
        if scale_grad_by_freq:
            values = values / np.bincount(rows, minlength=size[0])[rows][:, None].astype(grad.dtype)
        skipped = -1 if padding_idx is None else padding_idx
        return (kernels.take_rows_grad(values, rows, size[0], skipped),)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.indexing import index_add

        values = shape.reshape(grad, (-1, size[1]))
        share = np.ones((len(rows), 1), values.array.dtype)
        if scale_grad_by_freq:
            share /= np.bincount(rows, minlength=size[0])[rows][:, None]
        if padding_idx is not None:
            share *= (rows != padding_idx)[:, None]
        zeros = wrap(np.zeros(size, values.array.dtype))
        return (index_add(zeros, 0, wrap(rows), elementwise.mul(values, wrap(share))),)

    return record(kernels.take_rows(w, i), backward, weight, smooth=smooth)


def _renormalize(weight: Tensor, indices: Array, max_norm: float, norm_type: float) -> None:
    """Shrink the used rows whose norm exceeds `max_norm`, in place, as PyTorch does."""
    from tensorlib.autograd.tape import bump

    used = np.unique(indices)
    rows = weight.array[used]
    norms = (np.abs(rows) ** norm_type).sum(1, keepdims=True) ** (1 / norm_type)
    weight.array[used] = np.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)
    bump(weight)


@called("EmbeddingBagBackward0")
def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums, means or maxima of bags of embeddings: `input` [B, N], or [total] cut at `offsets`."""
    _check_bags(input, weight, offsets, scale_grad_by_freq, mode, per_sample_weights)
    if input.array.ndim == 2:
        bags, length = input.array.shape
        starts = np.arange(0, bags * length, length) if length else np.zeros(bags, np.int64)
        flat = shape.reshape(input, (-1,))
    else:
        assert offsets is not None
        flat, starts = input, _starts(offsets.array, input.array.size, include_last_offset)
    total = flat.array.size
    bag_of = np.searchsorted(starts, np.arange(total), "right") - 1
    rows = embedding(flat, weight, padding_idx, max_norm, norm_type, False, sparse)
    if scale_grad_by_freq:
        rows = _share_by_frequency(rows, flat.array)
    if per_sample_weights is not None:
        rows = elementwise.mul(rows, shape.reshape(per_sample_weights, (-1, 1)))
    kept = (
        np.ones(total, bool)
        if padding_idx is None
        else flat.array != padding_idx % len(weight.array)
    )
    from tensorlib.ops.indexing import index_add, index_select, scatter_reduce

    if not kept.all():
        chosen = np.flatnonzero(kept)
        rows, bag_of = index_select(rows, 0, wrap(chosen)), bag_of[chosen]
    zeros = wrap(np.zeros((len(starts), weight.array.shape[1]), weight.array.dtype))
    if mode == "max":
        places = wrap(np.broadcast_to(bag_of[:, None], rows.array.shape).copy())
        return scatter_reduce(zeros, 0, places, rows, "amax", include_self=False)
    result = index_add(zeros, 0, wrap(bag_of), rows)
    if mode == "mean":
        counts = np.maximum(np.bincount(bag_of, minlength=len(starts)), 1).astype(
            weight.array.dtype
        )
        result = elementwise.div(result, wrap(counts[:, None]))
    return result


def _check_bags(
    input: Tensor, weight: Tensor, offsets: Any, by_frequency: bool, mode: str, factors: Any
) -> None:
    def refuse(what: str, expected: str = "") -> InvalidValueError:
        return InvalidValueError("embedding_bag", what, expected)

    check_dtype("embedding_bag", weight.array, "f", "floating point weights")
    if factors is not None and factors.array.shape != input.array.shape:
        raise refuse(
            f"per_sample_weights of shape {factors.array.shape} for input {input.array.shape}",
            "equal shapes",
        )
    if weight.array.ndim != 2:
        raise refuse(f"weight has shape {weight.array.shape}", "a 2D Tensor")
    if input.array.ndim == 2 and offsets is not None:
        raise refuse("if input is 2D, then offsets has to be None", "bags of one length")
    if input.array.ndim == 1 and (offsets is None or offsets.array.ndim != 1):
        raise refuse("offsets has to be a 1D Tensor", "one for each bag of a 1D input")
    if input.array.ndim not in (1, 2):
        raise refuse(f"input has shape {input.array.shape}", "a 1D or 2D Tensor")
    if mode not in ("sum", "mean", "max"):
        raise refuse(f"mode={mode!r}", "sum, mean or max")
    if mode == "max" and by_frequency:
        raise refuse("max mode does not support scaling the gradient by the frequency")
    if factors is not None and mode != "sum":
        raise UnsupportedError(
            "embedding_bag", f"per_sample_weights was not None with mode={mode!r}", "mode='sum'"
        )


def _starts(offsets: Array, total: int, include_last_offset: bool) -> Array:
    """The first positions of the bags."""
    if include_last_offset and not offsets.size:
        raise ShapeError("embedding_bag", "offsets is empty", "at least one with the last included")
    if offsets.size and offsets[0] != 0:
        raise ShapeError("embedding_bag", f"offsets[0] has to be 0, got {offsets[0]}")
    if offsets.size and offsets[-1] > total:
        raise ShapeError(
            "embedding_bag",
            f"offsets[-1] can not be greater than input's length {total}, got {offsets[-1]}",
        )
    return offsets[:-1] if include_last_offset else offsets


def _share_by_frequency(rows: Tensor, index: Array) -> Tensor:
    """`rows` whose gradients are divided by how often an index comes. PyTorch takes the count of
    the u-th smallest of all indices, repeats included, for the u-th distinct one; so do we.
    """
    kind = rows.array.dtype
    _, place, counts = np.unique(index, return_inverse=True, return_counts=True)
    share = (1 / np.repeat(counts, counts)[place]).astype(kind)[:, None]

    def embedding_bag(grad: Array) -> Grads:
        return (grad * share,)

    def smooth(grad: Any) -> Grads:
        return (elementwise.mul(grad, wrap(share)),)

    return record(rows.array, embedding_bag, rows, smooth=smooth)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """[...] integers to [..., num_classes] zeros with a one."""
    i = tensor.array
    if i.dtype != np.int64:
        raise DTypeError(
            "one_hot",
            f"one_hot is only applicable to index tensor of type LongTensor, got "
            f"{dtypes.of(i.dtype)}",
            hint="use .long()",
        )
    if i.size == 0 and num_classes <= 0:
        raise ShapeError(
            "one_hot", "Can not infer total number of classes from empty tensor", "num_classes"
        )
    if i.size and i.min() < 0:
        raise ShapeError("one_hot", f"Class values must be non-negative, smallest is {i.min()}")
    count = int(i.max()) + 1 if num_classes == -1 else num_classes
    if i.size and i.max() >= count:
        raise ShapeError(
            "one_hot",
            f"Class values must be smaller than num_classes={count}, largest is {i.max()}",
        )
    return wrap((i[..., None] == np.arange(count)).astype(np.int64))


@accepts("f")
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Cosine of the angle between vectors along `dim`."""
    from tensorlib.ops.norm import vector_norm

    size = broadcast_shapes(x1.array.shape, x2.array.shape)
    x1, x2 = broadcast_to(x1, size), broadcast_to(x2, size)
    a = elementwise.div(x1, elementwise.clamp(vector_norm(x1, 2, dim, True), min=eps))
    b = elementwise.div(x2, elementwise.clamp(vector_norm(x2, 2, dim, True), min=eps))
    return reduction.sum(elementwise.mul(a, b), dim)


@called("NormBackward1")
@accepts("fciu")
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """Norm of `x1 - x2 + eps` over the last dimension."""
    from tensorlib.ops.norm import vector_norm

    return vector_norm(elementwise.add(elementwise.sub(x1, x2), eps), p, -1, keepdim)
