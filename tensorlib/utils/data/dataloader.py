"""DataLoader: batches in a given order, loaded ahead by threads, from any saved position.

Threads, not processes: PIL and NumPy release the interpreter lock while they work, and nothing has
to be copied between processes. Batches come in order whatever the number of threads.

Each iteration draws what torch's does: one number for its workers, then what the sampler draws.
The order of a `DistributedSampler` or `ShardedBatchSampler` follows from (seed, epoch), and so does
the augmentation of every sample, see `randomness`: the seed is the `initial_seed()` of the
generator, the global one's without one, when the loader was made.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from tensorlib.errors import UnsupportedError
from tensorlib.utils.workers import Workers

from .collate import default_collate, default_convert
from .dataset import IterableDataset, length
from .distributed import DistributedSampler
from .fetch import fetch
from .sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed, seed_of
from .sharded import ShardedBatchSampler, ShardIndices

if TYPE_CHECKING:
    from tensorlib import Generator, Tensor

_STATE_VERSION = 1
_FIXED = {"batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"}


class DataLoader:
    """Batches of `dataset`, by torch's arguments and in torch's order.

    Args:
        batch_size: None gives the samples themselves, through `default_convert`.
        shuffle: a new permutation each epoch, drawn from `generator` or else the global one.
        sampler, batch_sampler: own orders of indices, or of lists of indices.
        num_workers: threads that load samples ahead; 0 loads in the calling thread. An
            `IterableDataset` is always read there, once.
        collate_fn: samples to batch; default `default_collate`.
        pin_memory: warns that there is no page-locked memory here, as torch without a GPU.
        timeout: seconds to wait for a batch from the threads; 0 waits without a limit.
        worker_init_fn, multiprocessing_context: refused with threads, they speak of processes.
        prefetch_factor: batches held ready or in work per thread (default 2).
        persistent_workers, in_order: threads start at once and batches are always in order.

    Each `iter(loader)` is the next epoch (`loader.epoch`), also when the one before was left early,
    except right after `load_state_dict`, which continues the saved epoch where it was. A sampler
    with `set_epoch` is kept at the loader's epoch; calling its `set_epoch` before iterating, as one
    does in torch, sets the loader's epoch.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        in_order: bool = True,
    ):
        _check_arguments(num_workers, prefetch_factor, timeout, persistent_workers)
        _check_processes(num_workers, worker_init_fn, multiprocessing_context)
        stream = isinstance(dataset, IterableDataset)
        if stream and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                f"DataLoader: shuffle={shuffle}, sampler={sampler}, batch_sampler={batch_sampler} "
                "with an IterableDataset; expected none of them: it has its own order"
            )
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "DataLoader: batch_sampler was given together with batch_size, shuffle, "
                    "sampler or drop_last; expected it alone"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError(
                "DataLoader: batch_size=None with drop_last=True; expected a batch size: "
                "without batches there is no last one"
            )
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler and shuffle=True exclude each other")
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.num_workers = num_workers
        batched = batch_size is not None or batch_sampler is not None
        convert = default_collate if batched else default_convert
        self.collate_fn: Callable[[Any], Any] = convert if collate_fn is None else collate_fn
        self.pin_memory = pin_memory
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.generator = generator
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.persistent_workers = persistent_workers
        if sampler is None and batch_sampler is None and not stream:
            length(dataset)  # an error where there is none
            sampler = (
                RandomSampler(dataset, generator=generator)
                if shuffle
                else SequentialSampler(dataset)
            )
        self.sampler = sampler
        if batch_size is not None and sampler is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_sampler = batch_sampler
        inner = sampler if batch_sampler is None else batch_sampler
        self._ordered_by: Any = getattr(inner, "sampler", inner)
        self._length = len(dataset) if hasattr(dataset, "__len__") else -1  # -1: not known
        seed = getattr(self._ordered_by, "seed", None)
        self.seed: int = seed_of(generator) if seed is None else int(seed)
        self._epoch = int(getattr(self._ordered_by, "epoch", 0))
        self._taken = 0  # samples of this epoch that were handed out
        self._begun = False  # an iterator was made for this epoch
        self._drawn: list[Tensor] | None = None  # the generators' states where its order is drawn
        self._replayed = False  # `_drawn` is of a loaded state: the order is drawn from it

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and "_replayed" in self.__dict__:
            raise ValueError(
                f"DataLoader: {name} is set after the loader was made; expected another loader"
            )
        super().__setattr__(name, value)

    @property
    def epoch(self) -> int:
        """The epoch that is being iterated; after its end, the next one."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is the given epoch, from its start."""
        self._epoch, self._taken, self._begun = epoch, 0, False
        self._drawn, self._replayed = None, False
        self._tell_epoch()

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        inner: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        if inner is not None:
            return len(inner)
        count, size = length(self.dataset), self.batch_size or 1
        return count // size if self.drop_last else -(-count // size)

    def __iter__(self) -> Iterator[Any]:
        chosen = getattr(self._ordered_by, "epoch", self._epoch)
        if chosen != self._epoch:  # set on the sampler itself, as torch's users do
            if self._taken and not self._begun:
                raise ValueError(
                    f"DataLoader: the sampler was set to epoch {chosen}, but the loaded state "
                    f"continues epoch {self._epoch} after {self._taken} samples; expected that "
                    "epoch. Hint: start the loop over epochs at loader.epoch"
                )
            self.set_epoch(chosen)
        elif self._begun:  # the epoch before was left early
            self.set_epoch(self._epoch + 1)
        else:
            self._tell_epoch()
        self._begun = True
        if self.pin_memory:
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, then device "
                "pinned memory won't be used.",
                stacklevel=2,
            )
        if not self._taken:  # a continued iteration drew it when it began
            draw_seed(self.generator)
        return _Batches(self)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts: enough for a new loader with any `num_workers`.

        `next_index` counts samples of the epoch's global order: with a `DistributedSampler` or a
        `ShardedBatchSampler` every rank's state is the same and may be loaded with another number
        of ranks. An order that was drawn is drawn again from the state of the generators then, held
        under `drawn`. Epochs after it follow the loader's or the sampler's own generator, which is
        restored, or the global one, which is the caller's to restore.
        """
        taken = self._taken
        if isinstance(self._ordered_by, DistributedSampler):
            taken = self._ordered_by.global_position(taken)
        state: dict[str, Any] = {
            "version": _STATE_VERSION,
            "epoch": self._epoch,
            "next_index": taken,
            "seed": self.seed,
            "samples": self._length,
        }
        if not hasattr(self._ordered_by, "set_epoch"):
            state["drawn"] = self._drawn or [g.get_state() for g in self._generators()[1:]]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken: the next iteration gives the rest of that epoch."""
        missing = {"version", "epoch", "next_index", "seed", "samples"} - state.keys()
        if missing or state["version"] != _STATE_VERSION:
            raise ValueError(
                f"DataLoader.load_state_dict: version {state.get('version')!r}, missing "
                f"{sorted(missing)}; expected a state of version {_STATE_VERSION}"
            )
        if state["samples"] != self._length:
            raise ValueError(
                f"DataLoader.load_state_dict: the state was saved with {state['samples']} samples, "
                f"the data set has {self._length}; expected the same data set"
            )
        self._taken = int(state["next_index"])
        if isinstance(self._ordered_by, DistributedSampler | ShardedBatchSampler):
            if state["seed"] != self.seed:
                raise ValueError(
                    f"DataLoader.load_state_dict: the state was saved with seed {state['seed']}, "
                    f"the {type(self._ordered_by).__name__} has {self.seed}; expected the same seed"
                )
            if isinstance(self._ordered_by, DistributedSampler):
                self._taken = self._ordered_by.local_position(self._taken)
        self.seed = int(state["seed"])
        if hasattr(self._ordered_by, "seed"):
            self._ordered_by.seed = self.seed
        self._epoch, self._begun = int(state["epoch"]), False
        self._drawn, self._replayed = None, False
        drawn, generators = state.get("drawn", []), self._generators()
        if drawn and len(drawn) == len(generators):
            self._drawn, self._replayed = drawn, True
        elif len(drawn) == len(generators) - 1:
            for own, saved in zip(generators[1:], drawn, strict=True):
                own.set_state(saved)
        elif drawn:
            raise ValueError(
                f"DataLoader.load_state_dict: the state holds {len(drawn)} generators, the loader "
                f"has {len(generators)}, the global one included; expected a loader made with the "
                "same generator"
            )
        self._tell_epoch()

    def _generators(self) -> list[Generator]:
        """What the order is drawn from: the global generator, then the loader's and sampler's."""
        from tensorlib import default_generator

        found: list[Any] = [default_generator]
        for own in (self.generator, getattr(self._ordered_by, "generator", None)):
            if own is not None and all(own is not known for known in found):
                found.append(own)
        return found

    def _tell_epoch(self) -> None:
        """Keep sampler and data set at the loader's epoch."""
        for part in (self._ordered_by, self.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(self._epoch)

    def _remaining(self) -> Iterator[Sequence[int]]:
        """The index lists from the current position to the end of the epoch.

        A sampler with `set_epoch` fixes its order now: another iterator may move it to the next
        epoch before this one is used. Others draw theirs with the first batch, as in torch.
        """
        plain = type(self.batch_sampler) is BatchSampler
        inner: Any = self.batch_sampler
        if plain or inner is None:
            inner = self.sampler if self.batch_sampler is None else inner.sampler
        aware = hasattr(self._ordered_by, "set_epoch")
        indices = iter(inner) if aware else self._draw(inner, self._taken if plain else 0)
        if plain:
            taken = self._taken if aware else 0
            assert isinstance(self.batch_sampler, BatchSampler)
            return self.batch_sampler.batches(islice(indices, taken, None))
        if self.batch_sampler is None:
            return islice(((index,) for index in indices), self._taken, None)
        return _skip(indices, self._taken)

    def _draw(self, inner: Iterable[Any], skip: int) -> Iterator[Any]:
        """The items of `inner` after the first `skip`, drawn as they were where it is replayed."""
        generators = self._generators()
        if not self._replayed or self._drawn is None:
            self._drawn = [generator.get_state() for generator in generators]
            yield from islice(inner, skip, None)
            return
        now = generators[0].get_state()
        for generator, state in zip(generators, self._drawn, strict=True):
            generator.set_state(state)
        items = islice(inner, skip, None)
        first = list(islice(items, 1))  # a sampler draws its order before its first item
        generators[0].set_state(now)
        self._replayed = False
        yield from chain(first, items)

    def _stream(self) -> Iterator[tuple[int, Any]]:
        """Numbers of samples and batches of an `IterableDataset`, from the current position on."""
        samples = islice(iter(self.dataset), self._taken, None)
        while batch := list(islice(samples, self.batch_size or 1)):
            if self.batch_size is None:
                yield 1, self.collate_fn(batch[0])
            elif len(batch) == self.batch_size or not self.drop_last:
                yield len(batch), self.collate_fn(batch)


class _Batches(Iterator[Any]):
    """One epoch's batches. Its threads end with it: at its end, on `close()` or when dropped."""

    def __init__(self, loader: DataLoader):
        self._loader = loader
        self._epoch = loader.epoch
        stream = isinstance(loader.dataset, IterableDataset)
        self._stream = loader._stream() if stream else None
        self._indices = iter(()) if stream else loader._remaining()
        ahead = 0 if stream else loader.num_workers
        self._workers = Workers(ahead, "DataLoader") if ahead else None
        self._pending: deque[tuple[int, Future[Any]]] = deque()
        self._closed = False

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            size, batch = self._load() if self._workers is None else self._collect(self._workers)
        except StopIteration:
            self.close()
            if self._current():
                self._loader.set_epoch(self._epoch + 1)
            raise
        except BaseException:
            self.close()
            raise
        if self._current():
            self._loader._taken += size
        return batch

    def close(self) -> None:
        """Stop loading ahead and let the threads end."""
        self._closed = True
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()
        if self._workers is not None:
            self._workers.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def _current(self) -> bool:
        """Whether the loader's position is still this iterator's to move."""
        return self._loader._begun and self._loader.epoch == self._epoch

    def _load(self) -> tuple[int, Any]:
        if self._stream is not None:
            return next(self._stream)
        indices = next(self._indices)
        return _size(indices), fetch(*self._arguments(indices))

    def _arguments(self, indices: Sequence[int]) -> tuple[Any, ...]:
        loader = self._loader
        alone = loader.batch_sampler is None
        return loader.dataset, loader.collate_fn, indices, loader.seed, self._epoch, alone

    def _collect(self, workers: Workers) -> tuple[int, Any]:
        loader = self._loader
        ahead = loader.num_workers * (loader.prefetch_factor or 1)
        for indices in islice(self._indices, ahead - len(self._pending)):
            future = workers.submit(fetch, *self._arguments(indices))
            self._pending.append((_size(indices), future))
        if not self._pending:
            raise StopIteration
        size, future = self._pending.popleft()
        try:
            return size, future.result(loader.timeout or None)
        except FutureTimeout as error:
            if future.done():  # raised by the data set, not by the wait
                raise
            raise RuntimeError(
                f"DataLoader: timed out after {loader.timeout} seconds waiting for a batch of "
                f"{size} samples (epoch {self._epoch}, after {loader._taken} samples); "
                "expected a data set that returns"
            ) from error


def _size(indices: Sequence[int]) -> int:
    """By how many samples a batch moves the position: its own, or those of all ranks."""
    return indices.total if isinstance(indices, ShardIndices) else len(indices)


def _skip(batches: Iterator[Sequence[int]], taken: int) -> Iterator[Sequence[int]]:
    """The batches after the first `taken` samples."""
    while taken > 0 and (batch := next(batches, None)) is not None:
        taken -= _size(batch)
    if taken < 0:
        raise ValueError(
            "DataLoader: the saved position lies inside a batch of batch_sampler; "
            "expected the batches it was saved with"
        )
    yield from batches


def _check_arguments(
    num_workers: int, prefetch_factor: int | None, timeout: float, persistent_workers: bool
) -> None:
    if num_workers < 0:
        raise ValueError(
            f"DataLoader: num_workers={num_workers}; expected 0 or more threads "
            f"(this machine has {os.cpu_count()} cores)"
        )
    if prefetch_factor is not None and (num_workers == 0 or prefetch_factor < 1):
        raise ValueError(
            f"DataLoader: prefetch_factor={prefetch_factor} with num_workers={num_workers}; "
            "expected at least 1, and threads to load ahead"
        )
    if timeout < 0 or (timeout and num_workers == 0):
        raise ValueError(
            f"DataLoader: timeout={timeout} with num_workers={num_workers}; expected 0 or more "
            "seconds, and threads to wait for"
        )
    if persistent_workers and num_workers == 0:
        raise ValueError(
            "DataLoader: persistent_workers=True with num_workers=0; expected num_workers >= 1"
        )


def _check_processes(num_workers: int, worker_init_fn: Any, multiprocessing_context: Any) -> None:
    if multiprocessing_context is not None and num_workers == 0:
        raise ValueError(
            f"DataLoader: multiprocessing_context={multiprocessing_context!r} with num_workers=0; "
            "expected num_workers >= 1"
        )
    for name, value in (
        ("worker_init_fn", worker_init_fn),
        ("multiprocessing_context", multiprocessing_context),
    ):
        if value is not None and num_workers:
            raise UnsupportedError(
                "DataLoader",
                f"{name}={value!r} with num_workers={num_workers}, which are threads of this "
                "process",
                "None",
                hint="leave it out; random transforms draw from current_generator(), which "
                "depends on no worker",
            )


def get_worker_info() -> None:
    """None: samples are loaded by this process, so a stream is read once and needs no sharing."""
