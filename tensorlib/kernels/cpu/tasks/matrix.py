"""Products of matrices with any strides: operands packed into what the register block reads.

A product is cut in depth (`deep` numbers: a panel stays in the nearest cache) and in rows and
columns of the output. Every number of the output is summed over the depth in one fixed order, so
that the cut in rows and columns may follow the number of threads.
"""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.tasks.panels import (
    PANEL,
    ROWS,
    TOGETHER,
    columns_block,
    pack_panels,
    pack_tiles,
    rows_block,
)
from tensorlib.kernels.cpu.vector import (
    BYTES,
    LANES,
    load,
    load_f32,
    load_part,
    store,
    store_f32,
    store_part,
)

CHUNK = 16 * ROWS  # rows of a block that are used with all panels before the next ones


@task
def pack(
    block,
    worker,
    b: ptr,
    step: i64,
    stride: i64,
    depth: i64,
    deep: i64,
    columns: i64,
    panels: i64,
    out: ptr,
):
    """TOGETHER panels of a part of the depth."""
    groups = (panels + TOGETHER - 1) // TOGETHER
    part = block // groups
    n = (block - part * groups) * TOGETHER
    first = part * deep
    size = min(deep, depth - first)
    source = b + first * step + n * PANEL * stride
    target = out + (first * panels + n * size) * PANEL * 4
    pack_panels(source, step, stride, size, min(TOGETHER * PANEL, columns - n * PANEL), target)


@inner
def _tiles(
    a,
    a_stride,
    direct,
    panel,
    size,
    fresh,
    bias,
    out,
    out_stride,
    first_row,
    last_row,
    rows,
    columns,
    low,
    high,
):
    """One panel of the output for rows `first_row` to `last_row`, whose `a` begins at the first."""
    for m in range(first_row, last_row, ROWS):
        target = out + m * out_stride
        start, start_stride = target, out_stride
        if fresh:
            start, start_stride = bias, 0
        count = min(ROWS, rows - m)
        if direct:
            source = a + (m - first_row) * a_stride
            rows_block(
                source,
                a_stride,
                panel,
                size,
                start,
                start_stride,
                target,
                out_stride,
                count,
                columns,
                low,
                high,
            )
        else:
            columns_block(
                a + (m - first_row) * size * 4,
                ROWS * 4,
                panel,
                PANEL * 4,
                size,
                start,
                start_stride,
                target,
                out_stride,
                count,
                columns,
                low,
                high,
            )


@task
def multiply(
    block,
    worker,
    a: ptr,
    a_row: i64,
    a_step: i64,
    a_batch: i64,
    b: ptr,
    b_step: i64,
    b_column: i64,
    b_batch: i64,
    packed: ptr,
    rows: i64,
    depth: i64,
    deep: i64,
    columns: i64,
    bias: ptr,
    bias_panel: i64,
    out: ptr,
    out_row: i64,
    out_batch: i64,
    down: i64,
    across: i64,
    scratch: ptr,
    scratch_stride: i64,
    low: f32,
    high: f32,
):
    """A block of out = clamp(a b + bias), one of `down` times `across` of each matrix of a batch.

    Strides in bytes. `b` comes `packed`, or that is 0 and each block packs its own panels. `bias`
    has panels `bias_panel` bytes apart: 0 for PANEL zeros.
    """
    batch = block // (down * across)
    block -= batch * down * across
    y = block // across
    x = block - y * across
    panels = (columns + PANEL - 1) // PANEL
    tiles = (rows + ROWS - 1) // ROWS
    left, right = x * panels // across, (x + 1) * panels // across
    top, bottom = y * tiles // down * ROWS, min(rows, (y + 1) * tiles // down * ROWS)
    mine = scratch + worker * scratch_stride
    own_rows = mine + (right - left) * deep * PANEL * 4
    target = out + batch * out_batch
    direct = a_step == 4
    for first in range(0, depth, deep):
        size = min(deep, depth - first)
        last = first + size >= depth
        floor = low if last else np.float32(-np.inf)
        ceiling = high if last else np.float32(np.inf)
        panel_bytes = size * PANEL * 4
        base = packed + first * panels * PANEL * 4 + left * panel_bytes
        if packed == 0:
            base = mine
            source = b + batch * b_batch + first * b_step
            wide = min(columns, right * PANEL) - left * PANEL
            pack_panels(source + left * PANEL * b_column, b_step, b_column, size, wide, base)
        for m in range(top, bottom, CHUNK):
            end = min(bottom, m + CHUNK)
            source = a + batch * a_batch + m * a_row + first * a_step
            if not direct:
                pack_tiles(source, a_row, a_step, size, end - m, own_rows)
                source = own_rows
            for n in range(left, right):
                _tiles(
                    source,
                    a_row,
                    direct,
                    base + (n - left) * panel_bytes,
                    size,
                    first == 0,
                    bias + n * bias_panel,
                    target + n * PANEL * 4,
                    out_row,
                    m,
                    end,
                    rows,
                    min(PANEL, columns - n * PANEL),
                    floor,
                    ceiling,
                )


