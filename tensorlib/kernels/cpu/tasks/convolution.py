"""Convolutions of channels-last images: direct, through the indirection of `gemm.multiply`."""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu import NOTHING
from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.tasks.gemm import (
    PANEL,
    ROWS,
    multiply,
    outer,
)
from tensorlib.kernels.cpu.vector import (
    LANES,
    load,
    load_f32,
    load_i64,
    load_part,
    splat,
    store,
    store_f32,
    store_i64,
    store_part,
)

NEGATIVE, POSITIVE = np.float32(-np.inf), np.float32(np.inf)


@inner
def fill_rows(
    table, first, last, tiles, x, h, w, pixel, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, zero
):
    """Addresses of the input pixels of output rows `first` to `last`, [tiles, taps, ROWS]; the last
    row again where a tile has fewer, `zero` outside the image.
    """
    taps = kh * kw
    image = first // (oh * ow)
    rest = first - image * oh * ow
    i = rest // ow
    j = rest - i * ow
    m = first
    for tile in range(tiles):
        for r in range(ROWS):
            at = table + (tile * taps * ROWS + r) * 8
            for a in range(kh):
                y = i * sh - ph + a * dh
                row = x + (image * h + y) * w * pixel
                inside = y >= 0 and y < h
                for b in range(kw):
                    z = j * sw - pw + b * dw
                    seen = row + z * pixel if inside and z >= 0 and z < w else zero
                    store_i64(at + (a * kw + b) * ROWS * 8, seen)
            if m < last - 1:
                m += 1
                j += 1
                if j == ow:
                    j = 0
                    i += 1
                    if i == oh:
                        i = 0
                        image += 1


