"""LSTM and GRU layers, forward and back through time: a block of the batch runs through all steps,
so that no thread waits for another between steps.

`sizes[t]` rows are present at step t, from row `starts[t]` on; `order` lists the steps as they are
computed. Saved gates of a step lie in memory as [gates, rows, hidden].
"""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import i64, inner, ptr, task
from tensorlib.kernels.cpu.tasks.panels import PANEL, ROWS, pack_panel, rows_block
from tensorlib.kernels.cpu.vector import (
    LANES,
    fma,
    load,
    load_i64,
    load_part,
    sigmoid,
    splat,
    store,
    store_part,
    tanh,
)


@inner
def get(address, rest):
    """A vector, or its first `rest` lanes."""
    if rest >= LANES:
        return load(address)
    return load_part(address, rest)


@inner
def put(address, value, rest):
    """Store a vector, or its first `rest` lanes."""
    if rest >= LANES:
        store(address, value)
    else:
        store_part(address, value, rest)


@inner
def copy(source, target, size):
    """Copy `size` numbers."""
    for j in range(0, size, LANES):
        put(target + 4 * j, get(source + 4 * j, size - j), size - j)


@inner
def add_product(a, a_stride, packed, rows, depth, columns, start, start_stride, out, out_stride):
    """out = start + a b for packed `b`; with a `start_stride` of 0 all rows start alike."""
    for n in range(0, columns, PANEL):
        for m in range(0, rows, ROWS):
            rows_block(
                a + m * a_stride,
                a_stride,
                packed + n * depth * 4,
                depth,
                start + m * start_stride + 4 * n,
                start_stride,
                out + m * out_stride + 4 * n,
                out_stride,
                min(ROWS, rows - m),
                min(PANEL, columns - n),
                -np.inf,
                np.inf,
            )


@task
def pack(block, worker, b: ptr, step: i64, stride: i64, depth: i64, columns: i64, out: ptr):
    """Panel `block` of a matrix; strides in bytes."""
    first = block * PANEL
    wide = min(PANEL, columns - first)
    pack_panel(b + first * stride, step, stride, depth, wide, out + first * depth * 4)


@inner
def _bounds(block, parts, batch):
    """First row of a part of the batch, and the first of the next."""
    tiles = (batch + ROWS - 1) // ROWS
    return block * tiles // parts * ROWS, min(batch, (block + 1) * tiles // parts * ROWS)


@inner
def _lstm_step(sums, gates, plane, cell, cells, out, state, hidden):
    """One row: gates from sums, the next cell (in place and noted), the next state (twice)."""
    wide = 4 * hidden
    for j in range(0, hidden, LANES):
        at, rest = 4 * j, hidden - j
        i = sigmoid(get(sums + at, rest))
        f = sigmoid(get(sums + wide + at, rest))
        g = tanh(get(sums + 2 * wide + at, rest))
        o = sigmoid(get(sums + 3 * wide + at, rest))
        c = fma(f, get(cell + at, rest), i * g)
        h = o * tanh(c)
        put(gates + at, i, rest)
        put(gates + plane + at, f, rest)
        put(gates + 2 * plane + at, g, rest)
        put(gates + 3 * plane + at, o, rest)
        put(cell + at, c, rest)
        put(cells + at, c, rest)
        put(out + at, h, rest)
        put(state + at, h, rest)


