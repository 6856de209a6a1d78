"""Convolutions of images with a frame and few channels: the outputs of a line lie evenly apart, so
that no addresses are looked up.
"""

from __future__ import annotations

from tensorlib.kernels.cpu.compiler import f32, i64, ptr, task
from tensorlib.kernels.cpu.tasks.gemm import PANEL, ROWS, multiply_line, outer_lines


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
    lines: i64,
    length: i64,
    taps: i64,
    depth: i64,
    columns: i64,
    x_step: i64,
    x_tap: i64,
    x_line: i64,
    x_image: i64,
    oh: i64,
    ow: i64,
):
    """`length` lines of the outputs of images with a frame, for few channels: a tap is a row of the
    kernel, `depth` numbers. `x_...` are bytes between outputs, taps, lines and images in `x`.
    """
    for line in range(block * length, min(lines, (block + 1) * length)):
        image = line // oh
        source = x + image * x_image + (line - image * oh) * x_line
        target = y + line * ow * columns * 4
        for n in range(0, columns, PANEL):
            for j in range(0, ow, ROWS):
                multiply_line(
                    source + j * x_step, x_step, x_tap, taps, depth, packed + n * taps * depth * 4,
                    target + (j * columns + n) * 4, columns * 4, min(ROWS, ow - j),
                    min(PANEL, columns - n), bias + 4 * n if bias != 0 else 0, floor, ceiling,
                )  # fmt: skip


@task
def weight_sums(
    block,
    worker,
    x: ptr,
    grad: ptr,
    sums: ptr,
    offsets: ptr,
    taps: i64,
    lines: i64,
    length: i64,
    piece: i64,
    columns: i64,
    x_step: i64,
    x_line: i64,
    x_image: i64,
    oh: i64,
    ow: i64,
):
    """The weight gradient of `convolve` over `length` lines: sums[block, taps, columns].

    Every number of the kernel is a tap, at one of the `offsets`; `piece` lines stay in the cache.
    """
    begin = block * length
    end = min(lines, begin + length)
    line = begin
    while line < end:
        image = line // oh
        last = min(end, line + piece, (image + 1) * oh)
        source = x + image * x_image + (line - image * oh) * x_line
        for n in range(0, columns, PANEL):
            for t in range(0, taps, ROWS):
                outer_lines(
                    offsets + 8 * t, source, x_step, x_line, grad + (line * ow * columns + n) * 4,
                    columns * 4, ow * columns * 4, ow, last - line,
                    sums + ((block * taps + t) * columns + n) * 4, columns * 4,
                    min(ROWS, taps - t), min(PANEL, columns - n), line == begin,
                )  # fmt: skip
        line = last
