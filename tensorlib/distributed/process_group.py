"""The process group of this process, and groups of some of its ranks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import timedelta

from tensorlib.device import cupy_module

from .communicator import Communicator
from .nccl import NcclCommunicator
from .shm import SharedMemoryCommunicator
from .tcp import TcpCommunicator
from .threads import ThreadCommunicator

_BACKENDS = (None, "gloo", "shm", "tcp", "nccl", "threads")


class _NoMember:
    """What `new_group` gives to ranks outside it; collectives refuse it."""

    def __repr__(self) -> str:
        return "<no member of this group>"


NON_GROUP_MEMBER = _NoMember()
Group = Communicator | _NoMember | None
_group: Communicator | None = None


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: timedelta | float = 600.0,
    world_size: int = -1,
    rank: int = -1,
    *,
    communicator: Communicator | None = None,
) -> None:
    """Join the group of `world_size` processes; returns when all are connected.

    Rank and size default to the environment variables RANK and WORLD_SIZE; the processes meet at
    MASTER_ADDR:MASTER_PORT, where rank 0 listens. Set TENSORLIB_DIST_TOKEN to the same secret in
    all of them to keep others out. A group of one process needs no address.

    Args:
        backend: None, or PyTorch's "gloo", finds the best way between CPUs: shared memory within a
            node, TCP between nodes. "shm" insists that all ranks are on one node, "tcp" uses
            sockets only, "nccl" is for arrays on CUDA devices, the current one of each process,
            "threads" is for one process (`ThreadCommunicator.group` makes more ranks).
        init_method: "env://" (the default) as above, or "tcp://HOST:PORT" instead of MASTER_ADDR
            and MASTER_PORT.
        timeout: how long to wait for the others here, and for progress in any collective, as a
            timedelta or in seconds.
        communicator: use this one instead of making one (rank and world_size are its own).

    Raises:
        DistributedError: a peer did not come, refused, or the port is in use.
        ValueError: rank, size or address are missing or wrong.
        RuntimeError: there is a group already.
    """
    global _group
    if _group is not None:
        raise RuntimeError(
            "init_process_group: this process is in a group already. "
            "Hint: destroy_process_group() first"
        )
    if communicator is not None:
        if backend is not None or rank != -1 or world_size != -1:
            raise ValueError(
                "init_process_group: communicator excludes backend, rank and world_size"
            )
        _group = communicator
        return
    if backend not in _BACKENDS:
        raise ValueError(
            f"init_process_group: backend={backend!r}; expected one of {_BACKENDS}. Hint: leave it "
            "out, the best way between two ranks is found out"
        )
    timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    if timeout_s <= 0:
        raise ValueError(f"init_process_group: timeout={timeout}; expected more than 0")
    place = None if init_method in (None, "env://") else _meeting_place(str(init_method))
    rank = _integer("RANK", "rank") if rank == -1 else rank
    world_size = _integer("WORLD_SIZE", "world_size") if world_size == -1 else world_size
    if not 0 <= rank < world_size:
        raise ValueError(
            f"init_process_group: rank={rank}, world_size={world_size}; "
            "expected 0 <= rank < world_size"
        )
    if world_size == 1:
        _group = ThreadCommunicator.group(1, timeout_s)[0]
    else:
        _group = _joined(backend, place, timeout_s, world_size, rank)


def _joined(
    backend: str | None, place: tuple[str, int] | None, timeout_s: float, world_size: int, rank: int
) -> Communicator:
    """The communicator of `init_process_group` between processes, once all are connected; they
    meet where the environment says if there is no `place`.
    """
    if backend == "threads":
        raise ValueError(
            f"init_process_group: backend='threads' with world_size={world_size}; expected ranks "
            "in one process. Hint: ThreadCommunicator.group(world_size) and communicator="
        )
    host, port = place or _place_of_environment()
    meeting = rank, world_size, host, port, os.environ.get("TENSORLIB_DIST_TOKEN", ""), timeout_s
    if backend == "tcp":
        return TcpCommunicator(*meeting)
    if backend == "nccl":
        cupy_module("init_process_group")  # said before the others are waited for
        return NcclCommunicator(TcpCommunicator(*meeting))
    group = SharedMemoryCommunicator(*meeting)
    if backend == "shm" and len(group.nodes) > 1:
        group.close()
        raise ValueError(
            f"init_process_group: backend='shm', but the ranks {list(group.nodes)} are on "
            f"{len(group.nodes)} nodes. Hint: leave backend out"
        )
    return group


def destroy_process_group() -> None:
    """Leave the group and close its connections. Without a group, nothing."""
    global _group
    if _group is not None:
        _group.close()
        _group = None


def is_available() -> bool:
    """True: the TCP communicator needs nothing but Python."""
    return True


def is_initialized() -> bool:
    """Whether this process is in a group."""
    return _group is not None


def get_rank(group: Group = None) -> int:
    """This process's number in the group; -1 where it is not in it."""
    return -1 if isinstance(group, _NoMember) else get_communicator(group).rank


