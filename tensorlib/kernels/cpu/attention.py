"""Attention in float32 on all threads, a head at a time, without a matrix of queries and keys."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tensorlib.kernels import attention as kernels
from tensorlib.kernels.cpu import Tasks, address, dense, empty, runtime, scratch, single, worth

_run = Tasks("attention")

KEYS = 256  # of a block of the tasks
LEAST = 1 << 15  # products of a query and a key; below, NumPy's own passes are as fast


@cache
def _sizes() -> tuple[int, int]:
    """Queries of a block, and columns of a panel."""
    from tensorlib.kernels.cpu.host import blocking

    return 8 * blocking().rows, blocking().panel


@cache
def _zeros() -> Any:
    return np.zeros(_sizes()[1], np.float32)


def _fits(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    keep: Any,
    causal: bool,
    scale: float,
    length_first: bool = False,
) -> bool:
    return (
        single(q, k, v)
        and q.ndim == 4
        and worth(q.size // (q.shape[3] or 1) * k.shape[2], LEAST)
        and min(q.size, k.size, v.size) > 0
        and all(x is None or single(x) for x in (mask, keep))
    )


def _fits_grad(grad: Any, q: Any, k: Any, v: Any, *rest: Any) -> bool:
    return _fits(q, k, v, *rest[:4]) and single(grad, *rest[4:6])


def _rows(x: Any) -> Any:
    """`x`, or a copy where the numbers of a row are not next to each other."""
    return x if x.strides[3] == 4 or x.shape[3] == 1 else np.ascontiguousarray(x)


def _wide(x: Any, shape: tuple[int, ...]) -> Any:
    """A mask seen as [N, H, L, S] with the numbers of a row next to each other."""
    if x is None:
        return None
    if x.shape[-1:] != shape[-1:]:
        x = np.broadcast_to(x, (*x.shape[:-1], shape[-1]))
    return np.broadcast_to(x if x.strides[-1] == 4 else np.ascontiguousarray(x), shape)


def _fields(*arrays: Any) -> Any:
    """What the tasks read of arrays [N, H, rows, columns]: address and strides of each."""
    rows = [(0, 0, 0, 0) if x is None else (address(x), *x.strides[:3]) for x in arrays]
    return np.array(rows, np.int64)


def _panels(depth: int, columns: int) -> int:
    panel = _sizes()[1]
    return 4 * depth * -(-columns // panel) * panel


def _heads(sizes: tuple[int, ...], length_first: bool) -> Any:
    n, heads, length, width = sizes
    shape = kernels.memory_shape(n, length, heads, width, length_first=length_first)
    return kernels.as_heads(empty(shape), length_first)


@kernels.attention.override("float32, from 2^15 products of a query and a key on", _fits)
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
    """See `kernels.attention.attention`."""
    q, k, v = _rows(q), _rows(k), _rows(v)
    (n, heads, length, size), (source, width) = q.shape, v.shape[2:]
    mask, keep = (_wide(x, (n, heads, length, source)) for x in (mask, keep))
    out = _heads((n, heads, length, width), length_first)
    logs = np.empty((n, heads, length), np.float32)
    fields = _fields(q, k, v, mask, keep, out, logs[..., None])
    queries, panel = _sizes()
    threads = runtime().threads()
    parts = max(1, min(-(-length // queries), -(-4 * threads // (n * heads))))
    memory = _panels(size, KEYS) + _panels(KEYS, width) + 4 * queries * (KEYS + panel)
    place, stride = scratch(memory + 8 * length)
    _run.attend(
        n * heads * parts,
        address(fields),
        heads,
        length,
        source,
        size,
        width,
        parts,
        int(causal),
        scale,
        address(_zeros()),
        place,
        stride,
    )
    return out, logs


@kernels.attention_grad.override("float32, from 2^15 products of a query and a key on", _fits_grad)
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
    """See `kernels.attention.attention_grad`."""
    grad, q, k, v, out = (_rows(x) for x in (grad, q, k, v, out))
    (n, heads, length, size), (source, width) = q.shape, v.shape[2:]
    mask, keep = (_wide(x, (n, heads, length, source)) for x in (mask, keep))
    if packed:
        shape = kernels.memory_shape(n, length, 3, heads, size, length_first=length_first)
        whole = empty(shape)
        into = tuple(kernels.as_heads(whole, length_first))
    else:
        into = tuple(_heads(x.shape, length_first) for x in (q, k, v))
    logs = dense(logs)
    fields = _fields(q, k, v, mask, keep, out, logs[..., None], grad, *into)
    queries, panel = _sizes()
    memory = _panels(size, KEYS) + _panels(width, KEYS) + _panels(KEYS, size)
    memory += _panels(queries, size) + _panels(queries, width)
    memory += 8 * (queries + 1) * (KEYS + panel) + 4 * length
    place, stride = scratch(memory)
    _run.attend_grad(
        n * heads,
        address(fields),
        heads,
        length,
        source,
        size,
        width,
        int(causal),
        scale,
        address(_zeros()),
        place,
        stride,
    )
    return whole if packed else into
