"""3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3): 16 products for 4
outputs instead of 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).

All three passes run on blocks of tiles that stay in the cache. Numbers of channels are multiples of
the vector width. The transforms are sums of two numbers and halves, so the error is below that of
the direct sum of 9 products.
"""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu import NOTHING
from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.tasks.gemm import PANEL, ROWS, multiply
from tensorlib.kernels.cpu.tasks.panels import turn, turn_part
from tensorlib.kernels.cpu.vector import (
    BYTES,
    LANES,
    less,
    load,
    load_f32,
    load_i64,
    select,
    splat,
    store,
    store_f32,
    store_i64,
)

NEGATIVE, POSITIVE = np.float32(-np.inf), np.float32(np.inf)
GAP = 16  # numbers between rows, so that rows do not fall into the same cache sets


@inner
def _into(a, b, c, d):
    """B^T (a b c d)."""
    return a - c, b + c, c - b, b - d


@inner
def _out(a, b, c, d):
    """A^T (a b c d)."""
    return a + b + c, b - c - d


@inner
def _apart(a, b):
    """A (a b), for the gradient."""
    return a, a + b, a - b, splat(0.0) - b


@inner
def transform_input(table, channels, v, plane):
    """V = B^T d B of the 4 x 4 positions whose addresses `table` holds, [16, channels] `plane`
    bytes apart.
    """
    for c in range(0, channels * 4, BYTES):
        a0, a1, a2, a3 = _into(
            load(load_i64(table) + c), load(load_i64(table + 32) + c),
            load(load_i64(table + 64) + c), load(load_i64(table + 96) + c),
        )  # fmt: skip
        b0, b1, b2, b3 = _into(
            load(load_i64(table + 8) + c), load(load_i64(table + 40) + c),
            load(load_i64(table + 72) + c), load(load_i64(table + 104) + c),
        )  # fmt: skip
        c0, c1, c2, c3 = _into(
            load(load_i64(table + 16) + c), load(load_i64(table + 48) + c),
            load(load_i64(table + 80) + c), load(load_i64(table + 112) + c),
        )  # fmt: skip
        d0, d1, d2, d3 = _into(
            load(load_i64(table + 24) + c), load(load_i64(table + 56) + c),
            load(load_i64(table + 88) + c), load(load_i64(table + 120) + c),
        )  # fmt: skip
        at = v + c
        _store_four(at, plane, _into(a0, b0, c0, d0))
        _store_four(at + 4 * plane, plane, _into(a1, b1, c1, d1))
        _store_four(at + 8 * plane, plane, _into(a2, b2, c2, d2))
        _store_four(at + 12 * plane, plane, _into(a3, b3, c3, d3))


@inner
def _store_four(at, plane, values):
    store(at, values[0])
    store(at + plane, values[1])
    store(at + 2 * plane, values[2])
    store(at + 3 * plane, values[3])


@inner
def _addresses(table, tile, x, h, w, pixel, tiles_y, tiles_x, ph, pw, zero):
    """Addresses of the 4 x 4 input positions of a tile."""
    image = tile // (tiles_y * tiles_x)
    rest = tile - image * tiles_y * tiles_x
    top = rest // tiles_x * 2 - ph
    left = rest % tiles_x * 2 - pw
    for i in range(4):
        y = top + i
        for j in range(4):
            z = left + j
            inside = y >= 0 and y < h and z >= 0 and z < w
            seen = x + ((image * h + y) * w + z) * pixel if inside else zero
            store_i64(table + (i * 4 + j) * 8, seen)


@inner
def _finish(value, at, delta, low, high):
    if delta != NOTHING:
        value = value + load(at + delta)
    value = select(less(value, low), low, value)
    store(at, select(less(high, value), high, value))


