"""DistributedDataParallel: every rank its batch, all ranks the same gradients.

Gradients are averaged over *ranks*. That is the mean over all samples only when the ranks' batches
are equally large; for uneven ones (the last batch) sum the loss over the rank's samples and
multiply it by `loss_weight(count)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tensorlib.device import device
from tensorlib.errors import UnsupportedError
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.tensor import Tensor

from .buckets import Bucket, Buckets, broadcast_tensors, check_cap, take_over, trained
from .communicator import Communicator
from .messages import ReduceOp
from .process_group import get_communicator

_WHERE = "DistributedDataParallel"


class DistributedDataParallel(Module):
    """Wraps `module` so that backward leaves the gradients' average over ranks in `.grad`.

    At construction all ranks take over rank 0's parameters and buffers. Gradients are copied into
    buckets, from the last parameter to the first; a full bucket is reduced by a thread while
    backward goes on, always in the same order and along one tree, so parameters stay equal
    to the bit on all ranks. `state_dict` has torch's prefix `module.`.

    The arguments are torch's, in its order.

    Args:
        device_ids, output_device: None, or the CUDA device that the module is on; inputs have to be
            there already.
        broadcast_buffers: in training, take over rank 0's buffers before each forward. After the
            last step the ranks' running statistics differ by one batch: call `sync_buffers()`
            on all ranks before evaluating or saving.
        init_sync: False leaves out what happens at construction, for modules that are known to be
            equal.
        process_group: a Communicator; default the process group's.
        bucket_cap_mb: size of a bucket in MiB; None is 25.
        find_unused_parameters: look for parameters that an output does not depend on, in every
            forward; they contribute zeros. Otherwise such parameters are an error that names them.
        gradient_as_bucket_view: no copy is saved by it: `.grad` is an array of its own either way.

    Raises:
        UnsupportedError: `dim`, `check_reduction` or `static_graph` is not its default.
        ValueError: another device, or a size of buckets that holds nothing.
        RuntimeError: nothing to train, or the ranks' models differ.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
        broadcast_buffers: bool = True,
        init_sync: bool = True,
        process_group: Communicator | None = None,
        bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False,
        check_reduction: bool = False,
        gradient_as_bucket_view: bool = False,
        static_graph: bool = False,
    ):
        super().__init__()
        bucket_cap_mb = 25.0 if bucket_cap_mb is None else bucket_cap_mb
        check_cap(_WHERE, bucket_cap_mb)
        if dim != 0:
            raise UnsupportedError(_WHERE, f"dim={dim}", "expected 0")
        if check_reduction:
            raise UnsupportedError(_WHERE, "check_reduction=True", "expected False")
        if static_graph:
            hint = "find_unused_parameters=True where the output does not depend on all parameters"
            raise UnsupportedError(_WHERE, "static_graph=True", "expected False", hint=hint)
        self.module = module
        self.broadcast_buffers = broadcast_buffers
        self.find_unused_parameters = find_unused_parameters
        self.require_backward_grad_sync = True
        self.process_group = get_communicator() if process_group is None else process_group
        named = trained(_WHERE, module)
        _check_devices(named[0][1].device, device_ids, output_device)
        if init_sync:
            take_over(_WHERE, module, self.process_group)
        self._reducer = (
            _Reducer(named, self.process_group, bucket_cap_mb)
            if self.process_group.world_size > 1
            else None
        )

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        reducer, sync = self._reducer, self.require_backward_grad_sync
        if reducer is None:
            return self.module(*inputs, **kwargs)
        if sync and self.training and self.broadcast_buffers:
            self.sync_buffers()
        output = self.module(*inputs, **kwargs)
        if self.training:
            reducer.prepare(output, sync, self.find_unused_parameters)
        return output

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Forward and backward inside add up gradients on each rank, without communication."""
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        try:
            yield
        finally:
            self.require_backward_grad_sync = before

    def sync_buffers(self) -> None:
        """Take over rank 0's buffers. All ranks call it."""
        broadcast_tensors(list(self.module.buffers()), self.process_group)


def loss_weight(count: int, process_group: Communicator | None = None) -> float:
    """What to multiply a loss with that is *summed* over this rank's `count` samples.

    The averaged gradients are then those of the mean over the samples of all ranks:
    `world_size / total count`. All ranks call it; a rank may have no samples.
    """
    group = get_communicator() if process_group is None else process_group
    total = np.array([count], np.int64)
    group.all_reduce(total)
    if total[0] <= 0:
        raise ValueError("loss_weight: no rank has a sample; expected at least one")
    return group.world_size / int(total[0])


