"""Attention: `scaled_dot_product_attention multi_head_attention_forward`."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DTypeError, ShapeError, TensorlibError
from tensorlib.ops import _autocast, activation, elementwise, linalg, reduction, shape
from tensorlib.ops._attended import added, attended, attended_projections, composed, noise
from tensorlib.ops._common import (
    Array,
    astype,
    broadcast_shapes,
    dim_index,
    expect_tensor,
    single,
    wants,
    wrap,
)
from tensorlib.ops.dropout import dropout

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class ExpectationError(TensorlibError, AssertionError):
    """What multi-head attention asserts of its arguments (AssertionError in PyTorch)."""


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`softmax(query @ key.mT * scale + mask) @ value` for [..., L, E], [..., S, E], [..., S, V];
    `scale` is `1 / sqrt(E)` by default.

    A boolean mask is true where a key takes part, a floating one is added; a query without any key
    gives zeros. `is_causal` lets query i see the keys up to i. `dropout_p` zeroes attention
    weights. `enable_gqa` lets groups of query heads (dimension -3) share a key and value head.
    """
    where = "scaled_dot_product_attention"
    if _autocast.active:
        query, key, value = _autocast.lower(query, key, value)
    _check_attention(where, query, key, value, attn_mask, is_causal, dropout_p)
    if enable_gqa:
        key, value = _shared_heads(where, query, key), _shared_heads(where, query, value)
    kind = query.array.dtype
    q, k, v = single(query), single(key), single(value)
    lead = broadcast_shapes(q.array.shape[:-2], k.array.shape[:-2])
    sizes = (*lead, q.array.shape[-2], k.array.shape[-2])  # of the scores
    factor = 1 / math.sqrt(q.array.shape[-1] or 1) if scale is None else scale
    mask = single(attn_mask)
    if mask is not None and broadcast_shapes(mask.array.shape, sizes) != sizes:
        raise ShapeError(where, f"attn_mask has shape {mask.array.shape}", f"{sizes}")
    keep = noise(sizes, q.array, dropout_p)
    alike = all(t.array.shape[:-2] == lead for t in (q, k, v))
    plain = None if mask is None else added(mask.array, q.array)
    if not alike or (mask is not None and wants(mask)):
        if mask is not None and mask.array.dtype.kind == "b":
            mask = wrap(plain)
        return astype(composed(q, k, v, mask, keep, is_causal, factor), kind)
    return astype(attended(q, k, v, plain, keep, is_causal, factor), kind)


def _check_attention(
    where: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    dropout_p: float,
) -> None:
    given = {"query": query, "key": key, "value": value}
    for name, tensor in given.items():
        expect_tensor(where, name, tensor)
    kinds = {name: dtypes.of(t.array.dtype) for name, t in given.items()}
    if len(set(kinds.values())) > 1:
        raise DTypeError(
            where, f"Expected query, key, and value to have the same dtype, but got {kinds}"
        )
    kind = query.array.dtype
    if kind.kind not in "fV":  # V: bfloat16
        raise DTypeError(where, f"not implemented for {dtypes.of(kind)}", "a floating-point dtype")
    shapes = {name: t.array.shape for name, t in given.items()}
    if min(map(len, shapes.values())) < 2:
        raise ShapeError(
            where, f"Expected query, key, and value to all be at least 2 dimensional, got {shapes}"
        )
    if shapes["query"][-1] != shapes["key"][-1] or shapes["key"][-2] != shapes["value"][-2]:
        raise ShapeError(where, f"got {shapes}", "[..., L, E], [..., S, E] and [..., S, V]")
    if not dropout_p <= 1:
        raise ShapeError(
            where, f"dropout probability has to be between 0 and 1, but got {dropout_p}"
        )
    if attn_mask is None:
        return
    expect_tensor(where, "attn_mask", attn_mask)
    if is_causal:
        raise ShapeError(where, "Explicit attn_mask should not be set when is_causal=True")
    mask = attn_mask.array.dtype
    if mask.kind != "b" and mask != kind and not (mask == np.float32 and kind.itemsize == 2):
        raise DTypeError(
            where,
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"{dtypes.of(mask)} and query {dtypes.of(kind)}",
        )


