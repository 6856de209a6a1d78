"""Scaled dot product attention of heads, and its gradients from the logarithms of the sums of
exponentials, so that nothing of queries times keys is kept between the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel


def _turned(x: Any) -> Any:
    return x.swapaxes(-1, -2)


def _scores(q: Any, k: Any, mask: Any, causal: bool, scale: float) -> Any:
    """Scaled products of queries and keys; minus infinity where a key is hidden."""
    xp = array_namespace(q)
    scores = q @ _turned(k)
    scores *= q.dtype.type(scale)
    if mask is not None:
        scores += mask
    if causal:
        hidden = ~xp.tri(q.shape[-2], k.shape[-2], dtype=bool)
        scores = xp.where(hidden, scores.dtype.type(-np.inf), scores)
    return scores


def _heads(*shape: int) -> Any:
    """[N, H, L, D] whose memory is [N, L, H, D]."""
    n, h, length, size = shape
    rng = np.random.default_rng(sum(shape))
    return rng.standard_normal((n, length, h, size)).astype(np.float32).swapaxes(1, 2)


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    found: list[tuple[Any, ...]] = []
    for n, h, length, source, size, width in (
        (1, 2, 3, 5, 4, 7),
        (2, 3, 50, 50, 16, 16),
        (2, 1, 61, 300, 9, 33),
        (1, 1, 70, 40, 32, 3),
        (1, 2, 13, 531, 8, 8),
    ):
        q, k, v = (
            _heads(n, h, length, size),
            _heads(n, h, source, size),
            _heads(n, h, source, width),
        )
        k = np.ascontiguousarray(k)
        added = rng.standard_normal((n, 1, length, source)).astype(np.float32)
        hidden = np.where(rng.random((1, h, 1, source)) < 0.3, -np.inf, 0).astype(np.float32)
        hidden[..., 0, 0] = 0
        nothing = np.zeros((n, 1, length, source), np.float32)
        nothing[:, :, ::3] = -np.inf
        keep = (rng.random((n, h, length, source)) < 0.7).astype(np.float32) / np.float32(0.7)
        found += [(q, k, v, mask, None, False, 0.3) for mask in (None, added, hidden, nothing)]
        found += [
            (q, k, v, None, None, True, 0.5),
            (q, k, v, hidden, keep, True, 0.5),
            (q, k, v, None, keep, False, -0.2),
        ]
    q, k, v = _heads(1, 2, 9, 8), _heads(1, 2, 20, 8), _heads(1, 2, 20, 8)
    q[0, 0, 3], k[0, 1, 2], v[0, 0, 4] = np.nan, np.nan, np.inf
    empty = _heads(2, 3, 0, 4)
    return [
        *found,
        (q, k, v, None, None, False, 0.3),
        (*found[0][:7], True),
        (empty, empty, empty, None, None, False, 1.0),
        (_heads(2, 3, 4, 4), empty, empty, None, None, False, 1.0),
    ]


def as_heads(memory: Any, length_first: bool) -> Any:
    """[N, L, ..., H, D], or with `length_first` [L, N, ..., H, D], seen as [..., N, H, L, D]."""
    turned = memory.swapaxes(0, 1) if length_first else memory
    if turned.ndim == 5:
        return turned.transpose(2, 0, 3, 1, 4)
    return turned.transpose(0, 2, 1, 3)


def memory_shape(*sizes: int, length_first: bool) -> tuple[int, ...]:
    """The sizes N, L and others in the order of memory."""
    n, length, *rest = sizes
    return (length, n, *rest) if length_first else (n, length, *rest)


@kernel(_samples)
def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    keep: Any,
    causal: bool,
    scale: float,
    length_first: bool = False,
) -> tuple[Any, Any]:
    """`(softmax(q k' scale + mask) v, log of the sums of exponentials)` of heads [N, H, L, E],
    [N, H, S, E], [N, H, S, V]; the first result's memory is as `as_heads` takes it.

    `mask` is added, and zeros result where it hides all keys; `causal` lets query i see the keys up
    to i; attention weights are multiplied with `keep`.
    """
    xp = array_namespace(q)
    n, h, length = q.shape[:3]
    shape = memory_shape(n, length, h, v.shape[3], length_first=length_first)
    out = as_heads(xp.empty(shape, q.dtype), length_first)
    scores = _scores(q, k, mask, causal, scale)
    most = scores.max(-1, keepdims=True, initial=-np.inf)
    if mask is not None or not k.shape[2]:
        most[xp.isneginf(most)] = 0
    scores -= most
    np.exp(scores, out=scores)
    total = scores.sum(-1, keepdims=True)
    logs = (most + np.log(total))[..., 0]
    logs[total[..., 0] == 0] = np.inf
    scores /= xp.where(total == 0, total.dtype.type(1), total)
    if keep is not None:
        scores *= keep
    out[...] = scores @ v
    return out, logs


def _grad_samples() -> list[tuple[Any, ...]]:
    found = []
    for sample in _samples():
        out, logs = attention.reference(*sample)
        grad = _heads(*out.shape)
        found.append((grad, *sample[:7], out, logs, *sample[7:]))
    q, k, v = _heads(2, 3, 50, 8), _heads(2, 3, 50, 8), _heads(2, 3, 50, 8)
    for length_first in (False, True):
        given = q, k, v, None, None, False, 0.3
        found.append((v, *given, *attention.reference(*given, length_first), length_first, True))
    return found


@kernel(_grad_samples)
def attention_grad(
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    keep: Any,
    causal: bool,
    scale: float,
    out: Any,
    logs: Any,
    length_first: bool = False,
    packed: bool = False,
) -> Any:
    """Gradients of q, k and v from the results of `attention`, their memory as `as_heads` takes it;
    `packed`: in one array of the sizes N (or L), L (or N), 3, H, E.
    """
    xp = array_namespace(q)
    weights = np.exp(_scores(q, k, mask, causal, scale) - logs[..., None])
    back = grad @ _turned(v)
    if keep is not None:
        back *= keep
    back -= (grad * out).sum(-1, keepdims=True)
    back *= weights
    back *= q.dtype.type(scale)
    if keep is not None:
        weights *= keep
    found = back @ k, _turned(back) @ q, _turned(weights) @ grad
    if packed:
        n, h, length, size = q.shape
        shape = memory_shape(n, length, 3, h, size, length_first=length_first)
        whole = xp.empty(shape, q.dtype)
        as_heads(whole, length_first)[...] = xp.stack(found)
        return whole
    return tuple(_in_order(xp, x, length_first) for x in found)


def _in_order(xp: Any, x: Any, length_first: bool) -> Any:
    n, h, length, size = x.shape
    shape = memory_shape(n, length, h, size, length_first=length_first)
    made = as_heads(xp.empty(shape, x.dtype), length_first)
    made[...] = x
    return made
