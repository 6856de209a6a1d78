"""All-reduce over messages, for any tree: small arrays whole, large ones in segments.

Large arrays are cut into one segment per member: each receives its segment from all others,
reduces it and sends the result to all, which moves 2 (w-1)/w of the array per member, as a ring
does, but keeps the order of the tree and takes two steps instead of 2 (w-1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import tree
from .messages import Call, ReduceOp, as_bytes

if TYPE_CHECKING:
    from .communicator import Communicator

# up to this size every member gets every array whole: one step instead of two
SMALL_BYTES = 32 << 10
# of a large array, this much per member is on the way at a time; smaller ones lose more to waiting
# when ranks outnumber cores than they win from the cache (measured: 256 KiB to 4 MiB)
_BLOCK_BYTES = 4 << 20

UFUNCS: Mapping[ReduceOp, Callable[..., Any]] = {
    ReduceOp.SUM: np.add,
    ReduceOp.AVG: np.add,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
    ReduceOp.PRODUCT: np.multiply,
}


def divisor(op: ReduceOp, dtype: np.dtype[Any], count: int) -> Any:
    """What a reduction of `count` values is divided by at its end; None for nothing."""
    return dtype.type(count) if op is ReduceOp.AVG else None


def reduce_rows(
    group: Communicator,
    call: Call,
    rows: Sequence[np.ndarray],
    plan: tree.Plan,
    op: ReduceOp,
    members: Sequence[int],
) -> None:
    """Reduce the rows of `members` along the whole tree; the result replaces `rows[0]`.

    Args:
        rows: contiguous one-dimensional arrays, for this member's nodes of the plan.
        members: ranks, the parties of the plan; this one is among them.
    """
    if rows[0].nbytes <= SMALL_BYTES or rows[0].size < len(members):
        _whole(group, call, rows, plan, op, members)
    else:
        _segments(group, call, rows, plan, op, members)


def _whole(
    group: Communicator, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp,
    members: Sequence[int],
) -> None:  # fmt: skip
    """Everyone gets everything and reduces by itself."""
    size, dtype = rows[0].size, rows[0].dtype
    theirs = {
        rank: np.empty_like(rows[0], shape=(len(nodes), size))
        for rank, nodes in zip(members, plan.nodes, strict=True)
        if rank != group.rank
    }
    mine = [as_bytes(row) for row in rows]
    group._exchange(
        call,
        dict.fromkeys(_others(group, members), mine),
        {rank: [as_bytes(stack)] for rank, stack in theirs.items()},
    )
    values = [row for rank in members for row in theirs.get(rank, rows)]
    tree.combine(values, plan, [[rows[0]]], UFUNCS[op], divisor(op, dtype, plan.leaves))


def _segments(
    group: Communicator, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp,
    members: Sequence[int],
) -> None:  # fmt: skip
    """Block by block: every member reduces its segment; results travel with the next block."""
    parties, me, peers = len(members), members.index(group.rank), _others(group, members)
    party = {rank: i for i, rank in enumerate(members)}
    size, dtype = rows[0].size, rows[0].dtype
    per_member = max(1, _BLOCK_BYTES // dtype.itemsize)
    blocks = -(-size // (per_member * parties))
    done: list[np.ndarray] | None = None
    for block in range(blocks + 1):
        todo = slice(block * per_member * parties, (block + 1) * per_member * parties)
        sends: dict[int, list[Any]] = {peer: [] for peer in peers}
        receives: dict[int, list[Any]] = {peer: [] for peer in peers}
        if done is not None:
            for peer in peers:
                sends[peer].append(as_bytes(done[me]))
                receives[peer].append(as_bytes(done[party[peer]]))
        values: list[np.ndarray] = []
        parts: list[list[np.ndarray]] = []
        if block < blocks:
            parts = [np.array_split(row[todo], parties) for row in rows]
            values = _incoming(group, [part[me] for part in parts], plan, me)
            for peer in peers:
                other = party[peer]
                first = plan.offsets[other]
                sends[peer] += [as_bytes(part[other]) for part in parts]
                receives[peer] += [
                    as_bytes(values[first + i]) for i in range(len(plan.nodes[other]))
                ]
        group._exchange(call, sends, receives)
        if block < blocks:
            share = divisor(op, dtype, plan.leaves)
            tree.combine(values, plan, [[parts[0][me]]], UFUNCS[op], share)
            done = parts[0]


def _incoming(
    group: Communicator, mine: list[np.ndarray], plan: tree.Plan, me: int
) -> list[np.ndarray]:
    """The values of all nodes for one segment: this member's own, and room for the others'."""
    total, first = plan.offsets[-1] + len(plan.nodes[-1]), plan.offsets[me]
    like = mine[0]
    room = group._room(like.nbytes * total, like).view(like.dtype).reshape(total, like.size)
    return [*room[:first], *mine, *room[first + len(mine) :]]


def _others(group: Communicator, members: Sequence[int]) -> list[int]:
    # each starts with its successor, so that not all send to the first one first
    me = members.index(group.rank)
    return [members[(me + i) % len(members)] for i in range(1, len(members))]
