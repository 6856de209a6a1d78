"""Compiled layer norm: each row is read once, gradients of weight and bias summed by blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import normalization as reference
from tensorlib.kernels.cpu import Tasks, address, blocks, dense, empty, single, worth

_run = Tasks("layer_norm")

LEAST = 1 << 14  # numbers from which on the compiled body is the faster one
PIECE = 1 << 14  # numbers that one block works on, about
PAST = 1 << 22  # bytes of a result from which on it is written past the caches
LANES = 16  # the widest vector


def _cut(rows: Any, most: int) -> tuple[int, int]:
    return blocks(rows.shape[0], max(1, PIECE // rows.shape[1]), most)


def _past(rows: Any) -> int:
    return int(rows.shape[1] % LANES == 0 and rows.nbytes >= PAST)


def _place(array: Any) -> int:
    return 0 if array is None else address(array)


def _fits(rows: Any, weight: Any, bias: Any, eps: float) -> bool:
    return (
        worth(rows.size, LEAST)
        and rows.size > 0
        and single(rows)
        and all(a is None or single(a) for a in (weight, bias))
    )


@reference.layer_norm.override("float32", _fits)
def layer_norm(rows: Any, weight: Any, bias: Any, eps: float) -> Any:
    """One pass."""
    rows = dense(rows)
    tables = [None if a is None else dense(a) for a in (weight, bias)]
    out = empty(rows.shape)
    mean, invstd = np.empty((2, rows.shape[0], 1), np.float32)
    count, length = _cut(rows, 256)
    arrays = (address(rows), *map(_place, tables), address(out), address(mean), address(invstd))
    _run.layer_norm(count, *arrays, *rows.shape, length, eps, _past(rows))
    return out, mean, invstd


def _fits_back(grad: Any, rows: Any, mean: Any, invstd: Any, weight: Any, bias: bool) -> bool:
    return (
        worth(rows.size, LEAST)
        and rows.size > 0
        and single(grad, rows, mean, invstd)
        and (weight is None or single(weight))
    )


@reference.layer_norm_grad.override("float32", _fits_back)
def layer_norm_grad(grad: Any, rows: Any, mean: Any, invstd: Any, weight: Any, bias: bool) -> Any:
    """One pass."""
    grad, rows, mean, invstd = map(dense, (grad, rows, mean, invstd))
    weight = None if weight is None else dense(weight)
    out = empty(rows.shape)
    size = rows.shape[1]
    width = -(-size // LANES) * LANES
    count, length = _cut(rows, 64)
    part = empty((count, 2, width))
    arrays = (*map(address, (grad, rows, mean, invstd)), _place(weight), address(out))
    table = address(part), width, int(bias)
    _run.layer_norm_grad(count, *arrays, *rows.shape, length, *table, _past(rows))
    sums = part.sum(0)[:, :size] if bias or weight is not None else (None, None)
    return out, None if weight is None else sums[0], sums[1] if bias else None
