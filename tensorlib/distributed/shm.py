"""Ranks that share memory with those on their node, and speak TCP with the others.

Ranks find out by themselves which of them run on one node, and replace their connections there by
Unix sockets. Large reductions within a node then move no data through sockets: every rank reduces
its slice of all ranks' arrays where they lie and writes the result into each of them; the sockets
only carry who is ready. Between nodes, the first rank of each reduces what its node has summed.

Shared memory is a `memfd` passed over the socket: it has no name, so nothing is left behind however
a process ends, and the size of /dev/shm does not matter. Arrays of `allocate` lie in it and are
reduced without a copy; others go through a stage.
"""

from __future__ import annotations

import bisect
import json
import mmap
import os
import secrets
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import reduction, tree
from .communicator import Communicator
from .messages import Call, DistributedError, ReduceOp, as_bytes, raise_gone, raise_timeout
from .rendezvous import read_message, write_message
from .tcp import TcpCommunicator

_STAGE_BYTES = 2 << 20  # arrays from elsewhere pass through as much of it at a time
_LINE = 64  # elements; slices end where no cache line is shared


class SharedMemoryCommunicator(TcpCommunicator):
    """As TcpCommunicator, with shared memory between the ranks of a node.

    Args:
        node: a name that ranks have in common if they can share memory; found out by default.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        host: str,
        port: int,
        token: str = "",
        timeout_s: float = 600.0,
        *,
        listener: socket.socket | None = None,
        node: str | None = None,
    ):
        super().__init__(rank, world_size, host, port, token, timeout_s, listener=listener)
        self._node = node_name() if node is None else node
        self._segments = _Segments()
        self._stage: int | None = None
        try:
            self.nodes = self._join()
        except BaseException as error:
            self._fail(str(error))
            if isinstance(error, OSError) and not isinstance(error, DistributedError):
                raise DistributedError(
                    f"init_process_group: rank {rank} could not share memory on its node: {error}. "
                    "Hint: backend='tcp' does without"
                ) from error
            raise
        self._local = next(ranks for ranks in self.nodes if rank in ranks)
        self._leaders = tuple(ranks[0] for ranks in self.nodes)

    def allocate(self, size: int, dtype: Any) -> np.ndarray:
        """A flat array of zeros in memory that the ranks of a node share: see `Communicator`."""
        dtype = np.dtype(dtype)
        with self._call(Call("allocate")) as call:
            number = self._share(call, size * dtype.itemsize)
        return self._segments.own[number][: size * dtype.itemsize].view(dtype)

    def _reduce_rows(
        self, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp
    ) -> None:
        if len(self.nodes) == self.world_size or rows[0].nbytes <= reduction.SMALL_BYTES:
            super()._reduce_rows(call, rows, plan, op)
            return
        values = self._located(call, rows, plan)
        if values is not None:
            self._reduce_shared(call, values, plan, op)
            return
        size, dtype = rows[0].size, rows[0].dtype
        if self._stage is None:
            self._stage = self._share(call, _STAGE_BYTES)
        count = max(1, _STAGE_BYTES // (dtype.itemsize * max(map(len, plan.nodes))))
        for start in range(0, size, count):
            part = slice(start, min(start + count, size))
            staged = {
                rank: self._rows(self._stage, rank, len(plan.nodes[rank]), count, part, dtype)
                for rank in self._local
            }
            for row, room in zip(rows, staged[self.rank], strict=True):
                room[...] = row[part]
            self._signal(call)
            self._reduce_shared(call, staged, plan, op)
            rows[0][part] = staged[self.rank][0]

    def _reduce_shared(
        self,
        call: Call,
        values: Mapping[int, Sequence[np.ndarray]],
        plan: tree.Plan,
        op: ReduceOp,
    ) -> None:
        """Reduce rows that are all ready in shared memory; the result replaces the first row of
        every rank.
        """
        dtype, ufunc = values[self.rank][0].dtype, reduction.UFUNCS[op]
        flat = [row for rank in self._local for row in values[rank]]
        mine = self._slice(flat[0].size)
        parts = [row[mine] for row in flat]
        if len(self.nodes) == 1:
            outs = [[values[rank][0][mine] for rank in self._local]]
            tree.combine(parts, plan, outs, ufunc, reduction.divisor(op, dtype, plan.leaves))
            self._signal(call)
            return
        own = tree.join(tuple(plan.nodes[rank] for rank in self._local), plan.leaves)
        tree.combine(parts, own, [[parts[top]] for top in own.tops], ufunc)
        self._signal(call)
        if self.rank == self._local[0]:
            sums = tuple(
                tree.join(tuple(plan.nodes[rank] for rank in ranks), plan.leaves).results
                for ranks in self.nodes
            )
            between = tree.join(sums, plan.leaves)
            rows = [flat[top] for top in own.tops]
            reduction.reduce_rows(self, call, rows, between, op, self._leaders)
        self._signal(call)
        if values[self.rank][0] is not flat[own.tops[0]]:
            values[self.rank][0][...] = flat[own.tops[0]]
        self._signal(call)

    def _slice(self, size: int) -> slice:
        """The part of an array that this rank reduces."""
        each = -(-size // (len(self._local) * _LINE)) * _LINE
        place = self._local.index(self.rank)
        return slice(min(place * each, size), min((place + 1) * each, size))

    def _signal(self, call: Call) -> None:
        """Wait until all ranks of the node are here."""
        peers = [rank for rank in self._local if rank != self.rank]
        self._exchange(call, {peer: [] for peer in peers}, {peer: [] for peer in peers})

    def _located(
        self, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan
    ) -> dict[int, list[np.ndarray]] | None:
        """The rows of this node's ranks, if the rows of all ranks of all nodes lie in memory shared
        there. Says too that this rank's are ready.
        """
        places = {rank: np.full((len(plan.nodes[rank]), 2), -1) for rank in self._peers()}
        own = np.array([self._segments.find(row) for row in rows])
        peers = self._peers()
        self._exchange(
            call,
            {peer: [as_bytes(own)] for peer in peers},
            {peer: [as_bytes(places[peer])] for peer in peers},
        )
        places[self.rank] = own
        if any((found < 0).any() for found in places.values()):
            return None
        size, dtype = rows[0].size, rows[0].dtype
        return {
            rank: [
                self._segments.memory(number, rank)[offset : offset + rows[0].nbytes].view(dtype)
                for number, offset in places[rank].tolist()
            ]
            for rank in self._local
            if rank != self.rank
        } | {self.rank: [row[:size] for row in rows]}

    def _rows(
        self, number: int, rank: int, count: int, size: int, part: slice, dtype: np.dtype[Any]
    ) -> list[np.ndarray]:
        memory = self._segments.memory(number, rank)[: count * size * dtype.itemsize].view(dtype)
        length = part.stop - part.start
        return [memory[i * size : i * size + length] for i in range(count)]

    def _shut(self, reason: str) -> None:
        super()._shut(reason)
        self._segments = _Segments()  # arrays that are still in use keep their memory

    # -- joining the node

    def _join(self) -> tuple[tuple[int, ...], ...]:
        """Connect to the ranks on this node through Unix sockets; the ranks of all nodes."""
        name, key = secrets.token_hex(16), secrets.token_hex(16)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            if self._node is not None:
                listener.bind(f"\0tensorlib-{name}")  # abstract: it ends with the process
                listener.listen(512)
            told = json.dumps([self._node or name, name, key]).encode()
            everyone = [json.loads(data) for data in self.all_gather_bytes(told)]
            nodes: dict[str, list[int]] = {}
            for rank, (node, _, _) in enumerate(everyone):
                nodes.setdefault(node, []).append(rank)
            local = nodes[everyone[self.rank][0]]
            made = _connect_local(self.rank, local, everyone, listener, self.timeout_s)
        for peer, connection in made.items():
            self._replace(peer, connection)
        return tuple(tuple(ranks) for ranks in nodes.values())

    def _meet(
        self, rank: int, world_size: int, host: str, port: int, listener: socket.socket | None
    ) -> Communicator:
        return SharedMemoryCommunicator(
            rank, world_size, host, port, self._token, self.timeout_s,
            listener=listener, node=self._node,
        )  # fmt: skip

    def _share(self, call: Call, nbytes: int) -> int:
        """Make a segment of shared memory and get those of the node's other ranks; its number."""
        peers = [rank for rank in self._local if rank != self.rank]
        size = np.array([nbytes], np.int64)
        sizes = {peer: np.zeros(1, np.int64) for peer in peers}
        self._exchange(
            call,
            {peer: [as_bytes(size)] for peer in peers},
            {peer: [as_bytes(theirs)] for peer, theirs in sizes.items()},
        )
        own = _memory(nbytes)
        files: dict[int, int] = {}
        try:
            for peer in peers:
                try:
                    socket.send_fds(self._sockets[peer], [b"f"], [own])
                except OSError:
                    raise_gone(call, [peer])
            for peer in peers:
                files[peer] = self._receive_file(call, peer)
            memories = {peer: _mapped(files[peer], int(sizes[peer][0])) for peer in peers}
            memories[self.rank] = _mapped(own, nbytes)
        finally:
            for file in (own, *files.values()):
                os.close(file)
        return self._segments.add(memories, self.rank)

    def _receive_file(self, call: Call, peer: int) -> int:
        connection = self._sockets[peer]
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if not poll.poll(self.timeout_s * 1000):
            raise_timeout(call, [peer], self.timeout_s)
        try:
            data, files, _, _ = socket.recv_fds(connection, 1, 1)
        except OSError:
            data, files = b"", []
        if data != b"f" or len(files) != 1:
            self._raise_gone(call, [peer])
        return files[0]