@task
def multiply_flipped(
    block,
    worker,
    a: ptr,
    a_stride: i64,
    packed: ptr,
    rows: i64,
    depth: i64,
    deep: i64,
    columns: i64,
    bias: ptr,
    zeros: ptr,
    out: ptr,
    out_stride: i64,
    down: i64,
    scratch: ptr,
    scratch_stride: i64,
    low: f32,
    high: f32,
):
    """Some rows of a b, stored as columns of `out`, whose rows are `out_stride` bytes apart.

    For few columns (of b): `a` is then the large operand, and it is read where it lies, once.
    `bias` (0: none) has a number for each row of a b. `packed` is in one part of the whole depth.
    """
    panels = (columns + PANEL - 1) // PANEL
    tiles = (rows + ROWS - 1) // ROWS
    tile = scratch + worker * scratch_stride
    for m in range(
        block * tiles // down * ROWS, min(rows, (block + 1) * tiles // down * ROWS), ROWS
    ):
        count = min(ROWS, rows - m)
        for n in range(panels):
            for first in range(0, depth, deep):
                size = min(deep, depth - first)
                rows_block(
                    a + m * a_stride + 4 * first,
                    a_stride,
                    packed + (first * panels + n * size) * PANEL * 4,
                    size,
                    zeros if first == 0 else tile,
                    0 if first == 0 else PANEL * 4,
                    tile,
                    PANEL * 4,
                    count,
                    PANEL,
                    -np.inf,
                    np.inf,
                )
            for i in range(count):
                more = load_f32(bias + 4 * (m + i)) if bias != 0 else np.float32(0.0)
                target = out + n * PANEL * out_stride + (m + i) * 4
                for j in range(min(PANEL, columns - n * PANEL)):
                    value = load_f32(tile + (i * PANEL + j) * 4) + more
                    value = low if value < low else value
                    value = high if value > high else value
                    store_f32(target + j * out_stride, value)


@task
def sum_rows(
    block, worker, x: ptr, stride: i64, rows: i64, columns: i64, length: i64, partial: ptr
):
    """Sums over `length` rows of each column: row `block` of `partial`."""
    first, last = block * length, min(rows, (block + 1) * length)
    out = partial + block * columns * 4
    wide = columns // (4 * LANES) * (4 * LANES)
    for j in range(0, wide, 4 * LANES):
        place = x + first * stride + 4 * j
        a, b, c, d = (
            load(place),
            load(place + BYTES),
            load(place + 2 * BYTES),
            load(place + 3 * BYTES),
        )
        for i in range(first + 1, last):
            place = x + i * stride + 4 * j
            a = a + load(place)
            b = b + load(place + BYTES)
            c = c + load(place + 2 * BYTES)
            d = d + load(place + 3 * BYTES)
        store(out + 4 * j, a)
        store(out + 4 * j + BYTES, b)
        store(out + 4 * j + 2 * BYTES, c)
        store(out + 4 * j + 3 * BYTES, d)
    for j in range(wide, columns, LANES):
        rest = min(LANES, columns - j)
        a = load_part(x + first * stride + 4 * j, rest)
        for i in range(first + 1, last):
            a = a + load_part(x + i * stride + 4 * j, rest)
        store_part(out + 4 * j, a, rest)
