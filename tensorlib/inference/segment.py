"""Runs of compiled tasks between operations, and the arena they share."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.inference.chunks import Group, example_bytes
from tensorlib.inference.lowering import External, Space
from tensorlib.kernels.cpu import address, empty, host, runtime

__all__ = ["Arena", "Segment"]

_KEPT = 8  # batch sizes (and layouts of arguments) whose rows are kept
_GUARD = 4096  # bytes behind the last value: blocks of registers may read over the end of a row


class Arena:
    """Memory of one program: values and each worker's scratch."""

    def __init__(self, size: int, offsets: dict[int, int], temporaries: dict[int, int]) -> None:
        self.size = size
        self.offsets, self.temporaries = offsets, temporaries
        self._memory = np.zeros(size + _GUARD + 64, np.uint8)
        self.base = -(-self._memory.ctypes.data // 64) * 64
        self._start = self.base - self._memory.ctypes.data
        self._scratch = np.empty(0, np.uint8)
        self.scratch_size = self.workers = 0
        self.generation = 0  # of the scratch memory, whose address stands in rows

    def view(self, index: int, shape: tuple[int, ...]) -> Any:
        """A value of this shape as an array."""
        last = len(shape) == 4
        laid = (shape[0], *shape[2:], shape[1]) if last else shape
        made: Any = np.ndarray(laid, np.float32, self._memory, self._start + self.offsets[index])
        return made.transpose(0, 3, 1, 2) if last else made

    def holds(self, array: Any) -> bool:
        """Whether an array lies in the arena."""
        return bool(np.may_share_memory(array, self._memory))

    def scratch(self, size: int) -> tuple[int, int]:
        """Address and stride of `size` bytes for each worker."""
        stride = (size + 127) // 64 * 64 + 64
        self.workers = workers = max(runtime().threads(), 2 * host.cores())
        if stride * workers + 64 > self._scratch.nbytes:
            self._scratch = np.empty(stride * workers + 64, np.uint8)
            self.generation += 1
        return -(-self._scratch.ctypes.data // 64) * 64, stride


class _Rows:
    """Rows of a segment for one batch size."""

    def __init__(self, space: Space) -> None:
        count = sum(len(arguments) for _, _, arguments in space.rows)
        self.numbers = np.empty(count, np.float64)
        self.steps = np.empty((len(space.rows), 4), np.int64)
        self.patches: list[tuple[int, int, int]] = []  # place of a number, value, offset
        self.kept = space.kept
        start = self.numbers.ctypes.data
        at = 0
        for row, (function, blocks, arguments) in enumerate(space.rows):
            self.steps[row] = function, start + 8 * at, 0, blocks
            for argument in arguments:
                if type(argument) is External:
                    self.patches.append((at, argument.index, argument.offset))
                else:
                    self.numbers[at] = argument
                at += 1


class Segment:
    """Lowered calls that run in one go."""

    def __init__(self, groups: list[Group], resident: set[int], exports: set[int]) -> None:
        self.groups = groups
        self.parts = parts = [part for group in groups for part in group.parts]
        self.makes = [part.output for part in parts]
        read = dict.fromkeys(i for part in parts for i in part.sources)
        self.reads = [i for i in read if i not in resident]  # not yet in the arena
        self.direct = {part.direct for part in parts if part.direct is not None}
        for part in parts:  # read by another part too: copied for all
            self.direct -= {i for i in part.sources if part.direct != i}
        self.exports = [i for i in self.makes if i in exports]
        self.free: list[int] = []
        self.arena: Any = None
        self._rows: dict[Any, _Rows] = {}

    def run(self, tensors: list[Any], n: int) -> None:
        """Compute, with `tensors` by number."""
        arena = self.arena
        key: tuple[Any, ...] = (n, arena.generation)
        given: dict[int, Any] = {}
        for i in self.reads:
            array = given[i] = tensors[i].array
            if i in self.direct:
                key += array.strides
            elif not _laid_out(array):
                given[i] = _copy(array)
        rows = self._rows.get(key)
        if rows is None or runtime().threads() > arena.workers:
            rows = self._written(given, n)
            self._keep((n, arena.generation, *key[2:]), rows)
        for place, i, offset in rows.patches:
            rows.numbers[place] = address(given[i]) + offset
        runtime().run(rows.steps)
        for i in self.exports:
            tensors[i] = wrap(arena.view(i, self.parts[0].shape(i, n)))
        for i in self.free:
            tensors[i] = None

    def _written(self, given: dict[int, Any], n: int) -> _Rows:
        """Rows for a batch size and for arguments laid out as these."""
        arena = self.arena
        size = arena.scratch_size
        while True:
            space = Space(n, arena.base, arena.offsets)
            space.temporaries = arena.temporaries
            space.scratch_address = arena.scratch(size)
            space.strides = {i: given[i].strides for i in self.direct}
            for group in self.groups:
                _write(space, group, n)
            if space.scratch_size <= size:
                break
            size = arena.scratch_size = space.scratch_size
        return _Rows(space)

    def _keep(self, key: Any, rows: _Rows) -> None:
        if len(self._rows) >= _KEPT:
            del self._rows[next(iter(self._rows))]
        self._rows[key] = rows


def _write(space: Space, group: Group, n: int) -> None:
    """Rows of a group, chunk by chunk."""
    space.steps = {}
    if group.chunk < n:
        for part in group.parts:
            for i in (*part.sources, part.output):
                if i not in group.local:
                    space.steps[i] = example_bytes(part, i) or 0
        for i, strides in space.strides.items():
            space.steps[i] = strides[0]
    for start in range(0, n, group.chunk) if group.chunk < n else (0,):
        space.start, space.n = start, min(group.chunk, n - start) if group.chunk < n else n
        for part in group.parts:
            part.write(space)


def _laid_out(array: Any) -> bool:
    """Whether an array lies in memory as compiled steps read it."""
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return bool(array.flags.c_contiguous and array.flags.aligned)


def _copy(array: Any) -> Any:
    """A copy that does."""
    if array.ndim != 4:
        made = empty(array.shape)
        np.copyto(made, array)
        return made
    n, c, h, w = array.shape
    made = empty((n, h, w, c)).transpose(0, 3, 1, 2)
    np.copyto(made, array)
    return made