def _shared_heads(where: str, query: Tensor, other: Tensor) -> Tensor:
    """`other` with its heads repeated to the number that `query` has."""
    dim_index(-3, min(query.array.ndim, other.array.ndim), where)
    heads, own = query.array.shape[-3], other.array.shape[-3]
    if not own or heads % own:
        raise ShapeError(
            where,
            "Number of heads in key and value must divide the number of heads in query, got "
            f"{own} and {heads}",
        )
    return other if heads == own else shape.repeat_interleave(other, heads // own, -3)


def canonical_mask(
    mask: Tensor | None, name: str, other: Tensor | None, other_name: str, like: Tensor
) -> Tensor | None:
    """A mask to add, in the dtype of `like`: minus infinity where a boolean one is true.

    Warns where `other`, a second mask, has another dtype.
    """
    if mask is None:
        return None
    kind = mask.array.dtype
    if kind.kind not in "bfV":  # V: bfloat16
        raise ExpectationError(
            name, f"only bool and floating types of {name} are supported, got {mask.dtype}"
        )
    if other is not None and other.array.dtype != kind:
        warnings.warn(
            f"Support for mismatched {name} and {other_name} is deprecated."
            " Use same type for both instead.",
            stacklevel=3,
        )
    if kind.kind != "b":
        return mask
    return wrap(np.where(mask.array, -np.inf, 0).astype(like.array.dtype))


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
    """Attention of [L, N, E], [S, N, E], [S, N, E] (or all without N): `(output, weights)`.

    `key_padding_mask` [N, S] and `attn_mask` [L, S] or [N * num_heads, L, S] are added, or, where
    boolean, hide keys. `is_causal` is a hint that `attn_mask` is the causal mask. Vaswani et al.,
    2017. Wrong sizes are AssertionErrors, as in PyTorch, or ShapeErrors.
    """
    where = "multi_head_attention_forward"
    if _autocast.active:
        query, key, value = _autocast.lower(query, key, value)
    batched = _check_dims(where, query, key, value, key_padding_mask, attn_mask, num_heads)
    if not batched:
        query, key, value = (shape.unsqueeze(t, 1) for t in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = shape.unsqueeze(key_padding_mask, 0)
    length, batch, size = query.array.shape
    padding = canonical_mask(key_padding_mask, "key_padding_mask", attn_mask, "attn_mask", query)
    if is_causal and attn_mask is None:
        raise ShapeError(
            where,
            "Need attn_mask if specifying the is_causal hint",
            hint="Transformer.generate_square_subsequent_mask makes this mask",
        )
    is_causal = is_causal and padding is None and not need_weights
    mask = None if is_causal else canonical_mask(attn_mask, "attn_mask", None, "", query)
    chance = dropout_p if training else 0.0
    _check_sizes(where, query, key, value, embed_dim_to_check, num_heads, use_separate_proj_weight)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    extended = add_zero_attn or any(t is not None for t in (bias_k, bias_v, static_k, static_v))
    if not (need_weights or extended or separate or query.array.dtype.char in "eE"):
        count = (batch, num_heads, key.array.shape[0])
        one = _check_mask(where, mask, batch * num_heads, length, count[2])
        if all(t is None or (t.dtype is query.dtype and not wants(t)) for t in (one, padding)):
            layers = (in_proj_weight, in_proj_bias), (out_proj_weight, out_proj_bias)
            hides = _of_heads(where, one, padding, count)
            given = (query, key, value), *layers, num_heads, hides
            output = _fused(where, *given, chance, is_causal)
            return output if batched else shape.squeeze(output, 1), None
    q, k, v = _projected(where, (query, key, value), in_proj_weight, separate, in_proj_bias)
    mask = _check_mask(where, mask, batch * num_heads, length, key.array.shape[0])
    if (bias_k is None) != (bias_v is None):
        raise ExpectationError(where, "one of bias_k and bias_v is None, the other is set")
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise ExpectationError(where, "bias cannot be added to static key or value")
        k = shape.cat([k, shape.repeat(bias_k, 1, batch, 1)])
        v = shape.cat([v, shape.repeat(bias_v, 1, batch, 1)])
        mask, padding = _one_more(mask), _one_more(padding)
    q, k = _heads(where, q, num_heads), _heads(where, k, num_heads, static_k)
    v = _heads(where, v, num_heads, static_v)
    if add_zero_attn:
        zeros = wrap(np.zeros_like(k.array, shape=(k.array.shape[0], 1, k.array.shape[2])))
        k, v = shape.cat([k, zeros], 1), shape.cat([v, zeros], 1)
        mask, padding = _one_more(mask), _one_more(padding)
    mask = _merged(where, mask, padding, (batch, num_heads, k.array.shape[1]))
    mixed, used = _mixed(q, k, v, mask, chance, is_causal, need_weights)
    rows = shape.reshape(shape.transpose(mixed, 0, 1), (length * batch, size))
    output = shape.reshape(linalg.linear(rows, out_proj_weight, out_proj_bias), (length, batch, -1))
    if used is not None:
        used = shape.reshape(used, (batch, num_heads, *used.array.shape[1:]))
        used = reduction.mean(used, 1) if average_attn_weights else used
    if not batched:
        output = shape.squeeze(output, 1)
        used = None if used is None else shape.squeeze(used, 0)
    return output, used


def _heads(where: str, x: Tensor, heads: int, static: Tensor | None = None) -> Tensor:
    """[S, N, E] as [N * heads, S, E / heads]; or the tensor of that form given instead."""
    length, batch, size = x.array.shape
    count, width = batch * heads, size // heads
    if static is None:
        return shape.transpose(shape.reshape(x, (length, count, width)), 0, 1)
    found = static.array.shape
    if found[0] != count or found[2] != width:
        raise ExpectationError(
            where, f"a static key or value has shape {found}", f"({count}, S, {width})"
        )
    return static


def _check_padding(where: str, padding: Tensor, expected: tuple[int, int]) -> None:
    if padding.array.shape != expected:
        raise ExpectationError(
            where, f"key_padding_mask has shape {padding.array.shape}", f"{expected}"
        )


def _of_heads(
    where: str, mask: Tensor | None, padding: Tensor | None, sizes: tuple[int, int, int]
) -> Array | None:
    """One mask of both, for [N, heads, L, S]."""
    batch, heads, source = sizes
    found = None
    if mask is not None:
        whole = (1, 1) if mask.array.shape[0] == 1 else (batch, heads)
        found = mask.array.reshape(*whole, *mask.array.shape[1:])
    if padding is not None:
        _check_padding(where, padding, (batch, source))
        hidden = padding.array[:, None, None]
        found = hidden if found is None else found + hidden
    return found


def _fused(
    where: str,
    inputs: tuple[Tensor, Tensor, Tensor],
    into: tuple[Tensor | None, Tensor | None],
    outof: tuple[Tensor, Tensor | None],
    heads: int,
    mask: Array | None,
    chance: float,
    is_causal: bool,
) -> Tensor:
    """Projections in the order that the inputs' memory has, attention, and the last projection."""
    first = inputs[0].array
    turned = not first.flags.c_contiguous and first.swapaxes(0, 1).flags.c_contiguous
    weight, bias = into
    alone = all(t is inputs[0] for t in inputs)
    if turned:
        made = {id(t): shape.transpose(t, 0, 1) for t in inputs}
        inputs = tuple(made[id(t)] for t in inputs)  # type: ignore[assignment]  # three again
    if alone and weight is not None:
        parts = [linalg.linear(inputs[0], weight, bias)]
    else:
        parts = _projected(where, inputs, weight, None, bias)
    length, batch, _ = first.shape
    source = inputs[1].array.shape[1 if turned else 0]
    keep = noise((batch, heads, length, source), first, chance)
    mixed = attended_projections(parts, heads, mask, keep, is_causal, not turned)
    return linalg.linear(mixed, *outof)


def _merged(
    where: str, mask: Tensor | None, padding: Tensor | None, sizes: tuple[int, int, int]
) -> Tensor | None:
    """One mask of both, for [N * heads, L, S]."""
    if padding is None:
        return mask
    batch, heads, source = sizes
    _check_padding(where, padding, (batch, source))
    wide = shape.expand(shape.reshape(padding, (batch, 1, 1, source)), (-1, heads, -1, -1))
    flat = shape.reshape(wide, (batch * heads, 1, source))
    return flat if mask is None else elementwise.add(mask, flat)


def _mixed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    chance: float,
    is_causal: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """The values weighted by attention, and the weights where they are wanted."""
    if not need_weights:
        return scaled_dot_product_attention(q, k, v, mask, chance, is_causal), None
    scaled = elementwise.mul(q, math.sqrt(1 / q.array.shape[-1]))
    scores = linalg.matmul(scaled, shape.transpose(k, -2, -1))
    weights = activation.softmax(scores if mask is None else elementwise.add(mask, scores), -1)
    if chance > 0:
        weights = dropout(weights, chance)
    return linalg.matmul(weights, v), weights


def _check_dims(
    where: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    mask: Tensor | None,
    num_heads: int,
) -> bool:
    """Whether there is a batch dimension; refuse numbers of dimensions that do not fit."""
    dims = query.array.ndim
    if dims not in (2, 3):
        raise ExpectationError(
            where,
            f"query should be unbatched 2D or batched 3D tensor but received {dims}-D query tensor",
        )
    kind = "batched (3-D)" if dims == 3 else "unbatched (2-D)"
    if key.array.ndim != dims or value.array.ndim != dims:
        raise ExpectationError(
            where,
            f"For {kind} `query`, expected `key` and `value` to be {dims}-D but found "
            f"{key.array.ndim}-D and {value.array.ndim}-D tensors respectively",
        )
    if padding is not None and padding.array.ndim != dims - 1:
        raise ExpectationError(
            where,
            f"For {kind} `query`, expected `key_padding_mask` to be `None` or {dims - 1}-D but "
            f"found {padding.array.ndim}-D tensor instead",
        )
    if mask is not None and mask.array.ndim not in (2, 3):
        raise ExpectationError(
            where,
            f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D but found "
            f"{mask.array.ndim}-D tensor instead",
        )
    if dims == 2 and mask is not None and mask.array.ndim == 3:
        expected = (num_heads, query.array.shape[0], key.array.shape[0])
        if mask.array.shape != expected:
            raise ExpectationError(
                where, f"Expected `attn_mask` shape to be {expected} but got {mask.array.shape}"
            )
    return bool(dims == 3)


def _check_sizes(
    where: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    expected: int,
    num_heads: int,
    separate: bool,
) -> None:
    size, keys, values = query.array.shape[-1], key.array.shape, value.array.shape
    if size != expected:
        raise ExpectationError(
            where, f"was expecting embedding dimension of {expected}, but got {size}"
        )
    if size // num_heads * num_heads != size:
        raise ExpectationError(where, f"embed_dim {size} not divisible by num_heads {num_heads}")
    if separate and keys[:2] != values[:2]:
        raise ExpectationError(
            where,
            f"key's sequence and batch dims {keys[:2]} do not match value's {values[:2]}",
        )
    if not separate and keys != values:
        raise ExpectationError(where, f"key shape {keys} does not match value shape {values}")


def _check_separate(where: str, inputs: Any, weights: Any, bias: Tensor | None) -> None:
    size = inputs[0].array.shape[-1]
    for name, tensor, weight in zip(("query", "key", "value"), inputs, weights, strict=True):
        if weight is None:
            raise ExpectationError(
                where, f"use_separate_proj_weight is True but {name[0]}_proj_weight is None"
            )
        wanted = (size, tensor.array.shape[-1])
        if weight.array.shape != wanted:
            raise ExpectationError(
                where,
                f"expecting {name} weights shape of {wanted}, but got {weight.array.shape}",
            )
    if bias is not None and bias.array.shape != (3 * size,):
        raise ExpectationError(
            where, f"expecting in_proj_bias shape of {(3 * size,)}, but got {bias.array.shape}"
        )


def _check_mask(
    where: str, mask: Tensor | None, count: int, length: int, source: int
) -> Tensor | None:
    """The attention mask with three dimensions."""
    if mask is None:
        return None
    expected = (length, source) if mask.array.ndim == 2 else (count, length, source)
    if mask.array.shape != expected:
        raise ShapeError(
            where,
            f"The shape of the {mask.array.ndim}D attn_mask is {mask.array.shape}, but should be "
            f"{expected}",
        )
    return shape.unsqueeze(mask, 0) if mask.array.ndim == 2 else mask


def _projected(
    where: str, inputs: Any, packed: Tensor | None, separate: Any, bias: Tensor | None
) -> list[Tensor]:
    biases: Any = (None, None, None) if bias is None else shape.chunk(bias, 3)
    if separate is not None:
        _check_separate(where, inputs, separate, bias)
    else:
        if packed is None:
            raise ExpectationError(
                where, "use_separate_proj_weight is False but in_proj_weight is None"
            )
        separate = shape.chunk(packed, 3)
    return [linalg.linear(x, w, b) for x, w, b in zip(inputs, separate, biases, strict=True)]


def _one_more(mask: Tensor | None) -> Tensor | None:
    from tensorlib.ops.padding import pad

    return None if mask is None else pad(mask, (0, 1))