class _Segments:
    """Shared memory by number: this rank's, and the other ranks' of the node beside it."""

    def __init__(self) -> None:
        self.own: list[np.ndarray] = []
        self._memories: list[dict[int, np.ndarray]] = []
        self._starts: list[tuple[int, int]] = []  # addresses of `own`, sorted, and their numbers

    def add(self, memories: dict[int, np.ndarray], rank: int) -> int:
        """Keep a new segment; returns its number."""
        number = len(self.own)
        self.own.append(memories[rank])
        self._memories.append(memories)
        if memories[rank].size:
            bisect.insort(self._starts, (memories[rank].ctypes.data, number))
        return number

    def memory(self, number: int, rank: int) -> np.ndarray:
        """All bytes of a rank's segment."""
        return self._memories[number][rank]

    def find(self, array: np.ndarray) -> tuple[int, int]:
        """Number of the segment an array lies in and its place there; -1, -1 for none."""
        address = array.__array_interface__["data"][0]
        place = bisect.bisect_right(self._starts, (address, len(self.own))) - 1
        if place >= 0:
            start, number = self._starts[place]
            if address + array.nbytes <= start + self.own[number].size:
                return number, address - start
        return -1, -1


def node_name() -> str | None:
    """What the processes that can pass memory to each other have in common: the running kernel, the
    network namespace (Unix sockets are found within it) and the user. None where there is no way.
    """
    if not hasattr(os, "memfd_create"):
        return None
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/net')} {os.getuid()}"
    except OSError:
        return None


