"""Convolutions of each channel by itself, of channels-last images."""

from __future__ import annotations

from tensorlib.kernels.cpu.compiler import f32, i64, ptr, task
from tensorlib.kernels.cpu.vector import (
    LANES,
    fma,
    less,
    load,
    load_part,
    select,
    splat,
    store_part,
)


@task
def convolve(
    block,
    worker,
    x: ptr,
    packed: ptr,
    y: ptr,
    bias: ptr,
    floor: f32,
    ceiling: f32,
    c: i64,
    h: i64,
    w: i64,
    oh: i64,
    ow: i64,
    kh: i64,
    kw: i64,
    sh: i64,
    sw: i64,
    ph: i64,
    pw: i64,
    dh: i64,
    dw: i64,
):
    """One row of outputs of a convolution of each channel by itself; `packed` is [taps, c]."""
    image = block // oh
    i = block - image * oh
    low, high = splat(floor), splat(ceiling)
    for j in range(ow):
        target = y + ((image * oh + i) * ow + j) * c * 4
        for k in range(0, c, LANES):
            left = c - k
            total = load_part(bias + 4 * k, left) if bias != 0 else splat(0.0)
            for a in range(kh):
                u = i * sh - ph + a * dh
                if u < 0 or u >= h:
                    continue
                for b in range(kw):
                    v = j * sw - pw + b * dw
                    if v < 0 or v >= w:
                        continue
                    at = x + (((image * h + u) * w + v) * c + k) * 4
                    factor = packed + ((a * kw + b) * c + k) * 4
                    if left >= LANES:
                        total = fma(load(at), load(factor), total)
                    else:
                        total = fma(load_part(at, left), load_part(factor, left), total)
            total = select(less(total, low), low, total)
            total = select(less(high, total), high, total)
            store_part(target + 4 * k, total, left)


@task
def backward(
    block,
    worker,
    grad: ptr,
    packed: ptr,
    out: ptr,
    c: i64,
    h: i64,
    w: i64,
    oh: i64,
    ow: i64,
    kh: i64,
    kw: i64,
    sh: i64,
    sw: i64,
    ph: i64,
    pw: i64,
    dh: i64,
    dw: i64,
):
    """One row of the input gradient [images, h, w, c] of `convolve`."""
    image = block // h
    y = block - image * h
    for z in range(w):
        target = out + ((image * h + y) * w + z) * c * 4
        for k in range(0, c, LANES):
            left = c - k
            total = splat(0.0)
            for a in range(kh):
                i = y + ph - a * dh
                if i < 0 or i % sh != 0 or i // sh >= oh:
                    continue
                for b in range(kw):
                    j = z + pw - b * dw
                    if j < 0 or j % sw != 0 or j // sw >= ow:
                        continue
                    at = grad + (((image * oh + i // sh) * ow + j // sw) * c + k) * 4
                    factor = packed + ((a * kw + b) * c + k) * 4
                    total = fma(load_part(at, left), load_part(factor, left), total)
            store_part(target + 4 * k, total, left)


@task
def weight_sums(
    block,
    worker,
    x: ptr,
    grad: ptr,
    sums: ptr,
    rows: i64,
    step: i64,
    c: i64,
    h: i64,
    w: i64,
    oh: i64,
    ow: i64,
    kh: i64,
    kw: i64,
    sh: i64,
    sw: i64,
    ph: i64,
    pw: i64,
    dh: i64,
    dw: i64,
):
    """sums[block, taps, c]: the weight gradient of `step` rows of outputs."""
    for a in range(kh):
        for b in range(kw):
            for k in range(0, c, LANES):
                left = c - k
                total = splat(0.0)
                for row in range(block * step, min(block * step + step, rows)):
                    image = row // oh
                    i = row - image * oh
                    u = i * sh - ph + a * dh
                    if u < 0 or u >= h:
                        continue
                    for j in range(ow):
                        v = j * sw - pw + b * dw
                        if v < 0 or v >= w:
                            continue
                        at = x + (((image * h + u) * w + v) * c + k) * 4
                        back = grad + ((row * ow + j) * c + k) * 4
                        total = fma(load_part(at, left), load_part(back, left), total)
                store_part(sums + (((block * kh + a) * kw + b) * c + k) * 4, total, left)
