"""ShardedDataParallel: training whose bits do not depend on the number of workers.

The global batch is cut into a fixed number of shards. Each shard is one forward and backward of its
own: with its own random numbers, from the buffers as they were before the step. What the shards
bring is summed along the tree of `tree`, within a rank and over ranks alike. So one rank with all
shards and several with some each compute the same bits, and so does a run whose number of ranks
changes on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tensorlib import random
from tensorlib.autograd import tape
from tensorlib.autograd.tape import bump, wrap
from tensorlib.kernels import packed
from tensorlib.kernels.arithmetic import LARGE, add
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.sync_batchnorm import SyncBatchNorm
from tensorlib.tensor import Tensor

from . import tree
from .buckets import Bucket, Buckets, check_cap, take_over, trained
from .communicator import Communicator
from .process_group import get_communicator, is_initialized
from .threads import ThreadCommunicator

_WHERE = "ShardedDataParallel"


class Shard(NamedTuple):
    """A part of the global batch that is computed at once."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    start: int  # position of its first sample in the global batch
    stop: int
    local: slice  # where its samples are in this rank's samples of the step


class ShardedDataParallel(Module):
    """Wraps `module` for training in `shards` parts of each global batch, on any number of ranks.

        for batch, (images, labels) in enumerate(loader):  # of a ShardedBatchSampler
            optimizer.zero_grad()
            for shard in model.step(count, step):
                output = model(images[shard.local])
                (loss(output, labels[shard.local], reduction="sum") / count).backward()
            optimizer.step()

    After the loop over the shards, `.grad` of every parameter holds the sum over all shards (added
    to what it held before), and the buffers are combined: floating-point ones are the mean over the
    shards with samples, where a shard changed them; others are those of the first such shard.
    Parameters, gradients and buffers then have the same bits on all ranks, for any number of ranks
    up to `shards`, if the module computes the same for the same input (as many threads, say).

    Within a shard, random numbers (dropout) come from (seed, step, shard), and a parameter may get
    one gradient: add up the losses before `backward`. `.grad` is empty there and shares memory with
    the buckets after it, so copy what is to outlive the next step.

    At construction all ranks take over rank 0's parameters and buffers. `state_dict` has torch's
    prefix `module.`.

    Args:
        shards: into how many parts a batch is cut; fixed for a run. With the world size instead,
            each rank computes its part at once (fast), but results depend on the number of ranks.
        seed: of the random numbers within shards.
        process_group: a Communicator; default the process group's, or a group of one without.
        bucket_cap_mb: size of the buckets in which gradients are reduced, in MiB.

    Raises:
        ValueError: more ranks than shards, or a SyncBatchNorm with more shards than ranks.
    """

    def __init__(
        self,
        module: Module,
        *,
        shards: int,
        seed: int = 0,
        process_group: Communicator | None = None,
        bucket_cap_mb: float = 25.0,
    ):
        super().__init__()
        check_cap(_WHERE, bucket_cap_mb)
        if process_group is None:
            alone = not is_initialized()
            process_group = ThreadCommunicator.group(1)[0] if alone else get_communicator()
        world_size = process_group.world_size
        if shards < world_size:
            raise ValueError(
                f"{_WHERE}: shards={shards} for {world_size} ranks; expected as many shards at "
                "least. Hint: the number of shards bounds the number of workers"
            )
        self.module = module
        self.shards = shards
        self.seed = seed
        self.process_group = process_group
        self._synchronized = _whole_batch_layer(module, shards, world_size)
        named = trained(_WHERE, module)
        if world_size > 1:
            take_over(_WHERE, module, process_group)
        self._own = tree.owned(process_group.rank, world_size, shards)
        self._gradients = _Gradients(named, process_group, shards, bucket_cap_mb)
        self._sums = _Buffers(module, process_group, shards)
        self._generator = random.Generator()
        self._inside = False  # a shard is being computed
        self._unfinished = False  # a step was left early
        self._filled: list[int] = []  # the shards of the last step that had samples

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        if self.training and tape.mode.grad and not self._inside:
            raise RuntimeError(
                f"{_WHERE}: forward in training mode outside a shard; its gradients and buffers "
                "would belong to no step. Hint: call it in `for shard in model.step(...)`, or "
                "after eval(), or under no_grad()"
            )
        return self.module(*inputs, **kwargs)

    def step(self, count: int, step: int) -> Iterator[Shard]:
        """This rank's shards of a global batch of `count` samples, those without samples left out.

        `step` numbers the optimizer steps of the run: random numbers depend on it. All ranks call
        it with the same arguments and go through the whole loop.
        """
        own = [self._shard(index, count) for index in self._own]
        filled = [shard for shard in own if shard.start < shard.stop]
        self._check(count)
        self._unfinished = True
        self._filled = [shard.index for shard in filled]
        self._gradients.begin(self._filled)
        self._sums.begin(count)
        try:
            yield from self._compute(filled, step)
        finally:
            packed.keep(None)
        self._gradients.finish()
        self._sums.finish()
        self._unfinished = False

    def _compute(self, filled: list[Shard], step: int) -> Iterator[Shard]:
        parameters = list(self.module.parameters())
        known: list[int] = []
        for shard in filled:
            versions = [parameter._version for parameter in parameters]
            if versions != known and len(filled) > 1:
                packed.keep(parameter.array for parameter in parameters)
                known = versions
            mixed = np.random.SeedSequence([_unsigned(self.seed), step, shard.index])
            self._generator.manual_seed(int(mixed.generate_state(1)[0]))
            before = random.draw_from(self._generator)
            self._inside = True
            self._gradients.enter(shard.index)
            try:
                yield shard
            finally:
                self._inside = False
                self._gradients.shard = None
                random.draw_from(before)
            self._gradients.leave(shard.index)
            self._sums.leave(shard.index)

    def sum_over_shards(self, values: Any) -> np.ndarray:
        """Sum [shards that `step` gave here, k] over the shards of all ranks: [k], exactly the same
        for any number of ranks. All ranks call it; those without shards with [0, k].
        """
        rows = np.asarray(values)
        if rows.ndim != 2 or len(rows) != len(self._filled) or rows.dtype.kind not in "iuf":
            raise ValueError(
                f"sum_over_shards: {rows.dtype} values of shape {rows.shape}; expected numbers "
                f"[{len(self._filled)}, k], a row for each shard of the last step"
            )
        slots = np.zeros((self.shards, rows.shape[1]), rows.dtype)
        slots[self._filled] += rows
        if self.process_group.world_size > 1:
            self.process_group.all_reduce(slots)
        total = np.zeros(rows.shape[1], rows.dtype)
        for row in slots:
            total += row
        return total

    def _shard(self, index: int, count: int) -> Shard:
        base = self._own.start * count // self.shards
        start, stop = index * count // self.shards, (index + 1) * count // self.shards
        return Shard(index, start, stop, slice(start - base, stop - base))

    def _check(self, count: int) -> None:
        if self._unfinished:
            raise RuntimeError(
                f"{_WHERE}: the step before was left before its last shard, so its gradients were "
                "not summed. Hint: go through the whole loop over step()"
            )
        if count < 1:
            raise ValueError(f"{_WHERE}.step: count={count}; expected at least one sample")
        if self._synchronized and self.process_group.world_size > 1 and count < self.shards:
            raise ValueError(
                f"{_WHERE}.step: {count} samples for {self.shards} shards, but the SyncBatchNorm "
                f"{self._synchronized!r} needs samples on every rank. Hint: drop_last=True"
            )


