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
    splat,
    store,
    store_f32,
    store_part,
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
def _affine(x, end, y, scale, shift):
    """`y = x * scale + shift`."""
    k, m = splat(scale), splat(shift)
    whole = end - (end - x) % BYTES
    for i in range(x, whole, BYTES):
        store(y + (i - x), fma(load(i), k, m))
    if whole < end:
        rest = (end - whole) // 4
        store_part(y + (whole - x), fma(load_part(whole, rest), k, m), rest)


@task
def softmax_rows(block, worker, x: ptr, y: ptr, rows: i64, size: i64, length: i64):
    for row in range(block * length, min((block + 1) * length, rows)):
        begin, end, to = x + 4 * row * size, x + 4 * (row + 1) * size, y + 4 * row * size
        s = _powers(begin, end, to, _highest(begin, end))
        _affine(to, to + 4 * size, to, np.float32(1.0) / s, np.float32(0.0))


@task
def log_softmax_rows(block, worker, x: ptr, y: ptr, rows: i64, size: i64, length: i64):
    for row in range(block * length, min((block + 1) * length, rows)):
        begin, end, to = x + 4 * row * size, x + 4 * (row + 1) * size, y + 4 * row * size
        m = _highest(begin, end)
        s = _logarithm(_powers(begin, end, 0, m))
        k, n = splat(m), splat(s)
        for i in range(begin, end, BYTES):
            rest = min((end - i) // 4, LANES)
            store_part(to + (i - begin), (load_part(i, rest) - k) - n, rest)


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
def softmax_grad_rows(block, worker, g: ptr, y: ptr, out: ptr, rows: i64, size: i64, length: i64):
    """y (g - sum(g y))."""
    for row in range(block * length, min((block + 1) * length, rows)):
        at = 4 * row * size
        s = splat(_products(g + at, y + at, g + at + 4 * size))
        whole = at + 4 * (size - size % LANES)
        for i in range(at, whole, BYTES):
            store(out + i, load(y + i) * (load(g + i) - s))
        rest = size % LANES
        if rest:
            found = load_part(y + whole, rest) * (load_part(g + whole, rest) - s)
            store_part(out + whole, found, rest)


@task
def log_softmax_grad_rows(
    block, worker, g: ptr, y: ptr, out: ptr, rows: i64, size: i64, length: i64
):
    """g - e^y sum(g)."""
    for row in range(block * length, min((block + 1) * length, rows)):
        at = 4 * row * size
        s = splat(-_sum(g + at, g + at + 4 * size))
        whole = at + 4 * (size - size % LANES)
        for i in range(at, whole, BYTES):
            store(out + i, fma(exp(load(y + i)), s, load(g + i)))
        rest = size % LANES
        if rest:
            found = fma(exp(load_part(y + whole, rest)), s, load_part(g + whole, rest))
            store_part(out + whole, found, rest)


# -- across ----------------------------------------------------------------------------------------

# A block of each task below is `width` vectors' worth of columns of one [size, inner] matrix.


@task
def softmax_across(
    block, worker, x: ptr, y: ptr, size: i64, across: i64, parts: i64, width: i64, logs: i64
):
    """Softmax, or with `logs` its logarithm."""
    begin = 4 * ((block // parts) * size * across + (block % parts) * width)
    columns = min(width, across - (block % parts) * width)
    step = 4 * across
    for c in range(0, columns, LANES):
        n = min(columns - c, LANES)
        first = begin + 4 * c
        last = first + size * step
        m = splat(-np.inf)
        for i in range(first, last, step):
            m = above(load_part(x + i, n), m)
        s = splat(0.0)
        for i in range(first, last, step):
            p = exp(load_part(x + i, n) - m)
            s = s + p
            if not logs:
                store_part(y + i, p, n)
        if logs:
            s = log(s)
            for i in range(first, last, step):
                store_part(y + i, (load_part(x + i, n) - m) - s, n)
        else:
            s = splat(1.0) / s
            for i in range(first, last, step):
                store_part(y + i, load_part(y + i, n) * s, n)


@task
def softmax_grad_across(
    block, worker, g: ptr, y: ptr, out: ptr, size: i64, across: i64, parts: i64, width: i64,
    logs: i64,
):  # fmt: skip
    """The gradient of softmax, or with `logs` of its logarithm."""
    begin = 4 * ((block // parts) * size * across + (block % parts) * width)
    columns = min(width, across - (block % parts) * width)
    step = 4 * across
    for c in range(0, columns, LANES):
        n = min(columns - c, LANES)
        first = begin + 4 * c
        last = first + size * step
        s = splat(0.0)
        if logs:
            for i in range(first, last, step):
                s = s - load_part(g + i, n)
            for i in range(first, last, step):
                store_part(out + i, fma(exp(load_part(y + i, n)), s, load_part(g + i, n)), n)
        else:
            for i in range(first, last, step):
                s = fma(load_part(g + i, n), load_part(y + i, n), s)
            for i in range(first, last, step):
                store_part(out + i, load_part(y + i, n) * (load_part(g + i, n) - s), n)


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
    length: i64,
):  # fmt: skip
    """(powers / total - one at the target) * scale."""
    for row in range(block * length, min((block + 1) * length, rows)):
        at = 4 * row * size
        scale = load_f32(scales + 4 * row)
        share = scale / load_f32(totals + 4 * row)
        _affine(powers + at, powers + at + 4 * size, out + at, share, np.float32(0.0))
        place = out + at + 4 * load_i64(t + 8 * row)
        store_f32(place, load_f32(place) - scale)
