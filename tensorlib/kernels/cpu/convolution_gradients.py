"""Gradients of convolutions of float32 images by compiled kernels.

The input gradient of stride 1 is a convolution with rotated weights; of another stride, one for
each class of positions that see the same taps. The weight gradient is a product of gathered rows,
A^T B, summed chunk by chunk in a fixed order: it does not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.kernels import convolution as reference
from tensorlib.kernels.convolution import Pads, Sizes
from tensorlib.kernels.cpu import address, blocks, empty, scratch
from tensorlib.kernels.cpu.convolution import (
    GAP,
    INFINITY,
    Geometry,
    Lines,
    _as_image,
    _depthwise,
    _direct,
    _gemm,
    _innermost,
    _input_applies,
    _is_depthwise,
    _is_narrow,
    _is_winograd,
    _lines,
    _result,
    _rows_of_block,
    _taps,
    _weight_applies,
    _winograd,
    _zero,
    block_rows,
    channels_last,
    convolve,
    convolve_winograd,
    geometry,
    pack,
    pack_winograd,
    panel,
)
from tensorlib.kernels.packed import reused

CHUNK = 1 << 22  # bytes of transformed tiles taken at a time for the gradient of weights
NEAR = 384 << 10  # bytes of gathered rows that stay in the second-level cache
SLICES = 12 << 20  # bytes of partial sums
LINE = 512  # places whose gradients stay in the first-level cache


def _of_gradient(
    grad_shape: Sizes, w_shape: Sizes, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes,
    groups: int,
) -> Geometry:  # fmt: skip
    """The forward convolution."""
    return geometry(shape, w_shape, grad_shape[2:], stride, padding, dilation, groups)


def _rotated(g: Geometry) -> Geometry:
    """The input gradient of a convolution of stride 1 as a convolution."""
    back = tuple(d * (k - 1) - p for k, d, p in zip(g.kernel, g.dilation, g.padding, strict=True))
    return Geometry(
        g.images, g.outputs, g.out_height, g.out_width, g.channels, g.height, g.width,
        g.kernel, (1, 1), back, g.dilation, g.groups,
    )  # fmt: skip


# -- input -----------------------------------------------------------------------------------------


@reference.conv_input_grad.override(
    "float32, 3x3, stride 1, channels in multiples of 16: Winograd F(2x2, 3x3)",
    lambda grad, w, shape, stride, padding, dilation, groups: (
        _is_winograd(w.shape, stride, dilation, groups)
        and _input_applies(grad, w, shape, stride, padding, dilation, groups)
    ),
)
def winograd_input_grad(
    grad: Any, w: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Any:
    """Winograd's convolution with the rotated weights."""
    g = _rotated(_of_gradient(grad.shape, w.shape, shape, stride, padding, dilation, groups))
    out = empty((g.images, g.out_height, g.out_width, g.outputs))
    convolve_winograd(g, channels_last(grad), pack_winograd(w, flipped=True), None, out)
    return _result(out, _innermost(grad, w), 4)