def _connect_local(
    rank: int, local: Sequence[int], everyone: Any, listener: socket.socket, timeout_s: float
) -> dict[int, socket.socket]:
    """A Unix socket to each other rank of the node: to lower ones by connecting (they listen since
    before they told), from higher ones by accepting.
    """
    deadline = time.monotonic() + timeout_s
    made: dict[int, socket.socket] = {}
    for peer in (other for other in local if other < rank):
        _, name, key = everyone[peer]
        connection = made[peer] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        connection.connect(f"\0tensorlib-{name}")
        write_message(connection, {"rank": rank, "key": key})
    while missing := [other for other in local if other > rank and other not in made]:
        listener.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            connection, _ = listener.accept()
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            hello = read_message(connection)
        except TimeoutError:
            raise DistributedError(
                f"init_process_group: rank {rank} waited {timeout_s:g} s for rank "
                f"{', rank '.join(map(str, missing))} on its node"
            ) from None
        except OSError:  # a stranger that does not speak this
            connection.close()
            continue
        if hello.get("key") == everyone[rank][2] and hello.get("rank") in missing:
            made[hello["rank"]] = connection
        else:
            connection.close()
    return made


def _memory(nbytes: int) -> int:
    """A file in memory, without a name."""
    file = os.memfd_create("tensorlib", os.MFD_CLOEXEC)
    os.ftruncate(file, nbytes)
    return file


def _mapped(file: int, nbytes: int) -> np.ndarray:
    if not nbytes:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(file, nbytes), np.uint8)