@inner
def transform_output(m, plane, channels, y, row, pixel, below, right, bias, delta, floor, ceiling):
    """Y = A^T M A + bias (+ what lies `delta` bytes away), clamped, at 2 x 2 positions, of which
    the lower and right ones may not exist.
    """
    low, high = splat(floor), splat(ceiling)
    for c in range(0, channels * 4, BYTES):
        at = m + c
        a0, a1 = _out(load(at), load(at + 4 * plane), load(at + 8 * plane), load(at + 12 * plane))
        at += plane
        b0, b1 = _out(load(at), load(at + 4 * plane), load(at + 8 * plane), load(at + 12 * plane))
        at += plane
        c0, c1 = _out(load(at), load(at + 4 * plane), load(at + 8 * plane), load(at + 12 * plane))
        at += plane
        d0, d1 = _out(load(at), load(at + 4 * plane), load(at + 8 * plane), load(at + 12 * plane))
        y00, y01 = _out(a0, b0, c0, d0)
        y10, y11 = _out(a1, b1, c1, d1)
        if bias != 0:
            shift = load(bias + c)
            y00 = y00 + shift
            y01 = y01 + shift
            y10 = y10 + shift
            y11 = y11 + shift
        _finish(y00, y + c, delta, low, high)
        if right:
            _finish(y01, y + pixel + c, delta, low, high)
        if below:
            _finish(y10, y + row + c, delta, low, high)
            if right:
                _finish(y11, y + row + pixel + c, delta, low, high)


@task
def convolve(
    block,
    worker,
    x: ptr,
    u: ptr,
    y: ptr,
    bias: ptr,
    delta: i64,
    floor: f32,
    ceiling: f32,
    zero: ptr,
    scratch: ptr,
    scratch_stride: i64,
    tiles: i64,
    step: i64,
    splits: i64,
    depth: i64,
    columns: i64,
    h: i64,
    w: i64,
    oh: i64,
    ow: i64,
    tiles_y: i64,
    tiles_x: i64,
    ph: i64,
    pw: i64,
):
    """A part of the output channels of `step` tiles of 2 x 2 outputs, starting at tile
    `step * (block // splits)`; `u` as `weights` makes it.
    """
    split = block % splits
    first = block // splits * step
    last = min(first + step, tiles)
    count = last - first
    blocks = (count + ROWS - 1) // ROWS
    table = scratch + worker * scratch_stride
    rows = table + 128
    outs = rows + blocks * ROWS * 8
    v_row = (depth + GAP) * 4
    m_row = (columns + GAP) * 4
    v = table + 128 + (step + ROWS) * 16
    v = (v + 63) // 64 * 64
    m = v + 16 * step * v_row
    for t in range(count):
        _addresses(table, first + t, x, h, w, depth * 4, tiles_y, tiles_x, ph, pw, zero)
        transform_input(table, depth, v + t * v_row, step * v_row)
    panels = (columns + PANEL - 1) // PANEL
    begin = split * panels // splits
    end = (split + 1) * panels // splits
    for xi in range(16):
        for t in range(blocks * ROWS):
            place = xi * step + min(t, count - 1)
            store_i64(rows + t * 8, v + place * v_row)
            store_i64(outs + t * 8, m + place * m_row)
        for n in range(begin, end):
            panel = u + (n * 16 + xi) * depth * PANEL * 4
            for b in range(blocks):
                multiply(
                    rows + b * ROWS * 8, 1, depth, panel, outs + b * ROWS * 8, n * PANEL * 4,
                    min(ROWS, count - b * ROWS), min(PANEL, columns - n * PANEL), 0, NOTHING,
                    NEGATIVE, POSITIVE,
                )  # fmt: skip
    pixel = columns * 4
    left = begin * PANEL * 4
    channels = min(end * PANEL, columns) - begin * PANEL
    added = bias + left if bias != 0 else 0
    for t in range(count):
        tile = first + t
        image = tile // (tiles_y * tiles_x)
        rest = tile - image * tiles_y * tiles_x
        i = rest // tiles_x * 2
        j = rest % tiles_x * 2
        transform_output(
            m + t * m_row + left, step * m_row, channels,
            y + left + ((image * oh + i) * ow + j) * pixel,
            ow * pixel, pixel, i + 1 < oh, j + 1 < ow, added, delta, floor, ceiling,
        )  # fmt: skip


