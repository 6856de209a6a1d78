"""Products of float32 matrices on all threads."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from tensorlib.kernels import matrix
from tensorlib.kernels.cpu import (
    Tasks,
    address,
    blocks,
    dense,
    empty,
    runtime,
    scratch,
    single,
    worth,
)

_run = Tasks("matrix")

LEAST = 1 << 20  # multiplications; below, one thread of BLAS is as fast
FEW = 192  # rows for which packing the other operand would cost too much
DEPTH = 288  # at most, of a part whose panels stay in the nearest cache
LARGE = 1 << 20  # numbers of the rows from which they should not be read for each block of columns
TOGETHER = 4  # panels that a block of `pack` makes
WIDEST = 64  # panels that a block packs for itself


@cache
def _block() -> tuple[int, int]:
    """Rows and columns of the block in registers."""
    from tensorlib.kernels.cpu.host import blocking

    return blocking().rows, blocking().panel


@cache
def _zeros() -> Any:
    return np.zeros(_block()[1], np.float32)


def _worth(a: Any, b: Any, bias: Any = None, low: float = 0.0, high: float = 0.0) -> bool:
    return (
        single(a, b)
        and a.ndim >= 2
        and b.ndim >= 2
        and worth(a.size * b.shape[-1], LEAST)
        and a.size > 0
        and b.size > 0
        and (bias is None or (single(bias) and bias.shape == b.shape[-1:]))
    )


@matrix.matmul.override("float32, two or more dimensions, from 2^20 multiplications on", _worth)
def matmul(a: Any, b: Any, bias: Any = None, low: float = -math.inf, high: float = math.inf) -> Any:
    """See `kernels.matrix.matmul`."""
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape} do not fit")
    bias = None if bias is None else dense(bias)
    if b.ndim == 2 and a.ndim > 2:
        a = dense(a)
        out = empty((*a.shape[:-1], b.shape[1]))
        _matrices(a.reshape(1, -1, a.shape[-1]), b[None], bias, out, low, high)
        return out
    if a.ndim == 2 and b.ndim == 2:
        out = empty((a.shape[0], b.shape[1]))
        _matrices(a[None], b[None], bias, out, low, high)
        return out
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = empty((*lead, a.shape[-2], b.shape[-1]))
    a, b = (_stacked(x, lead) for x in (a, b))
    _matrices(a, b, bias, out, low, high)
    return out


def _stacked(x: Any, lead: tuple[int, ...]) -> Any:
    """Matrices of the leading dimensions in one dimension, a view where that is one."""
    return np.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(-1, *x.shape[-2:])


def _readable(x: Any) -> Any:
    """`x`, or a copy where neither its rows nor its columns are contiguous numbers."""
    return x if x.strides[-1] == 4 or x.strides[-2] == 4 else np.ascontiguousarray(x)


def _deep(depth: int) -> int:
    """The depth of a part: as many equal ones as needed."""
    parts = -(-depth // DEPTH)
    return -(-depth // parts)


@cache
def _grid(
    threads: int, batch: int, tiles: int, panels: int, shared: bool, direct: bool
) -> tuple[int, int]:
    """Into how many blocks rows and columns are cut: four for each thread where that is worth it.

    With `shared` panels rows are cut first; otherwise each block packs its panels, and its rows
    unless they are read where they lie (`direct`), and the cut is the one that packs least.
    """
    wanted = -(-4 * threads // batch)
    if shared:
        down = min(wanted, -(-tiles // 4))
        return down, max(1, min(panels, wanted // down))
    rows, panel = _block()
    least = -(-panels // WIDEST)
    cuts = [
        (down, max(least, min(panels, -(-wanted // down))))
        for down in range(1, min(wanted, tiles) + 1)
    ]
    row = rows / 4 if direct else rows
    return min(cuts, key=lambda cut: tiles * row * cut[1] + panels * panel * cut[0])


def _matrices(a: Any, b: Any, bias: Any, out: Any, low: float, high: float) -> None:
    """out = clamp(a b + bias) for batches of matrices; `out` is row-major."""
    a, b = _readable(a), _readable(b)
    count, rows, depth = a.shape
    columns = b.shape[2]
    if count == 1 and rows <= FEW and b.strides[1] == 4 and columns > rows:
        _flipped(a[0], b[0], bias, out, low, high)
        return
    height, panel = _block()
    panels, tiles = -(-columns // panel), -(-rows // height)
    direct = a.strides[2] == 4
    shared = count == 1 and direct and rows > FEW and rows * depth > LARGE
    down, across = _grid(runtime().threads(), count, tiles, panels, shared, direct)
    packed: Any = None
    if shared:
        packed = _packed(b[0], panel)
    width = 0 if shared else -(-panels // across)
    size = 4 * _deep(depth) * (width * panel + (0 if direct else 16 * height)) + 64
    memory, stride = scratch(size)
    _run.multiply(
        count * down * across,
        address(a),
        a.strides[1],
        a.strides[2],
        a.strides[0],
        address(b),
        b.strides[1],
        b.strides[2],
        b.strides[0],
        0 if packed is None else address(packed),
        rows,
        depth,
        _deep(depth),
        columns,
        address(_zeros() if bias is None else bias),
        0 if bias is None else 4 * panel,
        address(out),
        4 * columns,
        4 * rows * columns,
        down,
        across,
        memory,
        stride,
        low,
        high,
    )


def _packed(b: Any, panel: int) -> Any:
    """Panels of [K, N]."""
    depth, columns = b.shape
    panels = -(-columns // panel)
    found = empty((panels * panel * depth,))
    parts = -(-depth // _deep(depth))
    _run.pack(
        -(-panels // TOGETHER) * parts,
        address(b),
        b.strides[0],
        b.strides[1],
        depth,
        _deep(depth),
        columns,
        panels,
        address(found),
    )
    return found


def _flipped(a: Any, b: Any, bias: Any, out: Any, low: float, high: float) -> None:
    """For few rows and `b` with contiguous columns: the product of b' with a'."""
    height, panel = _block()
    packed = _packed(a.T, panel)
    rows = b.shape[1]
    tiles = -(-rows // height)
    down = min(tiles, 4 * runtime().threads())
    memory, stride = scratch(4 * height * panel)
    _run.multiply_flipped(
        down,
        address(b),
        b.strides[1],
        address(packed),
        rows,
        b.shape[0],
        _deep(b.shape[0]),
        a.shape[0],
        0 if bias is None else address(bias),
        address(_zeros()),
        address(out),
        out.strides[0],
        down,
        memory,
        stride,
        low,
        high,
    )


def _many(rows: Any) -> bool:
    return single(rows) and worth(rows.size, 1 << 15) and rows.size > 0 and rows.strides[1] == 4


@matrix.sum_rows.override("float32, rows of contiguous numbers, from 2^15 numbers on", _many)
def sum_rows(rows: Any) -> Any:
    """See `kernels.matrix.sum_rows`."""
    length, columns = rows.shape
    count, each = blocks(length, 16)
    partial = np.empty((count, columns), np.float32)
    _run.sum_rows(count, address(rows), rows.strides[0], length, columns, each, address(partial))
    return partial[0] if count == 1 else np.add.reduce(partial, 0)
