"""Convolutions and products of whole numbers of 8 bits, for models made ready for inference.

Activations are 0..127, so that two products with weights of -127..127 fit in 16 bits: `pmaddubsw`
multiplies and adds pairs, `pmaddwd` adds pairs of those to 32 bits. Four numbers of the depth lie
together: a step of `multiply` broadcasts four of a row and takes 16 columns of a packed panel
[taps, depth / 4, 16, 4]. Sums of 32 bits are exact; scale, bias, sum and limits are float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tensorlib.kernels.cpu import NOTHING, host
from tensorlib.kernels.cpu.compiler import f32, i64, ptr, task
from tensorlib.kernels.cpu.tasks.convolution import fill_rows
from tensorlib.kernels.cpu.tasks.gemm import ROWS
from tensorlib.kernels.cpu.vector import (
    F32,
    I8,
    I32,
    I64,
    emit_load,
    emit_prefetch,
    emit_splat,
    emit_store,
    load_f32,
    store_i64,
    store_u8,
)

LANES = 8  # numbers of 32 bits in a vector, on any CPU
VECTORS = 2
PANEL = LANES * VECTORS
WIDE = 32  # numbers made bytes at a time

_BYTES = ir.VectorType(I8, 4 * LANES)
_SHORTS = ir.VectorType(ir.IntType(16), 2 * LANES)
_INTS = ir.VectorType(I32, LANES)
_FLOATS = ir.VectorType(F32, LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_NATIVE = bool(host.features().get("avx2"))


def _number(value: int) -> Any:
    return ir.Constant(I64, value)


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def _pairs(builder: Any, v: Any) -> Any:
    """The sums of neighbours."""
    count = v.type.count // 2
    undefined, kind = ir.Constant(v.type, ir.Undefined), ir.VectorType(I32, count)
    even, odd = (
        builder.shuffle_vector(v, undefined, ir.Constant(kind, [2 * i + k for i in range(count)]))
        for k in range(2)
    )
    return builder.add(even, odd)


def _dot(builder: Any, x: Any, w: Any) -> Any:
    """Sums of four products each, of bytes 0..127 and -127..127."""
    if _NATIVE:
        pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", _SHORTS, x, w)
        ones = ir.Constant(_SHORTS, [1] * 2 * LANES)
        return _call(builder, "llvm.x86.avx2.pmadd.wd", _INTS, pairs, ones)
    wide = ir.VectorType(ir.IntType(16), 4 * LANES)
    pairs = _pairs(builder, builder.mul(builder.zext(x, wide), builder.sext(w, wide)))
    return _pairs(builder, builder.sext(pairs, ir.VectorType(I32, 2 * LANES)))


def _lanes(builder: Any, count: Any) -> Any:
    steps = ir.Constant(_INTS, list(range(LANES)))
    return builder.icmp_signed("<", steps, emit_splat(builder, builder.trunc(count, I32), _INTS))


def _load_part(builder: Any, address: Any, count: Any) -> Any:
    at = builder.inttoptr(address, _FLOATS.as_pointer())
    none = ir.Constant(_FLOATS, [0.0] * LANES)
    name = f"llvm.masked.load.v{LANES}f32.p0"
    return _call(
        builder, name, _FLOATS, at, ir.Constant(I32, 4), _lanes(builder, count), none
    )  # fmt: skip


def _store_part(builder: Any, value: Any, address: Any, count: Any) -> None:
    at = builder.inttoptr(address, _FLOATS.as_pointer())
    name = f"llvm.masked.store.v{LANES}f32.p0"
    four = ir.Constant(I32, 4)
    _call(builder, name, ir.VoidType(), value, at, four, _lanes(builder, count))


class _Finish:
    """What becomes of sums: scale, bias, what lies `delta` bytes away, limits; then the store."""

    def __init__(
        self, builder: Any, scale: Any, bias: Any, delta: Any, floor: Any, ceiling: Any
    ) -> None:
        self.builder, self.scale, self.bias, self.delta = builder, scale, bias, delta
        self.added = builder.icmp_signed("!=", delta, _number(NOTHING))
        self.low, self.high = (emit_splat(builder, v, _FLOATS) for v in (floor, ceiling))

    def _finished(self, sums: Any, j: int, at: Any, part: Any) -> Any:
        b, shift = self.builder, _number(4 * LANES * j)
        scale = emit_load(b, b.add(self.scale, shift), _FLOATS)
        bias = emit_load(b, b.add(self.bias, shift), _FLOATS)
        value = b.fadd(b.fmul(b.sitofp(sums, _FLOATS), scale), bias)
        slot = cgutils.alloca_once(b, _FLOATS)
        b.store(value, slot)
        with b.if_then(self.added):
            there = b.add(at, self.delta)
            other = emit_load(b, there, _FLOATS) if part is None else _load_part(b, there, part)
            b.store(b.fadd(value, other), slot)
        value = b.load(slot)
        value = b.select(b.fcmp_ordered("<", value, self.low), self.low, value)
        return b.select(b.fcmp_ordered(">", value, self.high), self.high, value)

    def store(self, row: list[Any], address: Any, columns: Any) -> None:
        """A row of sums, `columns` of them if fewer than PANEL."""
        b = self.builder
        with b.if_else(b.icmp_signed(">=", columns, _number(PANEL))) as (full, partial):
            with full:
                for j, slot in enumerate(row):
                    at = b.add(address, _number(4 * LANES * j))
                    emit_store(b, self._finished(b.load(slot), j, at, None), at)
            with partial:
                for j, slot in enumerate(row):
                    left = b.sub(columns, _number(j * LANES))
                    with b.if_then(b.icmp_signed(">", left, _number(0))):
                        at = b.add(address, _number(4 * LANES * j))
                        _store_part(b, self._finished(b.load(slot), j, at, left), at, left)


@intrinsic
def multiply(
    context: Any,
    rows: Any,
    taps: Any,
    fours: Any,
    panel: Any,
    outs: Any,
    offset: Any,
    count: Any,
    columns: Any,
    scale: Any,
    bias: Any,
    delta: Any,
    floor: Any,
    ceiling: Any,
) -> Any:
    """Outputs = clamp(rows times panel * scale + bias + what lies `delta` bytes from them), as
    `gemm.multiply` with a depth of `fours` times four bytes; `scale` and `bias` have PANEL numbers.
    """
    arguments = (types.int64,) * 11 + (types.float32,) * 2

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, taps, fours, panel, outs, offset, count, columns, *rest = args
        b, zero = builder, ir.Constant(_INTS, [0] * LANES)
        sums = [[cgutils.alloca_once(b, _INTS) for _ in range(VECTORS)] for _ in range(ROWS)]
        for slot in (slot for row in sums for slot in row):
            b.store(zero, slot)
        for i in range(ROWS):  # what is stored at the end is fetched while the depth runs
            at = b.add(emit_load(b, b.add(outs, _number(8 * i)), I64, 8), offset)
            emit_prefetch(b, at, True)
        at_panel = cgutils.alloca_once(b, I64)
        b.store(panel, at_panel)
        at_rows = [cgutils.alloca_once(b, I64) for _ in range(ROWS)]

        def step() -> None:  # one at a time: more of them together spill registers
            here = b.load(at_panel)
            at = [b.add(here, _number(4 * j * LANES)) for j in range(VECTORS)]
            vectors = [emit_load(b, a, _BYTES) for a in at]
            for row, pointer in zip(sums, at_rows, strict=True):
                address = b.load(pointer)
                four = emit_load(b, address, I32, 1)
                x = b.bitcast(emit_splat(b, four, _INTS), _BYTES)
                for slot, vector in zip(row, vectors, strict=True):
                    b.store(b.add(b.load(slot), _dot(b, x, vector)), slot)
                b.store(b.add(address, _number(4)), pointer)
            b.store(b.add(here, _number(4 * PANEL)), at_panel)

        with cgutils.for_range(b, taps) as loop:
            table = b.add(rows, b.mul(loop.index, _number(8 * ROWS)))
            for i, slot in enumerate(at_rows):
                b.store(emit_load(b, b.add(table, _number(8 * i)), I64, 8), slot)
            with cgutils.for_range(b, fours):
                step()
        finish = _Finish(b, *rest)
        for i, row in enumerate(sums):
            with b.if_then(b.icmp_signed(">", count, _number(i))):
                at = b.add(emit_load(b, b.add(outs, _number(8 * i)), I64, 8), offset)
                finish.store(row, at, columns)
        return context.get_dummy_value()

    return types.void(*arguments), generate


@intrinsic
def _bytes_of(context: Any, source: Any, target: Any, factor: Any, offset: Any) -> Any:
    """WIDE numbers x as bytes: x * factor + offset without its fraction, in 0..127; 0 for NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target, factor, offset = args
        b, kind = builder, ir.VectorType(F32, WIDE)
        value = b.fmul(emit_load(b, source, kind), emit_splat(b, factor, kind), flags=["contract"])
        value = b.fadd(value, emit_splat(b, offset, kind), flags=["contract"])
        least, most = (ir.Constant(kind, [v] * WIDE) for v in (0.0, 127.0))
        value = b.select(b.fcmp_ordered(">", value, least), value, least)
        value = b.select(b.fcmp_ordered("<", value, most), value, most)
        whole = b.fptosi(value, ir.VectorType(I32, WIDE))
        emit_store(b, b.trunc(whole, ir.VectorType(I8, WIDE)), target, 1)
        return context.get_dummy_value()

    kinds = (types.int64, types.int64, types.float32, types.float32)
    return types.void(*kinds), generate


