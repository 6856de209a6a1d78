"""The register-blocked matrix product that convolutions and matrix products share.

`multiply` computes a block of ROWS x PANEL numbers that stays in registers while the depth runs:
each step broadcasts one number of each row and multiplies it with the vectors of a packed panel.
Rows come as addresses, one set for each tap, so that a convolution is a matrix product without
copying windows (an indirection buffer: Dukhan, "The Indirect Convolution Algorithm", 2019).

`outer` adds a product of two matrices over their rows, A^T B, to a block: gradients of weights.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tensorlib.kernels.cpu import NOTHING, host
from tensorlib.kernels.cpu.compiler import i64, ptr, task
from tensorlib.kernels.cpu.tasks.panels import pack_panel
from tensorlib.kernels.cpu.vector import (
    BYTES,
    F32,
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
)

ROWS = host.blocking().rows
VECTORS = host.blocking().vectors
PANEL = host.blocking().panel
STEPS = 4  # of the depth that are unrolled


def _number(value: int) -> Any:
    return ir.Constant(I64, value)


class _Block:
    """The sums of a block in registers: LLVM promotes the slots."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.sums = [
            [cgutils.alloca_once(builder, VECTOR) for _ in range(VECTORS)] for _ in range(ROWS)
        ]

    def fill(self, values: list[Any]) -> None:
        for row in self.sums:
            for slot, value in zip(row, values, strict=True):
                self.builder.store(value, slot)

    def step(self, scalars: list[Any], panel: Any) -> None:
        """Add the product of ROWS addresses of numbers and the panel's vectors at an address."""
        b = self.builder
        vectors = [emit_load(b, b.add(panel, _number(j * BYTES))) for j in range(VECTORS)]
        for row, address in zip(self.sums, scalars, strict=True):
            number = emit_splat(b, emit_load(b, address, F32))
            for slot, vector in zip(row, vectors, strict=True):
                b.store(emit_call(b, "fma", number, vector, b.load(slot)), slot)


def _stored(builder: Any, row: list[Any], address: Any, columns: Any, change: Any) -> None:
    """Store a row of sums after `change(sum, old address, part)`; `columns` of them if fewer."""
    whole = builder.icmp_signed(">=", columns, _number(PANEL))
    with builder.if_else(whole) as (full, partial):
        with full:
            for j, slot in enumerate(row):
                at = builder.add(address, _number(j * BYTES))
                emit_store(builder, change(builder.load(slot), at, None), at)
        with partial:
            for j, slot in enumerate(row):
                left = builder.sub(columns, _number(j * LANES))
                at = builder.add(address, _number(j * BYTES))
                vector = builder.icmp_signed(">=", left, _number(LANES))
                with builder.if_else(vector) as (inside, rest):
                    with inside:
                        emit_store(builder, change(builder.load(slot), at, None), at)
                    with rest, builder.if_then(builder.icmp_signed(">", left, _number(0))):
                        emit_store_part(builder, change(builder.load(slot), at, left), at, left)


@intrinsic
def multiply(
    context: Any,
    rows: Any,
    taps: Any,
    depth: Any,
    panel: Any,
    outs: Any,
    offset: Any,
    count: Any,
    columns: Any,
    bias: Any,
    delta: Any,
    floor: Any,
    ceiling: Any,
) -> Any:
    """Outputs = clamp(rows times panel + bias + what lies `delta` bytes from them).

    `rows` is a table of ROWS addresses for each tap, `outs` one of ROWS addresses, to which
    `offset` is added; `count` rows and `columns` columns of the block are stored. `bias` (PANEL
    numbers) may be 0: none, and `delta` NOTHING; 0 is the outputs' own place. NaN passes the clamp.
    """
    arguments = (types.int64,) * 10 + (types.float32,) * 2

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, taps, depth, panel, outs, offset, count, columns, bias, delta, floor, ceiling = args
        b = builder
        block = _Block(b)
        with b.if_else(b.icmp_signed("!=", bias, _number(0))) as (given, absent):
            with given:
                block.fill([emit_load(b, b.add(bias, _number(j * BYTES))) for j in range(VECTORS)])
            with absent:
                block.fill([constant(0.0)] * VECTORS)
        added = b.icmp_signed("!=", delta, _number(NOTHING))
        for i in range(ROWS):  # what is stored at the end is fetched while the depth runs
            address = b.add(emit_load(b, b.add(outs, _number(8 * i)), I64, 8), offset)
            emit_prefetch(b, address, True)
            with b.if_then(added):
                emit_prefetch(b, b.add(address, delta), False)
        at_panel = cgutils.alloca_once(b, I64)
        b.store(panel, at_panel)
        at_rows = [cgutils.alloca_once(b, I64) for _ in range(ROWS)]

        def steps(number: int) -> None:
            here, addresses = b.load(at_panel), [b.load(slot) for slot in at_rows]
            for u in range(number):
                scalars = [b.add(a, _number(4 * u)) for a in addresses]
                block.step(scalars, b.add(here, _number(u * VECTORS * BYTES)))
            b.store(b.add(here, _number(number * VECTORS * BYTES)), at_panel)
            for slot, address in zip(at_rows, addresses, strict=True):
                b.store(b.add(address, _number(4 * number)), slot)

        with cgutils.for_range(b, taps) as loop:
            table = b.add(rows, b.mul(loop.index, _number(8 * ROWS)))
            for i, slot in enumerate(at_rows):
                b.store(emit_load(b, b.add(table, _number(8 * i)), I64, 8), slot)
            with cgutils.for_range(b, b.sdiv(depth, _number(STEPS))):
                steps(STEPS)
            with cgutils.for_range(b, b.srem(depth, _number(STEPS))):
                steps(1)
        low, high = emit_splat(b, floor), emit_splat(b, ceiling)

        def finish(value: Any, at: Any, part: Any) -> Any:
            slot = cgutils.alloca_once(b, VECTOR)
            b.store(value, slot)
            with b.if_then(added):
                there = b.add(at, delta)
                other = emit_load(b, there) if part is None else emit_load_part(b, there, part)
                b.store(b.fadd(value, other), slot)
            value = b.load(slot)
            value = b.select(b.fcmp_ordered("<", value, low), low, value)
            return b.select(b.fcmp_ordered(">", value, high), high, value)

        for i, row in enumerate(block.sums):
            with b.if_then(b.icmp_signed(">", count, _number(i))):
                address = b.add(emit_load(b, b.add(outs, _number(8 * i)), I64, 8), offset)
                _stored(b, row, address, columns, finish)
        return context.get_dummy_value()

    return types.void(*arguments), generate


