"""Sums, differences and products over flat memory."""

from __future__ import annotations

from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.vector import (
    BYTES,
    fma,
    load,
    load_f32,
    load_part,
    settle,
    splat,
    store,
    store_part,
    stream,
)


def _same(name, function):
    """The task `y[i] = function(a[i], b[i])` of one block."""
    body = inner(function)

    def run(block, worker, a: ptr, b: ptr, y: ptr, size: i64, length: i64, past: i64):
        first = 4 * block * length
        last = min(first + 4 * length, 4 * size)
        whole = last - (last - first) % BYTES
        if past:
            for i in range(first, whole, BYTES):
                stream(y + i, body(load(a + i), load(b + i)))
            settle(0)
        else:
            for i in range(first, whole, BYTES):
                store(y + i, body(load(a + i), load(b + i)))
        if whole < last:
            rest = (last - whole) // 4
            store_part(
                y + whole, body(load_part(a + whole, rest), load_part(b + whole, rest)), rest
            )

    run.__name__ = name
    return task(run)


def _rows(name, function):
    """The task `y[i, j] = function(a[i, j], b[j])` of `length` rows."""
    body = inner(function)

    def run(block, worker, a: ptr, b: ptr, y: ptr, rows: i64, size: i64, length: i64, past: i64):
        whole = 4 * size - 4 * size % BYTES
        rest = (4 * size - whole) // 4
        for row in range(block * length, min((block + 1) * length, rows)):
            source, target = a + 4 * row * size, y + 4 * row * size
            if past:
                for i in range(0, whole, BYTES):
                    stream(target + i, body(load(source + i), load(b + i)))
            else:
                for i in range(0, whole, BYTES):
                    store(target + i, body(load(source + i), load(b + i)))
            if rest:
                found = body(load_part(source + whole, rest), load_part(b + whole, rest))
                store_part(target + whole, found, rest)
        settle(0)

    run.__name__ = name
    return task(run)


def _planes(name, function):
    """The task `y[i, j, k] = function(a[i, j, k], b[j])` of one i and j."""
    body = inner(function)

    def run(block, worker, a: ptr, b: ptr, y: ptr, size: i64, across: i64, past: i64):
        n = splat(load_f32(b + 4 * (block % size)))
        first = 4 * block * across
        last = first + 4 * across
        whole = last - (last - first) % BYTES
        if past:
            for i in range(first, whole, BYTES):
                stream(y + i, body(load(a + i), n))
            settle(0)
        else:
            for i in range(first, whole, BYTES):
                store(y + i, body(load(a + i), n))
        if whole < last:
            rest = (last - whole) // 4
            store_part(y + whole, body(load_part(a + whole, rest), n), rest)

    run.__name__ = name
    return task(run)


def _add(a, b):
    return a + b


def _sub(a, b):
    return a - b


def _mul(a, b):
    return a * b


add_same, add_rows = _same("add_same", _add), _rows("add_rows", _add)
sub_same, sub_rows = _same("sub_same", _sub), _rows("sub_rows", _sub)
mul_same, mul_rows = _same("mul_same", _mul), _rows("mul_rows", _mul)
add_planes, sub_planes = _planes("add_planes", _add), _planes("sub_planes", _sub)
mul_planes = _planes("mul_planes", _mul)


@task
def affine(
    block, worker, x: ptr, y: ptr, size: i64, length: i64, past: i64, factor: f32, term: f32
):
    """y = x factor + term, rounded once: exact for a factor 1 or a term 0."""
    k, m = splat(factor), splat(term)
    first = 4 * block * length
    last = min(first + 4 * length, 4 * size)
    whole = last - (last - first) % BYTES
    if past:
        for i in range(first, whole, BYTES):
            stream(y + i, fma(load(x + i), k, m))
        settle(0)
    else:
        for i in range(first, whole, BYTES):
            store(y + i, fma(load(x + i), k, m))
    if whole < last:
        rest = (last - whole) // 4
        store_part(y + whole, fma(load_part(x + whole, rest), k, m), rest)