TAP = PANEL * 4  # bytes of a row: one number for each output of a panel
LINE = 16 * TAP  # of a channel: 9 rows of taps, 6 of sums, one to spare


@inner
def _taps(source, stride, step, stride_y, stride_x, count, wide, lines):
    """The 3 x 3 taps of `count` channels, 16 at most, as rows of a panel's outputs."""
    if wide == PANEL and stride == 4:
        for k in range(count):
            for t in range(9):
                at = source + k * step + t // 3 * stride_y + t % 3 * stride_x
                for j in range(0, TAP, BYTES):
                    store(lines + k * LINE + t * TAP + j, load(at + j))
    elif wide == PANEL and step == 4 and count == 16:
        for t in range(9):
            at = source + t // 3 * stride_y + t % 3 * stride_x
            for j in range(0, PANEL, LANES):
                for k in range(0, 16, LANES):
                    place = lines + k * LINE + t * TAP + 4 * j
                    turn(at + j * stride + 4 * k, stride, place, LINE)
    elif wide == PANEL and stride_x == 4 and stride_y == 12:
        for k in range(count):
            for j in range(0, PANEL, LANES):
                at = source + k * step + j * stride
                for t in range(0, 9, LANES):
                    place = lines + k * LINE + t * TAP + 4 * j
                    turn_part(at + 4 * t, stride, min(9 - t, LANES), place, TAP)
    else:
        for k in range(count):
            for t in range(9):
                at = source + k * step + t // 3 * stride_y + t % 3 * stride_x
                place = lines + k * LINE + t * TAP
                for j in range(wide):
                    store_f32(place + 4 * j, load_f32(at + j * stride))
                for j in range(wide, PANEL):
                    store_f32(place + 4 * j, np.float32(0))


@task
def weights(
    block,
    worker,
    w: ptr,
    u: ptr,
    scratch: ptr,
    scratch_stride: i64,
    depth: i64,
    columns: i64,
    stride_y: i64,
    stride_x: i64,
    step: i64,
    stride: i64,
):
    """U = G g G^T for a panel of output channels: u[panel, 16, depth, PANEL].

    Strides in bytes as in `gemm.pack`; negative ones of the taps turn the kernel around, which
    exchanges the first and the last rows and columns of U.
    """
    wide = min(PANEL, columns - block * PANEL)
    source = w + block * PANEL * stride
    turned = stride_x < 0
    if turned:
        source += 2 * stride_y + 2 * stride_x
        stride_y, stride_x = -stride_y, -stride_x
    lines = (scratch + worker * scratch_stride + 63) // 64 * 64
    target = u + block * 16 * depth * TAP
    plane = depth * TAP
    half = splat(0.5)
    for c in range(depth):
        if c % 16 == 0:
            _taps(
                source + c * step, stride, step, stride_y, stride_x, min(16, depth - c), wide, lines
            )
        g = lines + c % 16 * LINE
        for j in range(0, TAP, BYTES):
            for b in range(3):  # the sums of G g, below the taps
                at = g + b * TAP + j
                top, middle, bottom = load(at), load(at + 3 * TAP), load(at + 6 * TAP)
                even, odd = (top + bottom) * half, middle * half
                store(at + 9 * TAP, even + odd)
                store(at + 12 * TAP, even - odd)
            for a in range(4):
                line, row = g + j, a
                if a == 1:
                    line += 9 * TAP
                elif a == 2:
                    line += 12 * TAP
                elif a == 3:
                    line += 6 * TAP
                if turned and (a == 0 or a == 3):
                    row = 3 - a
                left, middle, right = load(line), load(line + TAP), load(line + 2 * TAP)
                even, odd = (left + right) * half, middle * half
                if turned:
                    left, right = right, left
                at = target + 4 * row * plane + c * TAP + j
                store(at, left)
                store(at + plane, even + odd)
                store(at + 2 * plane, even - odd)
                store(at + 3 * plane, right)


