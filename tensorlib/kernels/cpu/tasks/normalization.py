"""Batch normalisation of rows [M, C]: sums per channel, and what is computed from them.

Sums of squares are taken of differences from the mean of a few neighbours, which float32 can add
up, and go into float64 sums every few rows.
"""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import i64, inner, ptr, task
from tensorlib.kernels.cpu.vector import (
    BYTES,
    LANES,
    fma,
    less,
    less_equal,
    load,
    load_part,
    select,
    settle,
    splat,
    store,
    store_part,
    stream,
)
from tensorlib.kernels.cpu.wide import (
    load_wide,
    prefetch,
    splat_wide,
    store_f64,
    store_wide,
    widen,
)

GROUP = 16  # rows summed in float32


@inner
def some(at, lanes):
    return load(at) if lanes >= LANES else load_part(at, lanes)


@inner
def put(at, value, lanes, past):
    if past:
        stream(at, value)
    elif lanes >= LANES:
        store(at, value)
    else:
        store_part(at, value, lanes)


@inner
def lifted(v, relu):
    """The positive part of v where asked; NaN stays."""
    return select(less(v, splat(0.0)), splat(0.0), v) if relu else v


@inner
def passed(grad, v):
    """The gradient where v is positive or NaN, zero elsewhere."""
    return select(less_equal(v, splat(0.0)), splat(0.0), grad)


@inner
def _clear(at, count):
    for i in range(count):
        store_f64(at + 8 * i, 0.0)


# -- rows ------------------------------------------------------------------------------------------


@inner
def _add_moments(near, rest, square, rows, sums, squares):
    """Add to float64 sums what `rows` numbers gave: the sums of differences from `near` and of
    their squares.
    """
    m, r = widen(near), widen(rest)
    n = splat_wide(float(rows))
    store_wide(sums, load_wide(sums) + (m * n + r))
    store_wide(squares, load_wide(squares) + (widen(square) + m * (r + (r + m * n))))


