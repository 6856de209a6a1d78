"""Products of matrices, with what follows them in a layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.kernels import kernel


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return (rng.standard_normal(shape) / 4).astype(np.float32)

    def turned(*shape: int) -> Any:
        return np.swapaxes(draw(*shape[:-2], shape[-1], shape[-2]), -1, -2)

    found: list[tuple[Any, ...]] = []
    for rows, depth, columns in (
        (7, 5, 18),
        (200, 37, 33),
        (13, 300, 40),
        (1, 1, 1),
        (97, 520, 17),
    ):
        found += [
            (left(rows, depth), right(depth, columns))
            for left in (draw, turned)
            for right in (draw, turned)
        ]
    wide = draw(14, 24, 44)
    found += [
        (draw(7, 5), turned(5, 35), draw(35)),
        (draw(201, 5), turned(5, 35), draw(35), 0.0),
        (draw(7, 30), draw(30, 35), draw(35), -0.5, 0.5),
        (draw(3, 7, 5), turned(3, 5, 18)),
        (turned(3, 7, 5), draw(3, 5, 18)),
        (turned(2, 3, 7, 5), draw(2, 3, 5, 18)),
        (draw(3, 7, 5), draw(5, 18)),
        (draw(7, 5), draw(3, 5, 18)),
        (wide[::2, 3, ::2], wide[:, 2, :22].T[:, ::2]),
        (wide[0, ::-1], wide[1].T),
        (np.broadcast_to(draw(5), (9, 5)), draw(5, 18)),
        (draw(7, 0), draw(0, 4)),
        (draw(0, 3), draw(3, 4)),
    ]
    special = draw(20, 20)
    special[3, 4], special[5, 6], special[7, 8] = np.nan, np.inf, -np.inf
    return [*found, (special, draw(20, 19)), (special, draw(20, 19), None, 0.0)]


@kernel(_samples)
def matmul(
    a: Any,
    b: Any,
    bias: Any = None,
    low: float = -math.inf,
    high: float = math.inf,
) -> Any:
    """`a @ b` of two or more dimensions, plus `bias` (a number for each column), not below `low`
    nor above `high`.
    """
    out = a @ b
    if bias is not None:
        out += bias
    if low > -math.inf:
        np.maximum(out, low, out=out)
    if high < math.inf:
        np.minimum(out, high, out=out)
    return out


def _row_samples() -> list[tuple[Any, ...]]:
    x = np.random.default_rng(0).standard_normal((301, 90)).astype(np.float32)
    return [(x,), (x[:, :37],), (x[::3],), (x[:1],), (x[:0],), (x.T,)]


@kernel(_row_samples)
def sum_rows(rows: Any) -> Any:
    """Sum of the rows of [M, N]."""
    return np.add.reduce(rows, 0)
