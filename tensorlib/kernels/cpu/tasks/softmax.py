"""Softmax, its logarithm and the cross entropy of rows: [outer, size, inner] along the middle.

Rows (`inner` 1) are read again from the cache; otherwise vectors lie across `inner`. A maximum here
may pass over NaN: the exponential of NaN makes the whole row NaN.
"""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import i64, inner, ptr, task
from tensorlib.kernels.cpu.vector import (
    BYTES,
    LANES,
    above,
    exp,
    fma,
    lanes,
    largest,
    load,
    load_f32,
    load_i64,
    load_part,
    log,
    select,
    settle,
    splat,
    store,
    store_f32,
    store_part,
    stream,
    total,
)


@inner
def _highest(x, end):
    """The largest of the numbers from address `x` to `end`."""
    a = b = c = d = splat(-np.inf)
    i = x
    while i + 4 * BYTES <= end:
        a, b = above(load(i), a), above(load(i + BYTES), b)
        c, d = above(load(i + 2 * BYTES), c), above(load(i + 3 * BYTES), d)
        i += 4 * BYTES
    a = above(above(a, b), above(c, d))
    while i + BYTES <= end:
        a = above(load(i), a)
        i += BYTES
    found = largest(a)
    while i < end:
        found = max(found, load_f32(i))
        i += 4
    return found


