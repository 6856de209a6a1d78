"""Attention: `scaled_dot_product_attention multi_head_attention_forward`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import InvalidValueError, ShapeError
from tensorlib.ops import activation, elementwise, indexing, linalg, reduction, shape
from tensorlib.ops._common import Array, wrap
from tensorlib.ops.dropout import dropout

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`softmax(query @ key.mT * scale + mask) @ value` for [..., L, E], [..., S, E], [..., S, V].

    A boolean mask is true where a key takes part; a row without any gives zeros.
    """
    q, k = query.array, key.array
    if q.ndim < 2 or k.ndim < 2 or q.shape[-1] != k.shape[-1]:
        raise ShapeError(
            "scaled_dot_product_attention", f"query {q.shape}, key {k.shape}", "equal last sizes"
        )
    if is_causal and attn_mask is not None:
        raise ShapeError(
            "scaled_dot_product_attention",
            "Explicit attn_mask should not be set when is_causal=True",
        )
    if enable_gqa:
        if q.shape[-3] % k.shape[-3]:
            raise ShapeError(
                "scaled_dot_product_attention",
                f"{q.shape[-3]} query heads, {k.shape[-3]} key heads",
                "a multiple of the key heads",
            )
        times = q.shape[-3] // k.shape[-3]
        key = shape.repeat_interleave(key, times, -3)
        value = shape.repeat_interleave(value, times, -3)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = linalg.matmul(elementwise.mul(query, factor), shape.transpose(key, -2, -1))
    hidden: Array | None = None
    if is_causal:
        hidden = ~np.tri(q.shape[-2], k.shape[-2], dtype=bool)
    elif attn_mask is not None and attn_mask.array.dtype.kind == "b":
        hidden = ~attn_mask.array
    elif attn_mask is not None:
        scores = elementwise.add(scores, attn_mask)
    weights = _safe_softmax(scores, hidden)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p)
    return linalg.matmul(weights, value)


def _safe_softmax(scores: Tensor, hidden: Array | None) -> Tensor:
    """Softmax over the last dimension; rows in which nothing takes part become zeros."""
    if hidden is not None:
        scores = indexing.masked_fill(scores, wrap(hidden), -math.inf)
    empty = (
        np.isneginf(scores.array).all(-1, keepdims=True) if scores.array.size else np.zeros(1, bool)
    )
    if not empty.any():
        return activation.softmax(scores, -1)
    safe = indexing.masked_fill(scores, wrap(empty), 0.0)
    return indexing.masked_fill(activation.softmax(safe, -1), wrap(empty), 0.0)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of [L, N, E], [S, N, E], [S, N, E] (or without N): `(output, weights)`."""
    where = "multi_head_attention_forward"
    single = query.array.ndim == 2
    if single:
        query, key, value = (shape.unsqueeze(t, 1) for t in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = shape.unsqueeze(key_padding_mask, 0)
    length, batch, size = query.array.shape
    source = key.array.shape[0]
    if size != embed_dim_to_check:
        raise ShapeError(
            where, f"was expecting embedding dimension of {embed_dim_to_check}, but got {size}"
        )
    if num_heads < 1 or size % num_heads:
        raise ShapeError(where, f"embed_dim {size} not divisible by num_heads {num_heads}")
    if key.array.shape[:2] != value.array.shape[:2]:
        raise ShapeError(
            where, f"key shape {key.array.shape} does not match value shape {value.array.shape}"
        )
    if is_causal and attn_mask is None:
        raise ShapeError(where, "Need attn_mask if specifying the is_causal hint.")
    width = size // num_heads
    q, k, v = _projected(
        (query, key, value),
        in_proj_weight,
        (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None,
        in_proj_bias,
    )
    mask = _float_mask(attn_mask, q.array.dtype)
    if mask is not None and mask.array.ndim == 2:
        mask = shape.unsqueeze(mask, 0)
    padding = _float_mask(key_padding_mask, q.array.dtype)
    if bias_k is not None and bias_v is not None:
        k = shape.cat([k, shape.repeat(bias_k, 1, batch, 1)])
        v = shape.cat([v, shape.repeat(bias_v, 1, batch, 1)])
        mask, padding = _one_more(mask), _one_more(padding)

    def heads(x: Tensor) -> Tensor:
        split = shape.reshape(x, (x.array.shape[0], batch * num_heads, width))
        return shape.transpose(split, 0, 1)

    q = heads(q)
    k = heads(k) if static_k is None else static_k
    v = heads(v) if static_v is None else static_v
    if add_zero_attn:
        zeros = wrap(np.zeros((batch * num_heads, 1, width), q.array.dtype))
        k, v = shape.cat([k, zeros], 1), shape.cat([v, zeros], 1)
        mask, padding = _one_more(mask), _one_more(padding)
    source = k.array.shape[1]
    if padding is not None:
        if padding.array.shape != (batch, source):
            raise ShapeError(
                where, f"key_padding_mask has shape {padding.array.shape}", f"{(batch, source)}"
            )
        wide = shape.expand(shape.reshape(padding, (batch, 1, 1, source)), (-1, num_heads, -1, -1))
        flat = shape.reshape(wide, (batch * num_heads, 1, source))
        mask = flat if mask is None else elementwise.add(mask, flat)
    scores = linalg.matmul(elementwise.mul(q, 1 / math.sqrt(width)), shape.transpose(k, -2, -1))
    if mask is not None:
        scores = elementwise.add(scores, mask)
    weights = activation.softmax(scores, -1) if need_weights else _safe_softmax(scores, None)
    used = dropout(weights, dropout_p) if training and dropout_p > 0 else weights
    mixed = shape.transpose(linalg.matmul(used, v), 0, 1)
    rows = shape.reshape(mixed, (length * batch, size))
    output = shape.reshape(linalg.linear(rows, out_proj_weight, out_proj_bias), (length, batch, -1))
    if single:
        output = shape.squeeze(output, 1)
    if not need_weights:
        return output, None
    shown = shape.reshape(used, (batch, num_heads, length, source))
    if average_attn_weights:
        shown = reduction.mean(shown, 1)
    return output, shape.squeeze(shown, 0) if single else shown


def _projected(
    inputs: Any, packed: Tensor | None, separate: Any, bias: Tensor | None
) -> list[Tensor]:
    biases: Any = (None, None, None) if bias is None else shape.chunk(bias, 3)
    if separate is None:
        if packed is None:
            raise InvalidValueError(
                "multi_head_attention_forward", "in_proj_weight is None", "a weight of [3 E, E]"
            )
        separate = shape.chunk(packed, 3)
    return [linalg.linear(x, w, b) for x, w, b in zip(inputs, separate, biases, strict=True)]


def _float_mask(mask: Tensor | None, kind: Any) -> Tensor | None:
    """A mask to add: minus infinity where a boolean one is true."""
    if mask is None or mask.array.dtype.kind == "f":
        return mask
    return wrap(np.where(mask.array, -np.inf, 0).astype(kind))


def _one_more(mask: Tensor | None) -> Tensor | None:
    from tensorlib.ops.padding import pad

    return None if mask is None else pad(mask, (0, 1))
