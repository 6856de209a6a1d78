"""Batch normalisation of planes [N * C, P], as `normalization` does that of rows."""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import i64, inner, ptr, task
from tensorlib.kernels.cpu.tasks.normalization import lifted, passed, put, some
from tensorlib.kernels.cpu.vector import (
    BYTES,
    LANES,
    fma,
    load,
    load_f32,
    settle,
    splat,
    total,
)
from tensorlib.kernels.cpu.wide import store_f64, total_wide, widen

RUN = 64 * LANES  # numbers of a plane summed in float32


@inner
def _run_moments(x, vectors):
    """Sum and sum of squares, in float64, of up to RUN numbers in whole vectors."""
    few = min(vectors, 8)
    v = splat(0.0)
    for i in range(few):
        v = v + load(x + i * BYTES)
    near = total(v) * (np.float32(1.0) / np.float32(few * LANES))
    m = splat(near)
    rest, rest2, square, square2 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    pairs = vectors // 2
    for i in range(pairs):
        d = load(x + 2 * i * BYTES) - m
        e = load(x + 2 * i * BYTES + BYTES) - m
        rest = rest + d
        square = fma(d, d, square)
        rest2 = rest2 + e
        square2 = fma(e, e, square2)
    if vectors % 2:
        d = load(x + (vectors - 1) * BYTES) - m
        rest = rest + d
        square = fma(d, d, square)
    n = float(vectors * LANES)
    r = np.float64(total(rest + rest2))
    q = np.float64(total(square + square2))
    wide_near = np.float64(near)
    return n * wide_near + r, q + wide_near * (r + (r + n * wide_near))


@inner
def plane_sums(at, size):
    """Sum and sum of squares of `size` numbers in float64."""
    s = 0.0
    q = 0.0
    whole = size // LANES * LANES
    for i in range(0, whole, RUN):
        one, two = _run_moments(at + 4 * i, min(RUN, whole - i) // LANES)
        s += one
        q += two
    for i in range(whole, size):
        v = np.float64(load_f32(at + 4 * i))
        s += v
        q += v * v
    return s, q


@task
def plane_moments(block, worker, x: ptr, planes: i64, size: i64, length: i64, sums: ptr):
    """Sum and sum of squares of each plane, into sums[planes, 2]."""
    for plane in range(block * length, min(planes, (block + 1) * length)):
        s, q = plane_sums(x + 4 * plane * size, size)
        store_f64(sums + 16 * plane, s)
        store_f64(sums + 16 * plane + 8, q)


@task
def plane_apply(
    block,
    worker,
    x: ptr,
    residual: ptr,
    y: ptr,
    planes: i64,
    size: i64,
    length: i64,
    cuts: i64,
    channels: i64,
    mean: ptr,
    scale: ptr,
    bias: ptr,
    relu: i64,
    past: i64,
):
    """As `row_apply`, plane by plane; `past` only where planes are whole vectors."""
    cut = cuts - 1 - block
    for plane in range(cut * length, min(planes, (cut + 1) * length)):
        c = 4 * (plane % channels)
        near = splat(load_f32(mean + c))
        factor = splat(load_f32(scale + c))
        shift = splat(load_f32(bias + c))
        at = 4 * plane * size
        for i in range(0, size, LANES):
            n = size - i
            o = at + 4 * i
            v = fma(some(x + o, n) - near, factor, shift)
            if residual:
                v = v + some(residual + o, n)
            put(y + o, lifted(v, relu), n, past)
    if past:
        settle(0)


@task
def plane_grad_sums(
    block,
    worker,
    grad: ptr,
    x: ptr,
    output: ptr,
    masked: ptr,
    planes: i64,
    size: i64,
    length: i64,
    channels: i64,
    mean: ptr,
    scale: ptr,
    bias: ptr,
    sums: ptr,
    past: i64,
):
    """As `row_grad_sums`, plane by plane, into sums[planes, 2]."""
    for plane in range(block * length, min(planes, (block + 1) * length)):
        c = 4 * (plane % channels)
        near = splat(load_f32(mean + c))
        factor = splat(load_f32(scale + c)) if bias else near
        shift = splat(load_f32(bias + c)) if bias else near
        at = 4 * plane * size
        total_s = 0.0
        total_p = 0.0
        for start in range(0, size, RUN):
            s = splat(0.0)
            p = splat(0.0)
            for i in range(start, min(size, start + RUN), LANES):
                n = size - i
                o = at + 4 * i
                g = some(grad + o, n)
                d = some(x + o, n) - near
                if output:
                    g = passed(g, some(output + o, n))
                    put(masked + o, g, n, past)
                elif bias:
                    g = passed(g, fma(d, factor, shift))
                s = s + g
                p = fma(g, d, p)
            total_s += total_wide(widen(s))
            total_p += total_wide(widen(p))
        store_f64(sums + 16 * plane, total_s)
        store_f64(sums + 16 * plane + 8, total_p)
    if past:
        settle(0)


@task
def plane_grad_apply(
    block,
    worker,
    grad: ptr,
    x: ptr,
    y: ptr,
    planes: i64,
    size: i64,
    length: i64,
    cuts: i64,
    channels: i64,
    mean: ptr,
    scale: ptr,
    bias: ptr,
    factors: ptr,
    width: i64,
    past: i64,
):
    """As `row_grad_apply`, plane by plane."""
    cut = cuts - 1 - block
    for plane in range(cut * length, min(planes, (cut + 1) * length)):
        c = 4 * (plane % channels)
        near = splat(load_f32(mean + c))
        factor = splat(load_f32(scale + c)) if bias else near
        shift = splat(load_f32(bias + c)) if bias else near
        first = splat(load_f32(factors + c))
        second = splat(load_f32(factors + 4 * width + c))
        third = splat(load_f32(factors + 8 * width + c))
        at = 4 * plane * size
        for i in range(0, size, LANES):
            n = size - i
            o = at + 4 * i
            g = some(grad + o, n)
            d = some(x + o, n) - near
            if bias:
                g = passed(g, fma(d, factor, shift))
            put(y + o, fma(g, first, fma(d, second, third)), n, past)
    if past:
        settle(0)