@inner
def _powers(x, end, y, least):
    """The sum of e^(x - least), each of which is written to `y` unless that is 0."""
    m = splat(least)
    a = b = splat(0.0)
    i = x
    while i + 2 * BYTES <= end:
        p, q = exp(load(i) - m), exp(load(i + BYTES) - m)
        if y:
            store(y + (i - x), p)
            store(y + (i - x) + BYTES, q)
        a, b = a + p, b + q
        i += 2 * BYTES
    while i < end:
        rest = min((end - i) // 4, LANES)
        p = select(lanes(rest), exp(load_part(i, rest) - m), splat(0.0))
        if y:
            store_part(y + (i - x), p, rest)
        a = a + p
        i += BYTES
    return total(a + b)


@inner
def _logarithm(x):
    return largest(log(splat(x)))


@inner
def _scaled(x, size, y, scale, past):
    """`y = x * scale`; `past` the cache for whole vectors at such addresses."""
    k = splat(scale)
    whole = 4 * (size - size % LANES)
    rest = size % LANES
    if past:
        for i in range(0, whole, BYTES):
            stream(y + i, load(x + i) * k)
    else:
        for i in range(0, whole, BYTES):
            store(y + i, load(x + i) * k)
    if rest:
        store_part(y + whole, load_part(x + whole, rest) * k, rest)


@task
def softmax_rows(block, worker, x: ptr, y: ptr, rows: i64, size: i64, length: i64, past: i64):
    for row in range(block * length, min((block + 1) * length, rows)):
        begin, end, to = x + 4 * row * size, x + 4 * (row + 1) * size, y + 4 * row * size
        s = _powers(begin, end, to, _highest(begin, end))
        _scaled(to, size, to, np.float32(1.0) / s, 0)


@task
def log_softmax_rows(block, worker, x: ptr, y: ptr, rows: i64, size: i64, length: i64, past: i64):
    for row in range(block * length, min((block + 1) * length, rows)):
        begin, end, to = x + 4 * row * size, x + 4 * (row + 1) * size, y + 4 * row * size
        m = _highest(begin, end)
        s = _logarithm(_powers(begin, end, 0, m))
        k, n = splat(m), splat(s)
        whole = 4 * (size - size % LANES)
        rest = size % LANES
        if past:
            for i in range(0, whole, BYTES):
                stream(to + i, (load(begin + i) - k) - n)
        else:
            for i in range(0, whole, BYTES):
                store(to + i, (load(begin + i) - k) - n)
        if rest:
            store_part(to + whole, (load_part(begin + whole, rest) - k) - n, rest)
    settle(0)


@inner
def _products(g, y, end):
    """The sum of g y; `end` is that of `g`."""
    a = b = splat(0.0)
    i, j = g, y
    while i + 2 * BYTES <= end:
        a, b = fma(load(i), load(j), a), fma(load(i + BYTES), load(j + BYTES), b)
        i, j = i + 2 * BYTES, j + 2 * BYTES
    while i < end:
        rest = min((end - i) // 4, LANES)
        a = fma(load_part(i, rest), load_part(j, rest), a)
        i, j = i + BYTES, j + BYTES
    return total(a + b)


@inner
def _sum(g, end):
    a = b = splat(0.0)
    i = g
    while i + 2 * BYTES <= end:
        a, b = a + load(i), b + load(i + BYTES)
        i += 2 * BYTES
    while i < end:
        a = a + load_part(i, min((end - i) // 4, LANES))
        i += BYTES
    return total(a + b)


@task
def softmax_grad_rows(
    block, worker, g: ptr, y: ptr, out: ptr, rows: i64, size: i64, length: i64, past: i64
):
    """y (g - sum(g y))."""
    for row in range(block * length, min((block + 1) * length, rows)):
        at = 4 * row * size
        s = splat(_products(g + at, y + at, g + at + 4 * size))
        whole = at + 4 * (size - size % LANES)
        if past:
            for i in range(at, whole, BYTES):
                stream(out + i, load(y + i) * (load(g + i) - s))
        else:
            for i in range(at, whole, BYTES):
                store(out + i, load(y + i) * (load(g + i) - s))
        rest = size % LANES
        if rest:
            found = load_part(y + whole, rest) * (load_part(g + whole, rest) - s)
            store_part(out + whole, found, rest)
    settle(0)


@task
def log_softmax_grad_rows(
    block, worker, g: ptr, y: ptr, out: ptr, rows: i64, size: i64, length: i64, past: i64
):
    """g - e^y sum(g)."""
    for row in range(block * length, min((block + 1) * length, rows)):
        at = 4 * row * size
        s = splat(-_sum(g + at, g + at + 4 * size))
        whole = at + 4 * (size - size % LANES)
        if past:
            for i in range(at, whole, BYTES):
                stream(out + i, fma(exp(load(y + i)), s, load(g + i)))
        else:
            for i in range(at, whole, BYTES):
                store(out + i, fma(exp(load(y + i)), s, load(g + i)))
        rest = size % LANES
        if rest:
            found = fma(exp(load_part(y + whole, rest)), s, load_part(g + whole, rest))
            store_part(out + whole, found, rest)
    settle(0)


# -- across ----------------------------------------------------------------------------------------

# A block of each task below is up to `width` columns (whole vectors) of one [size, across] matrix.
# They are gathered in memory of the worker's own first: `across` numbers apart, few of them would
# fit into the cache together where that is a power of two. Behind them lie two rows of statistics.


@inner
def _gather(x, size, step, columns, row, to):
    """Copy [size, columns] numbers, rows `step` bytes apart, into rows of `row` bytes."""
    whole = 4 * (columns - columns % LANES)
    rest = columns % LANES
    for i in range(size):
        source, target = x + i * step, to + i * row
        for c in range(0, whole, BYTES):
            store(target + c, load(source + c))
        if rest:
            store(target + whole, load_part(source + whole, rest))


@inner
def _write(y, columns, c, v):
    """Put `v` at byte `c` of a row of `columns` numbers."""
    if c + BYTES <= 4 * columns:
        store(y + c, v)
    else:
        store_part(y + c, v, columns - c // 4)


@task
def softmax_across(
    block, worker, x: ptr, y: ptr, size: i64, across: i64, parts: i64, width: i64, logs: i64,
    scratch: ptr, stride: i64,
):  # fmt: skip
    """Softmax, or with `logs` its logarithm."""
    begin = 4 * ((block // parts) * size * across + (block % parts) * width)
    columns = min(width, across - (block % parts) * width)
    held, row, step = scratch + worker * stride, 4 * width, 4 * across
    _gather(x + begin, size, step, columns, row, held)
    end = held + size * row
    for c in range(0, 4 * columns, BYTES):
        m = load(held + c)
        for i in range(held + c, end, row):
            m = above(load(i), m)
        s = splat(0.0)
        if logs:
            for i in range(held + c, end, row):
                s = s + exp(load(i) - m)
            store(end + c, m)
            store(end + row + c, log(s))
        else:
            for i in range(held + c, end, row):
                p = exp(load(i) - m)
                store(i, p)
                s = s + p
            store(end + c, splat(1.0) / s)
    for i in range(size):
        source, target = held + i * row, y + begin + i * step
        for c in range(0, 4 * columns, BYTES):
            if logs:
                v = (load(source + c) - load(end + c)) - load(end + row + c)
            else:
                v = load(source + c) * load(end + c)
            _write(target, columns, c, v)


@task
def softmax_grad_across(
    block, worker, g: ptr, y: ptr, out: ptr, size: i64, across: i64, parts: i64, width: i64,
    logs: i64, scratch: ptr, stride: i64,
):  # fmt: skip
    """The gradient of softmax, or with `logs` of its logarithm."""
    begin = 4 * ((block // parts) * size * across + (block % parts) * width)
    columns = min(width, across - (block % parts) * width)
    held, row, step = scratch + worker * stride, 4 * width, 4 * across
    other = held + size * row
    end = other + size * row
    _gather(g + begin, size, step, columns, row, held)
    _gather(y + begin, size, step, columns, row, other)
    for c in range(0, 4 * columns, BYTES):
        s = splat(0.0)
        for i in range(c, size * row, row):
            if logs:
                s = s - load(held + i)
            else:
                s = fma(load(held + i), load(other + i), s)
        store(end + c, s)
    for i in range(size):
        first, second, target = held + i * row, other + i * row, out + begin + i * step
        for c in range(0, 4 * columns, BYTES):
            s = load(end + c)
            if logs:
                v = fma(exp(load(second + c)), s, load(first + c))
            else:
                v = load(second + c) * (load(first + c) - s)
            _write(target, columns, c, v)


# -- cross entropy ---------------------------------------------------------------------------------


@task
def cross_entropy(
    block, worker, x: ptr, t: ptr, losses: ptr, powers: ptr, totals: ptr, rows: i64, size: i64,
    length: i64,
):  # fmt: skip
    """Losses of rows; the exponentials go to `powers` unless that is 0."""
    for row in range(block * length, min((block + 1) * length, rows)):
        begin, end = x + 4 * row * size, x + 4 * (row + 1) * size
        m = _highest(begin, end)
        to = 0
        if powers:
            to = powers + 4 * row * size
        s = _powers(begin, end, to, m)
        store_f32(totals + 4 * row, s)
        place = load_i64(t + 8 * row)
        store_f32(losses + 4 * row, _logarithm(s) - (load_f32(begin + 4 * place) - m))


@task
def cross_entropy_grad(
    block, worker, powers: ptr, totals: ptr, t: ptr, scales: ptr, out: ptr, rows: i64, size: i64,
    length: i64, past: i64,
):  # fmt: skip
    """(powers / total - one at the target) * scale."""
    for row in range(block * length, min((block + 1) * length, rows)):
        at = 4 * row * size
        scale = load_f32(scales + 4 * row)
        share = scale / load_f32(totals + 4 * row)
        _scaled(powers + at, size, out + at, share, past)
        place = at + 4 * load_i64(t + 8 * row)
        store_f32(out + place, load_f32(powers + place) * share - scale)
    settle(0)
