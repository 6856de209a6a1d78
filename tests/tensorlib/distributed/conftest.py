"""Groups whose ranks are threads of the test's process, over every Communicator."""

import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from tensorlib.distributed import (
    NcclCommunicator,
    SharedMemoryCommunicator,
    TcpCommunicator,
    ThreadCommunicator,
    nccl,
)

from . import standin

LIMIT_S = 20.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class OnDevice:
    """A communicator to which the test's arrays are in a device's memory, and results too."""

    def __init__(self, communicator):
        self._communicator = communicator

    def __getattr__(self, name):
        found = getattr(self._communicator, name)
        if not callable(found):
            return found
        return lambda *args, **kwargs: self._back(
            found(*map(_there, args), **{key: _there(arg) for key, arg in kwargs.items()})
        )

    def _back(self, result):
        if isinstance(result, NcclCommunicator):
            return OnDevice(result)
        return result.view(np.ndarray) if isinstance(result, standin.DeviceArray) else result


def _there(argument):
    if type(argument) is np.ndarray:
        return standin.on_device(argument)
    return [_there(one) for one in argument] if isinstance(argument, list) else argument


class Group:
    """All ranks of a group in threads of this process."""

    def __init__(self, kind, world_size, timeout_s=LIMIT_S):
        self.pool = ThreadPoolExecutor(world_size)
        if kind == "threads":
            self.ranks = ThreadCommunicator.group(world_size, timeout_s)
            return
        port = free_port()
        if kind == "nccl":
            tcp = Group("tcp", world_size, timeout_s)
            self.pool.shutdown()
            self.pool = tcp.pool
            self.ranks = list(map(OnDevice, self.pool.map(NcclCommunicator, tcp.ranks)))
            return
        nodes = {"shm": "aaaaa", "combined": "aabab"}.get(kind)  # of the ranks
        make = [
            self.pool.submit(
                SharedMemoryCommunicator if nodes else TcpCommunicator,
                rank,
                world_size,
                "127.0.0.1",
                port,
                timeout_s=timeout_s,
                **({"node": nodes[rank]} if nodes else {}),
            )
            for rank in range(world_size)
        ]
        self.ranks = [future.result(LIMIT_S) for future in make]

    def run(self, function):
        """`function(communicator)` on every rank; results by rank, or the errors."""
        futures = [self.pool.submit(function, rank) for rank in self.ranks]
        return [f.exception(LIMIT_S) or f.result() for f in futures]

    def close(self):
        for rank in self.ranks:
            rank.close()
        self.pool.shutdown()


@pytest.fixture
def make_any_group(monkeypatch):
    """`make(kind, world_size)`; the groups are closed at the end."""
    groups = []
    monkeypatch.setattr(nccl, "cupy_module", lambda where: standin)
    for faults in (standin.dropped, standin.failed, standin.aborted):
        faults.clear()

    def make(kind, world_size, timeout_s=LIMIT_S):
        groups.append(Group(kind, world_size, timeout_s))
        return groups[-1]

    yield make
    for group in groups:
        group.close()


@pytest.fixture(params=["threads", "tcp", "shm", "combined", "nccl"])
def make_group(request, make_any_group):
    """`make(world_size)` over every Communicator."""
    return partial(make_any_group, request.param)
