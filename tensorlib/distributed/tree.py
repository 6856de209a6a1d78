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

_BLOCK_BYTES = 256 << 10  # a block of each operand stays in the cache while a tree is added


class After(NamedTuple):
    """What becomes complete with a leaf, see `progress`."""

    merges: int
    row: int | None


@dataclass(frozen=True)
class Plan:
    """How several parties join the nodes that each of them summed by itself: see `join`."""

    leaves: int
    nodes: tuple[tuple[Node, ...], ...]  # by party
    offsets: tuple[int, ...]  # by party: the number of its first node among all nodes
    merges: tuple[tuple[int, int], ...]  # node numbers (i, j): node j is added to node i
    tops: tuple[int, ...]  # the numbers in which results are then
    results: tuple[Node, ...]  # what they are the sums of; the whole tree if all nodes are there


def split(lo: int, hi: int) -> int:
    """Where the right half of the node [lo, hi) begins (hi - lo >= 2)."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


def owned(rank: int, world_size: int, leaves: int) -> range:
    """The leaves of a rank: contiguous, and as many for every rank as can be."""
    return range(rank * leaves // world_size, (rank + 1) * leaves // world_size)


@lru_cache(maxsize=256)
def plan(leaves: int, world_size: int) -> Plan:
    """The nodes of each rank, and how they are joined. Needs 1 <= world_size <= leaves."""
    ranks = range(world_size)
    return join(tuple(cover(owned(rank, world_size, leaves), leaves) for rank in ranks), leaves)


@lru_cache(maxsize=256)
def join(parts: tuple[tuple[Node, ...], ...], leaves: int) -> Plan:
    """The sums that the parties' nodes (none inside another) can be joined to."""
    offsets = tuple(sum(map(len, parts[:party])) for party in range(len(parts)))
    number = {node: i for i, node in enumerate(node for own in parts for node in own)}
    merges: list[tuple[int, int]] = []
    tops: list[tuple[Node, int]] = []

    def visit(lo: int, hi: int) -> int | None:
        if (lo, hi) in number or hi - lo == 1:
            return number.get((lo, hi))
        halves = (lo, split(lo, hi)), (split(lo, hi), hi)
        left, right = visit(*halves[0]), visit(*halves[1])
        if left is not None and right is not None:
            merges.append((left, right))
            return left
        tops.extend(
            (half, top) for half, top in zip(halves, (left, right), strict=True) if top is not None
        )
        return None

    whole = visit(0, leaves)
    if whole is not None:
        tops.append(((0, leaves), whole))
    tops.sort()
    return Plan(
        leaves, parts, offsets, tuple(merges),
        tuple(top for _, top in tops), tuple(node for node, _ in tops),
    )  # fmt: skip


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
    values: Sequence[np.ndarray],
    plan: Plan,
    outs: Sequence[Sequence[np.ndarray]],
    ufunc: Any,
    divisor: Any = None,
) -> None:
    """Join one-dimensional `values`, one per node, by `ufunc` as planned.

    Each result, divided by `divisor`, goes to all arrays of its entry in `outs` (one entry per
    `plan.tops`). Those may be among the values; other values stay as they are.
    """
    targets = dict(zip(plan.tops, outs, strict=True))
    last = {left: step for step, (left, _) in enumerate(plan.merges)}
    first = outs[0][0]
    size = max(1, _BLOCK_BYTES // max(1, first.itemsize))
    rooms: dict[int, np.ndarray] = {}
    for start in range(0, first.size, size):
        part = slice(start, min(start + size, first.size))
        block = [value[part] for value in values]
        for step, (left, right) in enumerate(plan.merges):
            if left in targets and last[left] == step:
                room = targets[left][0][part]
            else:
                if left not in rooms:
                    rooms[left] = np.empty_like(first, shape=min(size, first.size))
                room = rooms[left][: part.stop - part.start]
            ufunc(block[left], block[right], out=room)
            block[left] = room
        for top, arrays in targets.items():
            done = arrays[0][part]
            if top not in last:
                done[...] = block[top]
            if divisor is not None:
                np.divide(done, divisor, out=done)
            for other in arrays[1:]:
                other[part] = done
