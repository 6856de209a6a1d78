"""The block of a matrix product in registers that adds to what is there, and packing for it."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tensorlib.kernels.cpu import host
from tensorlib.kernels.cpu.compiler import inner
from tensorlib.kernels.cpu.vector import (
    BYTES,
    F32,
    I32,
    I64,
    LANES,
    VECTOR,
    constant,
    emit_call,
    emit_load,
    emit_load_part,
    emit_prefetch,
    emit_splat,
    emit_store,
    emit_store_part,
    load,
    load_f32,
    load_part,
    store,
    store_f32,
    store_part,
)
from tensorlib.kernels.cpu.wide import prefetch

ROWS = host.blocking().rows
VECTORS = host.blocking().vectors
PANEL = host.blocking().panel
UNROLLED = 4
TOGETHER = 4  # panels that are packed at the same time
AHEAD = 12  # rows of memory that are fetched before they are packed
VECTORS_OF_ROWS = -(-ROWS // LANES)


def _number(value: int) -> Any:
    return ir.Constant(I64, value)


def _expect(b: Any, start: Any, start_stride: Any, out: Any, stride: Any) -> None:
    """Fetch what is read and stored at the end while the depth runs."""
    for i in range(ROWS):
        emit_prefetch(b, b.add(start, b.mul(start_stride, _number(i))), False)
        emit_prefetch(b, b.add(out, b.mul(stride, _number(i))), True)


def _finish(
    b: Any,
    sums: Any,
    start: tuple[Any, Any],
    out: tuple[Any, Any],
    count: Any,
    columns: Any,
    clamp: Any,
) -> None:
    """Store `count` rows and `columns` columns of the sums and what they start with, clamped;
    `start` and `out` are an address and a stride.
    """
    low, high = clamp
    below = b.fcmp_ordered(">", low, ir.Constant(F32, -math.inf))
    above = b.fcmp_ordered("<", high, ir.Constant(F32, math.inf))

    def limited(value: Any) -> Any:
        least, most = emit_splat(b, low), emit_splat(b, high)
        value = b.select(b.fcmp_ordered("<", value, least), least, value)
        return b.select(b.fcmp_ordered(">", value, most), most, value)

    with b.if_else(b.or_(below, above)) as (clamped, plain):
        with clamped:
            _store(b, sums, start, out, count, columns, limited)
        with plain:
            _store(b, sums, start, out, count, columns, lambda value: value)


def _store(
    b: Any,
    sums: Any,
    start: tuple[Any, Any],
    out: tuple[Any, Any],
    count: Any,
    columns: Any,
    change: Any,
) -> None:
    whole = b.icmp_signed(">=", columns, _number(PANEL))
    for i, row in enumerate(sums):
        with b.if_then(b.icmp_signed(">", count, _number(i))):
            source, target = (b.add(at, b.mul(by, _number(i))) for at, by in (start, out))
            with b.if_else(whole) as (full, partial):
                with full:
                    for j, slot in enumerate(row):
                        more = emit_load(b, b.add(source, _number(j * BYTES)))
                        value = change(b.fadd(b.load(slot), more))
                        emit_store(b, value, b.add(target, _number(j * BYTES)))
                with partial:
                    for j, slot in enumerate(row):
                        left = b.sub(columns, _number(j * LANES))
                        more = emit_load_part(b, b.add(source, _number(j * BYTES)), left)
                        value = change(b.fadd(b.load(slot), more))
                        emit_store_part(b, value, b.add(target, _number(j * BYTES)), left)


def _zeros(b: Any) -> list[list[Any]]:
    """The sums, in registers once LLVM has promoted the slots."""
    sums = [[cgutils.alloca_once(b, VECTOR) for _ in range(VECTORS)] for _ in range(ROWS)]
    for row in sums:
        for slot in row:
            b.store(constant(0.0), slot)
    return sums


def _step(b: Any, sums: Any, scalars: list[Any], panel: Any) -> None:
    vectors = [emit_load(b, b.add(panel, _number(j * BYTES))) for j in range(VECTORS)]
    for row, address in zip(sums, scalars, strict=True):
        number = emit_splat(b, emit_load(b, address, F32))
        for slot, vector in zip(row, vectors, strict=True):
            b.store(emit_call(b, "fma", number, vector, b.load(slot)), slot)


@intrinsic
def rows_block(
    context: Any,
    a: Any,
    a_stride: Any,
    panel: Any,
    depth: Any,
    start: Any,
    start_stride: Any,
    out: Any,
    out_stride: Any,
    count: Any,
    columns: Any,
    low: Any,
    high: Any,
) -> Any:
    """out = clamp(start + a b) for a block of ROWS x PANEL: `a` with rows `a_stride` bytes apart,
    each of `depth` numbers in a row, `b` a packed panel. `count` rows and `columns` columns exist.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        a, a_stride, panel, depth, start, start_stride, out, out_stride = args[:8]
        count, columns, low, high = args[8:]
        sums = _zeros(b)
        last = b.sub(count, _number(1))
        _expect(b, start, start_stride, out, out_stride)
        at_rows = [cgutils.alloca_once(b, I64) for _ in range(ROWS)]
        for i, slot in enumerate(at_rows):  # rows that do not exist repeat the last one
            place = b.select(b.icmp_signed("<", last, _number(i)), last, _number(i))
            b.store(b.add(a, b.mul(place, a_stride)), slot)
        at_panel = cgutils.alloca_once(b, I64)
        b.store(panel, at_panel)

        def steps(number: int) -> None:
            here, addresses = b.load(at_panel), [b.load(slot) for slot in at_rows]
            for u in range(number):
                scalars = [b.add(x, _number(4 * u)) for x in addresses]
                _step(b, sums, scalars, b.add(here, _number(u * VECTORS * BYTES)))
            b.store(b.add(here, _number(number * VECTORS * BYTES)), at_panel)
            for slot, address in zip(at_rows, addresses, strict=True):
                b.store(b.add(address, _number(4 * number)), slot)

        with cgutils.for_range(b, b.sdiv(depth, _number(UNROLLED))):
            steps(UNROLLED)
        with cgutils.for_range(b, b.srem(depth, _number(UNROLLED))):
            steps(1)
        _finish(b, sums, (start, start_stride), (out, out_stride), count, columns, (low, high))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 10, types.float32, types.float32), generate


