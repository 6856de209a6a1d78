"""Collectives over arrays, written once; a Communicator only has to exchange buffers with peers.

Results are deterministic: a reduction adds along the binary tree over ranks of `tree`, element by
element, in the array's own dtype, whatever the timing. So every rank holds the same bits, and so
does every repetition and every Communicator. `all_reduce_shards` adds along the tree over shards,
of which a rank may own several: its result does not depend on the number of ranks either.

Large reductions are cut into one segment per rank: each rank receives its segment from all others,
reduces it and sends the result to all, which moves 2 (w-1)/w of the array per rank, as a ring does,
but keeps the order and takes two steps instead of 2 (w-1).

Errors:
    DistributedError(ConnectionError)    a peer died, timed out, or called something else
"""

from __future__ import annotations

import enum
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NoReturn

import numpy as np

from . import tree

Buffers = Mapping[int, Sequence[memoryview]]

# up to this size every rank gets every array whole: one step instead of two
_SMALL_BYTES = 32 << 10
# of a large array, this much per rank is on the way at a time; smaller ones lose more to waiting
# when ranks outnumber cores than they win from the cache (measured: 256 KiB to 4 MiB)
_BLOCK_BYTES = 4 << 20


class DistributedError(ConnectionError):
    """A collective failed; the text names the collective, the rank at fault and the reason.

    After it the communicator is closed: its peers have been told and raise as well.
    """


class ReduceOp(enum.Enum):
    """How `all_reduce` and `reduce_scatter` combine the ranks' values."""

    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    PRODUCT = "product"


_REDUCE: dict[ReduceOp, Callable[..., Any]] = {
    ReduceOp.SUM: np.add,
    ReduceOp.AVG: np.add,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
    ReduceOp.PRODUCT: np.multiply,
}
_OPS = list(ReduceOp)
_NAMES = (
    "all_reduce",
    "broadcast",
    "all_gather",
    "reduce_scatter",
    "gather",
    "barrier",
    "broadcast_object",
    "all_gather_object",
    "all_reduce_shards",
)
_DTYPES = [
    np.dtype(kind)
    for kind in ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16"]
]
_HEADER = struct.Struct("<4sBBBBIQQ8Q")
HEADER_BYTES = _HEADER.size
_MAGIC = b"TLC1"
_ABORT = 255
_MAX_DIMS = 8


class Call:
    """What a rank is doing; travels before each message, so that ranks can compare."""

    __slots__ = ("dtype", "name", "op", "sequence", "shape")

    def __init__(
        self,
        name: str,
        dtype: np.dtype[Any] | None = None,
        shape: tuple[int, ...] = (),
        op: ReduceOp | None = None,
    ):
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.op = op
        self.sequence = 0

    def pack(self, nbytes: int) -> bytes:
        shape = self.shape[:_MAX_DIMS]
        dims = shape + (0,) * (_MAX_DIMS - len(shape))
        kind = _NAMES.index(self.name)
        op = 0 if self.op is None else 1 + _OPS.index(self.op)
        dtype = 0 if self.dtype is None else 1 + _DTYPES.index(self.dtype)
        return _HEADER.pack(_MAGIC, kind, op, dtype, len(shape), 0, self.sequence, nbytes, *dims)

    def check(self, peer: int, header: bytes | bytearray, nbytes: int) -> None:
        """Compare a received header with this call; raises DistributedError on a difference."""
        if bytes(header) == self.pack(nbytes):
            return
        magic, kind, op, dtype, ndim, _, sequence, length, *dims = _HEADER.unpack(header)
        if magic != _MAGIC or (kind >= len(_NAMES) and kind != _ABORT):
            raise DistributedError(f"{self.name}: rank {peer} sent something that is no message")
        other = Call(
            _NAMES[kind],
            _DTYPES[dtype - 1] if dtype else None,
            tuple(dims[:ndim]),
            _OPS[op - 1] if op else None,
        )
        other.sequence = sequence
        sizes = "" if length == nbytes else f" ({nbytes} and {length} bytes)"
        raise DistributedError(
            f"{self.name}: this rank called {self}, rank {peer} called {other}{sizes}; "
            "expected the same calls in the same order on all ranks"
        )

    def __str__(self) -> str:
        inside = [] if self.dtype is None else [f"{self.dtype.name}{list(self.shape)}"]
        inside += [] if self.op is None else [self.op.name]
        return f"{self.name}({', '.join(inside)}) as number {self.sequence}"


