"""Collectives over arrays, written once; a Communicator only has to exchange buffers with peers.

Results are deterministic: a reduction adds along the binary tree over ranks of `tree`, element by
element, in the array's own dtype, whatever the timing. So every rank holds the same bits, and so
does every repetition and every Communicator. `all_reduce_shards` adds along the tree over shards,
of which a rank may own several: its result does not depend on the number of ranks either.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorlib.utils.workers import Workers

from . import reduction, tree
from .messages import (
    Call,
    DistributedError,
    ReduceOp,
    as_bytes,
    check_dtype,
    check_reduce,
    contiguous,
    on_device,
)
from .transfers import Transfer, Transfers

Buffers = Mapping[int, Sequence[Any]]  # by peer: what `as_bytes` gives


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
        self._worker: Workers | None = None
        self._transfers = Transfers(self)
        self.ranks: tuple[int, ...] = tuple(range(world_size))  # the members' names

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a collective in this communicator's thread, after those submitted before."""
        if self._worker is None:
            self._worker = Workers(1, "collectives")
        running = self._worker.submit(call, *arguments)
        self._running = [*(r for r in self._running if not r.done()), running]
        return running

    def settle(self) -> None:
        """Wait for the collectives that were submitted, so that the next one comes after them on
        every rank.
        """
        while self._running:
            self._running.pop(0).result()

    # -- the collectives

    def all_reduce(self, array: np.ndarray, op: ReduceOp = ReduceOp.SUM) -> None:
        """Replace `array` on every rank by the reduction over ranks."""
        check_reduce(array, op)
        with self._call(Call("all_reduce", array.dtype, array.shape, op)) as call:
            flat, copied = _flat(array)
            self._reduce_rows(call, [flat], self._plan(), op)
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
        check_reduce(rows[0], ReduceOp.SUM)
        shape = (leaves, rows[0].size)
        with self._call(Call("all_reduce_shards", rows[0].dtype, shape, ReduceOp.SUM)) as call:
            self._reduce_rows(call, rows, plan, ReduceOp.SUM)

    def broadcast(self, array: np.ndarray, src: int = 0) -> None:
        """Replace `array` on every rank by the one of rank `src`."""
        self._check_rank(src, "broadcast", "src")
        with self._call(Call("broadcast", check_dtype(array), array.shape)) as call:
            flat, copied = _flat(array)
            self._spread(call, [as_bytes(flat)], src)
            if copied and self.rank != src:
                array[...] = flat.reshape(array.shape)

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all ranks, stacked: [world_size, *array.shape]."""
        with self._call(Call("all_gather", check_dtype(array), array.shape)) as call:
            result = np.empty_like(array, order="C", shape=(self.world_size, *array.shape))
            result[self.rank] = array
            mine = as_bytes(result[self.rank])
            peers = self._peers()
            self._exchange(
                call,
                {peer: [mine] for peer in peers},
                {peer: [as_bytes(result[peer])] for peer in peers},
            )
        return result

    def gather(self, array: np.ndarray, dst: int = 0) -> np.ndarray | None:
        """The arrays of all ranks, stacked, on rank `dst`; None on the others."""
        self._check_rank(dst, "gather", "dst")
        with self._call(Call("gather", check_dtype(array), array.shape)) as call:
            if self.rank != dst:
                self._exchange(call, {dst: [as_bytes(contiguous(array))]}, {})
                return None
            result = np.empty_like(array, order="C", shape=(self.world_size, *array.shape))
            result[self.rank] = array
            self._exchange(call, {}, {peer: [as_bytes(result[peer])] for peer in self._peers()})
        return result

    def reduce_scatter(self, array: np.ndarray, op: ReduceOp = ReduceOp.SUM) -> np.ndarray:
        """Reduce [world_size, ...] over ranks and return this rank's part, `result[rank]`."""
        check_reduce(array, op)
        if array.ndim < 1 or array.shape[0] != self.world_size:
            raise ValueError(
                f"reduce_scatter: array of shape {array.shape}; "
                f"expected [{self.world_size}, ...], one part per rank"
            )
        with self._call(Call("reduce_scatter", array.dtype, array.shape, op)) as call:
            parts = contiguous(array)
            others = np.empty_like(parts)
            others[self.rank] = parts[self.rank]
            peers = self._peers()
            self._exchange(
                call,
                {peer: [as_bytes(parts[peer])] for peer in peers},
                {peer: [as_bytes(others[peer])] for peer in peers},
            )
            result: np.ndarray = np.empty_like(parts[self.rank])
            values = [part.reshape(-1) for part in others]
            share = reduction.divisor(op, array.dtype, self.world_size)
            outs = [[result.reshape(-1)]]
            tree.combine(values, self._plan(), outs, reduction.UFUNCS[op], share)
        return result

    def reduce(self, array: np.ndarray, dst: int = 0, op: ReduceOp = ReduceOp.SUM) -> None:
        """Replace `array` on rank `dst` by the reduction over ranks; the others keep theirs."""
        check_reduce(array, op)
        self._check_rank(dst, "reduce", "dst")
        with self._call(Call("reduce", array.dtype, array.shape, op)) as call:
            flat = array.flatten()
            self._reduce_rows(call, [flat], self._plan(), op)
            if self.rank == dst:
                array[...] = flat.reshape(array.shape)

    def scatter(self, array: np.ndarray | None, out: np.ndarray, src: int = 0) -> None:
        """Rank r's `out` becomes `array[r]` of rank `src`; the others pass None for `array`."""
        self._check_rank(src, "scatter", "src")
        shape = (self.world_size, *out.shape)
        if self.rank == src and (array is None or array.shape != shape or array.dtype != out.dtype):
            found = None if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(f"scatter: array is {found}; expected {out.dtype} {shape}")
        with self._call(Call("scatter", check_dtype(out), out.shape)) as call:
            if self.rank == src:
                assert array is not None
                parts = contiguous(array)
                sends = {peer: [as_bytes(parts[peer])] for peer in self._peers()}
                self._exchange(call, sends, {})
                out[...] = parts[src]
            else:
                flat, copied = _flat(out)
                self._exchange(call, {}, {src: [as_bytes(flat)]})
                if copied:
                    out[...] = flat.reshape(out.shape)

    def all_to_all(self, parts: Sequence[np.ndarray], outs: Sequence[np.ndarray]) -> None:
        """Rank r's `outs[s]` becomes rank s's `parts[r]`, of any sizes and one dtype."""
        kinds = {array.dtype for array in (*parts, *outs)}
        if len(parts) != self.world_size or len(outs) != self.world_size or len(kinds) != 1:
            raise ValueError(
                f"all_to_all: {len(parts)} arrays into {len(outs)}, of {sorted(map(str, kinds))}; "
                f"expected {self.world_size} each, of one dtype"
            )
        own, target = parts[self.rank], outs[self.rank]
        if own.shape != target.shape:
            raise ValueError(f"all_to_all: {own.shape} from this rank to itself, {target.shape}")
        with self._call(Call("all_to_all", check_dtype(own))) as call:
            peers = self._peers()
            sent = {peer: [as_bytes(contiguous(parts[peer]))] for peer in peers}
            flats = {peer: _flat(outs[peer]) for peer in peers}
            self._exchange(call, sent, {peer: [as_bytes(flats[peer][0])] for peer in peers})
            target[...] = own
            for peer, (flat, copied) in flats.items():
                if copied:
                    outs[peer][...] = flat.reshape(outs[peer].shape)

    def barrier(self, timeout_s: float | None = None) -> None:
        """Wait until every rank is here; not longer than `timeout_s`, if given."""
        before = self.timeout_s
        with self._call(Call("barrier")) as call:
            peers = self._peers()
            self.timeout_s = before if timeout_s is None else timeout_s
            try:
                self._exchange(call, {peer: [] for peer in peers}, {peer: [] for peer in peers})
            finally:
                self.timeout_s = before

    # -- between two ranks

    def isend(self, array: np.ndarray, dst: int) -> Transfer:
        """Begin to send `array`; it must not change before `wait()` of the result returned."""
        self._check_peer(dst, "send", "dst")
        check_dtype(array)
        return self._transfers.add(dst, contiguous(array), None)

    def irecv(self, array: np.ndarray, src: int) -> Transfer:
        """Begin to receive into `array`, which is there when `wait()` of the result returned."""
        self._check_peer(src, "recv", "src")
        check_dtype(array)
        return self._transfers.add(src, None, array)

    def send(self, array: np.ndarray, dst: int) -> None:
        """Send `array` to rank `dst`, which calls `recv` with one of its size."""
        self.isend(array, dst).wait()

    def recv(self, array: np.ndarray, src: int) -> None:
        """Fill `array` with what rank `src` sends."""
        self.irecv(array, src).wait()

    # -- bytes of any length

    def broadcast_bytes(self, data: bytes | None, src: int = 0) -> bytes:
        """The bytes of rank `src`, whose length the others need not know."""
        self._check_rank(src, "broadcast_object", "src")
        with self._call(Call("broadcast_object")) as call:
            size = np.array([len(data or b"")], np.uint64)
            self._spread(call, [as_bytes(size)], src)
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
                {peer: [as_bytes(sizes[self.rank : self.rank + 1])] for peer in peers},
                {peer: [as_bytes(sizes[peer : peer + 1])] for peer in peers},
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

    def gather_bytes(self, data: bytes, dst: int = 0) -> list[bytes] | None:
        """The bytes of all ranks, of any lengths, on rank `dst`; None on the others."""
        self._check_rank(dst, "gather_object", "dst")
        with self._call(Call("gather_object")) as call:
            size = np.array([len(data)], np.uint64)
            if self.rank != dst:
                self._exchange(call, {dst: [as_bytes(size)]}, {})
                self._exchange(call, {dst: [memoryview(data)]}, {})
                return None
            sizes = np.zeros((self.world_size, 1), np.uint64)
            self._exchange(call, {}, {peer: [as_bytes(sizes[peer])] for peer in self._peers()})
            parts = {peer: bytearray(int(sizes[peer, 0])) for peer in self._peers()}
            self._exchange(call, {}, {peer: [memoryview(part)] for peer, part in parts.items()})
        return [bytes(parts.get(rank, data)) for rank in range(self.world_size)]

    def scatter_bytes(self, parts: Sequence[bytes] | None, src: int = 0) -> bytes:
        """Rank r gets `parts[r]` of rank `src`, of any length; the others pass None."""
        self._check_rank(src, "scatter_object", "src")
        if self.rank == src and (parts is None or len(parts) != self.world_size):
            raise ValueError(
                f"scatter_object: {None if parts is None else len(parts)} parts; expected "
                f"{self.world_size}, one per rank"
            )
        with self._call(Call("scatter_object")) as call:
            if self.rank == src:
                assert parts is not None
                sizes = np.array([[len(part)] for part in parts], np.uint64)
                peers = self._peers()
                self._exchange(call, {peer: [as_bytes(sizes[peer])] for peer in peers}, {})
                self._exchange(call, {peer: [memoryview(parts[peer])] for peer in peers}, {})
                return parts[src]
            size = np.zeros(1, np.uint64)
            self._exchange(call, {}, {src: [as_bytes(size)]})
            data = bytearray(int(size[0]))
            self._exchange(call, {}, {src: [memoryview(data)]})
        return bytes(data)

    # -- the group itself

    def subgroup(self, ranks: Sequence[int]) -> Communicator | None:
        """A group of its own of some of the ranks, in the given order; None on the others. All
        ranks call it.
        """
        ranks = list(ranks)
        for rank in ranks:
            self._check_rank(rank, "new_group", "ranks")
        if not ranks or len(set(ranks)) < len(ranks):
            raise ValueError(f"new_group: ranks={ranks}; expected one or more, each once")
        made = self._subgroup(ranks)
        if made is not None:
            made.ranks = tuple(self.ranks[rank] for rank in ranks)
        return made

    def close(self) -> None:
        """Leave the group; a peer that still waits for this rank gets an error."""
        self._fail(f"rank {self.ranks[self.rank]} left the group")

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

    @abstractmethod
    def _subgroup(self, ranks: list[int]) -> Communicator | None:
        """The communicator of this rank in a new group of `ranks`, if it is one of them."""

    # -- inside

    def _reduce_rows(
        self, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp
    ) -> None:
        """Reduce the ranks' flat rows along the plan's tree; the result replaces `rows[0]`."""
        reduction.reduce_rows(self, call, rows, plan, op, range(self.world_size))

    def _plan(self) -> tree.Plan:
        return tree.plan(self.world_size, self.world_size)

    def _spread(self, call: Call, buffers: list[Any], src: int) -> None:
        if self.rank == src:
            self._exchange(call, dict.fromkeys(self._peers(), buffers), {})
        else:
            self._exchange(call, {}, {src: buffers})

    def _room(self, nbytes: int, like: np.ndarray) -> np.ndarray:
        """Scratch bytes where `like` is."""
        if self._scratch.size < nbytes or on_device(self._scratch) != on_device(like):
            self._scratch = np.empty_like(like, np.uint8, shape=nbytes)
        return self._scratch[:nbytes]

    def _peers(self) -> list[int]:
        # each rank starts with its successor, so that not all send to rank 0 first
        return [(self.rank + i) % self.world_size for i in range(1, self.world_size)]

    def _check_rank(self, rank: int, name: str, argument: str) -> None:
        if not 0 <= rank < self.world_size:
            raise ValueError(f"{name}: {argument}={rank}; expected 0..{self.world_size - 1}")

    @contextmanager
    def _call(self, call: Call) -> Iterator[Call]:
        """One collective at a time; numbers it, and closes the communicator when it fails."""
        call.ranks = self.ranks
        if not self._lock.acquire(timeout=self.timeout_s):
            raise DistributedError(
                f"{call.name}: another thread's collective did not end in {self.timeout_s} s"
            )
        try:
            if self._failure is not None:
                raise DistributedError(f"{call.name}: the group is closed: {self._failure}")
            try:
                if call.name != "send":
                    self._transfers.run()  # what was begun before comes first
                    self._calls += 1
                    call.sequence = self._calls
                yield call
            except BaseException as error:
                # half a collective leaves the group unusable, whatever it was
                self._fail(str(error) or type(error).__name__)
                raise
        finally:
            self._lock.release()

    def _check_peer(self, rank: int, name: str, argument: str) -> None:
        self._check_rank(rank, name, argument)
        if rank == self.rank:
            raise ValueError(f"{name}: {argument}={rank} is this rank; expected another one")

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
            self._shut(reason)


def _flat(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """A contiguous one-dimensional view, or a copy where there is none."""
    if array.flags.c_contiguous:
        return array.reshape(-1), False
    return contiguous(array).reshape(-1), True