def _check_devices(own: device, device_ids: Sequence[Any] | None, output_device: Any) -> None:
    """ValueError unless the only device that is named is the CUDA device of the module."""
    said = [*(device_ids or ()), *([] if output_device is None else [output_device])]
    named = [device(one) for one in said]
    several = device_ids is not None and len(device_ids) > 1
    if said and (several or own.type == "cpu" or any(one != own for one in named)):
        expected = "both None" if own.type == "cpu" else f"[{own.index}] and {own.index}, or None"
        raise ValueError(
            f"{_WHERE}: device_ids={device_ids}, output_device={output_device} for a module on "
            f"{own}; expected {expected}"
        )


class _Reducer:
    """Watches backward, reduces buckets in order, and puts the averages back."""

    def __init__(self, named: list[tuple[str, Parameter]], group: Communicator, cap_mb: float):
        self._group = group
        self._buckets = Buckets(_WHERE, named, group, cap_mb, self._average)
        self._parameters = self._buckets.parameters
        self._index = {id(parameter): i for i, parameter in enumerate(self._parameters)}
        self._unused: set[int] = set()
        self._share_unused = False
        self._sync = True
        self._checked = False
        for index, parameter in enumerate(self._parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, index))

    def prepare(self, output: Any, sync: bool, find_unused: bool) -> None:
        """After a forward: what its backward will bring."""
        if sync and self._sync:
            self._check_complete()
        self._sync = sync
        if not sync or not (find_unused or not self._checked):
            return
        roots = [tensor for tensor in _tensors(output) if tensor.requires_grad]
        if not roots:  # under no_grad: there will be no backward
            return
        used = {self._index[i] for i in _leaves(roots) if i in self._index}
        self._unused = set(range(len(self._parameters))) - used
        if self._unused and not find_unused:
            raise RuntimeError(
                "DistributedDataParallel: the output does not depend on the parameters "
                f"{self._buckets.name(self._unused)}. Hint: pass find_unused_parameters=True, or "
                "call requires_grad_(False) on them before wrapping the module"
            )
        self._checked, self._share_unused = True, find_unused
        self._buckets.begin(self._unused)

    def _check_complete(self) -> None:
        missing = self._buckets.missing()
        if missing and len(missing) + len(self._unused) < len(self._parameters):
            raise RuntimeError(
                "DistributedDataParallel: the backward before brought no gradients for the "
                f"parameters {self._buckets.name(missing)}, so gradients were not reduced. Hint: "
                "pass find_unused_parameters=True, and use every output of the module in the loss"
            )

    def _on_gradient(self, index: int, parameter: Tensor) -> None:
        if not self._sync:
            return
        bucket = self._buckets.of[index]
        if index not in bucket.missing:
            raise RuntimeError(
                f"DistributedDataParallel: {self._buckets.names[index]} got a second gradient "
                "before the others got their first. Hint: run all backward passes but the last in "
                "no_sync()"
            )
        gradient = parameter.grad
        assert gradient is not None
        bucket.views[0][index][...] = gradient.array
        if self._buckets.add(index, self._fill_unused):
            self._finish()

    def _fill_unused(self, bucket: Bucket) -> None:
        for index in self._unused.intersection(bucket.indices):
            kept = self._parameters[index].grad  # of earlier micro-batches
            bucket.views[0][index][...] = 0 if kept is None else kept.array

    def _average(self, bucket: Bucket) -> None:
        self._group.all_reduce(bucket.rows[0], ReduceOp.AVG)

    def _finish(self) -> None:
        """Wait for the reductions and hand out the averages."""
        self._buckets.wait()
        nowhere: set[int] = set()
        if self._share_unused:
            used = np.array(
                [
                    i not in self._unused or parameter.grad is not None
                    for i, parameter in enumerate(self._parameters)
                ]
            )
            self._group.all_reduce(used, ReduceOp.MAX)
            nowhere = set(np.flatnonzero(~used).tolist())
        for bucket in self._buckets.all:
            for index, average in bucket.views[0].items():
                parameter = self._parameters[index]
                if index in nowhere:
                    continue
                if parameter.grad is None:
                    parameter.grad = Tensor._wrap(average.copy("K"))
                else:
                    parameter.grad.array[...] = average
        self._buckets.begin(self._unused)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The Tensors in a module's output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dict__"):
        for item in vars(value).values():
            yield from _tensors(item)


def _leaves(roots: list[Tensor]) -> set[int]:
    """The ids of the leaves that the roots depend on."""
    found = {id(root) for root in roots if root.grad_fn is None}
    stack = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(stack)
    while stack:
        for function, _ in stack.pop().next_functions:
            if function is None:
                continue
            variable = getattr(function, "variable", None)
            if variable is not None:
                found.add(id(variable))
            elif function not in seen:
                seen.add(function)
                stack.append(function)
    return found
