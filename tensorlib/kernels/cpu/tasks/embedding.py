"""Rows looked up by index, and the gradient of their table."""

from __future__ import annotations

from tensorlib.kernels.cpu.compiler import i64, ptr, task
from tensorlib.kernels.cpu.vector import (
    BYTES,
    load,
    load_f32,
    load_i64,
    load_part,
    splat,
    store,
    store_f32,
    store_part,
)


@task
def take_rows(block, worker, table: ptr, rows: ptr, out: ptr, number: i64, size: i64, length: i64):
    """Copies of rows of the table."""
    whole = 4 * size - 4 * size % BYTES
    rest = (4 * size - whole) // 4
    for n in range(block * length, min((block + 1) * length, number)):
        source, target = table + 4 * size * load_i64(rows + 8 * n), out + 4 * size * n
        for i in range(0, whole, BYTES):
            store(target + i, load(source + i))
        if rest:
            store_part(target + whole, load_part(source + whole, rest), rest)


@task
def take_rows_grad(
    block, worker, grad: ptr, rows: ptr, out: ptr, number: i64, size: i64, count: i64, length: i64,
    padding: i64,
):  # fmt: skip
    """The rows of one block of the table: zeros, to which rows of `grad` are added in order."""
    first = block * length
    last = min(first + length, count)
    end = out + 4 * last * size
    i = out + 4 * first * size
    while i + BYTES <= end:
        store(i, splat(0.0))
        i += BYTES
    while i < end:
        store_f32(i, 0.0)
        i += 4
    whole = 4 * size - 4 * size % BYTES
    for n in range(number):
        row = load_i64(rows + 8 * n)
        if first <= row < last and row != padding:
            source, target = grad + 4 * size * n, out + 4 * size * row
            for j in range(0, whole, BYTES):
                store(target + j, load(target + j) + load(source + j))
            for j in range(whole, 4 * size, 4):
                store_f32(target + j, load_f32(target + j) + load_f32(source + j))