def abort_header(reason_bytes: int) -> bytes:
    """Announces the reason why a rank leaves, instead of a message."""
    return _HEADER.pack(_MAGIC, _ABORT, 0, 0, 0, 0, 0, reason_bytes, *(0,) * _MAX_DIMS)


def abort_bytes(header: bytes | bytearray | memoryview) -> int | None:
    """How long the reason after an abort header is; None when it is another header."""
    magic, kind, *_, length = _HEADER.unpack(header)[:8]
    return min(int(length), 4096) if magic == _MAGIC and kind == _ABORT else None


class Communicator(ABC):
    """Collectives between `world_size` ranks. Implementations write `_exchange` and `_shut`.

    All methods are collective: every rank calls them in the same order, with arrays of one shape
    and dtype. They may be called from several threads of a rank, one at a time.

    Args:
        timeout_s: how long a collective may go without any progress.
    """

    def __init__(self, rank: int, world_size: int, timeout_s: float):
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._calls = 0
        self._failure: str | None = None
        self._scratch = np.empty(0, np.uint8)
        self._running: list[Future[Any]] = []

    def expect(self, running: Future[Any]) -> None:
        """Note a collective that a thread of this rank runs; `settle` waits for it."""
        self._running = [*(r for r in self._running if not r.done()), running]

    def settle(self) -> None:
        """Wait for the collectives that threads of this rank still run, so that the next one comes
        after them on every rank.
        """
        while self._running:
            self._running.pop(0).result()

    # -- the collectives

    def all_reduce(self, array: np.ndarray, op: ReduceOp = ReduceOp.SUM) -> None:
        """Replace `array` on every rank by the reduction over ranks."""
        _check_reduce(array, op)
        with self._call(Call("all_reduce", array.dtype, array.shape, op)) as call:
            flat, copied = _flat(array)
            self._reduce_rows(call, [flat], tree.plan(self.world_size, self.world_size), op)
            if copied:
                array[...] = flat.reshape(array.shape)

    def all_reduce_shards(self, rows: Sequence[np.ndarray], leaves: int) -> None:
        """Sum `leaves` shards along their tree, of which each rank summed its own nodes.

        Args:
            rows: contiguous one-dimensional arrays of one size and dtype, for the nodes
                `tree.plan(leaves, world_size).nodes[rank]`. The sum of all is left in `rows[0]` on
                every rank, with the same bits for any number of ranks; the others are scratch.
        """
        if not self.world_size <= leaves:
            raise ValueError(
                f"all_reduce_shards: leaves={leaves} for {self.world_size} ranks; expected as many "
                "at least"
            )
        plan = tree.plan(leaves, self.world_size)
        nodes = plan.nodes[self.rank]
        if len(rows) != len(nodes) or any(
            row.ndim != 1
            or row.size != rows[0].size
            or row.dtype != rows[0].dtype
            or not row.flags.c_contiguous
            for row in rows
        ):
            raise ValueError(
                f"all_reduce_shards: arrays of {[(row.shape, row.dtype.name) for row in rows]} for "
                f"the nodes {nodes}; expected a contiguous one-dimensional array for each, of one "
                "size and dtype"
            )
        _check_reduce(rows[0], ReduceOp.SUM)
        shape = (leaves, rows[0].size)
        with self._call(Call("all_reduce_shards", rows[0].dtype, shape, ReduceOp.SUM)) as call:
            self._reduce_rows(call, rows, plan, ReduceOp.SUM)

    def broadcast(self, array: np.ndarray, src: int = 0) -> None:
        """Replace `array` on every rank by the one of rank `src`."""
        self._check_rank(src, "broadcast", "src")
        with self._call(Call("broadcast", _check(array), array.shape)) as call:
            flat, copied = _flat(array)
            self._spread(call, [_bytes(flat)], src)
            if copied and self.rank != src:
                array[...] = flat.reshape(array.shape)

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all ranks, stacked: [world_size, *array.shape]."""
        with self._call(Call("all_gather", _check(array), array.shape)) as call:
            result = np.empty((self.world_size, *array.shape), array.dtype)
            result[self.rank] = array
            mine = _bytes(result[self.rank])
            peers = self._peers()
            self._exchange(
                call,
                {peer: [mine] for peer in peers},
                {peer: [_bytes(result[peer])] for peer in peers},
            )
        return result

    def gather(self, array: np.ndarray, dst: int = 0) -> np.ndarray | None:
        """The arrays of all ranks, stacked, on rank `dst`; None on the others."""
        self._check_rank(dst, "gather", "dst")
        with self._call(Call("gather", _check(array), array.shape)) as call:
            if self.rank != dst:
                self._exchange(call, {dst: [_bytes(np.ascontiguousarray(array))]}, {})
                return None
            result = np.empty((self.world_size, *array.shape), array.dtype)
            result[self.rank] = array
            self._exchange(call, {}, {peer: [_bytes(result[peer])] for peer in self._peers()})
        return result

    def reduce_scatter(self, array: np.ndarray, op: ReduceOp = ReduceOp.SUM) -> np.ndarray:
        """Reduce [world_size, ...] over ranks and return this rank's part, `result[rank]`."""
        _check_reduce(array, op)
        if array.ndim < 1 or array.shape[0] != self.world_size:
            raise ValueError(
                f"reduce_scatter: array of shape {array.shape}; "
                f"expected [{self.world_size}, ...], one part per rank"
            )
        with self._call(Call("reduce_scatter", array.dtype, array.shape, op)) as call:
            parts = np.ascontiguousarray(array)
            others = np.empty_like(parts)
            others[self.rank] = parts[self.rank]
            peers = self._peers()
            self._exchange(
                call,
                {peer: [_bytes(parts[peer])] for peer in peers},
                {peer: [_bytes(others[peer])] for peer in peers},
            )
            result: np.ndarray = np.empty_like(parts[self.rank])
            plan = tree.plan(self.world_size, self.world_size)
            self._reduce([part.reshape(-1) for part in others], plan, result.reshape(-1), op)
        return result

    def barrier(self) -> None:
        """Wait until every rank is here."""
        with self._call(Call("barrier")) as call:
            peers = self._peers()
            self._exchange(call, {peer: [] for peer in peers}, {peer: [] for peer in peers})

    def broadcast_bytes(self, data: bytes | None, src: int = 0) -> bytes:
        """The bytes of rank `src`, whose length the others need not know."""
        self._check_rank(src, "broadcast_object", "src")
        with self._call(Call("broadcast_object")) as call:
            size = np.array([len(data or b"")], np.uint64)
            self._spread(call, [_bytes(size)], src)
            buffer = bytearray(data or b"") if self.rank == src else bytearray(int(size[0]))
            self._spread(call, [memoryview(buffer)], src)
        return bytes(buffer)

    def all_gather_bytes(self, data: bytes) -> list[bytes]:
        """The bytes of all ranks, of any lengths."""
        with self._call(Call("all_gather_object")) as call:
            sizes = np.zeros(self.world_size, np.uint64)
            sizes[self.rank] = len(data)
            peers = self._peers()
            self._exchange(
                call,
                {peer: [_bytes(sizes[self.rank : self.rank + 1])] for peer in peers},
                {peer: [_bytes(sizes[peer : peer + 1])] for peer in peers},
            )
            parts = [bytearray(int(size)) for size in sizes]
            parts[self.rank][:] = data
            mine = memoryview(data)
            self._exchange(
                call,
                {peer: [mine] for peer in peers},
                {peer: [memoryview(parts[peer])] for peer in peers},
            )
        return [bytes(part) for part in parts]

    def close(self) -> None:
        """Leave the group; a peer that still waits for this rank gets an error."""
        self._fail(f"rank {self.rank} left the group")

    def allocate(self, size: int, dtype: Any) -> np.ndarray:
        """A flat array of zeros where this communicator reduces arrays fastest. All ranks call it,
        in the same order; the size may differ.
        """
        return np.zeros(size, dtype)

    # -- for implementations

    @abstractmethod
    def _exchange(self, call: Call, sends: Buffers, receives: Buffers) -> None:
        """Send and receive one message per peer, all at the same time.

        A message is `call.pack(total bytes)` and then the buffers. Received headers go through
        `call.check`. Must not wait longer than `timeout_s` without progress.
        """

    @abstractmethod
    def _shut(self, reason: str) -> None:
        """Tell the peers why this rank leaves, where possible, and release everything."""

    # -- inside

    def _reduce_rows(
        self, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp
    ) -> None:
        """Reduce the ranks' flat rows along the plan's tree; the result replaces `rows[0]`."""
        if rows[0].nbytes <= _SMALL_BYTES or rows[0].size < self.world_size:
            self._reduce_whole(call, rows, plan, op)
        else:
            self._reduce_segments(call, rows, plan, op)

    def _reduce_whole(
        self, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp
    ) -> None:
        """Everyone gets everything and reduces by itself."""
        peers = self._peers()
        theirs = {
            peer: np.empty((len(plan.nodes[peer]), rows[0].size), rows[0].dtype) for peer in peers
        }
        mine = [_bytes(row) for row in rows]
        self._exchange(
            call,
            dict.fromkeys(peers, mine),
            {peer: [_bytes(theirs[peer])] for peer in peers},
        )
        values = [
            row
            for rank in range(self.world_size)
            for row in (rows if rank == self.rank else theirs[rank])
        ]
        self._reduce(values, plan, rows[0], op)

    def _reduce_segments(
        self, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp
    ) -> None:
        """Block by block: every rank reduces its segment; results travel with the next block."""
        world, me, peers = self.world_size, self.rank, self._peers()
        size, dtype = rows[0].size, rows[0].dtype
        per_rank = max(1, _BLOCK_BYTES // dtype.itemsize)
        blocks = -(-size // (per_rank * world))
        done: list[np.ndarray] | None = None
        for block in range(blocks + 1):
            todo = slice(block * per_rank * world, (block + 1) * per_rank * world)
            sends: dict[int, list[memoryview]] = {peer: [] for peer in peers}
            receives: dict[int, list[memoryview]] = {peer: [] for peer in peers}
            if done is not None:
                for peer in peers:
                    sends[peer].append(_bytes(done[me]))
                    receives[peer].append(_bytes(done[peer]))
            values: list[np.ndarray] = []
            parts: list[list[np.ndarray]] = []
            if block < blocks:
                parts = [np.array_split(row[todo], world) for row in rows]
                mine = [part[me] for part in parts]
                values = self._incoming(mine, plan)
                for peer in peers:
                    first = plan.offsets[peer]
                    sends[peer] += [_bytes(part[peer]) for part in parts]
                    receives[peer] += [
                        _bytes(values[first + i]) for i in range(len(plan.nodes[peer]))
                    ]
            self._exchange(call, sends, receives)
            if block < blocks:
                self._reduce(values, plan, parts[0][me], op)
                done = parts[0]

    def _incoming(self, mine: list[np.ndarray], plan: tree.Plan) -> list[np.ndarray]:
        """The values of all nodes for one segment: this rank's own, and room for the others'."""
        total, first = plan.offsets[-1] + len(plan.nodes[-1]), plan.offsets[self.rank]
        like = mine[0]
        room = self._room(like.nbytes * total).view(like.dtype).reshape(total, like.size)
        return [*room[:first], *mine, *room[first + len(mine) :]]

    def _reduce(
        self, values: Sequence[np.ndarray], plan: tree.Plan, out: np.ndarray, op: ReduceOp
    ) -> None:
        """Combine all ranks' nodes along the tree into `out`, which may be one of them."""
        tree.combine(values, plan.merges, out, _REDUCE[op])
        if op is ReduceOp.AVG:
            np.divide(out, out.dtype.type(plan.leaves), out=out)

    def _spread(self, call: Call, buffers: list[memoryview], src: int) -> None:
        if self.rank == src:
            self._exchange(call, dict.fromkeys(self._peers(), buffers), {})
        else:
            self._exchange(call, {}, {src: buffers})

    def _room(self, nbytes: int) -> np.ndarray:
        if self._scratch.size < nbytes:
            self._scratch = np.empty(nbytes, np.uint8)
        return self._scratch[:nbytes]

    def _peers(self) -> list[int]:
        # each rank starts with its successor, so that not all send to rank 0 first
        return [(self.rank + i) % self.world_size for i in range(1, self.world_size)]

    def _check_rank(self, rank: int, name: str, argument: str) -> None:
        if not 0 <= rank < self.world_size:
            raise ValueError(f"{name}: {argument}={rank}; expected 0..{self.world_size - 1}")

    def _call(self, call: Call) -> _Running:
        return _Running(self, call)

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
            self._shut(reason)


class _Running:
    """One collective at a time; numbers it, and closes the communicator when it fails."""

    __slots__ = ("call", "communicator")

    def __init__(self, communicator: Communicator, call: Call):
        self.communicator = communicator
        self.call = call

    def __enter__(self) -> Call:
        group = self.communicator
        if not group._lock.acquire(timeout=group.timeout_s):
            raise DistributedError(
                f"{self.call.name}: another thread's collective did not end in {group.timeout_s} s"
            )
        if group._failure is not None:
            group._lock.release()
            raise DistributedError(f"{self.call.name}: the group is closed: {group._failure}")
        group._calls += 1
        self.call.sequence = group._calls
        return self.call

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        group = self.communicator
        try:
            if error is not None:  # half a collective leaves the group unusable, whatever it was
                group._fail(str(error) or type(error).__name__)
        finally:
            group._lock.release()


def raise_gone(call: Call, ranks: Sequence[int]) -> NoReturn:
    """The error for peers whose connection ended."""
    names = " and ".join(f"rank {rank}" for rank in ranks)
    raise DistributedError(
        f"{call.name}: {names} closed the connection (the process ended or was killed)"
    )


def raise_timeout(call: Call, ranks: Sequence[int], timeout_s: float) -> NoReturn:
    """The error for peers that made no progress in time."""
    names = " and ".join(f"rank {rank}" for rank in ranks)
    raise DistributedError(
        f"{call.name}: no progress for {timeout_s:g} s while waiting for {names}. "
        "Hint: that rank hangs, or did not call this collective"
    )


def raise_abort(call: Call, peer: int, reason: str) -> NoReturn:
    """The error for a peer that said why it leaves."""
    raise DistributedError(f"{call.name}: rank {peer} gave up: {reason}")


def _check(array: np.ndarray) -> np.dtype[Any]:
    if array.dtype not in _DTYPES:
        known = ", ".join(dtype.name for dtype in _DTYPES)
        raise TypeError(f"collective on dtype {array.dtype}; expected one of {known}")
    return array.dtype


def _check_reduce(array: np.ndarray, op: ReduceOp) -> None:
    kind = _check(array).kind
    if op is ReduceOp.AVG and kind not in "fc":
        raise TypeError(f"ReduceOp.AVG on dtype {array.dtype}; expected floats. Hint: use SUM")
    if kind == "b" and op in (ReduceOp.SUM, ReduceOp.PRODUCT):
        raise TypeError(f"ReduceOp.{op.name} on bool; expected MIN (all) or MAX (any)")
    if kind == "c" and op in (ReduceOp.MIN, ReduceOp.MAX):
        raise TypeError(f"ReduceOp.{op.name} on dtype {array.dtype}; expected an ordered dtype")


def _flat(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """A contiguous one-dimensional view, or a copy where there is none."""
    if array.flags.c_contiguous:
        return array.reshape(-1), False
    return np.ascontiguousarray(array).reshape(-1), True


def _bytes(array: np.ndarray) -> memoryview:
    # through uint8: memoryview.cast refuses empty and 0-dim arrays and some dtypes
    return array.reshape(-1).view(np.uint8).data
