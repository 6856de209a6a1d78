"""From calls to compiled tasks: which calls have one, and the rows of addresses and numbers they
become.

Values of compiled steps lie in one arena: images [N, C, H, W] with channels last, everything else
row by row. A lowering is made once for a call, with its weights packed, and writes its rows for a
batch size when that is first asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib.inference.graph import Graph
from tensorlib.inference.templates import Ref, size_at
from tensorlib.inference.trace import Call, Value
from tensorlib.kernels.cpu import runtime

__all__ = ["Lowered", "NotLowered", "Space", "lower", "lowering"]

ALIGNMENT = 64


class NotLowered(Exception):
    """A call runs as the operation it is; says why."""


class External:
    """Stands for the address of a value that is made outside the arena, plus `offset`."""

    def __init__(self, index: int, offset: int = 0) -> None:
        self.index, self.offset = index, offset

    def __add__(self, offset: int) -> External:
        return External(self.index, self.offset + offset)

    def __sub__(self, offset: int) -> External:
        return External(self.index, self.offset - offset)


class Space:
    """Where the rows of a segment are written for one batch size."""

    def __init__(self, n: int, base: int, offsets: dict[int, int]) -> None:
        self.n, self._base, self._offsets = n, base, offsets
        self.start = 0  # the first example of the chunk
        self.steps: dict[int, int] = {}  # bytes of an example, for values of whole batches
        self.rows: list[tuple[int, int, tuple[Any, ...]]] = []
        self.kept: list[Any] = []  # arrays whose addresses stand in rows
        self.scratch_size = 0
        self.scratch_address = (0, 0)
        self.temporaries: dict[int, int] = {}  # id of a lowering: offset
        self.strides: dict[int, tuple[int, ...]] = {}  # of arguments that are read where they lie

    def at(self, index: int) -> Any:
        """Address of a value."""
        offset = self._offsets.get(index)
        shift = self.start * self.steps.get(index, 0) if self.start else 0
        return External(index, shift) if offset is None else self._base + offset + shift

    def temporary(self, owner: Lowered) -> int:
        """Address of the memory that a lowering asked for."""
        return self._base + self.temporaries[id(owner)]

    def scratch(self, size: int) -> tuple[int, int]:
        """Address and stride of memory for each worker."""
        self.scratch_size = max(self.scratch_size, size)
        return self.scratch_address

    def add(self, tasks: Any, name: str, blocks: int, *arguments: Any) -> None:
        """A row: `blocks` blocks of a task."""
        wanted = runtime().loader.arguments(tasks._family, name)
        if len(arguments) != wanted:  # compiled code would read past them
            raise TypeError(f"{name} takes {wanted} arguments, {len(arguments)} given")
        if blocks > 0:
            self.rows.append((tasks.address(name), blocks, arguments))


class Lowered:
    """A call as rows of compiled tasks."""

    heavy = False  # whether it is worth a segment of its own
    resident = False  # whether what it reads must lie in the arena
    reads_bytes = False  # whether it may read uint8
    words = "compiled"  # for the summary

    def __init__(self, graph: Graph, call: Call) -> None:
        self.graph, self.call = graph, call
        self.output = call.outputs()[0]
        self.sources = [i for i in dict.fromkeys(call.inputs()) if self._flows(i)]
        self.same: int | None = None  # the source whose memory is the output's
        self.direct: int | None = None  # the argument of the model that is read where it lies

    def _flows(self, index: int) -> bool:
        return self.graph.values[index].origin != "state"

    def temporary_bytes(self, n: int) -> int:
        """Bytes of memory needed while it runs."""
        return 0

    def write(self, space: Space) -> None:
        """Add rows."""
        raise NotImplementedError

    # -- what lowerings ask ------------------------------------------------------------------------

    def value(self, key: str) -> Value:
        """The value that is an argument."""
        template = self.call.arguments[key]
        if type(template) is not Ref:
            raise NotLowered(f"argument {key!r} is no tensor")
        return self.graph.values[template.index]

    def state(self, key: str) -> Any:
        """The array of an argument that is known now; None for None."""
        if self.call.arguments[key] is None:
            return None
        value = self.value(key)
        if value.origin != "state":
            raise NotLowered(f"{key} is computed in the model")
        return value.tensor.array

    def shape(self, index: int, n: int) -> tuple[int, ...]:
        """The shape of a value at batch size n."""
        return size_at(self.graph.values[index].shape, n)

    def size(self, index: int, n: int) -> int:
        """Elements of a value at batch size n."""
        return math.prod(self.shape(index, n))


_LOWERINGS: dict[str, type[Lowered]] = {}


def lowering(*names: str) -> Callable[[type[Lowered]], type[Lowered]]:
    """Register a class for the calls of these names."""

    def register(kind: type[Lowered]) -> type[Lowered]:
        for name in names:
            _LOWERINGS[name] = kind
        return kind

    return register


def lower(graph: Graph, call: Call, pinned: set[int]) -> Lowered:
    """The lowering of a call; raises NotLowered. `pinned` are memories changed in place."""
    kind = _LOWERINGS.get(call.name)
    if kind is None:
        raise NotLowered("there is no compiled form")
    ours = [graph.values[i] for i in (*call.inputs(), *call.outputs())]
    if call.changed or any(v.memory in pinned for v in ours):
        raise NotLowered("memory is changed in place")
    for value in ours:
        if value.dtype != np.float32 and not (kind.reads_bytes and value.dtype == np.uint8):
            raise NotLowered(f"{value.dtype} is not float32")
    if type(call.result) is not Ref:
        raise NotLowered("it has several results")
    return kind(graph, call)