def get_world_size(group: Group = None) -> int:
    """How many processes are in the group; -1 where this one is not in it."""
    return -1 if isinstance(group, _NoMember) else get_communicator(group).world_size


def get_backend(group: Group = None) -> str:
    """How the ranks of the group talk: "shm", "tcp", "nccl" or "threads"."""
    found = get_communicator(group)
    if isinstance(found, NcclCommunicator):
        return "nccl"
    if isinstance(found, SharedMemoryCommunicator):
        return "shm"
    return "tcp" if isinstance(found, TcpCommunicator) else "threads"


def get_communicator(group: Group = None) -> Communicator:
    """The group's communicator, for code that has arrays; that of all processes by default."""
    if isinstance(group, _NoMember):
        raise ValueError("tensorlib.distributed: this process is not a member of the group")
    if group is not None:
        return group
    if _group is None:
        raise ValueError(
            "tensorlib.distributed: this process is in no group. Hint: call init_process_group()"
        )
    return _group


def new_group(ranks: Sequence[int] | None = None) -> Communicator | _NoMember:
    """A group of some ranks, in ascending order, or of all. All processes call it, those outside
    too, which get `NON_GROUP_MEMBER`. Its collectives are independent of the others'.
    """
    parent = get_communicator()
    parent.settle()
    members = range(parent.world_size) if ranks is None else sorted(ranks)
    return parent.subgroup(members) or NON_GROUP_MEMBER


def get_process_group_ranks(group: Group = None) -> list[int]:
    """The global ranks of the group's members, in their order in it."""
    return list(get_communicator(group).ranks)


def get_group_rank(group: Group, global_rank: int) -> int:
    """The rank in the group of a process with a global rank."""
    ranks = get_communicator(group).ranks
    if global_rank not in ranks:
        raise ValueError(f"get_group_rank: rank {global_rank}; expected one of {list(ranks)}")
    return ranks.index(global_rank)


def get_global_rank(group: Group, group_rank: int) -> int:
    """The global rank of a member of the group."""
    ranks = get_communicator(group).ranks
    if not 0 <= group_rank < len(ranks):
        raise ValueError(f"get_global_rank: rank {group_rank}; expected 0..{len(ranks) - 1}")
    return ranks[group_rank]


def _variable(name: str, what: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"init_process_group: the environment variable {name} ({what}) is not set")
    return value


def _place_of_environment() -> tuple[str, int]:
    """Host and port where rank 0 listens."""
    host, port = _variable("MASTER_ADDR", "address of rank 0"), _integer("MASTER_PORT", "port")
    if not 0 < port < 65536:
        raise ValueError(f"init_process_group: MASTER_PORT={port}; expected 1..65535")
    return host, port


def _meeting_place(init_method: str) -> tuple[str, int]:
    """The same of an `init_method`."""
    found = re.fullmatch(r"tcp://(?:\[([^]]+)\]|([^:/]+)):(\d{1,5})", init_method)
    if found is None or not 0 < int(found[3]) < 65536:
        raise ValueError(
            f"init_process_group: init_method={init_method!r}; expected 'env://' or "
            "'tcp://HOST:PORT'"
        )
    return found[1] or found[2], int(found[3])


def _integer(name: str, what: str) -> int:
    value = _variable(name, what)
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f"init_process_group: {name}={value!r}; expected an integer ({what})"
        ) from None
