"""Where values lie: intervals of use, and offsets in one arena."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Buffer", "place"]

ALIGNMENT = 64


@dataclass(eq=False)
class Buffer:
    """Memory in use from step `first` to step `last`."""

    size: int
    first: int
    last: int
    offset: int = 0


def place(buffers: list[Buffer]) -> int:
    """Give each buffer an offset such that those in use at the same time do not overlap, large ones
    first, each at the lowest place that is free; returns the bytes needed.
    """
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        size = -(-buffer.size // ALIGNMENT) * ALIGNMENT
        at = 0
        for other in placed:  # in order of offsets
            if other.first > buffer.last or other.last < buffer.first:
                continue
            if at + size <= other.offset:
                break
            at = max(at, other.offset + -(-other.size // ALIGNMENT) * ALIGNMENT)
        buffer.offset = at
        total = max(total, at + size)
        placed.append(buffer)
        placed.sort(key=lambda b: b.offset)
    return total