@task
def lstm(
    block,
    worker,
    parts: i64,
    steps: i64,
    order: ptr,
    starts: ptr,
    sizes: ptr,
    batch: i64,
    hidden: i64,
    projected: ptr,
    recur: ptr,
    h: ptr,
    c: ptr,
    gates: ptr,
    cells: ptr,
    out: ptr,
    scratch: ptr,
    scratch_stride: i64,
):
    """Part `block` of the batch; `h` and `c` hold the first states and then the last ones."""
    first, end = _bounds(block, parts, batch)
    sums = scratch + worker * scratch_stride
    wide = 4 * hidden
    for k in range(steps):
        t = load_i64(order + 8 * k)
        start, size = load_i64(starts + 8 * t), load_i64(sizes + 8 * t)
        count = min(end, size) - first
        if count <= 0:
            continue
        row = start + first
        add_product(
            h + first * wide,
            wide,
            recur,
            count,
            hidden,
            wide,
            projected + row * 4 * wide,
            4 * wide,
            sums,
            4 * wide,
        )
        for i in range(count):
            _lstm_step(
                sums + i * 4 * wide,
                gates + start * 4 * wide + (first + i) * wide,
                size * wide,
                c + (first + i) * wide,
                cells + (row + i) * wide,
                out + (row + i) * wide,
                h + (first + i) * wide,
                hidden,
            )


@inner
def _lstm_back(dh, dc, grad, gates, plane, cells, past, dgates, hidden):
    """One row: gradients of the sums, and `dc` of the step before."""
    wide = 4 * hidden
    one = splat(1.0)
    for j in range(0, hidden, LANES):
        at, rest = 4 * j, hidden - j
        i = get(gates + at, rest)
        f = get(gates + plane + at, rest)
        g = get(gates + 2 * plane + at, rest)
        o = get(gates + 3 * plane + at, rest)
        level = tanh(get(cells + at, rest))
        back = get(dh + at, rest)
        if grad != 0:
            back = back + get(grad + at, rest)
        d = fma(back * o, one - level * level, get(dc + at, rest))
        put(dgates + at, d * g * (i - i * i), rest)
        put(dgates + wide + at, d * get(past + at, rest) * (f - f * f), rest)
        put(dgates + 2 * wide + at, d * i * (one - g * g), rest)
        put(dgates + 3 * wide + at, back * level * (o - o * o), rest)
        put(dc + at, d * f, rest)


@inner
def _before(rows, first, starts, sizes, order, k, row, wide):
    """Address of the state that a row of the k-th step began with."""
    if k > 0:
        t = load_i64(order + 8 * (k - 1))
        if row < load_i64(sizes + 8 * t):
            return rows + (load_i64(starts + 8 * t) + row) * wide
    return first + row * wide


@task
def lstm_grad(
    block,
    worker,
    parts: i64,
    steps: i64,
    order: ptr,
    starts: ptr,
    sizes: ptr,
    batch: i64,
    hidden: i64,
    grad: ptr,
    recur: ptr,
    c: ptr,
    dh: ptr,
    dc: ptr,
    gates: ptr,
    cells: ptr,
    dgates: ptr,
    zeros: ptr,
):
    """Part `block` of the batch; `dh` and `dc` hold the gradients of the last states and then of
    the first ones.
    """
    first, end = _bounds(block, parts, batch)
    wide = 4 * hidden
    for k in range(steps - 1, -1, -1):
        t = load_i64(order + 8 * k)
        start, size = load_i64(starts + 8 * t), load_i64(sizes + 8 * t)
        count = min(end, size) - first
        if count <= 0:
            continue
        for i in range(first, first + count):
            row = start + i
            _lstm_back(
                dh + i * wide,
                dc + i * wide,
                grad + row * wide if grad != 0 else 0,
                gates + start * 4 * wide + i * wide,
                size * wide,
                cells + row * wide,
                _before(cells, c, starts, sizes, order, k, i, wide),
                dgates + row * 4 * wide,
                hidden,
            )
        source = dgates + (start + first) * 4 * wide
        target = dh + first * wide
        add_product(source, 4 * wide, recur, count, 4 * hidden, hidden, zeros, 0, target, wide)


@inner
def _gru_step(projected, sums, gates, plane, out, state, hidden):
    """One row: gates from both projections, the next state (twice)."""
    wide = 4 * hidden
    for j in range(0, hidden, LANES):
        at, rest = 4 * j, hidden - j
        r = sigmoid(get(projected + at, rest) + get(sums + at, rest))
        z = sigmoid(get(projected + wide + at, rest) + get(sums + wide + at, rest))
        added = get(sums + 2 * wide + at, rest)
        n = tanh(fma(r, added, get(projected + 2 * wide + at, rest)))
        h = fma(get(state + at, rest) - n, z, n)
        put(gates + at, r, rest)
        put(gates + plane + at, z, rest)
        put(gates + 2 * plane + at, n, rest)
        put(gates + 3 * plane + at, added, rest)
        put(out + at, h, rest)
        put(state + at, h, rest)


