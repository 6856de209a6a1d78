"""Attention as one recorded operation on a kernel, of separate heads or of projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.autograd import engine
from tensorlib.kernels import attention as kernels
from tensorlib.ops import activation, draws, elementwise, indexing, linalg, shape
from tensorlib.ops._common import Array, Grads, record, wrap
from tensorlib.random import current

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Formula = Callable[..., "Tensor"]


def noise(sizes: tuple[int, ...], like: Array, chance: float) -> Array | None:
    """What dropout multiplies with: zeros, with the probability `chance`, and 1 / (1 - chance)."""
    if chance <= 0 or not math.prod(sizes):
        return None
    keep = np.zeros_like(like, shape=sizes, order="C")
    if chance < 1:
        draws.fill(keep, lambda n, k, _: current().bernoulli(1 - chance, k, n))
        keep *= np.divide(1, 1 - chance, dtype=keep.dtype)
    return keep


def added(mask: Array, like: Array) -> Array:
    """A mask to add, in the dtype of `like`, of a boolean one that is true where a key is seen."""
    if mask.dtype.kind == "b":
        return np.where(mask, 0, -np.inf).astype(like.dtype)
    return mask.astype(like.dtype, copy=False)


def composed(
    q: Tensor, k: Tensor, v: Tensor, mask: Any, keep: Any, causal: bool, scale: float
) -> Tensor:
    """Attention of other operations; `mask` a Tensor to add, `keep` an array."""
    scores = linalg.matmul(elementwise.mul(q, scale), shape.transpose(k, -2, -1))
    empty = None  # rows without any key
    if causal:
        hidden = ~np.tri(*scores.array.shape[-2:]).astype(bool)
        scores = indexing.masked_fill(scores, wrap(hidden), -math.inf)
    if mask is not None:
        scores = elementwise.add(scores, mask)
        empty = np.isneginf(mask.array).all(-1, keepdims=True)
    if empty is None or not empty.any():
        weights = activation.softmax(scores, -1)
    else:
        safe = indexing.masked_fill(scores, wrap(empty), 0.0)
        weights = indexing.masked_fill(activation.softmax(safe, -1), wrap(empty), 0.0)
    if keep is not None:
        weights = elementwise.mul(weights, wrap(keep))
    return linalg.matmul(weights, v)


def _again(formula: Formula, inputs: Sequence[Any], grad: Any) -> Grads:
    """The gradients of `formula(*inputs)` as Tensors with a history of their own."""
    # a view of each input, so that what one input owes to another one is not counted here
    own = [shape.view_as(t, t) if t.requires_grad else t for t in inputs]
    wanted = [t for t in own if t.requires_grad]
    found = iter(engine.grad([formula(*own)], wanted, [grad], create_graph=True, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in own)


def _four(x: Any) -> Any:
    """[..., L, E] as [N, H, L, E]."""
    if x.ndim == 4:
        return x
    if x.ndim < 4:
        return x.reshape(x.shape[0] if x.ndim == 3 else 1, 1, *x.shape[-2:])
    return x.reshape(-1, *x.shape[-3:])


def _spread(mask: Any, lead: tuple[int, ...]) -> Any:
    """A mask for [*lead, L, S] as one for `_four` of it."""
    if mask is None:
        return None
    if len(lead) > 2:
        return _four(np.broadcast_to(mask, (*lead, *mask.shape[-2:])))
    mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)  # at least a row
    if len(lead) == 1 and mask.ndim == 3:
        return mask[:, None]
    return mask.reshape((1,) * (4 - mask.ndim) + mask.shape)


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Array | None,
    keep: Array | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """Attention of [..., L, E], [..., S, E], [..., S, V] of equal leading sizes."""
    arrays = q.array, k.array, v.array
    rest = _spread(mask, q.array.shape[:-2]), None if keep is None else _four(keep), causal, scale
    found, logs = kernels.attention(*(_four(x) for x in arrays), *rest)
    output = found.reshape((*arrays[0].shape[:-1], arrays[2].shape[-1]))

    def backward(grad: Array) -> Grads:
        heads = (_four(x) for x in arrays)
        grads = kernels.attention_grad(_four(grad), *heads, *rest, _four(output), logs)
        return tuple(g.reshape(x.shape) for g, x in zip(grads, arrays, strict=True))

    def smooth(grad: Any) -> Grads:
        return _again(formula, arrays, grad)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return composed(q, k, v, None if mask is None else wrap(mask), keep, causal, scale)

    backward.__qualname__ = "scaled_dot_product_attention"
    return record(output, backward, q, k, v, smooth=smooth)


def _separate(array: Any, pieces: int, heads: int, length_first: bool) -> Any:
    """[N, L, pieces * E] (or [L, N, ...]) as heads: [pieces, N, H, L, E / H]."""
    return kernels.as_heads(array.reshape(*array.shape[:2], pieces, heads, -1), length_first)


def attended_projections(
    parts: Sequence[Tensor],
    heads: int,
    mask: Array | None,
    keep: Array | None,
    causal: bool,
    length_first: bool,
) -> Tensor:
    """Attention of `heads` heads that lie side by side in queries, keys and values, [N, L, E] or,
    with `length_first`, [L, N, E]: three tensors, or one with those next to each other in each row;
    to [L, N, E].

    `mask` and `keep` are for [N, H, L, S].
    """
    arrays = tuple(t.array for t in parts)
    pieces = 4 - len(arrays)

    def split() -> list[Any]:
        return [x for a in arrays for x in _separate(a, pieces, heads, length_first)]

    q, k, v = split()
    scale = 1 / math.sqrt(q.shape[-1] or 1)
    found, logs = kernels.attention(q, k, v, mask, keep, causal, scale, True)
    sizes = (found.shape[2], found.shape[0], heads * found.shape[3])
    output = found.transpose(2, 0, 1, 3).reshape(sizes)

    def backward(grad: Array) -> Grads:
        back, out = (_separate(x, 1, heads, True)[0] for x in (grad, output))
        given = (*split(), mask, keep, causal, scale, out, logs, length_first)
        grads = kernels.attention_grad(back, *given, pieces == 3)
        if pieces == 3:
            return (grads.reshape(arrays[0].shape),)
        order = (2, 0, 1, 3) if length_first else (0, 2, 1, 3)
        return tuple(
            g.transpose(order).reshape(a.shape) for g, a in zip(grads, arrays, strict=True)
        )

    def smooth(grad: Any) -> Grads:
        return _again(formula, arrays, grad)

    def formula(*parts: Tensor) -> Tensor:
        three = shape.chunk(parts[0], 3, -1) if len(parts) == 1 else parts
        order = (1, 2, 0, 3) if length_first else (0, 2, 1, 3)
        q, k, v = (
            shape.permute(shape.reshape(t, (*t.array.shape[:2], heads, -1)), *order) for t in three
        )
        found = composed(q, k, v, None if mask is None else wrap(mask), keep, causal, scale)
        return shape.reshape(shape.permute(found, 2, 0, 1, 3), sizes)

    backward.__qualname__ = "scaled_dot_product_attention"
    return record(output, backward, *parts, smooth=smooth)