class _Gradients:
    """Takes the gradients of each shard, adds them along the tree as they come, and reduces the
    buckets during the backward of the last one.
    """

    def __init__(
        self, named: list[tuple[str, Parameter]], group: Communicator, shards: int, cap_mb: float
    ):
        self._parameters = [parameter for _, parameter in named]
        self._names = [name for name, _ in named]
        self._group = group
        self._shards = shards
        self._own = tree.owned(group.rank, group.world_size, shards)
        self._after = tree.progress(self._own, shards)
        rows = len(tree.cover(self._own, shards))
        self._buckets: Buckets | None = None
        if group.world_size > 1:
            self._buckets = Buckets(_WHERE, named, group, cap_mb, self._reduce, rows, marks=True)
        # by parameter and row: where a finished node goes (nowhere: it stays where it was added)
        self._targets: list[list[np.ndarray | None]] = [[None] * rows for _ in named]
        for bucket in self._buckets.all if self._buckets else ():
            for row, views in enumerate(bucket.views):
                for index, view in views.items():
                    self._targets[index][row] = view
        self.shard: int | None = None  # the one whose backward runs
        self._seen: set[int] = set()
        self._stacks: list[list[np.ndarray | None]] = []
        self._kept: dict[int, np.ndarray] = {}
        for index, parameter in enumerate(self._parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, index))

    def begin(self, filled: list[int]) -> None:
        """A step whose shards `filled`, of this rank's, have samples."""
        self._empty = set(self._own).difference(filled)
        self._last = filled[-1] if filled else None
        self._kept = {}
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                kept = parameter.grad.array
                self._kept[index] = kept.copy("K") if self._in_bucket(index, kept) else kept
                parameter.grad = None
        self._stacks = [[] for _ in self._parameters]
        if self._buckets is not None:
            self._buckets.begin(() if filled else range(len(self._parameters)))
        for index in range(len(self._parameters)):
            self._push_empty(index, self._own.start)

    def enter(self, shard: int) -> None:
        """The forward of a shard begins."""
        self.shard, self._seen = shard, set()

    def leave(self, shard: int) -> None:
        """Parameters that the shard did not use have no share in the sum."""
        if not self._seen:
            raise RuntimeError(
                f"{_WHERE}: shard {shard} brought no gradient. Hint: call backward() inside the "
                "loop over step()"
            )
        for index in range(len(self._parameters)):
            if index not in self._seen:
                self._take(index, shard, None)

    def finish(self) -> None:
        """Wait for the sums and put them into `.grad`."""
        if self._buckets is None:
            for index, (total,) in enumerate(self._stacks):
                self._give(index, total)
            return
        self._buckets.launch(self._mark)
        self._buckets.wait()
        for bucket in self._buckets.all:
            for place, (index, view) in enumerate(bucket.views[0].items()):
                self._give(index, view if bucket.marks[0][place] else None)
        self._stacks = []

    def _on_gradient(self, index: int, parameter: Tensor) -> None:
        if self.shard is None:
            return
        if index in self._seen:
            raise RuntimeError(
                f"{_WHERE}: {self._names[index]} got a second gradient in shard {self.shard}; "
                "expected one backward pass per shard. Hint: add up the losses first"
            )
        self._seen.add(index)
        gradient = parameter.grad
        assert gradient is not None
        parameter.grad = None
        array = gradient.array
        if gradient.requires_grad:  # of create_graph: others may hold it
            array = np.empty_like(parameter.array)
            array[...] = gradient.array
        self._take(index, self.shard, array)

    def _take(self, index: int, shard: int, gradient: np.ndarray | None) -> None:
        _push(self._stacks[index], self._after[shard], gradient, self._targets[index])
        self._push_empty(index, shard + 1)
        if shard == self._last and self._buckets is not None:
            self._buckets.add(index, self._mark)

    def _push_empty(self, index: int, shard: int) -> None:
        """The shards without samples that follow."""
        while shard in self._empty:
            _push(self._stacks[index], self._after[shard], None, self._targets[index])
            shard += 1

    def _mark(self, bucket: Bucket) -> None:
        """Note which of the gradients exist; where nobody's does, `.grad` stays empty."""
        for row, marks in enumerate(bucket.marks):
            for place, index in enumerate(bucket.indices):
                marks[place] = self._stacks[index][row] is not None

    def _reduce(self, bucket: Bucket) -> None:
        self._group.all_reduce_shards(bucket.rows, self._shards)

    def _give(self, index: int, total: np.ndarray | None) -> None:
        kept = self._kept.pop(index, None)
        if kept is not None:
            total = kept if total is None else _add(kept, total, kept)
        if total is not None:
            self._parameters[index].grad = wrap(total)

    def _in_bucket(self, index: int, array: np.ndarray) -> bool:
        target = self._targets[index][0]
        return target is not None and np.may_share_memory(target, array)