@inner
def _few_moments(x, stride, rows, lanes, sums, squares):
    """Add the sums and sums of squares of a vector of columns over a few rows."""
    few = min(rows, GROUP // 2)
    near = splat(0.0)
    for i in range(few):
        near = near + some(x + i * stride, lanes)
    near = near * splat(np.float32(1.0) / np.float32(few))
    rest = splat(0.0)
    square = splat(0.0)
    for i in range(rows):
        d = some(x + i * stride, lanes) - near
        rest = rest + d
        square = fma(d, d, square)
    _add_moments(near, rest, square, rows, sums, squares)


@inner
def _group_moments(x, stride, sums, squares):
    """As `_few_moments` for GROUP rows of a full vector."""
    near, other = load(x), load(x + stride)
    for i in range(2, GROUP // 2, 2):
        near = near + load(x + i * stride)
        other = other + load(x + (i + 1) * stride)
    near = (near + other) * splat(2.0 / GROUP)
    rest = splat(0.0)
    rest2 = splat(0.0)
    square = splat(0.0)
    square2 = splat(0.0)
    for i in range(0, GROUP, 2):
        d = load(x + i * stride) - near
        e = load(x + (i + 1) * stride) - near
        rest = rest + d
        square = fma(d, d, square)
        rest2 = rest2 + e
        square2 = fma(e, e, square2)
    _add_moments(near, rest + rest2, square + square2, GROUP, sums, squares)


@task
def row_moments(
    block,
    worker,
    x: ptr,
    rows: i64,
    columns: i64,
    length: i64,
    tile: i64,
    partial: ptr,
    width: i64,
):
    """Sums and sums of squares of columns: block (cut of rows, tile of columns) writes its part of
    partial[cut, 2, width].
    """
    tiles = (columns + tile - 1) // tile
    cut, start = block // tiles, block % tiles * tile
    stop = min(columns, start + tile)
    sums = partial + 16 * width * cut
    squares = sums + 8 * width
    padded = (stop - start + LANES - 1) // LANES * LANES
    _clear(sums + 8 * start, padded)
    _clear(squares + 8 * start, padded)
    last = min(rows, (cut + 1) * length)
    for row in range(cut * length, last, GROUP):
        at = x + 4 * row * columns
        n = min(GROUP, last - row)
        whole = start + (stop - start) // LANES * LANES if n == GROUP else start
        # the lines of the next group, asked for in the order of memory
        ahead = at + 4 * (GROUP * columns + start)
        end = ahead + 4 * (stop - start)
        for j in range(start, whole, LANES):
            for _ in range(GROUP * BYTES // 64):
                prefetch(ahead)
                ahead += 64
                if ahead >= end:
                    ahead += 4 * (columns - stop + start)
                    end += 4 * columns
            _group_moments(at + 4 * j, 4 * columns, sums + 8 * j, squares + 8 * j)
        for j in range(whole, stop, LANES):
            _few_moments(at + 4 * j, 4 * columns, n, stop - j, sums + 8 * j, squares + 8 * j)


@task
def row_apply(
    block,
    worker,
    x: ptr,
    residual: ptr,
    y: ptr,
    rows: i64,
    columns: i64,
    length: i64,
    cuts: i64,
    mean: ptr,
    scale: ptr,
    bias: ptr,
    relu: i64,
    past: i64,
):
    """y = (x - mean) * scale + bias, plus the residual (0: none), positive parts with `relu`.

    `past`: y is too large to be in a cache when it is read; whole vectors, aligned.
    """
    cut = cuts - 1 - block  # what the sums read last is still in the cache
    for row in range(cut * length, min(rows, (cut + 1) * length)):
        at = 4 * row * columns
        for j in range(0, columns, LANES):
            n = columns - j
            o = 4 * j
            d = some(x + at + o, n) - load(mean + o)
            v = fma(d, load(scale + o), load(bias + o))
            if residual:
                v = v + some(residual + at + o, n)
            put(y + at + o, lifted(v, relu), n, past)
    if past:
        settle(0)


@inner
def _few_grads(
    grad, x, output, masked, stride, rows, lanes, mean, scale, bias, sums, products, past
):
    """Add the sums of gradients, and of them times x - mean, of a vector of columns over a few
    rows.
    """
    near, factor = load(mean), load(scale)
    shift = load(bias) if bias else near
    s = splat(0.0)
    p = splat(0.0)
    for i in range(rows):
        o = i * stride
        g = some(grad + o, lanes)
        d = some(x + o, lanes) - near
        if output:
            g = passed(g, some(output + o, lanes))
            put(masked + o, g, lanes, past)
        elif bias:
            g = passed(g, fma(d, factor, shift))
        s = s + g
        p = fma(g, d, p)
    _add_grads(s, p, sums, products)


@inner
def _add_grads(s, p, sums, products):
    store_wide(sums, load_wide(sums) + widen(s))
    store_wide(products, load_wide(products) + widen(p))


@inner
def _group_grads(grad, x, stride, mean, sums, products):
    """As `_few_grads` for GROUP rows of a full vector, without a mask."""
    near = load(mean)
    s, s2, p, p2 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for i in range(0, GROUP, 2):
        g, h = load(grad + i * stride), load(grad + (i + 1) * stride)
        p = fma(g, load(x + i * stride) - near, p)
        p2 = fma(h, load(x + (i + 1) * stride) - near, p2)
        s = s + g
        s2 = s2 + h
    _add_grads(s + s2, p + p2, sums, products)


@inner
def _group_grads_relu(grad, x, stride, mean, scale, bias, sums, products):
    """As `_group_grads`, where (x - mean) * scale + bias is positive."""
    near, factor, shift = load(mean), load(scale), load(bias)
    s, s2, p, p2 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for i in range(0, GROUP, 2):
        d, e = load(x + i * stride) - near, load(x + (i + 1) * stride) - near
        g = passed(load(grad + i * stride), fma(d, factor, shift))
        h = passed(load(grad + (i + 1) * stride), fma(e, factor, shift))
        p = fma(g, d, p)
        p2 = fma(h, e, p2)
        s = s + g
        s2 = s2 + h
    _add_grads(s + s2, p + p2, sums, products)


@inner
def _grad_rows(grad, x, columns, start, stop, mean, scale, bias, sums, products):
    """GROUP rows of whole vectors; asks for the lines of the next ones."""
    stride = 4 * columns
    skip = 4 * (columns - stop + start)
    ahead = 4 * (GROUP * columns + start)
    end = ahead + 4 * (stop - start)
    for j in range(start, stop, LANES):
        for _ in range(GROUP * BYTES // 64):
            prefetch(grad + ahead)
            prefetch(x + ahead)
            ahead += 64
            if ahead >= end:
                ahead += skip
                end += stride
        o, w = 4 * j, 8 * j
        if bias:
            _group_grads_relu(
                grad + o, x + o, stride, mean + o, scale + o, bias + o, sums + w, products + w
            )
        else:
            _group_grads(grad + o, x + o, stride, mean + o, sums + w, products + w)


@task
def row_grad_sums(
    block,
    worker,
    grad: ptr,
    x: ptr,
    output: ptr,
    masked: ptr,
    rows: i64,
    columns: i64,
    length: i64,
    tile: i64,
    mean: ptr,
    scale: ptr,
    bias: ptr,
    partial: ptr,
    width: i64,
    past: i64,
):
    """Sums of grad and of grad * (x - mean) by columns, into partial[cut, 2, width].

    With `output` the gradient counts where that is positive, and is written to `masked`; with
    `bias` where (x - mean) * scale + bias is.
    """
    tiles = (columns + tile - 1) // tile
    cut, start = block // tiles, block % tiles * tile
    stop = min(columns, start + tile)
    sums = partial + 16 * width * cut
    products = sums + 8 * width
    padded = (stop - start + LANES - 1) // LANES * LANES
    _clear(sums + 8 * start, padded)
    _clear(products + 8 * start, padded)
    last = min(rows, (cut + 1) * length)
    stride = 4 * columns
    for row in range(cut * length, last, GROUP):
        n = min(GROUP, last - row)
        whole = start
        if n == GROUP and output == 0:
            whole += (stop - start) // LANES * LANES
            at = row * stride
            _grad_rows(grad + at, x + at, columns, start, whole, mean, scale, bias, sums, products)
        for j in range(whole, stop, LANES):
            at = row * stride + 4 * j
            _few_grads(
                grad + at,
                x + at,
                output + at if output else output,
                masked + at,
                stride,
                n,
                min(LANES, stop - j),
                mean + 4 * j,
                scale + 4 * j,
                bias + 4 * j if bias else bias,
                sums + 8 * j,
                products + 8 * j,
                past,
            )
    if past:
        settle(0)


@task
def row_grad_apply(
    block,
    worker,
    grad: ptr,
    x: ptr,
    y: ptr,
    rows: i64,
    columns: i64,
    length: i64,
    cuts: i64,
    mean: ptr,
    scale: ptr,
    bias: ptr,
    factors: ptr,
    width: i64,
    past: i64,
):
    """y = grad * a + (x - mean) * b + c with factors [a, b, c][3, width]; `bias` as above."""
    cut = cuts - 1 - block
    for row in range(cut * length, min(rows, (cut + 1) * length)):
        at = 4 * row * columns
        for j in range(0, columns, LANES):
            n = columns - j
            o = 4 * j
            f = factors + o
            g = some(grad + at + o, n)
            d = some(x + at + o, n) - load(mean + o)
            if bias:
                g = passed(g, fma(d, load(scale + o), load(bias + o)))
            v = fma(g, load(f), fma(d, load(f + 4 * width), load(f + 8 * width)))
            put(y + at + o, v, n, past)
    if past:
        settle(0)
