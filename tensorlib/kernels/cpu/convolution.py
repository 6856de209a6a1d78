"""Convolutions of float32 images by compiled kernels, channels last in memory.

The algorithm is the first of these whose condition holds: Winograd's for 3x3 of stride 1, a loop of
its own for depthwise, a padded frame whose rows are taps for few channels, else direct. A sequence
[N, C, L] is an image of height 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlib.kernels import convolution as reference
from tensorlib.kernels.convolution import Pads, Sizes, channels_first
from tensorlib.kernels.cpu import (
    NOTHING,
    Tasks,
    address,
    blocks,
    empty,
    runtime,
    scratch,
    single,
    worth,
)
from tensorlib.kernels.packed import reused
from tensorlib.ops.strides import is_channels_last

__all__ = ["Geometry"]

_direct, _winograd, _gemm = Tasks("convolution"), Tasks("winograd"), Tasks("gemm")
_depthwise, _lines = Tasks("depthwise"), Tasks("lines")

# Multiply-adds from which a compiled body is worth its call. Below, NumPy's sums also round as
# PyTorch's do, to the last bit more often than not: loss curves of small models coincide.
LEAST = 1 << 19
TILES = 12  # 2x2 outputs that Winograd's passes take at a time, for few channels
GAP = 16  # numbers between gathered rows or tiles, so that they do not share cache sets
INFINITY = float("inf")


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution of images; kernel, stride, padding, dilation are pairs."""

    images: int
    channels: int
    height: int
    width: int
    outputs: int
    out_height: int
    out_width: int
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int

    @property
    def rows(self) -> int:
        """Output positions of all images."""
        return self.images * self.out_height * self.out_width

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def window(self) -> tuple[int, ...]:
        """Input and output sizes, kernel, stride, padding, dilation, as tasks take them."""
        return (
            *(self.height, self.width, self.out_height, self.out_width),
            *(*self.kernel, *self.stride, *self.padding, *self.dilation),
        )

    @property
    def tiles(self) -> tuple[int, int]:
        """2x2 tiles of an image's outputs, down and across."""
        return -(-self.out_height // 2), -(-self.out_width // 2)


def geometry(
    shape: Sizes, w_shape: Sizes, sizes: Sizes, stride: Sizes, padding: Pads, dilation: Sizes,
    groups: int,
) -> Geometry:  # fmt: skip
    """Of an input [N, C, H, W] or [N, C, L] and outputs of `sizes`."""
    one = (1,) * (4 - len(shape))
    pads = (0,) * len(one) + tuple(lo for lo, _ in padding)
    height, width = (*one, *shape[2:])
    out_height, out_width = (*one, *sizes)
    return Geometry(
        shape[0], shape[1], height, width, w_shape[0], out_height, out_width,
        (*one, *w_shape[2:]), (*one, *stride), pads, (*one, *dilation), groups,
    )  # fmt: skip


def _of_forward(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Geometry:
    sizes = reference._sizes(x, w.shape, stride, padding, dilation)
    return geometry(x.shape, w.shape, sizes, stride, padding, dilation, groups)


# -- conditions ------------------------------------------------------------------------------------


def _applies(a: Any, b: Any, positions: int, taps: int, *also: Any) -> bool:
    """Whether compiled bodies take these two arrays, with `positions * taps` multiply-adds."""
    return (
        single(a, b, *(one for one in also if one is not None))
        and a.ndim in (3, 4)
        and worth(positions * taps, LEAST)
        and positions > 0
        and taps > 0
    )


def _forward_applies(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int, bias: Any = None
) -> bool:
    if x.ndim not in (3, 4):
        return False
    sizes = reference._sizes(x, w.shape, stride, padding, dilation)
    return _applies(x, w, x.shape[0] * math.prod(sizes), w.size, bias) and x.size > 0


def _input_applies(
    grad: Any, w: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> bool:
    return _applies(grad, w, grad.size // max(grad.shape[1], 1), w.size) and math.prod(shape) > 0


def _weight_applies(
    x: Any, grad: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int,
    last: bool = False,
) -> bool:  # fmt: skip
    positions = grad.size // max(grad.shape[1], 1)
    return _applies(x, grad, positions, math.prod(shape)) and x.size > 0


def _is_winograd(w_shape: Sizes, stride: Sizes, dilation: Sizes, groups: int) -> bool:
    return (
        w_shape[2:] == (3, 3)
        and stride == (1, 1)
        and dilation == (1, 1)
        and groups == 1
        and w_shape[0] % 16 == 0
        and w_shape[1] % 16 == 0
    )


def _is_depthwise(w_shape: Sizes, groups: int) -> bool:
    return w_shape[1] == 1 and w_shape[0] == groups > 1


def _is_narrow(w_shape: Sizes, dilation: Sizes, groups: int) -> bool:
    return groups == 1 and w_shape[1] <= 4 and w_shape[-1] > 1 and dilation[-1] == 1


# -- memory ----------------------------------------------------------------------------------------

_zeros = [np.zeros(4096, np.float32)]  # all that were ever made: compiled models hold addresses


def _zero(channels: int) -> int:
    """Address of as many zeros as a position outside the image has channels."""
    if _zeros[-1].size < channels:
        _zeros.append(np.zeros(2 * channels, np.float32))
    return address(_zeros[-1])


def _as_image(x: Any) -> Any:
    return x[:, :, None] if x.ndim == 3 else x


def channels_last(x: Any, frame: tuple[int, int, int, int] | None = None) -> Any:
    """The images [N, C, H, W] as row-major [N, H, W, C]: a view where their memory is that, or with
    a `frame` (top, left, height, width) around them.
    """
    n, c, h, w = x.shape
    if frame is None:
        view = x.transpose(0, 2, 3, 1)
        if view.flags.c_contiguous:
            return view
        frame = (0, 0, h, w)
    top, left, rows, columns = frame
    out = empty((n, rows, columns, c))
    _direct.to_channels_last(
        n * rows, address(x), address(out), c, h, w, *x.strides, top, left, rows, columns
    )
    return out


def _result(out: Any, last: bool, ndim: int) -> Any:
    """Row-major [N, H, W, C] as [N, C, H, W]: a view for `last`, else copied into planes."""
    n, h, w, c = out.shape
    if last or c == 1 or h * w == 1:
        made = channels_first(out)
    else:
        made = empty((n, c, h, w))
        _direct.to_planes(n * -(-c // 16), address(out), address(made), c, h * w)
    return made[:, :, 0] if ndim == 3 else made


def _innermost(*arrays: Any) -> bool:
    return any(is_channels_last(a) for a in arrays)


# -- packed weights --------------------------------------------------------------------------------


def panel() -> int:
    """Columns of a packed panel."""
    runtime()
    from tensorlib.kernels.cpu import host

    return host.blocking().panel


def _rows_of_block() -> int:
    from tensorlib.kernels.cpu import host

    return host.blocking().rows


@reused
def pack(w: Any, groups: int, flipped: bool = False) -> Any:
    """Weights [O, C/groups, KH, KW] as [groups * panels, KH * KW, depth, panel] for `convolve`; of
    the input gradient (`flipped`) rotated, with inputs and outputs exchanged.
    """
    outputs, inputs, kh, kw = w.shape
    columns, depth = outputs // groups, inputs
    so, sc, sy, sx = w.strides
    start, group = address(w), columns * so
    step, stride = sc, so
    if flipped:
        columns, depth, step, stride = inputs, outputs // groups, so, sc
        start, sy, sx = start + (kh - 1) * sy + (kw - 1) * sx, -sy, -sx
    width = panel()
    panels = -(-columns // width)
    out = empty((groups * panels, kh * kw, depth, width))
    _gemm.pack(
        groups * panels, start, address(out), kh, kw, depth, columns, sy, sx, step, stride,
        panels, group,
    )  # fmt: skip
    return out


@reused
def pack_winograd(w: Any, flipped: bool = False) -> Any:
    """Weights [O, C, 3, 3] in Winograd's domain [panels, 16, depth, panel]; `flipped` as `pack`."""
    columns, depth = w.shape[:2]
    stride, step, sy, sx = w.strides
    start = address(w)
    if flipped:
        columns, depth, step, stride = depth, columns, stride, step
        start, sy, sx = start + 2 * sy + 2 * sx, -sy, -sx
    width = panel()
    panels = -(-columns // width)
    out = empty((panels, 16, depth, width))
    _winograd.weights(
        panels, start, address(out), *scratch(1024 * width + 64), depth, columns, sy, sx, step,
        stride,
    )  # fmt: skip
    return out


def pack_bias(bias: Any, groups: int) -> Any:
    """One number for each column of the packed panels, or None."""
    if bias is None:
        return None
    width, columns = panel(), bias.size // groups
    out = np.zeros((groups, -(-columns // width) * width), np.float32)
    out[:, :columns] = bias.reshape(groups, columns)
    return out


def _where(array: Any) -> int:
    return 0 if array is None else address(array)


# -- forward ---------------------------------------------------------------------------------------


def block_rows(depth: int, rows: int, panels: int) -> tuple[int, int, int]:
    """`(blocks, output rows of each, parts of the panels)`: rows of input that fit in half of the
    second-level cache, and work for several threads.
    """
    height = _rows_of_block()
    whole = -(-rows // height)  # blocks of registers
    most = min(96, max(24, 32768 // depth)) // height
    count = max(-(-whole // most), min(4, whole))
    step = -(-whole // count)
    count = -(-whole // step)
    step *= height
    return count, step, min(panels, -(-8 // count))


def convolve(g: Geometry, x: Any, packed: Any, bias: Any, out: Any) -> None:
    """Direct convolution of row-major [N, H, W, C] into `out` [N, OH, OW, O]."""
    depth, columns = g.channels // g.groups, g.outputs // g.groups
    panels = -(-columns // panel())
    count, step, splits = block_rows(depth * min(g.taps, 3), g.rows, panels)
    table = step * (g.taps + 1) * 8
    _direct.convolve(
        count * splits, address(x), address(packed), address(out), _where(bias), NOTHING,
        -INFINITY, INFINITY, _zero(g.channels), *scratch(table), g.rows, step, splits, g.groups,
        depth, columns, g.channels * 4, g.outputs * 4, *g.window,
    )  # fmt: skip


def winograd_blocks(g: Geometry) -> tuple[int, int, int, int]:
    """`(blocks, tiles taken at a time, parts of the output channels, bytes of scratch)`.

    The weights, 16 * channels * outputs numbers, are read once for each block of tiles, so the more
    there are the longer a block.
    """
    down, across = g.tiles
    tiles, square = g.images * down * across, g.channels * g.outputs
    most = TILES * max(1, min(4, square // 32768))
    count = max(-(-tiles // most), 1 if square > 16384 else min(2, tiles))
    step = -(-tiles // count)
    count = -(-tiles // step)
    splits = max(1, min(-(-8 // count), g.outputs // 64))
    size = 16 * step * (g.channels + g.outputs + 2 * GAP) * 4 + (step + 16) * 16 + 256
    return count * splits, step, splits, size


def convolve_winograd(g: Geometry, x: Any, packed: Any, bias: Any, out: Any) -> None:
    """As `convolve`, for 3x3 kernels of stride 1."""
    down, across = g.tiles
    count, step, splits, size = winograd_blocks(g)
    _winograd.convolve(
        count, address(x), address(packed), address(out), _where(bias), NOTHING, -INFINITY,
        INFINITY, _zero(g.channels), *scratch(size), g.images * down * across, step, splits,
        g.channels, g.outputs, g.height, g.width, g.out_height, g.out_width, down, across,
        *g.padding,
    )  # fmt: skip


def _taps(w: Any) -> Any:
    """Depthwise weights [C, 1, KH, KW] as [KH * KW, C]."""
    return np.ascontiguousarray(w.reshape(w.shape[0], -1).T)


def _outputs(g: Geometry) -> Any:
    return empty((g.images, g.out_height, g.out_width, g.outputs))


@reference.conv_forward.override(
    "float32, 3x3, stride 1, channels in multiples of 16: Winograd F(2x2, 3x3)",
    lambda x, w, stride, padding, dilation, groups, bias=None: (
        _is_winograd(w.shape, stride, dilation, groups)
        and _forward_applies(x, w, stride, padding, dilation, groups, bias)
    ),
)
def winograd_forward(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int, bias: Any = None
) -> Any:
    """16 products for 4 outputs instead of 36."""
    g = _of_forward(x, w, stride, padding, dilation, groups)
    out = _outputs(g)
    convolve_winograd(g, channels_last(x), pack_winograd(w), pack_bias(bias, 1), out)
    return _result(out, _innermost(x, w), 4)


@reference.conv_forward.override(
    "float32, depthwise",
    lambda x, w, stride, padding, dilation, groups, bias=None: (
        _is_depthwise(w.shape, groups)
        and _forward_applies(x, w, stride, padding, dilation, groups, bias)
    ),
)
def depthwise_forward(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int, bias: Any = None
) -> Any:
    """A weighted sum of shifted rows."""
    g = _of_forward(x, w, stride, padding, dilation, groups)
    out, image, taps = _outputs(g), channels_last(_as_image(x)), _taps(w)
    shift = None if bias is None else np.ascontiguousarray(bias)
    _depthwise.convolve(
        g.images * g.out_height, address(image), address(taps), address(out), _where(shift),
        -INFINITY, INFINITY, g.channels, *g.window,
    )  # fmt: skip
    return _result(out, _innermost(x, w), x.ndim)


@dataclass(frozen=True)
class Lines:
    """A convolution of few channels on images with a frame, whose outputs in one line lie evenly
    apart: `frame` is (top, left, rows, columns), the others are bytes between outputs, rows of the
    kernel, lines and images.
    """

    frame: tuple[int, int, int, int]
    step: int
    tap: int
    line: int
    image: int

    @classmethod
    def of(cls, g: Geometry) -> Lines:
        """For a Geometry that `_is_narrow` fits."""
        (kh, kw), (sh, sw), dh = g.kernel, g.stride, g.dilation[0]
        rows = (g.out_height - 1) * sh + (kh - 1) * dh + 1
        columns = (g.out_width - 1) * sw + kw
        row = columns * g.channels * 4
        frame = (g.padding[0], g.padding[1], rows, columns)
        return cls(frame, sw * g.channels * 4, dh * row, sh * row, rows * row)


def line_blocks(g: Geometry) -> tuple[int, int]:
    """`(blocks, lines of each)` of the outputs."""
    return blocks(g.images * g.out_height, max(1, 4096 // (g.out_width * g.outputs)), 128)


@reference.conv_forward.override(
    "float32, at most 4 channels: lines of a padded copy, rows of the kernel as taps",
    lambda x, w, stride, padding, dilation, groups, bias=None: (
        _is_narrow(w.shape, dilation, groups)
        and _forward_applies(x, w, stride, padding, dilation, groups, bias)
    ),
)
def narrow_forward(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int, bias: Any = None
) -> Any:
    """Direct, with KW * C numbers of a row as one tap."""
    g = _of_forward(x, w, stride, padding, dilation, groups)
    out, lines = _outputs(g), Lines.of(g)
    image, packed = channels_last(_as_image(x), lines.frame), pack(_as_image(w), 1)
    count, length = line_blocks(g)
    _lines.convolve(
        count, address(image), address(packed), address(out), _where(pack_bias(bias, 1)),
        -INFINITY, INFINITY, *line_arguments(g, lines, length),
    )  # fmt: skip
    return _result(out, _innermost(x, w), x.ndim)


def line_arguments(g: Geometry, lines: Lines, length: int) -> tuple[int, ...]:
    """The numbers at the end of `lines.convolve`."""
    return (
        g.images * g.out_height, length, g.kernel[0], g.kernel[1] * g.channels, g.outputs,
        lines.step, lines.tap, lines.line, lines.image, g.out_height, g.out_width,
    )  # fmt: skip


@reference.conv_forward.override("float32: direct, without a matrix of windows", _forward_applies)
def direct_forward(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int, bias: Any = None
) -> Any:
    """A matrix product whose rows are addresses of input positions."""
    g = _of_forward(x, w, stride, padding, dilation, groups)
    out = _outputs(g)
    image = channels_last(_as_image(x))
    convolve(g, image, pack(_as_image(w), groups), pack_bias(bias, groups), out)
    return _result(out, _innermost(x, w), x.ndim)
