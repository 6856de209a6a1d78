"""torch.distributed's collectives, by its names and arguments, on Tensors and arrays.

`group` is what `new_group` gave, all processes by default; `src` and `dst` are global ranks.
`async_op=True` runs a collective in a thread and returns a `Work` to wait for; the collectives
after it wait for it on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import numpy as np

from tensorlib.errors import InvalidValueError, UnsupportedError

from . import objects
from .communicator import Communicator
from .messages import ReduceOp
from .process_group import Group, get_communicator, get_global_rank, get_group_rank
from .transfers import Transfer


class Work:
    """A collective under way in a thread."""

    def __init__(self, running: Future[Any]):
        self._running = running

    def wait(self, timeout: float | None = None) -> bool:
        """Return True when it is done; raises what it raised, TimeoutError after `timeout` s."""
        try:
            self._running.result(timeout)
        except FutureTimeout:
            if self._running.done():
                raise
            raise TimeoutError(f"Work.wait: not done after {timeout} s") from None
        return True

    def is_completed(self) -> bool:
        """Whether it is done."""
        return self._running.done()


def all_reduce(
    tensor: Any, op: ReduceOp = ReduceOp.SUM, group: Group = None, async_op: bool = False
) -> Work | None:
    """Replace `tensor` (Tensor or array) on all ranks by their reduction along one tree."""
    with_, array = get_communicator(group), _changed(tensor)
    return _run(with_, async_op, with_.all_reduce, array, op)


def reduce(
    tensor: Any, dst: int = 0, op: ReduceOp = ReduceOp.SUM, group: Group = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """Replace `tensor` on rank `dst` by the reduction over ranks; others keep theirs."""
    with_ = get_communicator(group)
    to = get_group_rank(group, dst)
    array = _changed(tensor) if with_.rank == to else _array(tensor)
    return _run(with_, async_op, with_.reduce, array, to, op)


def broadcast(
    tensor: Any, src: int = 0, group: Group = None, async_op: bool = False
) -> Work | None:
    """Replace `tensor` on all ranks by the one of rank `src`."""
    with_, array = get_communicator(group), _changed(tensor)
    return _run(with_, async_op, with_.broadcast, array, get_group_rank(group, src))


def all_gather(
    tensor_list: list[Any], tensor: Any, group: Group = None, async_op: bool = False
) -> Work | None:
    """Fill `tensor_list` (one per rank) with the ranks' tensors."""
    with_ = get_communicator(group)
    _check_list("all_gather", "tensor_list", tensor_list, with_.world_size, tensor)
    given, slots = _array(tensor), [_changed(slot) for slot in tensor_list]

    def work() -> None:
        for slot, value in zip(slots, with_.all_gather(given), strict=True):
            slot[...] = value

    return _run(with_, async_op, work)


def all_gather_into_tensor(
    output_tensor: Any, input_tensor: Any, group: Group = None, async_op: bool = False
) -> Work | None:
    """Fill `output_tensor` with the ranks' tensors, stacked or joined along the first dimension."""
    with_ = get_communicator(group)
    output, given = _changed(output_tensor), _array(input_tensor)
    if output.size != given.size * with_.world_size or output.dtype != given.dtype:
        raise ValueError(
            f"all_gather_into_tensor: output of {output.dtype} {output.shape} for "
            f"{with_.world_size} inputs of {given.dtype} {given.shape}; expected room for all"
        )

    def work() -> None:
        output[...] = with_.all_gather(given).reshape(output.shape)

    return _run(with_, async_op, work)


