"""Which compiled calls run a few examples at a time, so that what one writes is in the cache when
the next one reads it.

Calls that follow each other on images of one size form a stage. Where a whole batch of its values
is larger than the last cache, the stage runs in chunks of a batch, together with neighbours whose
chunks are of about that size; values that nobody outside reads have memory for one chunk only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from tensorlib.inference.lowering import Lowered
from tensorlib.inference.templates import Batch

__all__ = ["Group", "example_bytes", "fitting", "grouped"]


@dataclass
class Group:
    """Calls that run `chunk` examples at a time; `local` are values of a chunk's size."""

    parts: list[Lowered]
    chunk: int
    local: set[int] = field(default_factory=set)

    @property
    def values(self) -> set[int]:
        """All values it reads or writes."""
        return {i for part in self.parts for i in (*part.sources, part.output)}


@cache
def _cache_bytes() -> int:
    """Size of the last level of cache."""
    base = Path("/sys/devices/system/cpu/cpu0/cache")
    found = [1 << 23]
    for place in base.glob("index*/size"):
        text = place.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        if text.rstrip("KM").isdigit():
            found.append(int(text.rstrip("KM")) * unit)
    return max(found)


def example_bytes(part: Lowered, index: int) -> int | None:
    """Bytes of a value for each example; None where its first dimension is not the batch."""
    value = part.graph.values[index]
    shape = value.shape
    if not shape or shape[0] != Batch(1) or any(type(s) is Batch for s in shape[1:]):
        return None
    return int(value.dtype.itemsize * math.prod(shape[1:]))


def grouped(parts: list[Lowered], most: int, outside: set[int]) -> list[Group]:
    """Calls of a segment in groups, for batches of up to `most`; `outside` are values that others
    read.
    """
    found: list[Group] = []
    for stage, run in groupby(parts, key=_stage):
        group = Group(list(run), most)
        if stage is not None:
            group.chunk = min(most, fitting(group))
        last = found[-1] if found else None
        if last is not None and last.chunk < most and group.chunk < most:
            least, largest = sorted((last.chunk, group.chunk))
            if largest <= 2 * least:  # near enough: what passes between them stays in the cache
                last.parts += group.parts
                last.chunk = least
                continue
        found.append(group)
    for group in found:
        if group.chunk < most:
            group.local = _local(group, parts, outside)
            if not group.local:
                group.chunk = most
    return found


def fitting(group: Group) -> int:
    """How many examples of the largest call fit in the cache, a power of two."""
    sizes = [_footprint(part) for part in group.parts]
    if None in sizes:
        return 1 << 62
    return 1 << int(math.log2(max(1, _cache_bytes() // max(1, *(s for s in sizes if s)))))


def _local(group: Group, parts: list[Lowered], outside: set[int]) -> set[int]:
    """Values that nobody outside a group reads."""
    own = {id(part) for part in group.parts}
    read = {i for part in parts if id(part) not in own for i in part.sources}
    local = {part.output for part in group.parts} - read - outside
    for part in group.parts:  # one memory of two values: both or none
        if part.same is not None and not {part.same, part.output} <= local:
            local -= {part.same, part.output}
    return local


def _stage(part: Lowered) -> Any:
    """What calls of one stage have in common."""
    shape = part.graph.values[part.output].shape
    return shape[2:] if len(shape) == 4 else None


def _footprint(part: Lowered) -> int | None:
    """Bytes that a call reads and writes for each example; None where that is not known."""
    sizes = [example_bytes(part, i) for i in (*part.sources, part.output)]
    return None if None in sizes else sum(s for s in sizes if s)