@task
def convolve(
    block,
    worker,
    x: ptr,
    packed: ptr,
    y: ptr,
    bias: ptr,
    delta: i64,
    floor: f32,
    ceiling: f32,
    zero: ptr,
    scratch: ptr,
    scratch_stride: i64,
    rows: i64,
    step: i64,
    splits: i64,
    groups: i64,
    depth: i64,
    columns: i64,
    pixel: i64,
    out_pixel: i64,
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
    """Output rows `step * (block // splits)` and on, a part of the panels of all groups.

    `rows` output positions of all images; `depth` and `columns` of one group; `pixel` and
    `out_pixel` bytes from one position to the next; `bias` has PANEL numbers for each panel;
    `delta` bytes from an output to what is added to it, or NOTHING.
    """
    part = block // splits
    split = block - part * splits
    first = part * step
    last = min(first + step, rows)
    tiles = (last - first + ROWS - 1) // ROWS
    taps = kh * kw
    panels = (columns + PANEL - 1) // PANEL
    begin = split * panels // splits
    end = (split + 1) * panels // splits
    table = scratch + worker * scratch_stride
    outs = table + tiles * taps * ROWS * 8
    for m in range(tiles * ROWS):
        store_i64(outs + m * 8, y + min(first + m, last - 1) * out_pixel)
    for group in range(groups):
        source = x + group * depth * 4
        if taps == 1 and sh == 1 and sw == 1 and ph == 0 and pw == 0:
            for m in range(tiles * ROWS):
                store_i64(table + m * 8, source + min(first + m, last - 1) * pixel)
        else:
            fill_rows(
                table, first, last, tiles, source, h, w, pixel, oh, ow,
                kh, kw, sh, sw, ph, pw, dh, dw, zero,
            )  # fmt: skip
        for n in range(begin, end):
            place = group * panels + n
            shift = (group * columns + n * PANEL) * 4
            wide = min(PANEL, columns - n * PANEL)
            panel = packed + place * taps * depth * PANEL * 4
            added = bias + place * PANEL * 4 if bias != 0 else 0
            for tile in range(tiles):
                multiply(
                    table + tile * taps * ROWS * 8, taps, depth, panel, outs + tile * ROWS * 8,
                    shift, min(ROWS, last - first - tile * ROWS), wide, added, delta,
                    floor, ceiling,
                )  # fmt: skip


@task
def convolve_back(
    block,
    worker,
    grad: ptr,
    packed: ptr,
    out: ptr,
    zero: ptr,
    scratch: ptr,
    scratch_stride: i64,
    rows: i64,
    step: i64,
    splits: i64,
    groups: i64,
    depth: i64,
    columns: i64,
    pixel: i64,
    out_pixel: i64,
    h: i64,
    w: i64,
    oh: i64,
    ow: i64,
    sh: i64,
    sw: i64,
    ph: i64,
    pw: i64,
    dh: i64,
    dw: i64,
    taps: i64,
    table_of_taps: ptr,
    fy: i64,
    fx: i64,
    count_y: i64,
    count_x: i64,
):
    """The input gradient at the positions (fy + sh i, fx + sw j), which all see the same taps.

    `h`, `w` are the gradient's sizes, `oh`, `ow` the input's; `table_of_taps` holds pairs of int64.
    `rows` = images * count_y * count_x positions.
    """
    part = block // splits
    split = block - part * splits
    first = part * step
    last = min(first + step, rows)
    tiles = (last - first + ROWS - 1) // ROWS
    panels = (columns + PANEL - 1) // PANEL
    begin = split * panels // splits
    end = (split + 1) * panels // splits
    table = scratch + worker * scratch_stride
    outs = table + tiles * taps * ROWS * 8
    for group in range(groups):
        for m in range(tiles * ROWS):
            row = min(first + m, last - 1)
            image = row // (count_y * count_x)
            rest = row - image * count_y * count_x
            i = rest // count_x
            y = fy + sh * i
            x = fx + sw * (rest - i * count_x)
            store_i64(outs + m * 8, out + ((image * oh + y) * ow + x) * out_pixel)
            at = table + (m // ROWS * taps * ROWS + m % ROWS) * 8
            for t in range(taps):
                u = (y + ph - load_i64(table_of_taps + 16 * t) * dh) // sh
                v = (x + pw - load_i64(table_of_taps + 16 * t + 8) * dw) // sw
                seen = zero
                if u >= 0 and u < h and v >= 0 and v < w:
                    seen = grad + ((image * h + u) * w + v) * pixel + group * depth * 4
                store_i64(at + t * ROWS * 8, seen)
        for n in range(begin, end):
            shift = (group * columns + n * PANEL) * 4
            panel = packed + (group * panels + n) * taps * depth * PANEL * 4
            for tile in range(tiles):
                multiply(
                    table + tile * taps * ROWS * 8, taps, depth, panel, outs + tile * ROWS * 8,
                    shift, min(ROWS, last - first - tile * ROWS), min(PANEL, columns - n * PANEL),
                    0, NOTHING, NEGATIVE, POSITIVE,
                )  # fmt: skip


@inner
def copy_row(source, target, count):
    """Copy `count` numbers."""
    for k in range(0, count - LANES + 1, LANES):
        store(target + 4 * k, load(source + 4 * k))
    for k in range(count // LANES * LANES, count):  # masked stores take tens of cycles on AMD
        store_f32(target + 4 * k, load_f32(source + 4 * k))


@inner
def zero_row(target, count):
    """Set `count` numbers to zero."""
    for k in range(0, count - LANES + 1, LANES):
        store(target + 4 * k, splat(0.0))
    for k in range(count // LANES * LANES, count):
        store_f32(target + 4 * k, np.float32(0))


@inner
def gather_tap(x, target, row, first, last, depth, pixel, h, w, oh, ow, sh, sw, y0, x0):
    """What one tap sees of `x` at the output positions `first` to `last`: rows of `row` bytes; the
    tap of output (0, 0) is at (y0, x0).
    """
    image = first // (oh * ow)
    rest = first - image * oh * ow
    i = rest // ow
    j = rest - i * ow
    for m in range(first, last):
        y = i * sh + y0
        z = j * sw + x0
        at = target + (m - first) * row
        if y >= 0 and y < h and z >= 0 and z < w:
            copy_row(x + ((image * h + y) * w + z) * pixel, at, depth)
        else:
            zero_row(at, depth)
        j += 1
        if j == ow:
            j = 0
            i += 1
            if i == oh:
                i = 0
                image += 1


@task
def weight_sums(
    block,
    worker,
    x: ptr,
    grad: ptr,
    sums: ptr,
    scratch: ptr,
    scratch_stride: i64,
    rows: i64,
    slices: i64,
    splits: i64,
    chunk: i64,
    depth: i64,
    outputs: i64,
    gap: i64,
    pixel: i64,
    grad_pixel: i64,
    out_row: i64,
    out_step: i64,
    slice_step: i64,
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
    """For one of `slices` of the output positions and one of `splits` of the outputs, the sums over
    positions of gradient times what each tap sees: sums[slice, tap, output, depth] with steps of
    `slice_step`, `out_step` and `out_row` bytes.

    Rows are gathered `chunk` at a time, `gap` numbers apart, so that they lie in the cache and in
    different sets of it.
    """
    part = block // splits
    split = block - part * splits
    begin = part * rows // slices
    end = (part + 1) * rows // slices
    tiles = (outputs + ROWS - 1) // ROWS
    first = split * tiles // splits * ROWS
    width = min((split + 1) * tiles // splits * ROWS, outputs) - first
    a_row = (width + gap) * 4
    taps = kh * kw
    b_row = (depth + gap) * 4
    a = (scratch + worker * scratch_stride + 63) // 64 * 64
    b = (a + chunk * a_row + 63) // 64 * 64
    out = sums + part * slice_step + first * out_row
    for m in range(begin, end, chunk):
        last = min(m + chunk, end)
        for r in range(m, last):
            copy_row(grad + r * grad_pixel + first * 4, a + (r - m) * a_row, width)
        for t in range(taps):
            gather_tap(
                x, b, b_row, m, last, depth, pixel, h, w, oh, ow, sh, sw,
                t // kw * dh - ph, t % kw * dw - pw,
            )  # fmt: skip
            for n in range(0, depth, PANEL):
                for row in range(0, width, ROWS):
                    outer(
                        a + row * 4, a_row, b + n * 4, b_row, last - m,
                        out + t * out_step + row * out_row + n * 4, out_row,
                        min(ROWS, width - row), min(PANEL, depth - n), m == begin,
                    )  # fmt: skip


@task
def add_slices(block, worker, sums: ptr, out: ptr, slices: i64, size: i64, step: i64):
    """out = the sum of `slices` arrays of `size` numbers, `step` of them."""
    for k in range(block * step, min(block * step + step, size), LANES):
        left = size - k
        total = load_part(sums + 4 * k, left)
        for s in range(1, slices):
            total = total + load_part(sums + (s * size + k) * 4, left)
        store_part(out + 4 * k, total, left)


@task
def accumulate(
    block,
    worker,
    a: ptr,
    b: ptr,
    out: ptr,
    length: i64,
    rows: i64,
    columns: i64,
    a_row: i64,
    b_row: i64,
    a_step: i64,
    b_step: i64,
    splits: i64,
    fresh: i64,
):
    """out[t] (+)= a[t]^T b[t] for t = block // splits and a part of the `rows` rows of out[t];
    `..._row` bytes from one row to the next, `..._step` from one t to the next.
    """
    t = block // splits
    split = block - t * splits
    tiles = (rows + ROWS - 1) // ROWS
    begin = split * tiles // splits
    end = (split + 1) * tiles // splits
    for n in range(0, columns, PANEL):
        for tile in range(begin, end):
            row = tile * ROWS
            outer(
                a + t * a_step + row * 4, a_row, b + t * b_step + n * 4, b_row, length,
                out + ((t * rows + row) * columns + n) * 4, columns * 4,
                min(ROWS, rows - row), min(PANEL, columns - n), fresh,
            )  # fmt: skip


@task
def scatter_weights(block, worker, sums: ptr, out: ptr, outputs: i64, depth: i64, taps: i64):
    """A row of the weight gradient [outputs, depth, taps] from sums[taps, outputs, depth]."""
    for t in range(taps):
        source = sums + (t * outputs + block) * depth * 4
        target = out + (block * depth * taps + t) * 4
        for c in range(depth):
            store_f32(target + c * taps * 4, load_f32(source + 4 * c))


@inner
def frame_row(target, y, left, h, w, columns, c):
    """Zeros in a row of `columns` pixels where it is outside of row `y` of an image of h x w, whose
    first pixel is at `left`; the pixels of the image that are inside: `(begin, end)`.
    """
    if y < 0 or y >= h:
        zero_row(target, columns * c)
        return 0, 0
    begin, end = max(-left, 0), min(columns - left, w)
    if left > 0:
        zero_row(target, left * c)
    right = columns - left - end
    if right > 0:
        zero_row(target + (left + end) * c * 4, right * c)
    return begin, end


@task
def to_channels_last(
    block,
    worker,
    x: ptr,
    out: ptr,
    c: i64,
    h: i64,
    w: i64,
    stride_n: i64,
    stride_c: i64,
    stride_h: i64,
    stride_w: i64,
    top: i64,
    left: i64,
    rows: i64,
    columns: i64,
):
    """Row `block` of out[images, rows, columns, c]: the image at (top, left), zeros around it."""
    image = block // rows
    y = block - image * rows - top
    target = out + block * columns * c * 4
    source = x + image * stride_n + y * stride_h
    begin, end = frame_row(target, y, left, h, w, columns, c)
    for first in range(0, c, 16):
        last = min(first + 16, c)
        for j in range(begin, end):
            at = target + ((left + j) * c) * 4
            for k in range(first, last):
                store_f32(at + 4 * k, load_f32(source + k * stride_c + j * stride_w))


@task
def to_planes(block, worker, x: ptr, out: ptr, c: i64, positions: i64):
    """16 channels of an image [positions, c] as planes [c, positions]."""
    groups = (c + 15) // 16
    image = block // groups
    first = (block - image * groups) * 16
    last = min(first + 16, c)
    source = x + image * positions * c * 4
    target = out + image * positions * c * 4
    for begin in range(0, positions, 64):
        for k in range(first, last):
            for m in range(begin, min(begin + 64, positions)):
                store_f32(target + (k * positions + m) * 4, load_f32(source + (m * c + k) * 4))
