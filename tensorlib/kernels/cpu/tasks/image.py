"""Images of bytes: numbers by table."""

from __future__ import annotations

from tensorlib.kernels.cpu.compiler import i64, ptr, task
from tensorlib.kernels.cpu.tasks.convolution import frame_row
from tensorlib.kernels.cpu.vector import load_f32, load_u8, store_f32


@task
def look_up(
    block, worker, x: ptr, table: ptr, y: ptr, pixels: i64, channels: i64, length: i64
):  # fmt: skip
    """y[pixel, c] = table[c, x[pixel, c]] of a block of pixels."""
    first = block * length
    last = min(pixels, first + length)
    if channels == 3:
        for i in range(3 * first, 3 * last, 3):
            store_f32(y + 4 * i, load_f32(table + 4 * load_u8(x + i)))
            store_f32(y + 4 * i + 4, load_f32(table + 1024 + 4 * load_u8(x + i + 1)))
            store_f32(y + 4 * i + 8, load_f32(table + 2048 + 4 * load_u8(x + i + 2)))
        return
    for pixel in range(first, last):
        for c in range(channels):
            i = pixel * channels + c
            store_f32(y + 4 * i, load_f32(table + 1024 * c + 4 * load_u8(x + i)))


@task
def to_frame(
    block,
    worker,
    x: ptr,
    table: ptr,
    out: ptr,
    c: i64,
    h: i64,
    w: i64,
    stride_n: i64,
    stride_h: i64,
    stride_w: i64,
    stride_c: i64,
    top: i64,
    left: i64,
    rows: i64,
    columns: i64,
):
    """Row `block` of out[images, rows, columns, c]: table[c, x] of the image of bytes at (top,
    left), zeros around it.
    """
    image = block // rows
    y = block - image * rows - top
    target = out + block * columns * c * 4
    source = x + image * stride_n + y * stride_h
    begin, end = frame_row(target, y, left, h, w, columns, c)
    for k in range(c):
        values = table + 1024 * k
        place, at = source + k * stride_c, target + (left * c + k) * 4
        for j in range(begin, end):
            store_f32(at + 4 * c * j, load_f32(values + 4 * load_u8(place + j * stride_w)))
