"""How the ranks of a TCP group find and trust each other: sockets in, one per peer.

Rank 0 listens at MASTER_ADDR:MASTER_PORT. Every other rank listens on the interface through which
it reaches rank 0, tells rank 0 its address, and gets back the addresses of all. Then rank i
connects to the ranks 1..i-1 and accepts the ones above it.

Every connection begins with a handshake: both ends prove with HMAC-SHA256 over the other's nonce
that they know the group's token (`TENSORLIB_DIST_TOKEN`; without one the token is empty and the
handshake only keeps out programs that speak something else). Connections that fail it are closed,
and waiting goes on. The traffic itself is not encrypted: use a private network.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import secrets
import select
import socket
import struct
import time
from typing import Any

from .messages import DistributedError

_LIMIT_BYTES = 4 << 20
_HANDSHAKE_S = 5.0
_RETRY_S = 0.05


class _Refused(OSError):
    """The other end is not a rank of this group (or not one that can be used)."""


def connect(
    rank: int,
    world_size: int,
    host: str,
    port: int,
    token: str,
    timeout_s: float,
    listener: socket.socket | None = None,
) -> dict[int, socket.socket]:
    """Connect to all peers. Raises DistributedError when they do not all come in time. Rank 0
    listens at host:port, or through the given `listener`.
    """
    group = _Group(rank, world_size, token, time.monotonic() + timeout_s, timeout_s)
    sockets: dict[int, socket.socket] = {}
    try:
        if rank == 0:
            with listener or open_listener(host, port) as listener:
                where: dict[int, Any] = {}
                group.accept(listener, range(1, world_size), sockets, where)
                table = {str(peer): address for peer, address in where.items()}
                for peer in sockets:
                    write_message(sockets[peer], {"peers": table})
            return sockets
        master = group.connect((host, port), 0, f"rank 0 at {host}:{port}", listen=True)
        sockets[0] = master.socket
        with master.listener as listener:
            table = group.read(master.socket, "the other ranks to reach rank 0")["peers"]
            for peer in range(1, rank):
                peer_host, peer_port = table[str(peer)]
                name = f"rank {peer} at {peer_host}:{peer_port}"
                sockets[peer] = group.connect((peer_host, peer_port), peer, name).socket
            group.accept(listener, range(rank + 1, world_size), sockets, {})
        return sockets
    except BaseException as error:
        for connection in sockets.values():
            connection.close()
        if isinstance(error, (OSError, KeyError, ValueError)) and not isinstance(
            error, DistributedError
        ):
            raise DistributedError(f"init_process_group: rank {rank}: {error}") from error
        raise


class _Connected:
    def __init__(self, connection: socket.socket, listener: socket.socket | None):
        self.socket = connection
        self._listener = listener

    @property
    def listener(self) -> socket.socket:
        assert self._listener is not None
        return self._listener


class _Group:
    """What a rank knows while the group comes together."""

    def __init__(self, rank: int, world_size: int, token: str, deadline: float, timeout_s: float):
        self.rank = rank
        self.world_size = world_size
        self.token = token.encode()
        self.deadline = deadline
        self.timeout_s = timeout_s

    def accept(
        self,
        listener: socket.socket,
        expected: range,
        sockets: dict[int, socket.socket],
        where: dict[int, Any],
    ) -> None:
        """Accept until all `expected` ranks are in; strangers are turned away."""
        turned_away = ""
        while missing := [peer for peer in expected if peer not in sockets]:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([listener], [], [], left)[0]:
                host, port = listener.getsockname()[:2]
                raise DistributedError(
                    f"init_process_group: rank {self.rank} waited {self.timeout_s:g} s at "
                    f"{host}:{port} for rank {', rank '.join(map(str, missing))} of "
                    f"{self.world_size}{turned_away}"
                )
            connection, address = listener.accept()
            try:
                peer, listens = self._greet(connection, expected, sockets)
            except (OSError, _Refused) as error:
                connection.close()
                turned_away = f"; last turned away: {address[0]} ({error})"
                continue
            sockets[peer], where[peer] = connection, listens

    def _greet(
        self, connection: socket.socket, expected: range, sockets: dict[int, socket.socket]
    ) -> tuple[int, Any]:
        """The accepting side of the handshake."""
        connection.settimeout(_HANDSHAKE_S)
        nonce = secrets.token_hex(16)
        write_message(connection, {"nonce": nonce})
        hello = read_message(connection)
        peer, theirs = hello.get("rank"), hello.get("nonce")
        if not isinstance(peer, int) or not isinstance(theirs, str):
            raise _Refused("it does not speak this protocol")
        if not hmac.compare_digest(str(hello.get("proof")), self._proof(nonce, peer)):
            write_message(connection, {"error": "the tokens differ (TENSORLIB_DIST_TOKEN)"})
            raise _Refused(f"rank {peer} with another token")
        problem = ""
        if hello.get("world_size") != self.world_size:
            problem = f"world_size is {self.world_size} here, {hello.get('world_size')} there"
        elif peer in sockets:
            problem = f"rank {peer} is connected already; two processes have the same rank"
        elif peer not in expected:
            problem = f"rank {peer} is not expected here"
        if problem:
            write_message(connection, {"error": problem})
            raise _Refused(problem)
        write_message(connection, {"proof": self._proof(theirs, self.rank)})
        listens = hello.get("listen")
        return peer, listens

    def connect(
        self, address: tuple[str, int], peer: int, name: str, listen: bool = False
    ) -> _Connected:
        """Connect to a listening rank, trying again until the deadline."""
        problem: object = "it is not listening"
        while (left := self.deadline - time.monotonic()) > 0:
            listener: socket.socket | None = None
            try:
                connection = socket.create_connection(address, timeout=min(left, _HANDSHAKE_S))
            except OSError as error:
                problem = error.strerror or error
                time.sleep(min(_RETRY_S, left))
                continue
            try:
                if listen:
                    listener = open_listener(connection.getsockname()[0], 0)
                self._introduce(connection, peer, listener)
            except DistributedError:  # refused for a reason: asking again would not help
                connection.close()
                if listener is not None:
                    listener.close()
                raise
            except (OSError, _Refused) as error:
                problem = error  # a rank that is too busy to answer is asked again
                connection.close()
                if listener is not None:
                    listener.close()
                time.sleep(min(_RETRY_S, max(left, 0)))
                continue
            return _Connected(connection, listener)
        raise DistributedError(
            f"init_process_group: rank {self.rank} could not reach {name} in "
            f"{self.timeout_s:g} s: {problem}"
        )

    def _introduce(
        self, connection: socket.socket, peer: int, listener: socket.socket | None
    ) -> None:
        """The connecting side of the handshake."""
        theirs = read_message(connection).get("nonce")
        nonce = secrets.token_hex(16)
        hello = {
            "rank": self.rank,
            "world_size": self.world_size,
            "nonce": nonce,
            "proof": self._proof(str(theirs), self.rank),
            "listen": listener.getsockname()[:2] if listener is not None else None,
        }
        write_message(connection, hello)
        answer = read_message(connection)
        if "error" in answer:
            raise DistributedError(
                f"init_process_group: rank {self.rank} was refused: {answer['error']}"
            )
        if not hmac.compare_digest(str(answer.get("proof")), self._proof(nonce, peer)):
            raise _Refused("it does not know the token (TENSORLIB_DIST_TOKEN)")

    def _proof(self, nonce: str, rank: int) -> str:
        text = f"tensorlib {nonce} {rank}".encode()
        return hmac.new(self.token, text, hashlib.sha256).hexdigest()

    def read(self, connection: socket.socket, waiting_for: str) -> dict[str, Any]:
        """A message that comes when others are ready."""
        connection.settimeout(max(0.01, self.deadline - time.monotonic()))
        try:
            return read_message(connection)
        except (OSError, _Refused) as error:
            why = f"waited {self.timeout_s:g} s" if isinstance(error, TimeoutError) else error
            raise DistributedError(
                f"init_process_group: rank {self.rank} waited for {waiting_for}: {why}"
            ) from error


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket on the interface of `host`; on all interfaces if `host` is not ours."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            # the address is not an interface of this machine: a name behind NAT or a service
            listener.bind(("", port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = " Hint: choose another MASTER_PORT" if error.errno == errno.EADDRINUSE else ""
        raise DistributedError(
            f"init_process_group: cannot listen on {host}:{port}: {reason}.{hint}"
        ) from error
    return listener


def write_message(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message of the handshake."""
    data = json.dumps(message).encode()
    connection.sendall(struct.pack("<I", len(data)) + data)


def read_message(connection: socket.socket) -> dict[str, Any]:
    """Receive a message of the handshake."""
    (size,) = struct.unpack("<I", _exactly(connection, 4))
    if size > _LIMIT_BYTES:
        raise _Refused("it does not speak this protocol")
    try:
        message = json.loads(_exactly(connection, size))
    except ValueError:
        raise _Refused("it does not speak this protocol") from None
    if not isinstance(message, dict):
        raise _Refused("it does not speak this protocol")
    return message


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 16))
        if not part:
            raise _Refused("it closed the connection")
        data += part
    return data