class _Buffers:
    """Puts the buffers back before each shard and combines what the shards made of them."""

    def __init__(self, module: Module, group: Communicator, shards: int):
        self._group = group
        self._shards = shards
        self._own = tree.owned(group.rank, group.world_size, shards)
        self._after = tree.progress(self._own, shards)
        slots = {
            id(buffer): (owner, name)
            for owner in module.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None
        }
        self._slots: list[tuple[Any, str]] = list(slots.values())

    def begin(self, count: int) -> None:
        """A step of `count` samples."""
        samples = [
            (s + 1) * count // self._shards - s * count // self._shards for s in range(self._shards)
        ]
        self._count = sum(number > 0 for number in samples)
        self._first = next(s for s, number in enumerate(samples) if number)
        self._tensors: list[Tensor] = [owner._buffers[name] for owner, name in self._slots]
        self._before = [tensor.array.copy() for tensor in self._tensors]
        kinds = [tensor.array.dtype for tensor in self._tensors]
        self._averaged = {
            kind: [i for i, other in enumerate(kinds) if other == kind]
            for kind in dict.fromkeys(kinds)
            if kind.kind in "fc"
        }
        self._taken = {
            kind: [i for i, other in enumerate(kinds) if other == kind]
            for kind in dict.fromkeys(kinds)
            if kind.kind not in "fc"
        }
        self._values = {i: self._before[i] for members in self._taken.values() for i in members}
        self._starts = {
            kind: np.cumsum([0, *(self._before[i].size for i in members)])
            for kind, members in self._averaged.items()
        }
        self._stacks: dict[Any, list[np.ndarray | None]] = {kind: [] for kind in self._averaged}
        self._next = self._own.start

    def leave(self, shard: int) -> None:
        """Note the buffers of a shard, and put them back."""
        now = [owner._buffers[name].array for owner, name in self._slots]
        for kind, members in self._averaged.items():
            changed = [not np.array_equal(now[i], self._before[i]) for i in members]
            flat = np.concatenate([*(now[i].reshape(-1) for i in members), np.array(changed, kind)])
            self._push(kind, shard, flat)
        self._next = shard + 1
        if shard == self._first:
            for i in self._values:
                self._values[i] = now[i].copy()
        for (owner, name), tensor, before in zip(
            self._slots, self._tensors, self._before, strict=True
        ):
            owner._buffers[name] = tensor
            tensor.array[...] = before
            bump(tensor)

    def finish(self) -> None:
        """Combine the shards of all ranks."""
        for kind, members in self._averaged.items():
            self._push(kind, self._own.stop, None)
            starts = self._starts[kind]
            total = self._total(kind, int(starts[-1]) + len(members))
            marks = total[starts[-1] :]
            for place, i in enumerate(members):
                if marks[place]:
                    mean = total[starts[place] : starts[place + 1]] / kind.type(self._count)
                    self._set(i, mean)
        for members in self._taken.values():
            flat = np.concatenate([self._values[i].reshape(-1) for i in members])
            if self._group.world_size > 1:
                self._group.broadcast(flat, self._owner())
            start = 0
            for i in members:
                size = self._before[i].size
                self._set(i, flat[start : start + size])
                start += size

    def _push(self, kind: Any, shard: int, flat: np.ndarray | None) -> None:
        """Shard after shard; those without samples in between count as nothing."""
        for empty in range(self._next, shard):
            _push(self._stacks[kind], self._after[empty], None)
        if flat is not None:
            _push(self._stacks[kind], self._after[shard], flat)

    def _total(self, kind: Any, size: int) -> np.ndarray:
        rows = [np.full(size, -0.0, kind) if row is None else row for row in self._stacks[kind]]
        if self._group.world_size > 1:
            self._group.all_reduce_shards(rows, self._shards)
        return rows[0]

    def _owner(self) -> int:
        world = self._group.world_size
        return next(r for r in range(world) if self._first in tree.owned(r, world, self._shards))

    def _set(self, index: int, flat: np.ndarray) -> None:
        tensor = self._tensors[index]
        tensor.array[...] = flat.reshape(tensor.array.shape)
        bump(tensor)


