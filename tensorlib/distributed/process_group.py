"""The process group of this process and torch.distributed's functions on it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import objects
from .communicator import Communicator, ReduceOp
from .tcp import TcpCommunicator
from .threads import ThreadCommunicator

_group: Communicator | None = None


def init_process_group(
    backend: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    timeout_s: float = 600.0,
    *,
    communicator: Communicator | None = None,
) -> None:
    """Join the group of `world_size` processes; returns when all are connected.

    Rank and size default to the environment variables RANK and WORLD_SIZE; the processes meet at
    MASTER_ADDR:MASTER_PORT, where rank 0 listens. Set TENSORLIB_DIST_TOKEN to the same secret in
    all of them to keep others out. A group of one process needs no address.

    Args:
        backend: "tcp" (the default).
        timeout_s: how long to wait for the others here, and for progress in any collective.
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
        if backend is not None or rank is not None or world_size is not None:
            raise ValueError(
                "init_process_group: communicator excludes backend, rank and world_size"
            )
        _group = communicator
        return
    if backend not in (None, "tcp"):
        raise ValueError(f"init_process_group: backend={backend!r}; expected 'tcp'")
    if timeout_s <= 0:
        raise ValueError(f"init_process_group: timeout_s={timeout_s}; expected more than 0")
    rank = _integer("RANK", "rank") if rank is None else rank
    world_size = _integer("WORLD_SIZE", "world_size") if world_size is None else world_size
    if not 0 <= rank < world_size:
        raise ValueError(
            f"init_process_group: rank={rank}, world_size={world_size}; "
            "expected 0 <= rank < world_size"
        )
    if world_size == 1:
        _group = ThreadCommunicator.group(1, timeout_s)[0]
        return
    host, port = _variable("MASTER_ADDR", "address of rank 0"), _integer("MASTER_PORT", "port")
    if not 0 < port < 65536:
        raise ValueError(f"init_process_group: MASTER_PORT={port}; expected 1..65535")
    token = os.environ.get("TENSORLIB_DIST_TOKEN", "")
    _group = TcpCommunicator(rank, world_size, host, port, token, timeout_s)


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


def get_rank() -> int:
    """This process's number in the group."""
    return get_communicator().rank


def get_world_size() -> int:
    """How many processes are in the group."""
    return get_communicator().world_size


def get_communicator() -> Communicator:
    """The group's communicator, for code that has arrays."""
    if _group is None:
        raise ValueError(
            "tensorlib.distributed: this process is in no group. Hint: call init_process_group()"
        )
    return _group


def all_reduce(tensor: Any, op: ReduceOp = ReduceOp.SUM) -> None:
    """Replace `tensor` (Tensor or array) on all ranks by their reduction along one tree."""
    get_communicator().all_reduce(_changed(tensor), op)


def broadcast(tensor: Any, src: int = 0) -> None:
    """Replace `tensor` on all ranks by the one of rank `src`."""
    get_communicator().broadcast(_changed(tensor), src)


def all_gather(tensor_list: list[Any], tensor: Any) -> None:
    """Fill `tensor_list` (one per rank) with the ranks' tensors."""
    group = get_communicator()
    _check_list("all_gather", "tensor_list", tensor_list, group.world_size, tensor)
    for slot, value in zip(tensor_list, group.all_gather(_array(tensor)), strict=True):
        _changed(slot)[...] = value


def all_gather_into_tensor(output_tensor: Any, input_tensor: Any) -> None:
    """Fill `output_tensor` with the ranks' tensors, stacked or joined along the first dimension."""
    group = get_communicator()
    output, given = _changed(output_tensor), _array(input_tensor)
    if output.size != given.size * group.world_size or output.dtype != given.dtype:
        raise ValueError(
            f"all_gather_into_tensor: output of {output.dtype} {output.shape} for "
            f"{group.world_size} inputs of {given.dtype} {given.shape}; expected room for all"
        )
    output[...] = group.all_gather(given).reshape(output.shape)


