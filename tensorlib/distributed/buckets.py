"""Gradients in buckets: what every data-parallel wrapper shares.

Parameters are put into buckets from the last to the first, the order in which backward brings their
gradients. A bucket whose gradients are all there is reduced by a thread while backward goes on;
always in the same order, because every rank has to start the same collectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import numpy as np

from tensorlib.autograd.tape import bump
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.tensor import Tensor

from . import objects
from .communicator import Communicator

_ALIGNED = 64  # elements; so that no two rows share a cache line
_FIRST_BUCKET_BYTES = 1 << 20  # a small first bucket lets communication start early


class Bucket:
    """Some parameters' gradients as `rows` flat arrays, each laid out like the parameters.

    `marks` adds one number per parameter at the end of a row: `marks[row][place]`.
    """

    def __init__(
        self, parameters: list[tuple[int, Parameter]], rows: int, marks: bool, group: Communicator
    ):
        self.indices = [index for index, _ in parameters]
        self.missing = set(self.indices)
        ends = np.cumsum([parameter.array.size for _, parameter in parameters]).tolist()
        dtype = parameters[0][1].array.dtype
        size = ends[-1] + (len(parameters) if marks else 0)
        stride = -(-size // _ALIGNED) * _ALIGNED
        memory = group.allocate(rows * stride, dtype)
        self.rows = [memory[i * stride : i * stride + size] for i in range(rows)]
        self.marks = [row[ends[-1] :] for row in self.rows]
        self.views = [
            {
                index: _laid_out(row[end - parameter.array.size : end], parameter.array)
                for (index, parameter), end in zip(parameters, ends, strict=True)
            }
            for row in self.rows
        ]


class Buckets:
    """The buckets of a model and their reductions, one after the other.

    Args:
        where: the wrapper, for its errors.
        reduce: the collective for one bucket, run in a thread.
    """

    def __init__(
        self,
        where: str,
        named: list[tuple[str, Parameter]],
        group: Communicator,
        cap_mb: float,
        reduce: Callable[[Bucket], None],
        rows: int = 1,
        marks: bool = False,
    ):
        self.where = where
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self._group = group
        self._reduce = reduce
        grouped = _grouped(self.parameters, int(cap_mb * (1 << 20)))
        self.all = [Bucket(group_, rows, marks, group) for group_ in grouped]
        self.of = {index: bucket for bucket in self.all for index in bucket.indices}
        self._running: list[Future[Any]] = []

    def begin(self, unused: Iterable[int] = ()) -> None:
        """Expect a gradient of every parameter but the `unused` ones."""
        self._running = []
        for bucket in self.all:
            bucket.missing = set(bucket.indices).difference(unused)

    def add(self, index: int, before: Callable[[Bucket], None]) -> bool:
        """A parameter's gradient is in its bucket: reduce what is complete, after `before(bucket)`.
        True when that was the last bucket.
        """
        self.of[index].missing.discard(index)
        return self.launch(before)

    def launch(self, before: Callable[[Bucket], None]) -> bool:
        """Reduce the buckets that are complete, in order; True when all are under way."""
        while (done := len(self._running)) < len(self.all):
            bucket = self.all[done]
            if bucket.missing:
                return False
            before(bucket)
            self._running.append(self._group.submit(self._reduce, bucket))
        return True

    def wait(self) -> None:
        """Wait for the reductions."""
        for reduction in self._running:
            reduction.result()

    def missing(self) -> set[int]:
        """The parameters whose gradients have not come."""
        return set().union(*(bucket.missing for bucket in self.all))

    def name(self, indices: Iterable[int]) -> str:
        """The names of parameters, the first twenty of many."""
        names = [self.names[i] for i in sorted(indices)]
        return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def trained(where: str, module: Module) -> list[tuple[str, Parameter]]:
    """The parameters that get gradients; RuntimeError if there are none."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise RuntimeError(
            f"{where}: the module has no parameter that requires a gradient; "
            "expected at least one. Hint: use the module itself"
        )
    return named


def check_cap(where: str, bucket_cap_mb: float) -> None:
    """ValueError for a size of buckets that holds nothing."""
    if bucket_cap_mb <= 0:
        raise ValueError(f"{where}: bucket_cap_mb={bucket_cap_mb}; expected more than 0")


def take_over(where: str, module: Module, group: Communicator) -> None:
    """Give all ranks rank 0's parameters and buffers; RuntimeError where the models differ."""
    _check_same_model(where, module, group)
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    broadcast_tensors(tensors, group)


def broadcast_tensors(tensors: list[Tensor], group: Communicator) -> None:
    """Rank 0's values into all ranks' tensors, one message per dtype."""
    if group.world_size == 1:
        return
    by_dtype: dict[np.dtype[Any], list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.array.dtype, []).append(tensor)
    for members in by_dtype.values():
        size = sum(tensor.array.size for tensor in members)
        flat = np.empty_like(members[0].array, order="C", shape=size)
        if group.rank == 0:
            np.concatenate([tensor.array.reshape(-1) for tensor in members], out=flat)
        group.broadcast(flat)
        if group.rank == 0:
            continue
        start = 0
        for tensor in members:
            array = tensor.array
            array[...] = flat[start : start + array.size].reshape(array.shape)
            bump(tensor)
            start += array.size


def _laid_out(flat: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`flat` in the shape and memory layout of a gradient of `like`."""
    strides = np.empty_like(like).strides
    order = sorted(range(like.ndim), key=lambda axis: -strides[axis])
    dense = flat.reshape([like.shape[axis] for axis in order])
    return dense.transpose([order.index(axis) for axis in range(like.ndim)])


def _grouped(parameters: list[Parameter], cap_bytes: int) -> list[list[tuple[int, Parameter]]]:
    """From the last parameter to the first, in order; one dtype per bucket."""
    groups: list[list[tuple[int, Parameter]]] = []
    size, limit = 0, min(_FIRST_BUCKET_BYTES, cap_bytes)
    for index in reversed(range(len(parameters))):
        parameter = parameters[index]
        same = bool(groups) and groups[-1][0][1].array.dtype == parameter.array.dtype
        if not same or size + parameter.array.nbytes > limit:
            limit = cap_bytes if groups else limit
            groups.append([])
            size = 0
        groups[-1].append((index, parameter))
        size += parameter.array.nbytes
    return groups


def _check_same_model(where: str, module: Module, group: Communicator) -> None:
    """All ranks must wrap the same model, else buckets would not match."""
    mine = [
        [name, list(value.shape), str(value.dtype)]
        for name, value in [*module.named_parameters(), *module.named_buffers()]
    ]
    everyone = [objects.loads(part) for part in group.all_gather_bytes(objects.dumps(mine))]
    for rank, theirs in enumerate(everyone):
        if theirs == everyone[0]:
            continue
        here = [entry for entry in theirs if entry not in everyone[0]]
        there = [entry for entry in everyone[0] if entry not in theirs]
        raise RuntimeError(
            f"{where}: rank {rank} has another model than rank 0: "
            f"{len(theirs)} and {len(everyone[0])} parameters and buffers, "
            f"{here[:3]} instead of {there[:3]}; expected the same model on all ranks"
        )
