"""Updates of many parameters: blocks over all of them, from tables of addresses.

Products are rounded before they are added, as NumPy rounds them: `times` keeps LLVM from fusing
them into additions.
"""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.vector import (
    LANES,
    load,
    load_i64,
    load_part,
    maximum,
    splat,
    sqrt,
    store,
    store_part,
    times,
)
from tensorlib.kernels.cpu.wide import load_f64

COLUMNS = 8  # of the table of parameters


@inner
def _get(at, lanes):
    return load(at) if lanes >= LANES else load_part(at, lanes)


@inner
def _set(at, value, lanes):
    if lanes >= LANES:
        store(at, value)
    else:
        store_part(at, value, lanes)


@inner
def _address(row, column):
    return np.int64(load_f64(row + 8 * column))


@inner
def _direction(g, x, sign, decay):
    g = times(g, splat(sign))
    return g + times(x, splat(decay)) if decay != 0 else g


@task
def adam(
    block, worker, table: ptr, cuts: ptr, rest1: f32, keep1: f32, beta2: f32, rest2: f32,
    eps: f32, decay: f32, shrink: f32, sign: f32, near: i64, peaks: i64,
):  # fmt: skip
    """One block: its parameter, first element and size stand in cuts[block]; the row of the
    parameter is x, gradient, m, v, largest v, divisor, -size.
    """
    row = table + 8 * COLUMNS * load_i64(cuts + 24 * block)
    start = 4 * load_i64(cuts + 24 * block + 8)
    size = load_i64(cuts + 24 * block + 16)
    x, g = _address(row, 0) + start, _address(row, 1) + start
    m, v = _address(row, 2) + start, _address(row, 3) + start
    top = _address(row, 4) + start
    divisor = splat(np.float32(load_f64(row + 40)))
    step = splat(np.float32(load_f64(row + 48)))
    for i in range(0, size, LANES):
        n = size - i
        o = 4 * i
        p = _get(x + o, n)
        if shrink != 1:
            p = times(p, splat(shrink))
        d = _direction(_get(g + o, n), p, sign, decay)
        a = _get(m + o, n)
        if near:
            a = a + times(d - a, splat(rest1))
        else:
            a = d + times(d - a, splat(keep1))
        b = times(_get(v + o, n), splat(beta2)) + times(times(d, splat(rest2)), d)
        _set(m + o, a, n)
        _set(v + o, b, n)
        if peaks:
            b = maximum(_get(top + o, n), b)
            _set(top + o, b, n)
        scale = sqrt(b) / divisor + splat(eps)
        _set(x + o, p + times(a, step) / scale, n)


@task
def sgd(
    block, worker, table: ptr, cuts: ptr, step: f32, momentum: f32, rest: f32, decay: f32,
    sign: f32, nesterov: i64, buffers: i64,
):  # fmt: skip
    """One block, as `adam`; the row of the parameter is x, gradient, buffer, first."""
    row = table + 8 * COLUMNS * load_i64(cuts + 24 * block)
    start = 4 * load_i64(cuts + 24 * block + 8)
    size = load_i64(cuts + 24 * block + 16)
    x, g = _address(row, 0) + start, _address(row, 1) + start
    buffer = _address(row, 2) + start
    first = _address(row, 3)
    for i in range(0, size, LANES):
        n = size - i
        o = 4 * i
        p = _get(x + o, n)
        d = _direction(_get(g + o, n), p, sign, decay)
        if buffers:
            held = d
            if first == 0:
                held = times(_get(buffer + o, n), splat(momentum)) + times(d, splat(rest))
            _set(buffer + o, held, n)
            d = d + times(held, splat(momentum)) if nesterov else held
        _set(x + o, p + times(d, splat(step)), n)
