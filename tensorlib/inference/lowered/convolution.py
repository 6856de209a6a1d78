"""Convolutions and products with their epilogues."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.inference.lowering import Lowered, NotLowered, Space, lowering
from tensorlib.inference.templates import Pack, Ref, size_at
from tensorlib.kernels.cpu import NOTHING, Tasks, address, image
from tensorlib.kernels.cpu import convolution as conv

_direct, _winograd, _each = Tasks("convolution"), Tasks("winograd"), Tasks("depthwise")
_image, _lines = Tasks("image"), Tasks("lines")
INFINITY = float("inf")


class _Linear(Lowered):
    """What convolutions and products share: bias, residual and limits."""

    heavy = True

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        low, high = call.arguments["low"], call.arguments["high"]
        self.limits = (-INFINITY if low is None else low, INFINITY if high is None else high)
        residual = call.arguments["residual"]
        self.residual = residual.index if type(residual) is Ref else None
        self.weight, self.bias = self.state("weight"), self.state("bias")
        self.input = self.value("input")

    def delta(self, space: Space) -> Any:
        """Bytes from an output to what is added to it, 0 where that is its own place."""
        if self.residual is None:
            return NOTHING
        return space.at(self.residual) - space.at(self.output)


@lowering("product")
class Product(_Linear):
    """`linear`: the rows of the input times packed panels of the weight."""

    words = "product"

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        if len(self.input.shape) == 4:
            raise NotLowered("its input has four dimensions")
        self.columns, self.depth = self.weight.shape
        if not self.weight.size:
            raise NotLowered("it is empty")
        self.packed = conv.pack(self.weight.reshape(self.columns, self.depth, 1, 1), 1)
        self.added = conv.pack_bias(self.bias, 1)

    def write(self, space: Space) -> None:
        rows = self.size(self.input.index, space.n) // self.depth
        panels = -(-self.columns // conv.panel())
        count, step, splits = conv.block_rows(self.depth, rows, panels)
        space.add(
            _direct, "convolve", count * splits, space.at(self.input.index), address(self.packed),
            space.at(self.output), _where(self.added), self.delta(space), *self.limits, 0,
            *space.scratch(step * 16), rows, step, splits, 1, self.depth, self.columns,
            self.depth * 4, self.columns * 4, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1,
        )  # fmt: skip


@lowering("convolution")
class Convolution(_Linear):
    """A convolution of images, by the algorithm that its weights allow."""

    reads_bytes = True

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        if len(self.input.shape) != 4:
            raise NotLowered("images alone have a compiled convolution")
        given = call.arguments
        self.levels = _table(given["levels"])
        if (self.levels is None) == (self.input.dtype == np.uint8):
            raise NotLowered("its input is not float32")
        self.groups = given["groups"]
        self.stride, self.dilation = two_numbers(given["stride"]), two_numbers(given["dilation"])
        self.padding = self._pads(given["padding"])
        if given["around"] is not None:  # how much is behind an axis follows from the result's size
            left, _, top, _ = given["around"].items
            self.padding = self.padding[0] + top, self.padding[1] + left
        w = self.weight
        if not w.size:
            raise NotLowered("it is empty")
        if conv._is_depthwise(w.shape, self.groups):
            self.words, self.write = "depthwise convolution", self._depthwise  # type: ignore[method-assign]
            self.packed = np.ascontiguousarray(w.reshape(w.shape[0], -1).T)
            if self.residual is not None:
                raise NotLowered("a depthwise convolution adds no residual")
            self.added = None if self.bias is None else np.ascontiguousarray(self.bias)
            return
        self.added = conv.pack_bias(self.bias, self.groups)
        if conv._is_winograd(w.shape, self.stride, self.dilation, self.groups):
            self.words, self.write = "Winograd convolution", self._winograd  # type: ignore[method-assign]
            self.packed = conv.pack_winograd(w)
            return
        self.packed = conv.pack(w, self.groups)
        if self.residual is None and conv._is_narrow(w.shape, self.dilation, self.groups):
            self.words, self.write = "convolution of few channels", self._narrow  # type: ignore[method-assign]
            if self.input.origin == "input":
                self.direct = self.input.index
        elif self.levels is not None:
            raise NotLowered("its input is of bytes")
        else:
            self.words, self.write = "direct convolution", self._plain  # type: ignore[method-assign]

    def _pads(self, padding: Any) -> tuple[int, int]:
        if padding == "valid":
            return 0, 0
        if padding != "same":
            return two_numbers(padding)
        totals = [d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:], strict=True)]
        if any(t % 2 for t in totals):
            raise NotLowered("padding='same' pads one side more than the other")
        return totals[0] // 2, totals[1] // 2

    def geometry(self, n: int) -> Any:
        """The sizes at batch size n."""
        shape = size_at(self.input.shape, n)
        if self.levels is not None:  # [N, H, W, C]
            shape = shape[0], shape[3], shape[1], shape[2]
        sizes = self.shape(self.output, n)[2:]
        pads = tuple((p, p) for p in self.padding)
        return conv.geometry(
            shape, self.weight.shape, sizes, self.stride, pads, self.dilation, self.groups
        )

    def _plain(self, space: Space) -> None:
        g = self.geometry(space.n)
        self._rows(space, g, space.at(self.input.index), g.channels * 4, conv._zero(g.channels))

    def _rows(self, space: Space, g: Any, x: Any, pixel: int, zero: int) -> None:
        """Rows of the direct algorithm."""
        depth, columns = g.channels // g.groups, g.outputs // g.groups
        panels = -(-columns // conv.panel())
        count, step, splits = conv.block_rows(depth * min(g.taps, 3), g.rows, panels)
        space.add(
            _direct, "convolve", count * splits, x, address(self.packed), space.at(self.output),
            _where(self.added), self.delta(space), *self.limits, zero,
            *space.scratch(step * (g.taps + 1) * 8), g.rows, step, splits, g.groups, depth, columns,
            pixel, g.outputs * 4, *g.window,
        )  # fmt: skip

    def temporary_bytes(self, n: int) -> int:
        if self.words != "convolution of few channels":
            return 0
        *_, rows, columns = conv.Lines.of(self.geometry(n)).frame
        return math.prod((n, rows, columns, self.weight.shape[1])) * 4

    def _narrow(self, space: Space) -> None:
        g = self.geometry(space.n)
        lines, frame = conv.Lines.of(g), space.temporary(self)
        top, left, rows, columns = lines.frame
        n, c, h, w = g.images, g.channels, g.height, g.width
        if self.levels is not None:
            space.add(
                _image, "to_frame", n * rows, space.at(self.input.index), address(self.levels),
                frame, c, h, w, *space.strides[self.input.index], top, left, rows, columns,
            )  # fmt: skip
        else:
            strides = space.strides.get(self.input.index, (h * w * c * 4, 4, w * c * 4, c * 4))
            space.add(
                _direct, "to_channels_last", n * rows, space.at(self.input.index), frame, c, h, w,
                *strides, top, left, rows, columns,
            )  # fmt: skip
        count, length = conv.line_blocks(g)
        space.add(
            _lines, "convolve", count, frame, address(self.packed), space.at(self.output),
            _where(self.added), *self.limits, *conv.line_arguments(g, lines, length),
        )  # fmt: skip

    def _winograd(self, space: Space) -> None:
        g = self.geometry(space.n)
        down, across = g.tiles
        count, step, splits, size = conv.winograd_blocks(g)
        space.add(
            _winograd, "convolve", count, space.at(self.input.index),
            address(self.packed), space.at(self.output), _where(self.added), self.delta(space),
            *self.limits, conv._zero(g.channels), *space.scratch(size),
            g.images * down * across, step, splits, g.channels, g.outputs, g.height, g.width,
            g.out_height, g.out_width, down, across, *g.padding,
        )  # fmt: skip

    def _depthwise(self, space: Space) -> None:
        g = self.geometry(space.n)
        space.add(
            _each, "convolve", g.images * g.out_height, space.at(self.input.index),
            address(self.packed), space.at(self.output), _where(self.added), *self.limits,
            g.channels, *g.window,
        )  # fmt: skip


@lowering("from_bytes")
class Pixels(Lowered):
    """Images of bytes as numbers, for a model that does not begin with a convolution of few
    channels.
    """

    reads_bytes = True
    words = "bytes as numbers"

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        value = self.value("input")
        if value.origin != "input" or value.dtype != np.uint8 or len(value.shape) != 4:
            raise NotLowered("it is not of the argument")
        self.levels = _table(Pack(tuple, (call.arguments["mean"], call.arguments["std"])))
        self.direct = value.index

    def write(self, space: Space) -> None:
        n, h, w, c = self.shape(self.sources[0], space.n)
        space.add(
            _image, "to_frame", n * h, space.at(self.sources[0]), address(self.levels),
            space.at(self.output), c, h, w, *space.strides[self.sources[0]], 0, 0, h, w,
        )  # fmt: skip


def _table(levels: Any) -> Any:
    """[C, 256]: what each byte becomes; None for None."""
    if levels is None:
        return None
    mean, std = (part.items for part in levels.items)
    return image.table(mean, std)


def two_numbers(value: Any) -> tuple[int, int]:
    """One number for both dimensions, or one each."""
    if type(value) is Pack:
        value = value.items * 2 if len(value.items) == 1 else value.items
    else:
        value = (value, value)
    if not all(type(v) is int for v in value):
        raise NotLowered("a size follows the batch")
    return value  # type: ignore[no-any-return]


def _where(array: Any) -> int:
    return 0 if array is None else address(array)