@intrinsic
def columns_block(
    context: Any,
    a: Any,
    a_stride: Any,
    panel: Any,
    panel_stride: Any,
    depth: Any,
    start: Any,
    start_stride: Any,
    out: Any,
    out_stride: Any,
    count: Any,
    columns: Any,
    low: Any,
    high: Any,
) -> Any:
    """As `rows_block` for `a` with the ROWS numbers of a step next to each other, and steps
    `a_stride` bytes apart; steps of `b` are `panel_stride` bytes apart.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        a, a_stride, panel, panel_stride, depth, start, start_stride, out, out_stride = args[:9]
        count, columns, low, high = args[9:]
        sums = _zeros(b)
        _expect(b, start, start_stride, out, out_stride)
        at_a, at_b = cgutils.alloca_once(b, I64), cgutils.alloca_once(b, I64)
        b.store(a, at_a)
        b.store(panel, at_b)

        def step() -> None:
            here, there = b.load(at_a), b.load(at_b)
            _step(b, sums, [b.add(here, _number(4 * i)) for i in range(ROWS)], there)
            b.store(b.add(here, a_stride), at_a)
            b.store(b.add(there, panel_stride), at_b)

        with cgutils.for_range(b, b.sdiv(depth, _number(UNROLLED))):
            for _ in range(UNROLLED):
                step()
        with cgutils.for_range(b, b.srem(depth, _number(UNROLLED))):
            step()
        _finish(b, sums, (start, start_stride), (out, out_stride), count, columns, (low, high))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 11, types.float32, types.float32), generate


def _mixed(b: Any, x: Any, y: Any, group: list[int]) -> Any:
    """In each four lanes, those of x (0 to 3) and y (4 to 7) that `group` lists."""
    lanes = [
        k + base if k < 4 else k - 4 + base + LANES for base in range(0, LANES, 4) for k in group
    ]
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, LANES), lanes))


def _turned(b: Any, rows: list[Any]) -> list[Any]:
    """The transpose of LANES vectors: blocks of 4 x 4 within themselves, then the blocks."""
    parts: list[list[Any]] = [[] for _ in range(4)]  # [column of four][rows / 4]
    for i in range(0, LANES, 4):
        r = rows[i : i + 4]
        a, c = (_mixed(b, r[k], r[k + 1], [0, 4, 1, 5]) for k in (0, 2))
        d, e = (_mixed(b, r[k], r[k + 1], [2, 6, 3, 7]) for k in (0, 2))
        for k, (x, y) in enumerate(((a, c), (d, e))):
            parts[2 * k].append(_mixed(b, x, y, [0, 1, 4, 5]))
            parts[2 * k + 1].append(_mixed(b, x, y, [2, 3, 6, 7]))
    kind, half = ir.VectorType(I32, LANES), LANES // 2
    # vectors i and i + half with their groups of four interleaved, log2(LANES / 4) times
    low = [i % 4 + i // 8 * 4 + i // 4 % 2 * LANES for i in range(LANES)]
    high = [half + i for i in low]
    for _ in range((LANES // 4).bit_length() - 1):
        for k, vectors in enumerate(parts):
            count = len(vectors) // 2
            parts[k] = [
                b.shuffle_vector(vectors[i], vectors[i + count], ir.Constant(kind, lanes))
                for i in range(count)
                for lanes in (low, high)
            ]
    return [parts[i % 4][i // 4] for i in range(LANES)]


@intrinsic
def turn(context: Any, source: Any, stride: Any, out: Any, out_stride: Any) -> Any:
    """Transpose LANES x LANES numbers; strides of rows in bytes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        source, stride, out, out_stride = args
        rows = [emit_load(b, b.add(source, b.mul(stride, _number(i)))) for i in range(LANES)]
        rows = _turned(b, rows)
        for i, row in enumerate(rows):
            emit_store(b, row, b.add(out, b.mul(out_stride, _number(i))))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4), generate


