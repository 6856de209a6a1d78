"""Ranks as processes that talk over TCP: one connection to each peer, one loop, no threads.

Sending and receiving go on together in one poll loop over non-blocking sockets, so no order of
messages can deadlock, and a peer that dies (its kernel closes the sockets) or hangs is noticed
wherever it is waited for. A rank that fails tells the others why before it closes.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from .communicator import Buffers, Communicator
from .messages import (
    HEADER_BYTES,
    Call,
    abort_bytes,
    abort_header,
    raise_abort,
    raise_gone,
    raise_timeout,
)
from .rendezvous import connect, open_listener
from .threads import ThreadCommunicator

_SEND_BYTES = 1 << 20  # more than this at once only delays receiving
_FAREWELL_S = 1.0
_BROKEN = select.POLLHUP | select.POLLERR | select.POLLNVAL


class TcpCommunicator(Communicator):
    """The communicator of one process among `world_size`, see `rendezvous` for how they meet.

    Args:
        host, port: where rank 0 listens (MASTER_ADDR, MASTER_PORT).
        token: shared secret; processes with another one are refused.
        timeout_s: for meeting, and for any collective without progress.
        listener: where rank 0 listens, if it does already.
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
    ):
        super().__init__(rank, world_size, timeout_s)
        self._token = token
        self._sockets = connect(rank, world_size, host, port, token, timeout_s, listener)
        # the interface through which the others reach this rank
        self._address = next((s.getsockname()[0] for s in self._sockets.values()), host)
        for connection in self._sockets.values():
            _tune(connection)
        self._by_fd = {connection.fileno(): peer for peer, connection in self._sockets.items()}
        self._unsent: dict[int, deque[memoryview]] = {}

    def _exchange(self, call: Call, sends: Buffers, receives: Buffers) -> None:
        outgoing = self._unsent = {peer: _message(call, buffers) for peer, buffers in sends.items()}
        incoming = {peer: _Incoming(peer, buffers) for peer, buffers in receives.items()}
        for peer in list(outgoing):  # most messages leave at once, without asking poll
            self._send(call, peer)
        poll = select.poll()
        for peer in outgoing.keys() | incoming.keys():
            poll.register(self._sockets[peer], _events(peer in incoming, peer in outgoing))
        deadline = time.monotonic() + self.timeout_s
        while outgoing or incoming:
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                raise_timeout(call, sorted(outgoing.keys() | incoming.keys()), self.timeout_s)
            gone = []
            for fd, event in ready:
                peer = self._by_fd[fd]
                before = (peer in incoming, peer in outgoing)
                # read first: what a peer said before it went away says why
                if peer in incoming and event & (select.POLLIN | _BROKEN):
                    try:
                        if incoming[peer].receive(call, self._sockets[peer]):
                            del incoming[peer]
                    except _Gone:
                        gone.append(peer)
                        continue
                elif event & _BROKEN:
                    gone.append(peer)
                    continue
                if peer in outgoing and event & select.POLLOUT and not self._send(call, peer):
                    gone.append(peer)
                after = (peer in incoming, peer in outgoing)
                if not any(after):
                    poll.unregister(fd)
                elif after != before:
                    poll.modify(fd, _events(*after))
            if gone:
                self._raise_gone(call, gone)
            deadline = time.monotonic() + self.timeout_s

    def _send(self, call: Call, peer: int) -> bool:
        """Send what the socket takes; False when the peer is gone."""
        queue = self._unsent[peer]
        connection = self._sockets[peer]
        while queue:
            part = queue[0]
            try:
                sent = connection.send(part[:_SEND_BYTES])
            except BlockingIOError:
                return True
            except OSError:
                return False
            if sent < len(part):
                queue[0] = part[sent:]
                if sent < _SEND_BYTES:
                    return True
                continue
            queue.popleft()
        del self._unsent[peer]
        return True

    def _raise_gone(self, call: Call, gone: list[int]) -> None:
        """Name the ranks at fault: a peer that says why it left is only a messenger."""
        for peer in gone:
            reason = _last_words(self._sockets[peer])
            if reason is not None:
                raise_abort(call, peer, reason)
        # ranks that were killed closed before the ones that noticed it
        for peer, connection in self._sockets.items():
            if peer not in gone and _closed(connection):
                gone.append(peer)
        raise_gone(call, sorted(gone))

    def _look(self, call: Call) -> None:
        """Raise where a peer has left; for waits that do not listen to the peers."""
        gone = [peer for peer, connection in self._sockets.items() if _left(connection)]
        if gone:
            self._raise_gone(call, gone)

    def _replace(self, peer: int, connection: socket.socket) -> None:
        """Use another connection to a peer from now on."""
        self._sockets[peer].close()
        _tune(connection)
        self._sockets[peer] = connection
        self._by_fd = {one.fileno(): rank for rank, one in self._sockets.items()}

    def _subgroup(self, ranks: list[int]) -> Communicator | None:
        first = self.rank == ranks[0]
        listener = open_listener(self._address, 0) if first and len(ranks) > 1 else None
        try:
            port = 0 if listener is None else listener.getsockname()[1]
            place = json.dumps([ranks, self._address, port]).encode()
            places = [json.loads(data) for data in self.all_gather_bytes(place)]
            if any(asked != ranks for asked, _, _ in places):
                raise ValueError(
                    f"new_group: the ranks asked for {[asked for asked, _, _ in places]}; expected "
                    "the same on all ranks"
                )
            if self.rank not in ranks:
                return None
            if len(ranks) == 1:
                return ThreadCommunicator.group(1, self.timeout_s)[0]
            _, host, port = places[ranks[0]]
            return self._meet(ranks.index(self.rank), len(ranks), host, port, listener)
        finally:
            if listener is not None:
                listener.close()

    def _meet(
        self, rank: int, world_size: int, host: str, port: int, listener: socket.socket | None
    ) -> Communicator:
        """Another group like this one."""
        return TcpCommunicator(
            rank, world_size, host, port, self._token, self.timeout_s, listener=listener
        )

    def _shut(self, reason: str) -> None:
        words = reason.encode()[:4096]
        farewell = abort_header(len(words)) + words
        end = time.monotonic() + _FAREWELL_S
        for peer, connection in self._sockets.items():
            rest = [*self._unsent.get(peer, ()), memoryview(farewell)]
            try:
                for part in rest:  # the peer is reading this message: finish it, then say why
                    connection.settimeout(max(0.001, end - time.monotonic()))
                    connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
            except OSError:  # it does not listen any more; it will see the connection close
                pass
        for connection in self._sockets.values():
            connection.close()
        self._unsent = {}


