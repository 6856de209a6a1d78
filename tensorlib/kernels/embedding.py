"""Rows of a table looked up by index, and the gradient of the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import kernel


def _places() -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((rows, size)).astype(np.float32), rng.integers(0, rows, shape))
        for rows, size, shape in (
            (50, 19, (70,)),
            (7, 32, (4, 5)),
            (3, 1, (0,)),
            (300, 5, ()),
            (9, 8, (64,)),
        )
    ]


@kernel(_places)
def take_rows(table: Any, rows: Any) -> Any:
    """`table[rows]` for a table [V, D] and indices [...] from 0 to V - 1."""
    return table[rows]


def _gradients() -> list[tuple[Any, ...]]:
    found = []
    for table, rows in _places():
        grad = np.sin(np.arange(rows.size * table.shape[1], dtype=np.float32) * 3)
        grad = grad.reshape(rows.size, -1) if rows.size else grad.reshape(0, table.shape[1])
        found += [(grad, rows.reshape(-1), len(table), padding) for padding in (-1, 2)]
    return found


@kernel(_gradients)
def take_rows_grad(grad: Any, rows: Any, count: int, padding: int) -> Any:
    """A table of `count` rows to which each row of `grad` [N, D] is added at `rows` [N], in their
    order; row `padding` stays zero.
    """
    from tensorlib.ops.indexing import add_rows

    out = np.zeros_like(grad, shape=(count, grad.shape[1]))
    if padding >= 0:
        used = rows != padding
        rows, grad = rows[used], grad[used]
    add_rows(out, rows, grad)
    return out