@intrinsic
def turn_part(context: Any, source: Any, stride: Any, count: Any, out: Any, out_stride: Any) -> Any:
    """As `turn` for rows of `count` numbers, at most LANES; as many rows of LANES are stored, with
    zeros behind the first `count`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        source, stride, count, out, out_stride = args
        places = [b.add(source, b.mul(stride, _number(i))) for i in range(LANES)]
        rows = _turned(b, [emit_load_part(b, place, count) for place in places])
        for i, row in enumerate(rows):
            emit_store(b, row, b.add(out, b.mul(out_stride, _number(i))))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), generate


@inner
def pack_panel(source, step, stride, depth, columns, out):
    """[depth, PANEL] of a matrix whose rows are `step` bytes and whose `columns` columns are
    `stride` bytes apart; zeros behind the last column.
    """
    if stride == 4:
        for k in range(depth):
            for j in range(0, PANEL, LANES):
                at = out + (k * PANEL + j) * 4
                if columns - j >= LANES:
                    store(at, load(source + k * step + 4 * j))
                else:
                    store(at, load_part(source + k * step + 4 * j, columns - j))
        return
    whole, turned = 0, 0
    if step == 4:
        whole = depth // LANES * LANES
        turned = columns // LANES * LANES
        for j in range(0, turned, LANES):
            for k in range(0, whole, LANES):
                turn(source + j * stride + 4 * k, stride, out + (k * PANEL + j) * 4, 4 * PANEL)
    for j in range(columns):
        for k in range(whole if j < turned else 0, depth):
            store_f32(out + (k * PANEL + j) * 4, load_f32(source + j * stride + k * step))
    for j in range(columns, PANEL):
        for k in range(depth):
            store_f32(out + (k * PANEL + j) * 4, 0.0)


@inner
def pack_rows(source, stride, step, depth, count, out):
    """[depth, ROWS] of `count` rows `stride` bytes apart, their numbers `step` bytes apart; zeros
    behind the last row. Up to a vector behind the end is overwritten.
    """
    if stride == 4 and count == ROWS:
        for k in range(depth):
            for i in range(0, ROWS, LANES):
                store(out + (k * ROWS + i) * 4, load_part(source + k * step + 4 * i, ROWS - i))
        return
    for i in range(count):
        for k in range(depth):
            store_f32(out + (k * ROWS + i) * 4, load_f32(source + i * stride + k * step))
    for i in range(count, ROWS):
        for k in range(depth):
            store_f32(out + (k * ROWS + i) * 4, 0.0)


@inner
def pack_panels(source, step, stride, depth, columns, out):
    """All panels of `columns` columns, one after the other; see `pack_panel`."""
    size = depth * PANEL * 4
    n = 0
    if stride == 4:  # some panels at a time: memory is read in longer pieces
        while columns - n * PANEL >= TOGETHER * PANEL:
            for k in range(depth):
                place = source + k * step + n * PANEL * 4
                target = out + n * size + k * PANEL * 4
                for i in range(TOGETHER):
                    prefetch(place + AHEAD * step + i * PANEL * 4)
                    for j in range(VECTORS):
                        store(
                            target + i * size + j * BYTES, load(place + i * PANEL * 4 + j * BYTES)
                        )
            n += TOGETHER
    while n * PANEL < columns:
        wide = min(PANEL, columns - n * PANEL)
        pack_panel(source + n * PANEL * stride, step, stride, depth, wide, out + n * size)
        n += 1


@inner
def pack_tiles(source, stride, step, depth, rows, out):
    """All blocks of ROWS rows, one after the other; see `pack_rows`."""
    size = depth * ROWS * 4
    m = 0
    if stride == 4:
        rest = ROWS - (VECTORS_OF_ROWS - 1) * LANES
        while rows - m >= TOGETHER * ROWS:
            base = out + m // ROWS * size
            for k in range(depth):
                place = source + k * step + m * 4
                target = base + k * ROWS * 4
                prefetch(place + AHEAD * step)
                for i in range(TOGETHER):
                    for j in range(VECTORS_OF_ROWS - 1):
                        at = target + i * size + j * BYTES
                        store(at, load(place + i * ROWS * 4 + j * BYTES))
                    j = (VECTORS_OF_ROWS - 1) * BYTES
                    last = load_part(place + i * ROWS * 4 + j, rest)
                    if k == depth - 1:
                        store_part(target + i * size + j, last, rest)
                    else:
                        store(target + i * size + j, last)
            m += TOGETHER * ROWS
    while m < rows:
        pack_rows(
            source + m * stride, stride, step, depth, min(ROWS, rows - m), out + m // ROWS * size
        )
        m += ROWS
