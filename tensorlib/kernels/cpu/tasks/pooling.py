"""Pooling of images: rows of windows, channels innermost in memory or plane by plane."""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.vector import (
    BYTES,
    LANES,
    either,
    equal,
    is_nan,
    load,
    load_f32,
    load_part,
    maximum,
    select,
    settle,
    splat,
    store,
    store_f32,
    store_part,
    stream,
)
from tensorlib.kernels.cpu.wide import prefetch

LOWEST = np.float32(-np.inf)


@inner
def _some(at, lanes):
    return load(at) if lanes >= LANES else load_part(at, lanes)


@inner
def _put(at, value, lanes):
    if lanes >= LANES:
        store(at, value)
    else:
        store_part(at, value, lanes)


@inner
def _taps(start, length, size, step):
    """First and last + 1 tap of a window at `start` that lie inside `length`."""
    if step == 1:  # without the divisions, which would cost more than the window
        return max(0, -start), min(size, length - start)
    first = max(0, (step - 1 - start) // step) if start < 0 else 0
    last = min(size, (length - start + step - 1) // step)
    return first, last


@inner
def _largest(at, rows, down, columns, across):
    """The largest elements of a window of whole vectors."""
    v = load(at)
    for a in range(rows):
        for b in range(columns):
            v = maximum(v, load(at + a * down + b * across))
    return v


@inner
def _sum(at, rows, down, columns, across):
    """The sums of a window of whole vectors."""
    v = splat(np.float32(0.0))
    for a in range(rows):
        for b in range(columns):
            v = v + load(at + a * down + b * across)
    return v


@inner
def _ask_ahead(at, rows, down, size):
    """Ask for the lines of the window four places further."""
    for a in range(rows):
        for k in range(0, size, 64):
            prefetch(at + a * down + k)


@task
def pool_rows(
    block, worker, x: ptr, y: ptr, n: i64, c: i64, h: i64, w: i64, oh: i64, ow: i64,
    kh: i64, kw: i64, sh: i64, sw: i64, ph: i64, pw: i64, dh: i64, dw: i64, divisor: f32, past: i64,
):  # fmt: skip
    """One row of windows of one image, channels innermost: largest elements, or sums over `divisor`
    where that is not 0.
    """
    sums = divisor != 0
    image, i = block // oh, block % oh
    x += 4 * image * h * w * c
    y += 4 * block * ow * c
    top = i * sh - ph
    first, last = _taps(top, h, kh, dh)
    for j in range(ow):
        left = j * sw - pw
        begin, end = _taps(left, w, kw, dw)
        rows, columns = max(last - first, 0), max(end - begin, 0)
        corner = x + 4 * ((top + first * dh) * w + left + begin * dw) * c
        down, across = 4 * dh * w * c, 4 * dw * c
        whole = c // LANES * LANES if rows * columns else 0
        if whole:
            _ask_ahead(corner + 16 * sw * c, rows, down, 4 * sw * c)
        for k in range(0, 4 * whole, BYTES):
            if sums:
                v = _sum(corner + k, rows, down, columns, across) / splat(divisor)
            else:
                v = _largest(corner + k, rows, down, columns, across)
            if past:
                stream(y + 4 * j * c + k, v)
            else:
                store(y + 4 * j * c + k, v)
        for k in range(whole, c, LANES):
            v = splat(np.float32(0.0)) if sums else splat(LOWEST)
            for a in range(rows):
                for b in range(columns):
                    one = _some(corner + 4 * k + a * down + b * across, c - k)
                    v = v + one if sums else maximum(v, one)
            if sums:
                v = v / splat(divisor)
            _put(y + 4 * (j * c + k), v, c - k)
    if past:
        settle(0)


@inner
def _clear_rows(x, w, c, start, stop, rows):
    """Zeros in channels [start, stop) of some rows."""
    for i in range(rows * w):
        for k in range(start, stop, LANES):
            _put(x + 4 * (i * c + k), splat(np.float32(0.0)), stop - k)


@task
def max_grad_rows(
    block, worker, grad: ptr, x: ptr, y: ptr, dx: ptr, n: i64, c: i64, h: i64, w: i64, oh: i64,
    ow: i64, kh: i64, kw: i64, sh: i64, sw: i64, ph: i64, pw: i64, dh: i64, dw: i64, tile: i64,
):  # fmt: skip
    """`tile` channels of one image: each window's gradient goes to its first largest element."""
    tiles = (c + tile - 1) // tile
    image, start = block // tiles, block % tiles * tile
    stop = min(c, start + tile)
    x += 4 * image * h * w * c
    dx += 4 * image * h * w * c
    y += 4 * image * oh * ow * c
    grad += 4 * image * oh * ow * c
    none = splat(np.float32(0.0))
    clear = 0  # rows that hold zeros or gradients
    for i in range(oh):
        top = i * sh - ph
        first, last = _taps(top, h, kh, dh)
        upto = min(h, max(clear, top + (last - 1) * dh + 1))
        _clear_rows(dx + 4 * clear * w * c, w, c, start, stop, upto - clear)
        clear = upto
        for j in range(ow):
            left = j * sw - pw
            begin, end = _taps(left, w, kw, dw)
            for k in range(start, stop, LANES):
                lanes = stop - k
                o = 4 * ((i * ow + j) * c + k)
                g = _some(grad + o, lanes)
                v = _some(y + o, lanes)
                for a in range(first, last):
                    at = 4 * (((top + a * dh) * w + left) * c + k)
                    for b in range(begin, end):
                        p = at + 4 * b * dw * c
                        one = _some(x + p, lanes)
                        hit = either(equal(one, v), is_nan(one))
                        _put(dx + p, _some(dx + p, lanes) + select(hit, g, none), lanes)
                        g = select(hit, none, g)
    _clear_rows(dx + 4 * clear * w * c, w, c, start, stop, h - clear)


@task
def sum_grad_rows(
    block, worker, grad: ptr, dx: ptr, n: i64, c: i64, h: i64, w: i64, oh: i64, ow: i64,
    kh: i64, kw: i64, sh: i64, sw: i64, ph: i64, pw: i64, divisor: f32,
):  # fmt: skip
    """One row of one image's gradient: the sum over the windows that hold each place."""
    image, i = block // h, block % h
    grad += 4 * image * oh * ow * c
    dx += 4 * block * w * c
    up = i + ph
    first = max(0, (up - kh + sh) // sh)
    last = min(oh, up // sh + 1)
    for j in range(w):
        right = j + pw
        begin = max(0, (right - kw + sw) // sw)
        end = min(ow, right // sw + 1)
        for k in range(0, c, LANES):
            v = splat(np.float32(0.0))
            for a in range(first, last):
                for b in range(begin, end):
                    v = v + _some(grad + 4 * ((a * ow + b) * c + k), c - k)
            _put(dx + 4 * (j * c + k), v / splat(divisor), c - k)


# -- 2x2 windows side by side, whole vectors of channels -------------------------------------------


@task
def max_of_four(
    block, worker, x: ptr, y: ptr, rows: i64, length: i64, c: i64, h: i64, w: i64, oh: i64, ow: i64
):  # fmt: skip
    """`length` rows of windows: the largest elements."""
    pixel, row = 4 * c, 4 * w * c
    for r in range(block * length, min(rows, (block + 1) * length)):
        image, i = r // oh, r % oh
        upper = x + (image * h + 2 * i) * row
        made = y + r * ow * pixel
        for _ in range(ow):
            for k in range(0, pixel, BYTES):
                at = upper + k
                below = at + row
                v = maximum(load(at), load(at + pixel))
                store(made + k, maximum(v, maximum(load(below), load(below + pixel))))
            upper += 2 * pixel
            made += pixel


@inner
def _first_hit(at, dx, v, g):
    """The gradient where an element is the largest or NaN, zero elsewhere; what is left of it."""
    none = splat(np.float32(0.0))
    one = load(at)
    hit = either(equal(one, v), is_nan(one))
    store(dx, select(hit, g, none))
    return select(hit, none, g)


@task
def max_of_four_grad(
    block, worker, grad: ptr, x: ptr, y: ptr, dx: ptr, rows: i64, length: i64, c: i64, h: i64,
    w: i64, oh: i64, ow: i64,
):  # fmt: skip
    """As `max_grad_rows` for `length` rows of windows; every element is written once."""
    pixel, row = 4 * c, 4 * w * c
    for r in range(block * length, min(rows, (block + 1) * length)):
        image, i = r // oh, r % oh
        corner = (image * h + 2 * i) * row
        upper, made = x + corner, dx + corner
        largest, given = y + r * ow * pixel, grad + r * ow * pixel
        for _ in range(ow):
            for k in range(0, pixel, BYTES):
                v = load(largest + k)
                g = _first_hit(upper + k, made + k, v, load(given + k))
                g = _first_hit(upper + k + pixel, made + k + pixel, v, g)
                g = _first_hit(upper + k + row, made + k + row, v, g)
                _first_hit(upper + k + row + pixel, made + k + row + pixel, v, g)
            upper += 2 * pixel
            made += 2 * pixel
            largest += pixel
            given += pixel
        if w > 2 * ow:  # no window has the last column
            _clear_rows(made, 1, c, 0, c, 1)
            _clear_rows(made + row, 1, c, 0, c, 1)
        if i == oh - 1 and h > 2 * oh:
            _clear_rows(dx + corner + 2 * row, w, c, 0, c, 1)


# -- planes ----------------------------------------------------------------------------------------


@inner
def _larger(v, one):
    """The larger number; NaN where either is."""
    return one if one > v or one != one else v


@task
def pool_planes(
    block, worker, x: ptr, y: ptr, planes: i64, h: i64, w: i64, oh: i64, ow: i64,
    kh: i64, kw: i64, sh: i64, sw: i64, ph: i64, pw: i64, dh: i64, dw: i64, divisor: f32,
    line: ptr, gap: i64, length: i64,
):  # fmt: skip
    """Planes: columns of the windows of a row first, into a line, then along it."""
    line += worker * gap
    sums = divisor != 0
    for plane in range(block * length, min(planes, (block + 1) * length)):
        source = x + 4 * plane * h * w
        target = y + 4 * plane * oh * ow
        for i in range(oh):
            top = i * sh - ph
            first, last = _taps(top, h, kh, dh)
            for k in range(0, w, LANES):
                v = splat(np.float32(0.0)) if sums else splat(LOWEST)
                for a in range(first, last):
                    one = _some(source + 4 * ((top + a * dh) * w + k), w - k)
                    v = v + one if sums else maximum(v, one)
                store(line + 4 * k, v)
            for j in range(ow):
                left = j * sw - pw
                begin, end = _taps(left, w, kw, dw)
                best = np.float32(0.0) if sums else LOWEST
                for b in range(begin, end):
                    value = load_f32(line + 4 * (left + b * dw))
                    best = best + value if sums else _larger(best, value)
                store_f32(target + 4 * (i * ow + j), best / divisor if sums else best)


@task
def max_grad_planes(
    block, worker, grad: ptr, x: ptr, y: ptr, dx: ptr, planes: i64, h: i64, w: i64, oh: i64,
    ow: i64, kh: i64, kw: i64, sh: i64, sw: i64, ph: i64, pw: i64, dh: i64, dw: i64, length: i64,
):  # fmt: skip
    """Planes: each window's gradient goes to its first largest element."""
    for plane in range(block * length, min(planes, (block + 1) * length)):
        source, made = x + 4 * plane * h * w, dx + 4 * plane * h * w
        given, best = grad + 4 * plane * oh * ow, y + 4 * plane * oh * ow
        for k in range(0, h * w, LANES):
            _put(made + 4 * k, splat(np.float32(0.0)), h * w - k)
        for i in range(oh):
            top = i * sh - ph
            first, last = _taps(top, h, kh, dh)
            for j in range(ow):
                left = j * sw - pw
                begin, end = _taps(left, w, kw, dw)
                v = load_f32(best + 4 * (i * ow + j))
                found = -1
                for a in range(last - 1, first - 1, -1):  # the first is found last: no branches
                    at = (top + a * dh) * w + left
                    for b in range(end - 1, begin - 1, -1):
                        one = load_f32(source + 4 * (at + b * dw))
                        found = at + b * dw if one == v or one != one else found
                if found >= 0:
                    p = made + 4 * found
                    store_f32(p, load_f32(p) + load_f32(given + 4 * (i * ow + j)))


@task
def sum_grad_planes(
    block, worker, grad: ptr, dx: ptr, planes: i64, h: i64, w: i64, oh: i64, ow: i64,
    kh: i64, kw: i64, sh: i64, sw: i64, ph: i64, pw: i64, divisor: f32, length: i64,
):  # fmt: skip
    """Planes: each window's gradient goes to all its places."""
    for plane in range(block * length, min(planes, (block + 1) * length)):
        made = dx + 4 * plane * h * w
        given = grad + 4 * plane * oh * ow
        for k in range(0, h * w, LANES):
            _put(made + 4 * k, splat(np.float32(0.0)), h * w - k)
        for i in range(oh):
            top = i * sh - ph
            first, last = _taps(top, h, kh, 1)
            for j in range(ow):
                left = j * sw - pw
                begin, end = _taps(left, w, kw, 1)
                g = load_f32(given + 4 * (i * ow + j)) / divisor
                for a in range(first, last):
                    at = made + 4 * ((top + a) * w + left)
                    for b in range(begin, end):
                        store_f32(at + 4 * b, load_f32(at + 4 * b) + g)