class _Gone(Exception):
    """The connection ended."""


class _Incoming:
    """One message on its way in: the header, then the payload into the given buffers."""

    __slots__ = ("_buffers", "_header", "_nbytes", "_part", "_peer")

    def __init__(self, peer: int, buffers: Sequence[memoryview]):
        self._peer = peer
        self._nbytes = sum(buffer.nbytes for buffer in buffers)
        self._buffers = deque(buffer for buffer in buffers if buffer.nbytes)
        self._header: bytearray | None = bytearray(HEADER_BYTES)
        self._part = memoryview(self._header)

    def receive(self, call: Call, connection: socket.socket) -> bool:
        """Take what is there; True when the message is complete."""
        while True:
            try:
                count = connection.recv_into(self._part)
            except BlockingIOError:
                return False
            except OSError:
                raise _Gone from None
            if not count:
                raise _Gone
            if count < len(self._part):
                self._part = self._part[count:]
                continue
            if self._header is not None:
                self._check(call, connection)
            if not self._buffers:
                return True
            self._part = self._buffers.popleft()

    def _check(self, call: Call, connection: socket.socket) -> None:
        assert self._header is not None
        length = abort_bytes(self._header)
        if length is not None:
            raise_abort(call, self._peer, _words(connection, length))
        call.check(self._peer, self._header, self._nbytes)
        self._header = None


def _message(call: Call, buffers: Sequence[memoryview]) -> deque[memoryview]:
    total = sum(buffer.nbytes for buffer in buffers)
    header = call.pack(total)
    if total <= 4096:  # one segment instead of two
        return deque([memoryview(header + b"".join(buffers))])
    return deque([memoryview(header), *(buffer for buffer in buffers if buffer.nbytes)])


def _events(reads: bool, writes: bool) -> int:
    return (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0)


def _words(connection: socket.socket, length: int) -> str:
    """The reason that follows an abort header."""
    connection.settimeout(_FAREWELL_S)
    words = b""
    try:
        while len(words) < length and (part := connection.recv(length - len(words))):
            words += part
    except OSError:  # cut off: what came is what there is
        pass
    return words.decode(errors="replace")


def _last_words(connection: socket.socket) -> str | None:
    """The reason a peer sent before it closed, if that is what lies in the socket."""
    try:
        connection.settimeout(0)
        header = connection.recv(HEADER_BYTES, socket.MSG_PEEK)
        length = abort_bytes(header) if len(header) == HEADER_BYTES else None
        if length is None:
            return None
        connection.recv(HEADER_BYTES)
    except OSError:
        return None
    return _words(connection, length)


def _left(connection: socket.socket) -> bool:
    """Whether the peer closed the connection, with or without a word."""
    try:
        header = connection.recv(HEADER_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not header or (len(header) == HEADER_BYTES and abort_bytes(header) is not None)


def _closed(connection: socket.socket) -> bool:
    """Whether the peer closed the connection without a word."""
    try:
        connection.settimeout(0)
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _tune(connection: socket.socket) -> None:
    connection.setblocking(False)
    if connection.family == socket.AF_UNIX:
        return
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        # a machine that vanishes sends no FIN: probe an idle peer, and limit unanswered data
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 10),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 30_000),
    ]
    for level, name, value in options:
        if hasattr(socket, name):
            connection.setsockopt(level, getattr(socket, name), value)
