"""Compiled updates of many parameters: one pass, one launch."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tensorlib.kernels import optimizer as reference
from tensorlib.kernels.cpu import Tasks, address, single, worth
from tensorlib.kernels.cpu.layout import alike, gapless
from tensorlib.kernels.optimizer import Rows

_run = Tasks("optimizer")

LEAST = 1 << 16  # numbers from which on the compiled body is the faster one
PIECE = 1 << 16  # numbers of a block of large parameters
_COLUMNS = 8


@lru_cache(16)
def _cuts(sizes: tuple[int, ...]) -> Any:
    """(parameter, first element, elements) of each block."""
    piece = min(PIECE, max(PIECE // 8, sum(sizes) // 1024 * 16))
    return np.array(
        [
            (place, start, min(piece, size - start))
            for place, size in enumerate(sizes)
            for start in range(0, size, piece)
        ],
        np.int64,
    ).reshape(-1, 3)


def _large(rows: Rows, *numbers: Any) -> bool:
    """Arrays of float32 that lie in memory alike, one place each."""
    if not worth(sum(row[0].size for row in rows), LEAST):
        return False
    for row in rows:
        x = row[0]
        if not x.flags.writeable or not gapless(x):
            return False
        for array in row[1:]:
            if type(array) is not np.ndarray:
                continue
            if array.dtype != x.dtype or not alike(array, x):
                return False
        if not single(x):
            return False
    return len({address(row[0]) for row in rows}) == len(rows)


def _table(rows: Rows, arrays: int, skip: int) -> Any:
    """Addresses and numbers of each parameter; `skip` columns stay free between them."""
    table = np.zeros((len(rows), _COLUMNS))
    for place, row in enumerate(rows):
        found = [float(address(array)) for array in row[:arrays]]
        table[place, : len(row) + skip] = (*found, *(0.0,) * skip, *row[arrays:])
    return table


@reference.adam_step.override("dense float32", _large)
def adam_step(
    rows: Rows,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    shrink: float,
    maximize: bool,
) -> Any:
    """Reads and writes everything once."""
    cuts = _cuts(tuple(row[0].size for row in rows))
    peaks = len(rows[0]) == 7
    table = _table(rows, 5 if peaks else 4, 0 if peaks else 1)
    table[:, 6] *= -1
    rest = 1 - beta1
    keep = np.float32(rest) - np.float32(1)
    numbers = (rest, keep, beta2, 1 - beta2, eps, decay, shrink, -1.0 if maximize else 1.0)
    places = address(table), address(cuts)
    _run.adam(len(cuts), *places, *numbers, rest < 0.5, peaks)
    return [row[:-2] for row in rows]


@reference.sgd_step.override("dense float32", _large)
def sgd_step(
    rows: Rows,
    lr: float,
    momentum: float,
    rest: float,
    decay: float,
    nesterov: bool,
    maximize: bool,
) -> Any:
    """Reads and writes everything once."""
    cuts = _cuts(tuple(row[0].size for row in rows))
    buffers = len(rows[0]) == 4
    table = _table(rows, 3 if buffers else 2, 0 if buffers else 1)
    numbers = (-lr, momentum, rest, decay, -1.0 if maximize else 1.0)
    places = address(table), address(cuts)
    _run.sgd(len(cuts), *places, *numbers, nesterov, buffers)
    return [row[:-1] for row in rows]
