"""Layer norm: each row is read from memory once, its statistics taken in float64 sums of runs."""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.tasks.normalization import put, some
from tensorlib.kernels.cpu.tasks.normalization_planes import plane_sums
from tensorlib.kernels.cpu.vector import (
    BYTES,
    LANES,
    fma,
    load,
    load_f32,
    settle,
    splat,
    store,
    store_f32,
    stream,
)
from tensorlib.kernels.cpu.wide import total_wide, widen

RUN = 64 * LANES  # numbers of a row summed in float32
NEAR = 4096  # numbers that stay in the nearest cache


@inner
def _normal(x, y, start, stop, centre, factor, weight, bias, past):
    """(x - centre) * factor * weight + bias from `start` on; weight and bias may be 0."""
    for i in range(start, stop, LANES):
        n = stop - i
        v = (some(x + 4 * i, n) - centre) * factor
        if weight:
            v = v * some(weight + 4 * i, n)
        if bias:
            v = v + some(bias + 4 * i, n)
        put(y + 4 * i, v, n, past)


@inner
def _normal_affine(x, y, whole, centre, factor, weight, bias):
    """As `_normal` for whole vectors with weight and bias, into the cache."""
    for i in range(0, 4 * whole, BYTES):
        v = (load(x + i) - centre) * factor
        store(y + i, fma(v, load(weight + i), load(bias + i)))


@inner
def _normal_affine_past(x, y, whole, centre, factor, weight, bias):
    """As `_normal_affine`, past the caches."""
    for i in range(0, 4 * whole, BYTES):
        v = (load(x + i) - centre) * factor
        stream(y + i, fma(v, load(weight + i), load(bias + i)))


@task
def layer_norm(
    block, worker, x: ptr, weight: ptr, bias: ptr, y: ptr, mean: ptr, invstd: ptr, rows: i64,
    size: i64, length: i64, eps: f32, past: i64,
):  # fmt: skip
    """y = (x - mean) / std * weight + bias of a block of rows; weight and bias may be 0."""
    whole = size // LANES * LANES if weight and bias else 0
    last = min(rows, (block + 1) * length)
    step = max(1, NEAR // size)
    for first in range(block * length, last, step):
        # statistics of a few rows, then their results: the chains of the former overlap
        stop = min(last, first + step)
        for row in range(first, stop):
            s, q = plane_sums(x + 4 * row * size, size)
            m = s / size
            variance = max(q / size - m * m, 0.0) if q == q else q
            store_f32(mean + 4 * row, np.float32(m))
            scale = 1.0 / np.sqrt(variance + np.float64(eps))
            store_f32(invstd + 4 * row, np.float32(scale))
        for row in range(first, stop):
            at, out = x + 4 * row * size, y + 4 * row * size
            centre, factor = splat(load_f32(mean + 4 * row)), splat(load_f32(invstd + 4 * row))
            if whole:
                if past:
                    _normal_affine_past(at, out, whole, centre, factor, weight, bias)
                else:
                    _normal_affine(at, out, whole, centre, factor, weight, bias)
            _normal(at, out, whole, size, centre, factor, weight, bias, past)
    if past:
        settle(0)


@inner
def _affine_sums(g, x, weight, start, stop, centre, factor, weights, biases):
    """As `_row_sums` for whole vectors with weight and bias."""
    a, a2, b, b2 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for o in range(4 * start, 4 * stop, 2 * BYTES):
        p = o + BYTES
        d, e = load(g + o), load(g + p)
        hat, other = (load(x + o) - centre) * factor, (load(x + p) - centre) * factor
        store(weights + o, fma(d, hat, load(weights + o)))
        store(weights + p, fma(e, other, load(weights + p)))
        store(biases + o, load(biases + o) + d)
        store(biases + p, load(biases + p) + e)
        d, e = d * load(weight + o), e * load(weight + p)
        a = a + d
        b = fma(d, hat, b)
        a2 = a2 + e
        b2 = fma(e, other, b2)
    return a + a2, b + b2


@inner
def _row_sums(g, x, weight, size, centre, factor, weights, biases):
    """Sums of h = g * weight and of h * hat over a row; adds g * hat to `weights`, g to
    `biases`.
    """
    total = 0.0
    along = 0.0
    for start in range(0, size, RUN):
        stop = min(size, start + RUN)
        a = splat(0.0)
        b = splat(0.0)
        if weight and biases:
            whole = start + (stop - start) // (2 * LANES) * (2 * LANES)
            a, b = _affine_sums(g, x, weight, start, whole, centre, factor, weights, biases)
            start = whole
        for i in range(start, stop, LANES):
            n = size - i
            o = 4 * i
            d = some(g + o, n)
            hat = (some(x + o, n) - centre) * factor
            h = d
            if weight:
                h = d * some(weight + o, n)
                store(weights + o, fma(d, hat, load(weights + o)))
            if biases:
                store(biases + o, load(biases + o) + d)
            a = a + h
            b = fma(h, hat, b)
        total += total_wide(widen(a))
        along += total_wide(widen(b))
    return total, along


@inner
def _spread(g, x, y, whole, centre, factor, weight, a, b):
    """(g * weight - a - hat * b) * factor for whole vectors, into the cache."""
    for o in range(0, 4 * whole, BYTES):
        hat = (load(x + o) - centre) * factor
        store(y + o, (load(g + o) * load(weight + o) - a - hat * b) * factor)


@task
def layer_norm_grad(
    block, worker, g: ptr, x: ptr, mean: ptr, invstd: ptr, weight: ptr, dx: ptr, rows: i64,
    size: i64, length: i64, partial: ptr, width: i64, bias: i64, past: i64,
):  # fmt: skip
    """dx of a block of rows, and its part of the sums for weight and bias:
    partial[block, 2, width].
    """
    weights = partial + 8 * width * block
    biases = weights + 4 * width if bias else 0
    for i in range(0, 2 * width, LANES):
        store(weights + 4 * i, splat(0.0))
    for row in range(block * length, min(rows, (block + 1) * length)):
        o = 4 * row * size
        centre = splat(load_f32(mean + 4 * row))
        factor = splat(load_f32(invstd + 4 * row))
        total, along = _row_sums(g + o, x + o, weight, size, centre, factor, weights, biases)
        a = splat(np.float32(total / size))
        b = splat(np.float32(along / size))
        whole = 0
        if weight and past == 0:
            whole = size // LANES * LANES
            _spread(g + o, x + o, dx + o, whole, centre, factor, weight, a, b)
        for i in range(whole, size, LANES):
            n = size - i
            p = o + 4 * i
            h = some(g + p, n)
            if weight:
                h = h * some(weight + 4 * i, n)
            hat = (some(x + p, n) - centre) * factor
            put(dx + p, (h - a - hat * b) * factor, n, past)
    if past:
        settle(0)