@intrinsic
def outer(
    context: Any,
    a: Any,
    a_stride: Any,
    b: Any,
    b_stride: Any,
    length: Any,
    out: Any,
    out_stride: Any,
    count: Any,
    columns: Any,
    fresh: Any,
) -> Any:
    """out[i, j] (+)= sum over r of a[r, i] b[r, j], for a block of ROWS x PANEL; strides in bytes.

    `count` rows and `columns` columns are stored; `fresh` not 0: written instead of added. Rows of
    `a` and `b` are read in full blocks: their memory must go on behind the last one.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, a_stride, panel, b_stride, length, out, out_stride, count, columns, fresh = args
        b = builder
        block = _Block(b)
        block.fill([constant(0.0)] * VECTORS)
        for i in range(ROWS):  # what is stored at the end is fetched while the rows run
            emit_prefetch(b, b.add(out, b.mul(out_stride, _number(i))), True)
        at_a, at_b = cgutils.alloca_once(b, I64), cgutils.alloca_once(b, I64)
        b.store(a, at_a)
        b.store(panel, at_b)

        def step() -> None:
            row, here = b.load(at_a), b.load(at_b)
            block.step([b.add(row, _number(4 * i)) for i in range(ROWS)], here)
            b.store(b.add(row, a_stride), at_a)
            b.store(b.add(here, b_stride), at_b)

        with cgutils.for_range(b, b.sdiv(length, _number(STEPS))):
            for _ in range(STEPS):
                step()
        with cgutils.for_range(b, b.srem(length, _number(STEPS))):
            step()
        new = b.icmp_signed("!=", fresh, _number(0))

        def finish(value: Any, at: Any, part: Any) -> Any:
            slot = cgutils.alloca_once(b, VECTOR)
            b.store(value, slot)
            with b.if_then(b.not_(new)):
                old = emit_load(b, at) if part is None else emit_load_part(b, at, part)
                b.store(b.fadd(value, old), slot)
            return b.load(slot)

        for i, row in enumerate(block.sums):
            with b.if_then(b.icmp_signed(">", count, _number(i))):
                address = b.add(out, b.mul(out_stride, _number(i)))
                _stored(b, row, address, columns, finish)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 10), generate


@intrinsic
def multiply_line(
    context: Any,
    x: Any,
    x_step: Any,
    x_tap: Any,
    taps: Any,
    depth: Any,
    panel: Any,
    out: Any,
    out_step: Any,
    count: Any,
    columns: Any,
    bias: Any,
    floor: Any,
    ceiling: Any,
) -> Any:
    """As `multiply` for rows `x_step` bytes apart, taps `x_tap` and outputs `out_step` bytes apart:
    positions of one line of an image, without tables of addresses.
    """
    arguments = (types.int64,) * 11 + (types.float32,) * 2

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, x_step, x_tap, taps, depth, panel, out, out_step, count, columns = args[:10]
        bias, floor, ceiling = args[10:]
        b = builder
        block = _Block(b)
        with b.if_else(b.icmp_signed("!=", bias, _number(0))) as (given, absent):
            with given:
                block.fill([emit_load(b, b.add(bias, _number(j * BYTES))) for j in range(VECTORS)])
            with absent:
                block.fill([constant(0.0)] * VECTORS)
        last = b.sub(count, _number(1))
        shifts = []
        for i in range(ROWS):  # the last row again where there are fewer
            row = b.select(b.icmp_signed("<", _number(i), last), _number(i), last)
            shifts.append(b.mul(row, x_step))
        at_panel, at_row = cgutils.alloca_once(b, I64), cgutils.alloca_once(b, I64)
        b.store(panel, at_panel)

        def steps(number: int) -> None:
            here, row = b.load(at_panel), b.load(at_row)
            for u in range(number):
                scalars = [b.add(b.add(row, shift), _number(4 * u)) for shift in shifts]
                block.step(scalars, b.add(here, _number(u * VECTORS * BYTES)))
            b.store(b.add(here, _number(number * VECTORS * BYTES)), at_panel)
            b.store(b.add(row, _number(4 * number)), at_row)

        with cgutils.for_range(b, taps) as loop:
            b.store(b.add(x, b.mul(loop.index, x_tap)), at_row)
            with cgutils.for_range(b, b.sdiv(depth, _number(3))):
                steps(3)
            with cgutils.for_range(b, b.srem(depth, _number(3))):
                steps(1)
        low, high = emit_splat(b, floor), emit_splat(b, ceiling)

        def finish(value: Any, at: Any, part: Any) -> Any:
            value = b.select(b.fcmp_ordered("<", value, low), low, value)
            return b.select(b.fcmp_ordered(">", value, high), high, value)

        for i, row in enumerate(block.sums):
            with b.if_then(b.icmp_signed(">", count, _number(i))):
                _stored(b, row, b.add(out, b.mul(out_step, _number(i))), columns, finish)
        return context.get_dummy_value()

    return types.void(*arguments), generate


@intrinsic
def outer_lines(
    context: Any,
    offsets: Any,
    x: Any,
    x_step: Any,
    x_line: Any,
    grad: Any,
    grad_step: Any,
    grad_line: Any,
    length: Any,
    lines: Any,
    out: Any,
    out_stride: Any,
    count: Any,
    columns: Any,
    fresh: Any,
) -> Any:
    """out[i, :] (+)= sum over lines l and places r of x[l, r + offset i] grad[l, r, :], a block of
    ROWS taps x PANEL channels; strides, and the `offsets` (ROWS of them, int64), in bytes.

    `count` rows and `columns` columns are stored; `fresh` not 0: written instead of added. `grad`
    is read in full blocks: its memory must go on behind the last place.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        offsets, x, x_step, x_line, grad, grad_step, grad_line, length, lines = args[:9]
        out, out_stride, count, columns, fresh = args[9:]
        b = builder
        block = _Block(b)
        block.fill([constant(0.0)] * VECTORS)
        shifts = [emit_load(b, b.add(offsets, _number(8 * i)), I64, 8) for i in range(ROWS)]
        at_x, at_grad = cgutils.alloca_once(b, I64), cgutils.alloca_once(b, I64)
        with cgutils.for_range(b, lines) as loop:
            b.store(b.add(x, b.mul(loop.index, x_line)), at_x)
            b.store(b.add(grad, b.mul(loop.index, grad_line)), at_grad)
            with cgutils.for_range(b, length):
                row, here = b.load(at_x), b.load(at_grad)
                block.step([b.add(row, shift) for shift in shifts], here)
                b.store(b.add(row, x_step), at_x)
                b.store(b.add(here, grad_step), at_grad)
        new = b.icmp_signed("!=", fresh, _number(0))

        def finish(value: Any, at: Any, part: Any) -> Any:
            old = emit_load(b, at) if part is None else emit_load_part(b, at, part)
            return b.fadd(value, b.select(new, constant(0.0), old))

        for i, row in enumerate(block.sums):
            with b.if_then(b.icmp_signed(">", count, _number(i))):
                _stored(b, row, b.add(out, b.mul(out_stride, _number(i))), columns, finish)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 14), generate


@task
def pack(
    block,
    worker,
    w: ptr,
    out: ptr,
    taps_y: i64,
    taps_x: i64,
    depth: i64,
    columns: i64,
    stride_y: i64,
    stride_x: i64,
    step: i64,
    stride: i64,
    panels: i64,
    group_stride: i64,
):
    """Panel `block` of weights: [taps, depth, PANEL] for each panel of each group.

    Strides in bytes: of the taps (negative for a flipped kernel, with `w` at the last), of the
    depth (`step`), of the columns, of groups.
    """
    group = block // panels
    n = block - group * panels
    wide = min(PANEL, columns - n * PANEL)
    base = w + group * group_stride + n * PANEL * stride
    size = depth * PANEL * 4
    for y in range(taps_y):
        for x in range(taps_x):
            at = out + (block * taps_y * taps_x + y * taps_x + x) * size
            pack_panel(base + y * stride_y + x * stride_x, step, stride, depth, wide, at)