def _push(
    stack: list[np.ndarray | None],
    after: tree.After,
    value: np.ndarray | None,
    targets: list[np.ndarray | None] | None = None,
) -> None:
    """Put a leaf on the stack and add what it completes: into the left operand, and a finished node
    into its target. None stands for nothing, as -0.0 does in a target: it changes no bit.
    """
    merges, row = after
    target = None if targets is None or row is None else targets[row]
    while merges:
        merges -= 1
        left = stack.pop()
        if left is None or value is None:
            value = left if value is None else value
        else:
            value = _add(left, value, left if merges or target is None else target)
    if target is not None:
        if value is None:
            target.fill(-0.0)
        elif value is not target:
            target[...] = value
            value = target
    stack.append(value)


def _add(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    if out.size < LARGE:
        np.add(a, b, out=out)
    else:
        add(a, b, out=out)
    return out


def _unsigned(seed: int) -> int:
    return seed % (1 << 64)


def _whole_batch_layer(module: Module, shards: int, world_size: int) -> str | None:
    """The name of a SyncBatchNorm; ValueError where its batch would be in several shards."""
    for name, layer in module.named_modules():
        if isinstance(layer, SyncBatchNorm):
            if shards > world_size:
                raise ValueError(
                    f"{_WHERE}: {name or 'the module'} is a SyncBatchNorm, which needs the whole "
                    f"batch at once; {shards} shards on {world_size} ranks are computed one after "
                    "the other. Hint: use BatchNorm, or as many shards as ranks (determinism: fast)"
                )
            return name or "module"
    return None
