"""Pooling of images, and sums and products of values of one shape."""

from __future__ import annotations

import math
from typing import Any

from tensorlib.inference.lowered.convolution import two_numbers
from tensorlib.inference.lowering import Lowered, NotLowered, Space, lowering
from tensorlib.inference.templates import Batch, Pack
from tensorlib.kernels.cpu import Tasks
from tensorlib.kernels.cpu.activation import cut

_pooling, _arithmetic = Tasks("pooling"), Tasks("arithmetic")


class _Pooled(Lowered):
    """Windows of images with channels last."""

    sums = 0  # whether elements are added up
    divisor = 1.0
    kernel = stride = dilation = (1, 1)
    padding = (0, 0)

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        self.words = call.name
        self.input = self.value("input")
        if len(self.input.shape) != 4 or self.input.origin == "state":
            raise NotLowered("it is not of images")
        if any(type(s) is Batch for s in self.input.shape[1:]):
            raise NotLowered("a size follows the batch")

    def write(self, space: Space) -> None:
        n, c, h, w = self.shape(self.input.index, space.n)
        made = self.shape(self.output, space.n)
        height, width = made[2:] if len(made) == 4 else (1, 1)
        y = space.at(self.output)
        space.add(
            _pooling, "pool_rows", n * height, space.at(self.input.index), y, n, c, h, w, height,
            width, *self.kernel, *self.stride, *self.padding, *self.dilation, self.sums, 0,
        )  # fmt: skip
        if self.divisor != 1:
            size = math.prod(made)
            count, length = cut(size)
            factor = 1 / self.divisor
            space.add(_arithmetic, "affine", count, y, y, size, length, 0, factor, -0.0)


@lowering("max_pool2d")
class MaxPool(_Pooled):
    """The largest element of each window."""

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        given = call.arguments
        self.kernel = two_numbers(given["kernel_size"])
        unset = given["stride"] is None or given["stride"] == Pack(tuple, ())
        self.stride = self.kernel if unset else two_numbers(given["stride"])
        self.padding, self.dilation = two_numbers(given["padding"]), two_numbers(given["dilation"])


@lowering("avg_pool2d")
class AveragePool(_Pooled):
    """The mean of each window, all of the same number of elements."""

    sums = 1

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        given = call.arguments
        self.kernel = two_numbers(given["kernel_size"])
        self.stride = self.kernel if given["stride"] is None else two_numbers(given["stride"])
        self.padding = two_numbers(given["padding"])
        if given["ceil_mode"] or (self.padding != (0, 0) and not given["count_include_pad"]):
            raise NotLowered("its windows have different numbers of elements")
        self.divisor = float(given["divisor_override"] or math.prod(self.kernel))


@lowering("adaptive_avg_pool2d", "mean")
class GlobalAverage(_Pooled):
    """The mean of each channel."""

    sums = 1

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        shape = graph.values[self.output].shape
        ones = len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))
        if call.name == "mean":
            dims = call.arguments["dim"]
            found = {d % 4 for d in dims.items} if type(dims) is Pack else set()
            ones = ones and found == {2, 3}
        if not ones:
            raise NotLowered("it leaves more than one number of a channel")
        self.kernel = self.input.shape[2:]
        self.divisor = float(math.prod(self.kernel))


@lowering("add", "mul")
class Elementwise(Lowered):
    """The sum or product of two values of one shape."""

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        self.words = {"add": "sum", "mul": "product of elements"}[call.name]
        self.operands = self.value("input"), self.value("other")
        shapes = {v.shape for v in (*self.operands, graph.values[self.output])}
        if len(shapes) != 1 or any(v.origin == "state" for v in self.operands):
            raise NotLowered("its operands have different shapes")
        if call.arguments.get("alpha", 1) != 1:
            raise NotLowered("an operand has a factor")

    def write(self, space: Space) -> None:
        size = self.size(self.output, space.n)
        count, length = cut(size)
        a, b = (space.at(v.index) for v in self.operands)
        name = f"{self.call.name}_same"
        space.add(_arithmetic, name, count, a, b, space.at(self.output), size, length, 0)