@task
def gather(
    block,
    worker,
    x: ptr,
    grad: ptr,
    a: ptr,
    b: ptr,
    zero: ptr,
    scratch: ptr,
    scratch_stride: i64,
    first: i64,
    last: i64,
    step: i64,
    depth: i64,
    columns: i64,
    a_row: i64,
    b_row: i64,
    length: i64,
    h: i64,
    w: i64,
    oh: i64,
    ow: i64,
    tiles_y: i64,
    tiles_x: i64,
    ph: i64,
    pw: i64,
):
    """For `step` of the tiles `first` to `last`: a[xi, r] = A dY A^T of the gradient and
    b[xi, r] = B^T d B of the input, whose products over r are the weight gradient in Winograd's
    domain.
    """
    table = scratch + worker * scratch_stride
    begin = first + block * step
    pixel = columns * 4
    for tile in range(begin, min(begin + step, last)):
        r = tile - first
        _addresses(table, tile, x, h, w, depth * 4, tiles_y, tiles_x, ph, pw, zero)
        transform_input(table, depth, b + r * b_row, length * b_row)
        image = tile // (tiles_y * tiles_x)
        rest = tile - image * tiles_y * tiles_x
        i = rest // tiles_x * 2
        j = rest % tiles_x * 2
        y00 = grad + ((image * oh + i) * ow + j) * pixel
        y01 = y00 + pixel if j + 1 < ow else zero
        y10 = y00 + ow * pixel if i + 1 < oh else zero
        y11 = y00 + (ow + 1) * pixel if i + 1 < oh and j + 1 < ow else zero
        plane = length * a_row
        for c in range(0, columns * 4, BYTES):
            a0, a1, a2, a3 = _apart(load(y00 + c), load(y10 + c))
            b0, b1, b2, b3 = _apart(load(y01 + c), load(y11 + c))
            at = a + r * a_row + c
            _store_four(at, plane, _apart(a0, b0))
            _store_four(at + 4 * plane, plane, _apart(a1, b1))
            _store_four(at + 8 * plane, plane, _apart(a2, b2))
            _store_four(at + 12 * plane, plane, _apart(a3, b3))


@task
def scatter_weights(
    block,
    worker,
    sums: ptr,
    out: ptr,
    scratch: ptr,
    scratch_stride: i64,
    outputs: i64,
    depth: i64,
    stride_c: i64,
    stride_t: i64,
):
    """dW = G^T S G of sums[16, outputs, depth], for one output; strides of dW in bytes."""
    plane = outputs * depth * 4
    line = (scratch + worker * scratch_stride + 63) // 64 * 64
    half = splat(0.5)
    for c in range(0, depth * 4, BYTES):
        at = sums + block * depth * 4 + c
        for b in range(4):  # G^T S
            s0, s1 = load(at), load(at + 4 * plane)
            s2, s3 = load(at + 8 * plane), load(at + 12 * plane)
            even, odd = (s1 + s2) * half, (s1 - s2) * half
            store(line + b * BYTES, s0 + even)
            store(line + (4 + b) * BYTES, odd)
            store(line + (8 + b) * BYTES, even + s3)
            at += plane
        target = out + block * depth * 36 + c // 4 * stride_c
        for a in range(3):
            row = line + 4 * a * BYTES
            s0, s1 = load(row), load(row + BYTES)
            s2, s3 = load(row + 2 * BYTES), load(row + 3 * BYTES)
            even, odd = (s1 + s2) * half, (s1 - s2) * half
            place = target + 3 * a * stride_t
            if stride_c == 4:
                store(place, s0 + even)
                store(place + stride_t, odd)
                store(place + 2 * stride_t, even + s3)
            else:
                store(row, s0 + even)
                store(row + BYTES, odd)
                store(row + 2 * BYTES, even + s3)
                for t in range(3):
                    for k in range(BYTES // 4):
                        value = load_f32(row + t * BYTES + 4 * k)
                        store_f32(place + t * stride_t + k * stride_c, value)
