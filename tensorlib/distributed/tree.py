"""The one order in which numbers of several ranks or shards are added: a binary tree over leaves.

The tree over leaves 0..n-1 is fixed by n alone: a node [lo, hi) is the sum of [lo, mid) and
[mid, hi), where mid - lo is the largest power of two below hi - lo. Floating-point addition is not
associative, so a sum has the same bits for every distribution of the leaves over ranks only if
every distribution adds along the same tree. Each rank owns a contiguous range of leaves, sums the
largest nodes inside its range by itself, and the ranks' nodes are joined along the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Node = tuple[int, int]  # the leaves [lo, hi) it is the sum of

_BLOCK_BYTES = 128 << 10  # a block of each operand stays in the cache while a tree is added


class After(NamedTuple):
    """What becomes complete with a leaf, see `progress`."""

    merges: int
    row: int | None


@dataclass(frozen=True)
class Plan:
    """How `world_size` ranks add `leaves` leaves: see `plan`."""

    leaves: int
    nodes: tuple[tuple[Node, ...], ...]  # by rank: what it adds by itself
    offsets: tuple[int, ...]  # by rank: the number of its first node among all ranks' nodes
    merges: tuple[tuple[int, int], ...]  # node numbers (i, j): j is added to i; the sum ends in 0


def split(lo: int, hi: int) -> int:
    """Where the right half of the node [lo, hi) begins (hi - lo >= 2)."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


def owned(rank: int, world_size: int, leaves: int) -> range:
    """The leaves of a rank: contiguous, and as many for every rank as can be."""
    return range(rank * leaves // world_size, (rank + 1) * leaves // world_size)


@lru_cache(maxsize=256)
def plan(leaves: int, world_size: int) -> Plan:
    """The nodes of each rank, and how they are joined. Needs 1 <= world_size <= leaves."""
    nodes = tuple(cover(owned(rank, world_size, leaves), leaves) for rank in range(world_size))
    offsets = tuple(sum(map(len, nodes[:rank])) for rank in range(world_size))
    number = {node: i for i, node in enumerate(node for own in nodes for node in own)}
    merges: list[tuple[int, int]] = []

    def visit(lo: int, hi: int) -> int:
        if (lo, hi) in number:
            return number[lo, hi]
        middle = split(lo, hi)
        left, right = visit(lo, middle), visit(middle, hi)
        merges.append((left, right))
        return left

    visit(0, leaves)
    return Plan(leaves, nodes, offsets, tuple(merges))


def cover(own: range, leaves: int) -> tuple[Node, ...]:
    """The largest nodes of the tree inside the range `own`, from left to right."""
    found: list[Node] = []

    def visit(lo: int, hi: int) -> None:
        if own.start <= lo and hi <= own.stop:
            found.append((lo, hi))
        elif lo < own.stop and own.start < hi:
            middle = split(lo, hi)
            visit(lo, middle)
            visit(middle, hi)

    visit(0, leaves)
    return tuple(found)


def progress(own: range, leaves: int) -> dict[int, After]:
    """Summing the leaves of `own` from left to right on a stack: after leaf s is pushed, the two
    topmost entries are added `merges` times; then the entry on top is node number `row` of
    `cover(own)`, or not yet one (None).
    """
    ends = {node[1]: row for row, node in enumerate(cover(own, leaves))}
    steps = {}
    for leaf in own:
        lo, hi, merges = 0, leaves, 0
        while hi - lo > 1:
            merges += lo >= own.start and hi == leaf + 1
            middle = split(lo, hi)
            lo, hi = (lo, middle) if leaf < middle else (middle, hi)
        steps[leaf] = After(merges, ends.get(leaf + 1))
    return steps


def combine(
    values: Sequence[np.ndarray], merges: Sequence[tuple[int, int]], out: np.ndarray, ufunc: Any
) -> None:
    """Join one-dimensional `values` by `ufunc` in the order of `merges` into `out`, which may be
    one of them; the others stay as they are.
    """
    if not merges:
        if out is not values[0]:
            out[...] = values[0]
        return
    if len(merges) == 1:
        ufunc(values[0], values[1], out=out)
        return
    size = max(1, _BLOCK_BYTES // max(1, out.itemsize))
    rooms: dict[int, np.ndarray] = {}
    *inner, (left, right) = merges
    for start in range(0, out.size, size):
        part = slice(start, start + size)
        count = min(size, out.size - start)
        block: dict[int, np.ndarray] = {}
        for i, j in inner:
            room = rooms.get(i)
            if room is None:
                room = rooms[i] = np.empty(min(size, out.size), out.dtype)
            room = room[:count]
            ufunc(block.get(i, values[i][part]), block.get(j, values[j][part]), out=room)
            block[i] = room
        ufunc(
            block.get(left, values[left][part]), block.get(right, values[right][part]),
            out=out[part],
        )  # fmt: skip
