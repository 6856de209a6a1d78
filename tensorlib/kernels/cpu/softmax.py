"""Compiled softmax, log-softmax and cross entropy, forward and backward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.kernels import softmax as kernels
from tensorlib.kernels.cpu import Tasks, address, blocks, dense, empty, scratch, single, worth

_run = Tasks("softmax")
LEAST = 1 << 13  # elements
_BLOCK = 1 << 13
_COLUMNS = 512  # of one block where vectors lie across, at most
_ROOM = 1 << 15  # numbers that a worker gathers
PAST = 1 << 22  # bytes of a result from which on it is written past the cache
_WHEN = "float32, large"


def _one(x: Any, axis: int) -> bool:
    return worth(x.size, LEAST) and single(x) and x.size > 0


def _two(grad: Any, y: Any, axis: int) -> bool:
    return worth(y.size, LEAST) and single(grad, y) and grad.shape == y.shape and y.size > 0


def _cut(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _past(shape: tuple[int, ...]) -> bool:
    """Whether results are to be written past the cache: large ones whose rows are whole vectors."""
    return shape[-1] % 16 == 0 and 4 * math.prod(shape) >= PAST


def _rows(task: str, shape: tuple[int, ...], axis: int, *arrays: Any) -> None:
    """Run `task` along an axis of dense arrays."""
    outer, size, inner = _cut(shape, axis)
    places = [address(a) for a in arrays]
    if inner == 1:
        count, length = blocks(outer, max(1, _BLOCK // size))
        getattr(_run, f"{task}_rows")(count, *places, outer, size, length, _past(shape))
        return
    logs = task.startswith("log_")
    rows = (len(arrays) - 1) * size + 2  # of memory for each worker
    width = min(_COLUMNS, max(_ROOM // rows // 16, 1) * 16, -(-inner // 16) * 16)
    parts = -(-inner // width)
    run = getattr(_run, f"{task.removeprefix('log_')}_across")
    memory = scratch(4 * rows * width)
    run(outer * parts, *places, size, inner, parts, width, logs, *memory)


@kernels.softmax.override(_WHEN, _one)
def softmax(x: Any, axis: int) -> Any:
    """See the reference."""
    x, out = dense(x), empty(x.shape)
    _rows("softmax", x.shape, axis, x, out)
    return out


@kernels.log_softmax.override(_WHEN, _one)
def log_softmax(x: Any, axis: int) -> Any:
    """See the reference."""
    x, out = dense(x), empty(x.shape)
    _rows("log_softmax", x.shape, axis, x, out)
    return out


@kernels.softmax_grad.override(_WHEN, _two)
def softmax_grad(grad: Any, y: Any, axis: int) -> Any:
    """See the reference."""
    grad, y, out = dense(grad), dense(y), empty(y.shape)
    _rows("softmax_grad", y.shape, axis, grad, y, out)
    return out


@kernels.log_softmax_grad.override(_WHEN, _two)
def log_softmax_grad(grad: Any, y: Any, axis: int) -> Any:
    """See the reference."""
    grad, y, out = dense(grad), dense(y), empty(y.shape)
    _rows("log_softmax_grad", y.shape, axis, grad, y, out)
    return out


def _classes(x: Any, t: Any, keep: bool) -> bool:
    return worth(x.size, LEAST) and single(x) and t.dtype == np.int64


@kernels.cross_entropy.override("float32 with int64 classes, large", _classes)
def cross_entropy(x: Any, t: Any, keep: bool) -> tuple[Any, Any, Any]:
    """See the reference."""
    rows, size = x.shape
    x, t = dense(x), dense(t)
    losses, totals = empty((rows,)), empty((rows, 1))
    powers = empty(x.shape) if keep else None
    count, length = blocks(rows, max(1, _BLOCK // size))
    to = 0 if powers is None else address(powers)
    places = address(x), address(t), address(losses), to, address(totals)
    _run.cross_entropy(count, *places, rows, size, length)
    return losses, powers, totals


def _scaled(powers: Any, totals: Any, t: Any, scale: Any) -> bool:
    return (
        worth(powers.size, LEAST)
        and single(powers, totals)
        and t.dtype == np.int64
        and powers.flags.c_contiguous
        and totals.flags.c_contiguous
    )


@kernels.cross_entropy_grad.override("float32 with int64 classes, large", _scaled)
def cross_entropy_grad(powers: Any, totals: Any, t: Any, scale: Any) -> Any:
    """See the reference."""
    rows, size = powers.shape
    t, out = dense(t), empty(powers.shape)
    scales = np.empty((rows, 1), np.float32)
    scales[...] = scale
    count, length = blocks(rows, max(1, _BLOCK // size))
    places = [address(a) for a in (powers, totals, t, scales, out)]
    _run.cross_entropy_grad(count, *places, rows, size, length, _past(out.shape))
    return out