@task
def quantise(
    block,
    worker,
    x: ptr,
    out: ptr,
    rows: i64,
    step: i64,
    depth: i64,
    padded: i64,
    factor: f32,
    offset: f32,
):
    """`step` of `rows` rows of `depth` numbers as rows of `padded` bytes, zeros at their ends."""
    first = block * step
    last = min(first + step, rows)
    width = depth
    if depth == padded:  # one long row
        first, width, last = first * depth, last * depth - first * depth, first * depth + 1
    for row in range(first, last):
        source = x + row * (depth * 4 if depth != padded else 4)
        target = out + row * (padded if depth != padded else 1)
        for k in range(0, width - WIDE + 1, WIDE):
            _bytes_of(source + 4 * k, target + k, factor, offset)
        for k in range(width // WIDE * WIDE, width):
            value = load_f32(source + 4 * k) * factor + offset
            value = value if value > np.float32(0) else np.float32(0)
            value = value if value < np.float32(127) else np.float32(127)
            store_u8(target + k, int(value))
        if depth != padded:
            for k in range(depth, padded):
                store_u8(target + k, 0)


@task
def convolve(
    block,
    worker,
    x: ptr,
    packed: ptr,
    y: ptr,
    scale: ptr,
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
    depth: i64,
    columns: i64,
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
    """Output rows `step * (block // splits)` and on, a part of the panels; as the task of float32,
    of one group and of pixels of `depth` bytes, a multiple of four.
    """
    part = block // splits
    split = block - part * splits
    first = part * step
    last = min(first + step, rows)
    tiles = (last - first + ROWS - 1) // ROWS
    taps = kh * kw
    panels = (columns + PANEL - 1) // PANEL
    table = scratch + worker * scratch_stride
    outs = table + tiles * taps * ROWS * 8
    for m in range(tiles * ROWS):
        store_i64(outs + m * 8, y + min(first + m, last - 1) * columns * 4)
    if taps == 1 and sh == 1 and sw == 1 and ph == 0 and pw == 0:
        for m in range(tiles * ROWS):
            store_i64(table + m * 8, x + min(first + m, last - 1) * depth)
    else:
        fill_rows(
            table, first, last, tiles, x, h, w, depth, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, zero
        )
    for n in range(split * panels // splits, (split + 1) * panels // splits):
        for tile in range(tiles):
            multiply(
                table + tile * taps * ROWS * 8, taps, depth // 4, packed + n * taps * depth * PANEL,
                outs + tile * ROWS * 8, n * PANEL * 4, min(ROWS, last - first - tile * ROWS),
                columns - n * PANEL, scale + n * PANEL * 4, bias + n * PANEL * 4, delta,
                floor, ceiling,
            )  # fmt: skip
