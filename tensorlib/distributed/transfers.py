"""Messages between two ranks that were begun and not waited for yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .messages import Call, as_bytes

if TYPE_CHECKING:
    from .communicator import Communicator


class Transfer:
    """A message under way, of `isend` or `irecv`."""

    def __init__(
        self, owner: Transfers, peer: int, sent: np.ndarray | None, received: np.ndarray | None
    ):
        self._owner = owner
        self.peer = peer
        self.sent, self.received = sent, received
        self.done = False

    def wait(self) -> None:
        """Return when it is done, and with it all that was begun before."""
        if not self.done:
            self._owner.finish()

    def is_completed(self) -> bool:
        """Whether it is done. It is not begun in the background: something has to wait."""
        return self.done


class Transfers:
    """The messages that a rank began. They travel when one of them is waited for, or before the
    next collective, and then all at once: so two ranks that send to each other do not block.
    """

    def __init__(self, group: Communicator):
        self._group = group
        self._waiting: list[Transfer] = []

    def add(self, peer: int, sent: np.ndarray | None, received: np.ndarray | None) -> Transfer:
        """Begin a message."""
        self._waiting.append(Transfer(self, peer, sent, received))
        return self._waiting[-1]

    def finish(self) -> None:
        """Do all that was begun."""
        with self._group._call(Call("send")):
            self.run()

    def run(self) -> None:
        """As `finish`, inside a collective. Each round moves at most one message per peer and
        direction, in the order in which they were begun.
        """
        while self._waiting:
            call = Call("send")
            call.ranks = self._group.ranks
            sends: dict[int, Transfer] = {}
            receives: dict[int, Transfer] = {}
            for transfer in self._waiting:
                side = receives if transfer.sent is None else sends
                side.setdefault(transfer.peer, transfer)
            buffers = {
                peer: np.empty_like(one.received, order="C")
                for peer, one in receives.items()
                if one.received is not None
            }
            self._group._exchange(
                call,
                {p: [as_bytes(one.sent)] for p, one in sends.items() if one.sent is not None},
                {peer: [as_bytes(buffer)] for peer, buffer in buffers.items()},
            )
            for peer, one in receives.items():
                if one.received is not None:
                    one.received[...] = buffers[peer]
            for one in (*sends.values(), *receives.values()):
                one.done = True
            self._waiting = [one for one in self._waiting if not one.done]
