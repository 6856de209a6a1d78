"""Compiled look-up of rows and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import embedding
from tensorlib.kernels.cpu import Tasks, address, blocks, dense, empty, single, worth

_run = Tasks("embedding")
LEAST = 1 << 16  # elements
_BLOCK = 1 << 13
_MANY = 1 << 17  # indices, from which on each is looked at by fewer blocks
_WHEN = "float32 with int64 indices, large"


def _look_up(table: Any, rows: Any) -> bool:
    return (
        worth(rows.size * table.shape[1], LEAST)
        and single(table)
        and table.flags.c_contiguous
        and rows.dtype == np.int64
    )


@embedding.take_rows.override(_WHEN, _look_up)
def take_rows(table: Any, rows: Any) -> Any:
    """See the reference."""
    size = table.shape[1]
    rows, out = dense(rows), empty((*rows.shape, size))
    count, length = blocks(rows.size, max(1, _BLOCK // max(size, 1)))
    _run.take_rows(count, address(table), address(rows), address(out), rows.size, size, length)
    return out


def _gradient(grad: Any, rows: Any, count: int, padding: int) -> bool:
    size = count * grad.shape[1]
    return worth(size, LEAST) and single(grad) and rows.dtype == np.int64 and size > 0


@embedding.take_rows_grad.override(_WHEN, _gradient)
def take_rows_grad(grad: Any, rows: Any, count: int, padding: int) -> Any:
    """See the reference: each block has a range of the table, and looks through all indices."""
    size = grad.shape[1]
    grad, rows, out = dense(grad), dense(rows), empty((count, size))
    most = 32 if rows.size < _MANY else 8
    number, length = blocks(count, max(1, _BLOCK // size), most)
    places = address(grad), address(rows), address(out)
    _run.take_rows_grad(number, *places, rows.size, size, count, length, padding)
    return out