@reference.conv_input_grad.override(
    "float32, depthwise",
    lambda grad, w, shape, stride, padding, dilation, groups: (
        _is_depthwise(w.shape, groups)
        and _input_applies(grad, w, shape, stride, padding, dilation, groups)
    ),
)
def depthwise_input_grad(
    grad: Any, w: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Any:
    """A convolution with rotated weights; for strides the taps that saw each input position."""
    g = _of_gradient(grad.shape, w.shape, shape, stride, padding, dilation, groups)
    out = empty((g.images, g.height, g.width, g.channels))
    image, taps = channels_last(_as_image(grad)), _taps(w)
    if g.stride == (1, 1):
        taps, turned = np.ascontiguousarray(taps[::-1]), _rotated(g)
        _depthwise.convolve(
            g.images * g.height, address(image), address(taps), address(out), 0, -INFINITY,
            INFINITY, g.channels, *turned.window,
        )  # fmt: skip
    else:
        _depthwise.backward(
            g.images * g.height, address(image), address(taps), address(out), g.channels, *g.window
        )
    return _result(out, _innermost(grad, w), grad.ndim)


@reference.conv_input_grad.override("float32: direct, by classes of positions", _input_applies)
def direct_input_grad(
    grad: Any, w: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Any:
    """A convolution with rotated weights; for strides one for each class of positions."""
    g = _of_gradient(grad.shape, w.shape, shape, stride, padding, dilation, groups)
    out = empty((g.images, g.height, g.width, g.channels))
    image, weights = channels_last(_as_image(grad)), _as_image(w)
    if g.stride == (1, 1):
        convolve(_rotated(g), image, pack(weights, groups, flipped=True), None, out)
    else:
        for fy in range(min(g.stride[0], g.height)):
            for fx in range(min(g.stride[1], g.width)):
                _class_of_positions(g, image, weights, out, fy, fx)
    return _result(out, _innermost(grad, w), grad.ndim)


def _seen(first: int, size: int, stride: int, padding: int, dilation: int) -> list[int]:
    """The taps of one dimension that see position `first`, and every `stride`-th one after it."""
    return [tap for tap in range(size) if (first + padding - tap * dilation) % stride == 0]


def _evenly(taps: list[int]) -> tuple[int, int, int]:
    """First, number and distance of taps; those of one class lie evenly apart."""
    return taps[0] if taps else 0, len(taps), taps[1] - taps[0] if len(taps) > 1 else 0


@reused
def _pack_taps(
    w: Any, groups: int, y: int, count_y: int, apart_y: int, x: int, count_x: int, apart_x: int
) -> Any:
    """Some taps of weights [O, C/groups, KH, KW] as [groups * panels, taps, O/groups, panel]."""
    depth, columns, width = w.shape[0] // groups, w.shape[1], panel()
    panels = -(-columns // width)
    out = empty((groups * panels, count_y * count_x, depth, width))
    if out.size:
        so, sc, sy, sx = w.strides
        _gemm.pack(
            groups * panels, address(w) + y * sy + x * sx, address(out), count_y, count_x, depth,
            columns, apart_y * sy, apart_x * sx, so, sc, panels, depth * so,
        )  # fmt: skip
    return out


def _class_of_positions(g: Geometry, grad: Any, w: Any, out: Any, fy: int, fx: int) -> None:
    """The gradient at the positions (fy + stride i, fx + stride j)."""
    ys = _seen(fy, g.kernel[0], g.stride[0], g.padding[0], g.dilation[0])
    xs = _seen(fx, g.kernel[1], g.stride[1], g.padding[1], g.dilation[1])
    taps = np.array([(y, x) for y in ys for x in xs], np.int64).reshape(-1, 2)
    depth, columns = g.outputs // g.groups, g.channels // g.groups
    packed, panels = _pack_taps(w, g.groups, *_evenly(ys), *_evenly(xs)), -(-columns // panel())
    count_y = -(-(g.height - fy) // g.stride[0])
    count_x = -(-(g.width - fx) // g.stride[1])
    rows = g.images * count_y * count_x
    count, step, splits = block_rows(depth * min(max(len(taps), 1), 3), rows, panels)
    _direct.convolve_back(
        count * splits, address(grad), address(packed), address(out), _zero(g.outputs),
        *scratch(step * (len(taps) + 1) * 8), rows, step, splits, g.groups, depth, columns,
        g.outputs * 4, g.channels * 4, g.out_height, g.out_width, g.height, g.width, *g.stride,
        *g.padding, *g.dilation, len(taps), address(taps), fy, fx, count_y, count_x,
    )  # fmt: skip


# -- weights ---------------------------------------------------------------------------------------


def _chunks(rows: int, numbers: int) -> list[tuple[int, int]]:
    """Ranges of rows of so many numbers that are gathered at a time; a cut of `rows` alone."""
    length = max(64, min(rows, CHUNK // (4 * numbers)))
    count = -(-rows // length)
    length = -(-rows // count)
    return [(i, min(i + length, rows)) for i in range(0, rows, length)]


def _splits(rows: int, times: int) -> int:
    """Parts of the rows of a sum, so that there is work for several threads."""
    return max(1, min(-(-rows // _rows_of_block()), -(-16 // times)))


def _spare(width: int) -> int:
    """Numbers from one gathered row to the next."""
    return width + GAP


@reference.conv_weight_grad.override(
    "float32, 3x3, stride 1, channels in multiples of 16: Winograd F(3x3, 2x2)",
    lambda x, grad, shape, stride, padding, dilation, groups, last=False: (
        _is_winograd(shape, stride, dilation, groups)
        and _weight_applies(x, grad, shape, stride, padding, dilation, groups)
    ),
)
def winograd_weight_grad(
    x: Any, grad: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int,
    last: bool = False,
) -> Any:  # fmt: skip
    """Products of transformed tiles of input and gradient, summed in Winograd's domain."""
    g = _of_gradient(grad.shape, shape, x.shape, stride, padding, dilation, groups)
    image, back = channels_last(x), channels_last(grad)
    down, across = g.tiles
    tiles = g.images * down * across
    a_width, b_width = _spare(g.outputs), _spare(g.channels)
    chunks = _chunks(tiles, 16 * (a_width + b_width))
    length = chunks[0][1]
    a = empty((16 * length * a_width + 4 * GAP,))
    b = empty((16 * length * b_width + 4 * GAP,))
    sums = empty((16, g.outputs, g.channels))
    splits = _splits(g.outputs, 16)
    for begin, end in chunks:
        count, step = blocks(end - begin, 4)
        _winograd.gather(
            count, address(image), address(back), address(a), address(b),
            _zero(max(g.channels, g.outputs)), *scratch(128), begin, end, step, g.channels,
            g.outputs, a_width * 4, b_width * 4, length, g.height, g.width, g.out_height,
            g.out_width, down, across, *g.padding,
        )  # fmt: skip
        _direct.accumulate(
            16 * splits, address(a), address(b), address(sums), end - begin, g.outputs, g.channels,
            a_width * 4, b_width * 4, length * a_width * 4, length * b_width * 4, splits,
            begin == 0,
        )  # fmt: skip
    out = empty((g.outputs, 3, 3, g.channels) if last else shape)
    stride_c, stride_t = (4, g.channels * 4) if last else (36, 4)
    _winograd.scatter_weights(
        g.outputs, address(sums), address(out), *scratch(16 * 64 + 64), g.outputs, g.channels,
        stride_c, stride_t,
    )  # fmt: skip
    return out.transpose(0, 3, 1, 2) if last else out


@reference.conv_weight_grad.override(
    "float32, depthwise",
    lambda x, grad, shape, stride, padding, dilation, groups, last=False: (
        _is_depthwise(shape, groups)
        and _weight_applies(x, grad, shape, stride, padding, dilation, groups)
    ),
)
def depthwise_weight_grad(
    x: Any, grad: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int,
    last: bool = False,
) -> Any:  # fmt: skip
    """Sums over output rows, by blocks."""
    g = _of_gradient(grad.shape, shape, x.shape, stride, padding, dilation, groups)
    image, back = channels_last(_as_image(x)), channels_last(_as_image(grad))
    rows = g.images * g.out_height
    count, step = blocks(rows, 4, 32)
    sums = empty((count, g.taps, g.channels))
    _depthwise.weight_sums(
        count, address(image), address(back), address(sums), rows, step, g.channels, *g.window
    )
    return np.ascontiguousarray(sums.sum(0).T).reshape(shape)


@reference.conv_weight_grad.override(
    "float32, at most 4 channels: lines of a padded copy, numbers of the kernel as taps",
    lambda x, grad, shape, stride, padding, dilation, groups, last=False: (
        _is_narrow(shape, dilation, groups)
        and _weight_applies(x, grad, shape, stride, padding, dilation, groups)
    ),
)
def narrow_weight_grad(
    x: Any, grad: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int,
    last: bool = False,
) -> Any:  # fmt: skip
    """Each number of the kernel times the outputs' gradients, in registers along the lines."""
    g = _of_gradient(grad.shape, shape, x.shape, stride, padding, dilation, groups)
    lines = Lines.of(g)
    image, back = channels_last(_as_image(x), lines.frame), channels_last(_as_image(grad))
    if g.outputs % panel():  # panels are read whole: memory has to go on
        longer = empty((back.size + panel(),))
        longer[: back.size] = back.reshape(-1)
        back = longer
    (kh, kw), c = g.kernel, g.channels
    offsets = np.arange(kh)[:, None] * lines.tap + 4 * np.arange(kw * c)
    taps, total = kh * kw * c, g.images * g.out_height
    # the last one again, to fill a block
    offsets = offsets.reshape(-1)[np.minimum(np.arange(taps + _rows_of_block()), taps - 1)]
    count, length = blocks(total, 8, 32)
    sums = empty((count, taps, g.outputs))
    _lines.weight_sums(
        count, address(image), address(back), address(sums), address(offsets), taps, total, length,
        max(1, LINE // g.out_width), g.outputs, lines.step, lines.line, lines.image, g.out_height,
        g.out_width,
    )  # fmt: skip
    made = sums.sum(0).reshape(kh, kw, c, g.outputs).transpose(3, 2, 0, 1)
    if last:
        made = np.ascontiguousarray(made.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return made.reshape(shape) if last else np.ascontiguousarray(made).reshape(shape)


@reference.conv_weight_grad.override("float32: direct, rows gathered by tap", _weight_applies)
def direct_weight_grad(
    x: Any, grad: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int,
    last: bool = False,
) -> Any:  # fmt: skip
    """For each tap the product of the gradient's rows and the input rows it sees."""
    g = _of_gradient(grad.shape, shape, x.shape, stride, padding, dilation, groups)
    image, back = channels_last(_as_image(x)), channels_last(_as_image(grad))
    depth = math.prod(shape[1:]) // g.taps  # of one group's rows
    taps = math.prod(shape[2:])
    # sums lie as the gradient does, its channels innermost
    straight = taps == 1 or last
    outputs = g.outputs // g.groups
    sums = empty((g.groups, outputs, g.taps, depth) if straight
                 else (g.groups, g.taps, outputs, depth))  # fmt: skip
    for group in range(g.groups):
        _group_sums(g, group, image, back, sums[group], straight)
    if not straight:
        return _scattered(g, sums, shape)
    if taps == 1:
        return sums.reshape(shape)
    made = np.moveaxis(sums.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return made if last else np.ascontiguousarray(made)


def _cut(rows: int, outputs: int, depth: int, taps: int) -> tuple[int, int, int]:
    """`(slices of the rows, parts of the outputs, rows gathered at a time)` by the sizes alone.

    Each slice has sums of its own, added up in the end; where these are large or rows few, outputs
    are divided instead, and every part gathers the rows again.
    """
    slices = max(1, min(16, rows // 512, SLICES // (4 * outputs * depth * taps)))
    splits = max(1, min(-(-8 // slices), outputs // 96))
    width = -(-outputs // splits)
    chunk = max(32, min(256, NEAR // (4 * (width + depth + 2 * GAP))))
    return slices, splits, chunk


def _group_sums(g: Geometry, group: int, image: Any, back: Any, sums: Any, straight: bool) -> None:
    """The sums of one group of channels."""
    outputs, depth = g.outputs // g.groups, sums.shape[-1]
    slices, splits, chunk = _cut(g.rows, outputs, depth, g.taps)
    parts = sums if slices == 1 else empty((slices, *sums.shape))
    row, step = (g.taps * depth * 4, depth * 4) if straight else (depth * 4, outputs * depth * 4)
    first_x, first_grad = address(image) + group * depth * 4, address(back) + group * outputs * 4
    room = chunk * (-(-outputs // splits) + depth + 2 * GAP + 16) * 4 + 1024
    _direct.weight_sums(
        slices * splits, first_x, first_grad, address(parts), *scratch(room), g.rows, slices,
        splits, chunk, depth, outputs, GAP, g.channels * 4, g.outputs * 4, row, step,
        sums.nbytes, *g.window,
    )  # fmt: skip
    if slices > 1:
        count, length = blocks(sums.size, 4096)
        length = -(-length // 16) * 16
        count = -(-sums.size // length)
        _direct.add_slices(count, address(parts), address(sums), slices, sums.size, length)


def _scattered(g: Geometry, sums: Any, shape: Sizes) -> Any:
    """sums[group, tap, output, depth] as the row-major weight gradient of `shape`."""
    out = empty(shape)
    outputs = g.outputs // g.groups
    for group in range(g.groups):
        _direct.scatter_weights(
            outputs, address(sums[group]), address(out[group * outputs :]), outputs,
            sums.shape[3], g.taps,
        )  # fmt: skip
    return out