def gather(tensor: Any, gather_list: list[Any] | None = None, dst: int = 0) -> None:
    """Fill `gather_list` on rank `dst` with the ranks' tensors; the others pass None."""
    group = get_communicator()
    if group.rank == dst:
        _check_list("gather", "gather_list", gather_list, group.world_size, tensor)
    elif gather_list is not None:
        raise ValueError(f"gather: gather_list on rank {group.rank}; expected it on {dst} only")
    values = group.gather(_array(tensor), dst)
    if values is not None:
        for slot, value in zip(gather_list or [], values, strict=True):
            _changed(slot)[...] = value


def reduce_scatter(output: Any, input_list: list[Any], op: ReduceOp = ReduceOp.SUM) -> None:
    """Reduce the ranks' lists element by element; rank r gets element r in `output`."""
    group = get_communicator()
    _check_list("reduce_scatter", "input_list", input_list, group.world_size, output)
    parts = np.stack([_array(tensor) for tensor in input_list])
    _changed(output)[...] = group.reduce_scatter(parts, op)


def reduce_scatter_tensor(output: Any, input: Any, op: ReduceOp = ReduceOp.SUM) -> None:
    """Reduce `input` over ranks and leave this rank's equal part (first dimension) in `output`."""
    group = get_communicator()
    target, given = _changed(output), _array(input)
    if given.size != target.size * group.world_size or given.dtype != target.dtype:
        raise ValueError(
            f"reduce_scatter_tensor: input of {given.dtype} {given.shape} for output of "
            f"{target.dtype} {target.shape}; expected {group.world_size} times its size"
        )
    parts = given.reshape(group.world_size, *target.shape)
    target[...] = group.reduce_scatter(parts, op)


def barrier() -> None:
    """Wait until all ranks are here."""
    get_communicator().barrier()


def broadcast_object(value: Any = None, src: int = 0) -> Any:
    """The value of rank `src`, on all ranks: JSON values, tuples, bytes, arrays (see `objects`)."""
    group = get_communicator()
    return objects.loads(
        group.broadcast_bytes(objects.dumps(value) if group.rank == src else None, src)
    )


def broadcast_object_list(object_list: list[Any], src: int = 0) -> None:
    """Replace the elements of `object_list` by those of rank `src`; see `broadcast_object`."""
    received = broadcast_object(list(object_list), src)
    if len(received) != len(object_list):
        raise ValueError(
            f"broadcast_object_list: {len(object_list)} objects here, {len(received)} on rank "
            f"{src}; expected as many"
        )
    object_list[:] = received


def all_gather_object(object_list: list[Any], obj: Any) -> None:
    """Fill `object_list` (one per rank) with the ranks' objects; what `broadcast_object` takes."""
    group = get_communicator()
    if len(object_list) != group.world_size:
        raise ValueError(
            f"all_gather_object: object_list of {len(object_list)}; expected {group.world_size}"
        )
    object_list[:] = [objects.loads(part) for part in group.all_gather_bytes(objects.dumps(obj))]


def _array(tensor: Any) -> np.ndarray:
    array = tensor if isinstance(tensor, np.ndarray) else getattr(tensor, "array", None)
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"collective on {type(tensor).__name__}; expected a Tensor in host memory or an array"
        )
    return array


def _changed(tensor: Any) -> np.ndarray:
    """The array of a tensor that a collective writes to."""
    array = _array(tensor)
    if not array.flags.writeable:
        raise ValueError("collective into a read-only array; expected one that can be written")
    if array is not tensor:
        from tensorlib.autograd.tape import bump

        bump(tensor)
    return array


def _check_list(where: str, name: str, tensors: Any, count: int, like: Any) -> None:
    if tensors is None or len(tensors) != count:
        found = "None" if tensors is None else f"{len(tensors)} tensors"
        raise ValueError(f"{where}: {name} is {found}; expected {count}, one per rank")
    example = _array(like)
    for i, tensor in enumerate(tensors):
        array = _array(tensor)
        if array.shape != example.shape or array.dtype != example.dtype:
            raise ValueError(
                f"{where}: {name}[{i}] is {array.dtype} {array.shape}; "
                f"expected {example.dtype} {example.shape}"
            )


def _variable(name: str, what: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"init_process_group: the environment variable {name} ({what}) is not set")
    return value


def _integer(name: str, what: str) -> int:
    value = _variable(name, what)
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f"init_process_group: {name}={value!r}; expected an integer ({what})"
        ) from None