@task
def gru(
    block,
    worker,
    parts: i64,
    steps: i64,
    order: ptr,
    starts: ptr,
    sizes: ptr,
    batch: i64,
    hidden: i64,
    projected: ptr,
    recur: ptr,
    bias: ptr,
    h: ptr,
    gates: ptr,
    out: ptr,
    scratch: ptr,
    scratch_stride: i64,
):
    """As `lstm`; `bias` is that of the hidden projection."""
    first, end = _bounds(block, parts, batch)
    sums = scratch + worker * scratch_stride
    wide = 4 * hidden
    for k in range(steps):
        t = load_i64(order + 8 * k)
        start, size = load_i64(starts + 8 * t), load_i64(sizes + 8 * t)
        count = min(end, size) - first
        if count <= 0:
            continue
        state = h + first * wide
        add_product(state, wide, recur, count, hidden, 3 * hidden, bias, 0, sums, 3 * wide)
        for i in range(count):
            row = start + first + i
            _gru_step(
                projected + row * 3 * wide,
                sums + i * 3 * wide,
                gates + start * 4 * wide + (first + i) * wide,
                size * wide,
                out + row * wide,
                h + (first + i) * wide,
                hidden,
            )


@inner
def _gru_back(dh, grad, gates, plane, past, inputs, states, hidden):
    """One row: gradients of both projections; `dh` becomes what the state itself passes on."""
    wide = 4 * hidden
    one = splat(1.0)
    for j in range(0, hidden, LANES):
        at, rest = 4 * j, hidden - j
        r = get(gates + at, rest)
        z = get(gates + plane + at, rest)
        n = get(gates + 2 * plane + at, rest)
        back = get(dh + at, rest)
        if grad != 0:
            back = back + get(grad + at, rest)
        kept = back * z
        new = (back - kept) * (one - n * n)
        update = (get(past + at, rest) - n) * back * (z - z * z)
        reset = new * get(gates + 3 * plane + at, rest) * (r - r * r)
        put(inputs + at, reset, rest)
        put(inputs + wide + at, update, rest)
        put(inputs + 2 * wide + at, new, rest)
        put(states + at, reset, rest)
        put(states + wide + at, update, rest)
        put(states + 2 * wide + at, new * r, rest)
        put(dh + at, kept, rest)


@task
def gru_grad(
    block,
    worker,
    parts: i64,
    steps: i64,
    order: ptr,
    starts: ptr,
    sizes: ptr,
    batch: i64,
    hidden: i64,
    grad: ptr,
    recur: ptr,
    h: ptr,
    dh: ptr,
    gates: ptr,
    out: ptr,
    inputs: ptr,
    states: ptr,
):
    """As `lstm_grad`."""
    first, end = _bounds(block, parts, batch)
    wide = 4 * hidden
    for k in range(steps - 1, -1, -1):
        t = load_i64(order + 8 * k)
        start, size = load_i64(starts + 8 * t), load_i64(sizes + 8 * t)
        count = min(end, size) - first
        if count <= 0:
            continue
        for i in range(first, first + count):
            row = start + i
            _gru_back(
                dh + i * wide,
                grad + row * wide if grad != 0 else 0,
                gates + start * 4 * wide + i * wide,
                size * wide,
                _before(out, h, starts, sizes, order, k, i, wide),
                inputs + row * 3 * wide,
                states + row * 3 * wide,
                hidden,
            )
        source = states + (start + first) * 3 * wide
        target = dh + first * wide
        add_product(source, 3 * wide, recur, count, 3 * hidden, hidden, target, wide, target, wide)