def gather(
    tensor: Any, gather_list: list[Any] | None = None, dst: int = 0, group: Group = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """Fill `gather_list` on rank `dst` with the ranks' tensors; the others pass None."""
    with_, to = get_communicator(group), get_group_rank(group, dst)
    if with_.rank == to:
        _check_list("gather", "gather_list", gather_list, with_.world_size, tensor)
    elif gather_list:
        raise ValueError(f"gather: gather_list on rank {with_.rank}; expected it on {to} only")
    given, slots = _array(tensor), [_changed(slot) for slot in gather_list or []]

    def work() -> None:
        values = with_.gather(given, to)
        if values is not None:
            for slot, value in zip(slots, values, strict=True):
                slot[...] = value

    return _run(with_, async_op, work)


def scatter(
    tensor: Any, scatter_list: list[Any] | None = None, src: int = 0, group: Group = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """Rank r's `tensor` becomes element r of rank `src`'s `scatter_list`; the others pass None."""
    with_, source = get_communicator(group), get_group_rank(group, src)
    out, parts = _changed(tensor), None
    if with_.rank == source:
        _check_list("scatter", "scatter_list", scatter_list, with_.world_size, tensor)
        parts = np.stack([_array(part) for part in scatter_list or []])
    elif scatter_list:
        raise ValueError(
            f"scatter: scatter_list on rank {with_.rank}; expected it on {source} only"
        )
    return _run(with_, async_op, with_.scatter, parts, out, source)


def reduce_scatter(
    output: Any, input_list: list[Any], op: ReduceOp = ReduceOp.SUM, group: Group = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """Reduce the ranks' lists element by element; rank r gets element r in `output`."""
    with_ = get_communicator(group)
    _check_list("reduce_scatter", "input_list", input_list, with_.world_size, output)
    parts, target = np.stack([_array(tensor) for tensor in input_list]), _changed(output)

    def work() -> None:
        target[...] = with_.reduce_scatter(parts, op)

    return _run(with_, async_op, work)


def reduce_scatter_tensor(
    output: Any, input: Any, op: ReduceOp = ReduceOp.SUM, group: Group = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """Reduce `input` over ranks and leave this rank's equal part (first dimension) in `output`."""
    with_ = get_communicator(group)
    target, given = _changed(output), _array(input)
    if given.size != target.size * with_.world_size or given.dtype != target.dtype:
        raise ValueError(
            f"reduce_scatter_tensor: input of {given.dtype} {given.shape} for output of "
            f"{target.dtype} {target.shape}; expected {with_.world_size} times its size"
        )
    parts = given.reshape(with_.world_size, *target.shape)

    def work() -> None:
        target[...] = with_.reduce_scatter(parts, op)

    return _run(with_, async_op, work)


def all_to_all(
    output_tensor_list: list[Any], input_tensor_list: list[Any], group: Group = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """Element s of rank r's output list becomes element r of rank s's input list."""
    with_ = get_communicator(group)
    outs = [_changed(tensor) for tensor in output_tensor_list]
    parts = [_array(tensor) for tensor in input_tensor_list]
    return _run(with_, async_op, with_.all_to_all, parts, outs)


def all_to_all_single(
    output: Any,
    input: Any,
    output_split_sizes: Sequence[int] | None = None,
    input_split_sizes: Sequence[int] | None = None,
    group: Group = None,
    async_op: bool = False,
) -> Work | None:
    """As `all_to_all` with the lists joined along the first dimension, in parts of the given sizes
    or of equal ones.
    """
    with_ = get_communicator(group)
    outs = _split("output", _changed(output), output_split_sizes, with_.world_size)
    parts = _split("input", _array(input), input_split_sizes, with_.world_size)
    return _run(with_, async_op, with_.all_to_all, parts, outs)


def send(
    tensor: Any, dst: int | None = None, group: Group = None, tag: int = 0,
    group_dst: int | None = None,
) -> None:  # fmt: skip
    """Send `tensor` to rank `dst`, or to rank `group_dst` of the group, which calls `recv`."""
    peer = _peer("send", "dst", dst, group_dst, group, tag)
    isend(tensor, group=group, group_dst=peer).wait()


def recv(
    tensor: Any, src: int | None = None, group: Group = None, tag: int = 0,
    group_src: int | None = None,
) -> int:  # fmt: skip
    """Fill `tensor` with what rank `src` (in the group: `group_src`) sends; returns `src`."""
    peer = _peer("recv", "src", src, group_src, group, tag)
    irecv(tensor, group=group, group_src=peer).wait()
    return get_global_rank(group, peer)


def isend(
    tensor: Any, dst: int | None = None, group: Group = None, tag: int = 0,
    group_dst: int | None = None,
) -> Transfer:  # fmt: skip
    """Begin to send. It is done when `wait()` of the result, or a later collective, returned; until
    then `tensor` must not change. Messages between two ranks keep their order; `tag` is 0.
    """
    peer = _peer("isend", "dst", dst, group_dst, group, tag)
    with_ = get_communicator(group)
    with_.settle()
    return with_.isend(_array(tensor), peer)


def irecv(
    tensor: Any, src: int | None = None, group: Group = None, tag: int = 0,
    group_src: int | None = None,
) -> Transfer:  # fmt: skip
    """Begin to receive; as `isend`."""
    peer = _peer("irecv", "src", src, group_src, group, tag)
    with_ = get_communicator(group)
    with_.settle()
    return with_.irecv(_changed(tensor), peer)


def _peer(
    where: str, name: str, rank: int | None, group_rank: int | None, group: Group, tag: int
) -> int:
    """The rank in the group of the one to talk to."""
    if tag != 0:
        raise UnsupportedError(where, f"tag={tag}", "expected 0: messages keep their order")
    if (rank is None) == (group_rank is None):
        what = f"{name}={rank} and group_{name}={group_rank}"
        raise InvalidValueError(where, what, "expected one of them")
    if group_rank is None:
        assert rank is not None
        return get_group_rank(group, rank)
    get_global_rank(group, group_rank)
    return group_rank


def barrier(group: Group = None, async_op: bool = False) -> Work | None:
    """Wait until all ranks are here."""
    with_ = get_communicator(group)
    return _run(with_, async_op, with_.barrier)


def monitored_barrier(group: Group = None, timeout: Any = None) -> None:
    """Wait until all ranks are here, not longer than `timeout` (seconds or timedelta) without one
    of them; the error names those that did not come.
    """
    with_ = get_communicator(group)
    seconds = timeout.total_seconds() if hasattr(timeout, "total_seconds") else timeout
    _run(with_, False, with_.barrier, seconds)


def broadcast_object(value: Any = None, src: int = 0, group: Group = None) -> Any:
    """The value of rank `src`, on all ranks: JSON values, tuples, bytes, arrays (see `objects`)."""
    with_, source = get_communicator(group), get_group_rank(group, src)
    with_.settle()
    data = objects.dumps(value) if with_.rank == source else None
    return objects.loads(with_.broadcast_bytes(data, source))


def broadcast_object_list(object_list: list[Any], src: int = 0, group: Group = None) -> None:
    """Replace the elements of `object_list` by those of rank `src`; see `broadcast_object`."""
    received = broadcast_object(list(object_list), src, group)
    if len(received) != len(object_list):
        raise ValueError(
            f"broadcast_object_list: {len(object_list)} objects here, {len(received)} on rank "
            f"{src}; expected as many"
        )
    object_list[:] = received


def all_gather_object(object_list: list[Any], obj: Any, group: Group = None) -> None:
    """Fill `object_list` (one per rank) with the ranks' objects; what `broadcast_object` takes."""
    with_ = get_communicator(group)
    _check_room("all_gather_object", "object_list", object_list, with_)
    with_.settle()
    object_list[:] = [objects.loads(part) for part in with_.all_gather_bytes(objects.dumps(obj))]


def gather_object(
    obj: Any, object_gather_list: list[Any] | None = None, dst: int = 0, group: Group = None
) -> None:
    """Fill `object_gather_list` on rank `dst` with the ranks' objects; the others pass None."""
    with_, to = get_communicator(group), get_group_rank(group, dst)
    if with_.rank == to:
        _check_room("gather_object", "object_gather_list", object_gather_list, with_)
    with_.settle()
    parts = with_.gather_bytes(objects.dumps(obj), to)
    if parts is not None and object_gather_list is not None:
        object_gather_list[:] = [objects.loads(part) for part in parts]


def scatter_object_list(
    scatter_object_output_list: list[Any], scatter_object_input_list: list[Any] | None = None,
    src: int = 0, group: Group = None,
) -> None:  # fmt: skip
    """Put element r of rank `src`'s input list into the first place of rank r's output list."""
    with_, source = get_communicator(group), get_group_rank(group, src)
    if not scatter_object_output_list:
        raise ValueError("scatter_object_list: the output list is empty; expected one place")
    parts = None
    if with_.rank == source:
        name = "scatter_object_input_list"
        _check_room("scatter_object_list", name, scatter_object_input_list, with_)
        parts = [objects.dumps(value) for value in scatter_object_input_list or []]
    with_.settle()
    scatter_object_output_list[0] = objects.loads(with_.scatter_bytes(parts, source))


def _run(
    group: Communicator, async_op: bool, call: Callable[..., Any], *arguments: Any
) -> Work | None:
    """Call now, after what threads of this rank still run; or in a thread, in order."""
    if not async_op:
        group.settle()
        call(*arguments)
        return None
    return Work(group.submit(call, *arguments))


def _split(name: str, array: np.ndarray, sizes: Any, count: int) -> list[np.ndarray]:
    if sizes is None:
        if array.shape[0] % count:
            raise ValueError(
                f"all_to_all_single: {name} of shape {array.shape} for {count} ranks; expected a "
                f"multiple, or {name}_split_sizes"
            )
        sizes = [array.shape[0] // count] * count
    if len(sizes) != count or sum(sizes) != array.shape[0]:
        raise ValueError(
            f"all_to_all_single: {name}_split_sizes={list(sizes)} for shape {array.shape}; "
            f"expected {count} sizes that add up to {array.shape[0]}"
        )
    return np.split(array, np.cumsum(sizes)[:-1])


def _check_room(where: str, name: str, values: Any, group: Communicator) -> None:
    if values is None or len(values) != group.world_size:
        found = "None" if values is None else f"a list of {len(values)}"
        raise ValueError(f"{where}: {name} is {found}; expected {group.world_size} places")


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
