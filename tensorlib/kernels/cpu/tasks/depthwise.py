"""Convolutions of each channel by itself, of channels-last images."""

from __future__ import annotations

from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.vector import (
    LANES,
    fma,
    less,
    load,
    load_part,
    select,
    splat,
    store,
    store_part,
)


@inner
def limited(total, low, high):
    """`total` within [low, high]; NaN stays."""
    total = select(less(total, low), low, total)
    return select(less(high, total), high, total)


@inner
def inside(start, taps, dilation, size):
    """The first tap inside an image whose first one is at `start`, and the one behind the last."""
    first = 0
    if start < 0:
        first = (dilation - 1 - start) // dilation
    last = 0
    if start < size:
        last = min(taps, (size - 1 - start) // dilation + 1)
    return min(first, taps), max(last, min(first, taps))


@inner
def seen(place, taps, dilation, stride, size):
    """Which taps saw a place (counted with the padding before it): the first, from one to the next,
    how many; the output that the first one saw it for, and how much before it the next ones.
    """
    first, step, count, output = 0, 1, 0, 0
    for tap in range(taps):
        at = place - tap * dilation
        if at >= 0 and at % stride == 0 and at // stride < size:
            if count == 0:
                first, output = tap, at // stride
            elif count == 1:
                step = tap - first
            count += 1
    return first, step, count, output, step * dilation // stride


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
    """One row of outputs of a convolution of each channel by itself; `packed` is [taps, c].

    Four outputs at a time share what is loaded of `packed`, where all their taps of a row are
    inside the image.
    """
    image = block // oh
    i = block - image * oh
    low, high = splat(floor), splat(ceiling)
    pixel, tap = dw * c * 4, c * 4  # bytes from a tap to the next, of the image and of `packed`
    step = sw * c * 4  # bytes of the image from an output to the next
    top, bottom = inside(i * sh - ph, kh, dh, h)
    j = 0
    while j < ow:
        left, right = inside(j * sw - pw, kw, dw, w)
        end = (j + 3) * sw - pw + (kw - 1) * dw  # the last column that four of them see
        together = 4 if left == 0 and right == kw and j + 4 <= ow and end < w else 1
        start = x + ((image * h + i * sh - ph) * w + j * sw - pw) * c * 4
        target = y + ((image * oh + i) * ow + j) * c * 4
        for k in range(0, c, LANES):
            rest = c - k
            first = load_part(bias + 4 * k, rest) if bias != 0 else splat(0.0)
            if together == 4 and rest >= LANES:
                one = two = three = four = first
                for a in range(top, bottom):
                    at = start + a * dh * w * c * 4 + 4 * k
                    place = packed + (a * kw * c + k) * 4
                    for _ in range(kw):
                        factor = load(place)
                        one = fma(load(at), factor, one)
                        two = fma(load(at + step), factor, two)
                        three = fma(load(at + 2 * step), factor, three)
                        four = fma(load(at + 3 * step), factor, four)
                        at += pixel
                        place += tap
                store(target + 4 * k, limited(one, low, high))
                store(target + tap + 4 * k, limited(two, low, high))
                store(target + 2 * tap + 4 * k, limited(three, low, high))
                store(target + 3 * tap + 4 * k, limited(four, low, high))
                continue
            for n in range(together):
                total = first
                for a in range(top, bottom):
                    at = start + n * step + a * dh * w * c * 4 + left * pixel + 4 * k
                    place = packed + ((a * kw + left) * c + k) * 4
                    if rest >= LANES:
                        for _ in range(left, right):
                            total = fma(load(at), load(place), total)
                            at += pixel
                            place += tap
                    else:
                        for _ in range(left, right):
                            total = fma(load_part(at, rest), load_part(place, rest), total)
                            at += pixel
                            place += tap
                store_part(target + n * tap + 4 * k, limited(total, low, high), rest)
        j += together


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
    top, down, rows, i, up = seen(y + ph, kh, dh, sh, oh)
    for z in range(w):
        target = out + ((image * h + y) * w + z) * c * 4
        left, across, columns, j, back = seen(z + pw, kw, dw, sw, ow)
        for k in range(0, c, LANES):
            rest = c - k
            total = splat(0.0)
            for n in range(rows):
                at = grad + (((image * oh + i - n * up) * ow + j) * c + k) * 4
                factor = packed + (((top + n * down) * kw + left) * c + k) * 4
                if rest >= LANES:
                    for _ in range(columns):
                        total = fma(load(at), load(factor), total)
                        at -= back * c * 4
                        factor += across * c * 4
                else:
                    for _ in range(columns):
                        total = fma(load_part(at, rest), load_part(factor, rest), total)
                        at -= back * c * 4
                        factor += across * c * 4
            store_part(target + 4 * k, total, rest)


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
    """sums[block, taps, c]: the weight gradient of `step` rows of outputs.

    Three taps of a row at a time share what is loaded of the gradient.
    """
    for a in range(kh):
        for b in range(0, kw, 3):
            for k in range(0, c, LANES):
                rest = c - k
                one = two = three = splat(0.0)
                for row in range(block * step, min(block * step + step, rows)):
                    image = row // oh
                    u = (row - image * oh) * sh - ph + a * dh
                    if u < 0 or u >= h:
                        continue
                    line = x + (image * h + u) * w * c * 4 + 4 * k
                    for j in range(ow):
                        v = j * sw - pw + b * dw
                        back = grad + ((row * ow + j) * c + k) * 4
                        if rest >= LANES and v >= 0 and v + 2 * dw < w and b + 3 <= kw:
                            at, factor = line + v * c * 4, load(back)
                            one = fma(load(at), factor, one)
                            two = fma(load(at + dw * c * 4), factor, two)
                            three = fma(load(at + 2 * dw * c * 4), factor, three)
                            continue
                        factor = load_part(back, rest)
                        if v >= 0 and v < w:
                            one = fma(load_part(line + v * c * 4, rest), factor, one)
                        v += dw
                        if v >= 0 and v < w and b + 1 < kw:
                            two = fma(load_part(line + v * c * 4, rest), factor, two)
                        v += dw
                        if v >= 0 and v < w and b + 2 < kw:
                            three = fma(load_part(line + v * c * 4, rest), factor, three)
                target = sums + (((block * kh + a) * kw + b) * c + k) * 4
                store_part(target, one, rest)
                if b + 1 < kw:
                    store_part(target + 4 * c, two, rest)
                if b + 2 < kw:
                    store_part(target + 8 * c, three, rest)
