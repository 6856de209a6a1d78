"""Elementwise functions, and what works row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.inference.lowering import Lowered, NotLowered, Space, lowering
from tensorlib.inference.templates import Pack, Ref
from tensorlib.kernels.cpu import Tasks, address, blocks
from tensorlib.kernels.cpu.activation import cut

_activation, _attention = Tasks("activation"), Tasks("attention")
_layer_norm, _softmax = Tasks("layer_norm"), Tasks("softmax")
_PIECE = 1 << 13  # numbers of rows that one block works on, about

# the numbers that a function takes, by their names
_NUMBERS: dict[str, tuple[Any, ...]] = {
    "relu": (), "sigmoid": (), "tanh": (), "silu": (), "mish": (), "hardswish": (),
    "hardsigmoid": (), "gelu": (), "relu6": (0.0, 6.0), "hardtanh": ("min_val", "max_val"),
    "leaky_relu": ("negative_slope",), "softplus": ("beta", "threshold"),
    "elu": ("alpha", 1.0, 1.0),
}  # fmt: skip


@lowering(*_NUMBERS)
class Activation(Lowered):
    """An activation, in one pass over memory."""

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        given = call.arguments
        numbers = [given[n] if isinstance(n, str) else n for n in _NUMBERS[call.name]]
        if not all(isinstance(n, float | int) for n in numbers) or len(self.sources) != 1:
            raise NotLowered("its numbers are computed")
        self.numbers = (*numbers, *(0.0,) * (3 - len(numbers)))
        self.task = {"relu6": "hardtanh"}.get(call.name, call.name)
        if call.name == "gelu" and given["approximate"] == "tanh":
            self.task = "gelu_tanh"
        self.words = call.name

    def write(self, space: Space) -> None:
        size = self.size(self.output, space.n)
        count, length = cut(size)
        x, y = space.at(self.sources[0]), space.at(self.output)
        space.add(_activation, self.task, count, x, y, size, length, 0, *self.numbers)


@lowering("layer_norm")
class LayerNorm(Lowered):
    """Layer norm over the last dimension."""

    words = "layer norm"

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        given = call.arguments
        shape = given["normalized_shape"]
        sizes = shape.items if type(shape) is Pack else (shape,)
        value = self.value("input")
        if len(sizes) != 1 or len(value.shape) == 4 or value.origin == "state" or not sizes[0]:
            raise NotLowered("it is not over the last dimension of rows")
        self.width, self.eps = sizes[0], given["eps"]
        states = (self.state("weight"), self.state("bias"))
        self.tables = [None if a is None else np.ascontiguousarray(a) for a in states]

    def temporary_bytes(self, n: int) -> int:
        return 8 * self.size(self.output, n) // int(self.width)

    def write(self, space: Space) -> None:
        rows = self.size(self.output, space.n) // self.width
        count, length = blocks(rows, max(1, _PIECE // self.width), 256)
        weight, bias = (0 if a is None else address(a) for a in self.tables)
        mean = space.temporary(self)
        space.add(
            _layer_norm, "layer_norm", count, space.at(self.sources[0]), weight, bias,
            space.at(self.output), mean, mean + 4 * rows, rows, self.width, length, self.eps, 0,
        )  # fmt: skip


@lowering("softmax", "log_softmax")
class Softmax(Lowered):
    """(Log-)softmax over the last dimension."""

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        self.words = call.name
        value, dim = self.value("input"), call.arguments["dim"]
        ndim = len(value.shape)
        if type(dim) is not int or dim % ndim != ndim - 1 or ndim == 4:
            raise NotLowered("it is not over the last dimension of rows")
        self.width = value.shape[-1]
        if type(self.width) is not int or not self.width:
            raise NotLowered("its length follows the batch")

    def write(self, space: Space) -> None:
        rows = self.size(self.output, space.n) // self.width
        count, length = blocks(rows, max(1, _PIECE // self.width))
        x, y = space.at(self.sources[0]), space.at(self.output)
        name = f"{self.call.name}_rows"
        space.add(_softmax, name, count, x, y, rows, self.width, length, 0)


@lowering("attended_projections", "attended_rows")
class Attention(Lowered):
    """Attention of heads that lie side by side in the rows of projections."""

    heavy = resident = True
    words = "attention"

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        given = call.arguments
        parts = given["parts"]
        if given["mask"] is not None or given["keep"] is not None or type(parts) is not Pack:
            raise NotLowered("it has a mask")
        self.parts = [p.index for p in parts.items if type(p) is Ref]
        if len(self.parts) not in (1, 3) or len(self.parts) != len(parts.items):
            raise NotLowered("its projections are of another form")
        self.heads, self.causal = int(given["heads"]), int(given["causal"])
        self.first = bool(given["length_first"])
        self.out_first = call.name == "attended_projections"

    def _sizes(self, n: int) -> tuple[int, ...]:
        """Batch, queries, keys, and numbers of a head's keys and values."""
        turn = -1 if self.first else 1
        batch, length = self.shape(self.parts[0], n)[:2][::turn]
        source = self.shape(self.parts[-1], n)[:2][::turn][1]
        width = self.shape(self.output, n)[2] // self.heads
        size = self.shape(self.parts[0], n)[2] // (4 - len(self.parts)) // self.heads
        return batch, length, source, size, width

    def temporary_bytes(self, n: int) -> int:
        batch, length, _, _, _ = self._sizes(n)
        return 4 * batch * self.heads * length

    def write(self, space: Space) -> None:
        from tensorlib.kernels.cpu import attention as kernel
        from tensorlib.kernels.cpu import runtime

        batch, length, source, size, width = self._sizes(space.n)
        if len(self.parts) == 1:
            row = 12 * size * self.heads
            start = space.at(self.parts[0])
            fields = [
                _field(start + i * row // 3, batch, length, row, 4 * size, self.first)
                for i in range(3)
            ]
        else:
            fields = [
                _field(space.at(part), batch, count, 4 * each * self.heads, 4 * each, self.first)
                for part, count, each in zip(
                    self.parts, (length, source, source), (size, size, width), strict=True
                )
            ]
        row = 4 * width * self.heads
        out = _field(space.at(self.output), batch, length, row, 4 * width, self.out_first)
        logs = (space.temporary(self), 4 * length * self.heads, 4 * length, 4)
        table = np.array([*fields, (0, 0, 0, 0), (0, 0, 0, 0), out, logs], np.int64)
        space.kept.append(table)
        queries, panel = kernel._sizes()
        parts = max(
            1, min(-(-length // queries), -(-4 * runtime().threads() // batch // self.heads))
        )
        memory = kernel._panels(size, kernel.KEYS) + kernel._panels(kernel.KEYS, width)
        memory += 4 * queries * (kernel.KEYS + panel) + 8 * length
        space.add(
            _attention, "attend", batch * self.heads * parts, address(table), self.heads, length,
            source, size, width, parts, self.causal, 1 / math.sqrt(size or 1),
            address(kernel._zeros()), *space.scratch(memory),
        )  # fmt: skip


def _field(
    at: int, batch: int, length: int, row: int, head: int, length_first: bool
) -> tuple[int, int, int, int]:
    """Address of heads, and bytes from one example, head and position to the next."""
    if length_first:
        return at, row, head, batch * row
    return at, length * row, head, row
