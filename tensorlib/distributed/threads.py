"""Ranks as threads of one process: the plainest Communicator, and the truth for the others."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue

from .communicator import Buffers, Communicator
from .messages import Call, raise_abort, raise_timeout

_Box = SimpleQueue[tuple[bytes, bytes] | str]


class _Made:
    """Subgroups under construction, by the number of the call; the ranks of a group share it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.groups: dict[int, dict[int, ThreadCommunicator]] = {}


class ThreadCommunicator(Communicator):
    """One rank of `ThreadCommunicator.group(world_size)`; each is used by one thread at a time."""

    def __init__(
        self, rank: int, world_size: int, timeout_s: float, boxes: dict[tuple[int, int], _Box]
    ):
        super().__init__(rank, world_size, timeout_s)
        self._boxes = boxes
        self._made: _Made = _Made()

    @classmethod
    def group(cls, world_size: int, timeout_s: float = 600.0) -> list[ThreadCommunicator]:
        """All ranks of a new group."""
        ranks = range(world_size)
        boxes: dict[tuple[int, int], _Box] = {(a, b): SimpleQueue() for a in ranks for b in ranks}
        group = [cls(rank, world_size, timeout_s, boxes) for rank in ranks]
        for rank in group:
            rank._made = group[0]._made
        return group

    def _exchange(self, call: Call, sends: Buffers, receives: Buffers) -> None:
        for peer, buffers in sends.items():
            payload = b"".join(buffers)
            self._boxes[self.rank, peer].put((call.pack(len(payload)), payload))
        for peer, buffers in receives.items():
            try:
                message = self._boxes[peer, self.rank].get(timeout=self.timeout_s)
            except Empty:
                raise_timeout(call, [peer], self.timeout_s)
            if isinstance(message, str):
                raise_abort(call, peer, message)
            header, payload = message
            call.check(peer, header, sum(buffer.nbytes for buffer in buffers))
            position = 0
            for buffer in buffers:
                buffer[:] = payload[position : position + buffer.nbytes]
                position += buffer.nbytes

    def _subgroup(self, ranks: list[int]) -> ThreadCommunicator | None:
        with self._call(Call("new_group", None, tuple(ranks))) as call:
            number = call.sequence
            peers = self._peers()
            self._exchange(call, {peer: [] for peer in peers}, {peer: [] for peer in peers})
        if self.rank not in ranks:
            return None
        with self._made.lock:  # the first member makes it, the last one takes it away
            left = self._made.groups.setdefault(
                number, dict(enumerate(ThreadCommunicator.group(len(ranks), self.timeout_s)))
            )
            mine = left.pop(ranks.index(self.rank))
            if not left:
                del self._made.groups[number]
        return mine

    def _shut(self, reason: str) -> None:
        for peer in self._peers():
            self._boxes[self.rank, peer].put(reason)
