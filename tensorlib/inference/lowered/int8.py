"""Convolutions and products of 8-bit numbers, as `inference.quantize` puts them in.

An activation x is the byte x / scale + zero point in 0..127, one scale for a tensor; a weight a
whole number -127..127, one scale for each output. Results are float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tensorlib.inference.graph import Graph
from tensorlib.inference.lowered.convolution import Convolution, Product
from tensorlib.inference.lowering import NotLowered, Space, lowering
from tensorlib.inference.templates import size_at
from tensorlib.inference.trace import Call
from tensorlib.kernels.cpu import Tasks, address
from tensorlib.kernels.cpu import convolution as conv

__all__ = ["Quantised"]

PANEL = 16  # columns of a packed panel, as in tasks/int8.py
LEVELS = 127  # of a byte of activations, so that two products fit in 16 bits

_tasks = Tasks("int8")


@dataclass(eq=False)
class Quantised(Call):
    """A convolution or product whose input lies in [low, high]."""

    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, call: Call, low: float, high: float) -> Quantised:
        given = {f.name: getattr(call, f.name) for f in fields(Call)}
        given["name"] = f"{call.name} of 8 bits"
        return cls(**given, low=low, high=high)


class _Bytes:
    """Weights as bytes, with scales, for an input in [low, high]."""

    def __init__(self, weight: Any, bias: Any, low: float, high: float) -> None:
        outputs, depth = weight.shape[:2]
        if not np.isfinite(weight).all():
            raise NotLowered("its weights are not finite")
        if weight[0].size * LEVELS * LEVELS >= 1 << 31:
            raise NotLowered("its sums have more than 32 bits")
        scale = (high - low) / LEVELS
        self.zero = round(-low / scale)
        self.factor, self.offset = 1 / scale, self.zero + 0.5
        self.depth = -(-depth // 4) * 4
        largest = np.abs(weight).reshape(outputs, -1).max(1).astype(np.float64)
        each = np.where(largest > 0, largest, 1.0) / LEVELS
        whole = np.rint(weight / each[:, None, None, None]).astype(np.int8)
        sums = whole.reshape(outputs, -1).sum(1, dtype=np.int64)
        self.packed = _packed(whole, self.depth)
        self.scale = _padded(each * scale)
        shift = -self.zero * sums * each * scale
        self.bias = _padded(shift if bias is None else shift + bias)
        self.outside = np.full(self.depth, self.zero, np.uint8)


def _packed(whole: Any, padded: int) -> Any:
    """Weights [O, C, KH, KW] as [panels, KH * KW, depth / 4, PANEL, 4]."""
    outputs, depth, kh, kw = whole.shape
    panels = -(-outputs // PANEL)
    full = np.zeros((panels * PANEL, padded, kh * kw), np.int8)
    full[:outputs, :depth] = whole.reshape(outputs, depth, -1)
    parts = full.reshape(panels, PANEL, padded // 4, 4, kh * kw)
    return np.ascontiguousarray(parts.transpose(0, 4, 2, 1, 3))


def _padded(numbers: Any) -> Any:
    out = np.zeros(-(-numbers.size // PANEL) * PANEL, np.float32)
    out[: numbers.size] = numbers
    return out


def _write(
    part: Any, space: Space, made: _Bytes, pixels: int, depth: int, rows: int, window: Any
) -> None:
    """Rows that make `pixels` pixels of `depth` numbers bytes, and multiply them."""
    columns, taps = part.weight.shape[0], window[4] * window[5]
    image = space.temporary(part)
    step = max(1, 16384 // depth)
    space.add(
        _tasks, "quantise", -(-pixels // step), space.at(part.input.index), image, pixels, step,
        depth, made.depth, made.factor, made.offset,
    )  # fmt: skip
    panels = -(-columns // PANEL)
    count, step, splits = conv.block_rows(max(1, made.depth * min(taps, 3) // 4), rows, panels)
    space.add(
        _tasks, "convolve", count * splits, image, address(made.packed), space.at(part.output),
        address(made.scale), address(made.bias), part.delta(space), *part.limits,
        address(made.outside), *space.scratch(step * (taps + 1) * 8), rows, step, splits,
        made.depth, columns, *window,
    )  # fmt: skip


@lowering("product of 8 bits")
class Product8(Product):
    """`linear` of 8 bits."""

    words = "product of 8 bits"

    def __init__(self, graph: Graph, call: Any) -> None:
        super().__init__(graph, call)
        self.bytes = _Bytes(self.weight[:, :, None, None], self.bias, call.low, call.high)
        del self.packed, self.added

    def temporary_bytes(self, n: int) -> int:
        return int(self.size(self.input.index, n) // self.depth * self.bytes.depth)

    def write(self, space: Space) -> None:
        rows = self.size(self.input.index, space.n) // self.depth
        window = (1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1)
        _write(self, space, self.bytes, rows, self.depth, rows, window)


@lowering("convolution of 8 bits")
class Convolution8(Convolution):
    """A convolution of 8 bits, by the direct algorithm."""

    def __init__(self, graph: Graph, call: Any) -> None:
        super().__init__(graph, call)
        if self.groups != 1:
            raise NotLowered("it has groups")
        if self.words == "convolution of few channels":
            raise NotLowered("it has few channels")
        self.words, self.write = "convolution of 8 bits", self._bytes_rows  # type: ignore[method-assign]
        self.bytes = _Bytes(self.weight, self.bias, call.low, call.high)
        del self.packed, self.added

    def temporary_bytes(self, n: int) -> int:
        images, _, height, width = size_at(self.input.shape, n)
        return int(images * height * width * self.bytes.depth)

    def _bytes_rows(self, space: Space) -> None:
        g = self.geometry(space.n)
        pixels = g.images * g.height * g.width
        _write(self, space, self.bytes, pixels, g.channels, g.rows, g.window)
