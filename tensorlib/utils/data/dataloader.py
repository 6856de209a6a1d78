"""DataLoader: batches in a given order, loaded ahead by threads, from any saved position.

Threads, not processes: PIL and NumPy release the interpreter lock while they work, and nothing has
to be copied between processes. Batches come in order whatever the number of threads.

The order and the augmentation of samples follow from (seed, epoch, index), see `randomness`.
Iterating draws nothing from the global generator: without a `generator` the seed is what
`manual_seed` set when the loader was made, with one it is the generator's `initial_seed()`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from itertools import islice
from typing import TYPE_CHECKING, Any

from tensorlib.utils.workers import Workers

from .collate import default_collate
from .dataset import batch_getter, length
from .distributed import DistributedSampler
from .randomness import sampling
from .sampler import BatchSampler, RandomSampler, SequentialSampler, seed_of

if TYPE_CHECKING:
    from tensorlib import Generator

_STATE_VERSION = 1


class SampleError(RuntimeError):
    """A data set raised while a sample was loaded; names the sample, the cause is `__cause__`."""


class DataLoader:
    """Batches of `dataset`, by torch's arguments.

    Args:
        shuffle: a new permutation each epoch, seeded `seed + epoch` like `DistributedSampler`'s.
        sampler, batch_sampler: own orders of indices, or of lists of indices.
        num_workers: threads that load samples ahead; 0 loads in the calling thread.
        collate_fn: samples to batch; default `default_collate`.
        timeout: seconds to wait for a batch from the threads; 0 waits without a limit.
        generator: where the seed is read from; it is not moved.
        prefetch_factor: batches held ready or in work per thread (default 2).
        pin_memory: only False; there is no page-locked memory here.

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
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        *,
        generator: Generator | None = None,
        prefetch_factor: int | None = None,
    ):
        _check_arguments(num_workers, prefetch_factor, timeout, pin_memory)
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "DataLoader: batch_sampler was given together with batch_size, shuffle, "
                    "sampler or drop_last; expected it alone"
                )
            batch_size = None
        elif batch_size is None:
            raise ValueError(
                "DataLoader: batch_size=None; expected an integer >= 1 "
                "(loading without batches is not supported)"
            )
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler and shuffle=True exclude each other")
        self._length = length(dataset)
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.collate_fn = default_collate if collate_fn is None else collate_fn
        self.timeout = timeout
        self.prefetch_factor = 2 if prefetch_factor is None else prefetch_factor
        if sampler is None and batch_sampler is None:
            sampler = (
                RandomSampler(dataset, generator=generator)
                if shuffle and self._length
                else SequentialSampler(dataset)
            )
        self.sampler = sampler
        if batch_sampler is None:
            assert sampler is not None
            assert batch_size is not None
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_sampler = batch_sampler
        self._ordered_by: Any = getattr(batch_sampler, "sampler", batch_sampler)
        seed = getattr(self._ordered_by, "seed", None)
        self.seed: int = seed_of(generator) if seed is None else int(seed)
        self._epoch = int(getattr(self._ordered_by, "epoch", 0))
        self._taken = 0  # samples of this epoch that were handed out
        self._begun = False  # an iterator was made for this epoch

    @property
    def epoch(self) -> int:
        """The epoch that is being iterated; after its end, the next one."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is the given epoch, from its start."""
        self._epoch, self._taken, self._begun = epoch, 0, False
        self._tell_epoch()

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self.batch_sampler)  # type: ignore[arg-type]  # an error if it has no length

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
        return _Batches(self)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts: enough for a new loader with any `num_workers`.

        `next_index` counts samples of the epoch's global order: with a `DistributedSampler` every
        rank's state is the same and may be loaded with another number of ranks.
        """
        taken = self._taken
        if isinstance(self._ordered_by, DistributedSampler):
            taken = self._ordered_by.global_position(taken)
        return {
            "version": _STATE_VERSION,
            "epoch": self._epoch,
            "next_index": taken,
            "seed": self.seed,
            "samples": self._length,
        }

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
        if isinstance(self._ordered_by, DistributedSampler):
            if state["seed"] != self.seed:
                raise ValueError(
                    f"DataLoader.load_state_dict: the state was saved with seed {state['seed']}, "
                    f"the DistributedSampler has {self.seed}; expected the same seed"
                )
            self._taken = self._ordered_by.local_position(int(state["next_index"]))
        else:
            self._taken = int(state["next_index"])
        self.seed = int(state["seed"])
        if hasattr(self._ordered_by, "seed"):
            self._ordered_by.seed = self.seed
        self._epoch, self._begun = int(state["epoch"]), False
        self._tell_epoch()

    def _tell_epoch(self) -> None:
        """Keep sampler and data set at the loader's epoch."""
        for part in (self._ordered_by, self.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(self._epoch)

    def _remaining(self) -> Iterator[Sequence[int]]:
        """The index lists from the current position to the end of the epoch, whose order is fixed
        now: another iterator may move the sampler to the next epoch before this one is used.
        """
        if type(self.batch_sampler) is BatchSampler:
            indices = islice(iter(self.batch_sampler.sampler), self._taken, None)
            return self.batch_sampler.batches(indices)
        return _skip(iter(self.batch_sampler), self._taken)


class _Batches(Iterator[Any]):
    """One epoch's batches. Its threads end with it: at its end, on `close()` or when dropped."""

    def __init__(self, loader: DataLoader):
        self._loader = loader
        self._epoch = loader.epoch
        self._indices = loader._remaining()
        self._workers = Workers(loader.num_workers, "DataLoader") if loader.num_workers else None
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
                self._loader._epoch += 1
                self._loader._taken = 0
                self._loader._begun = False
                self._loader._tell_epoch()
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
        indices = next(self._indices)
        loader = self._loader
        return len(indices), _fetch(
            loader.dataset, loader.collate_fn, indices, loader.seed, self._epoch
        )

    def _collect(self, workers: Workers) -> tuple[int, Any]:
        loader = self._loader
        ahead = loader.num_workers * loader.prefetch_factor
        for indices in islice(self._indices, ahead - len(self._pending)):
            arguments = (loader.dataset, loader.collate_fn, indices, loader.seed, self._epoch)
            self._pending.append((len(indices), workers.submit(_fetch, *arguments)))
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


def _skip(batches: Iterator[Sequence[int]], taken: int) -> Iterator[Sequence[int]]:
    """The batches after the first `taken` samples."""
    while taken > 0 and (batch := next(batches, None)) is not None:
        taken -= len(batch)
    if taken < 0:
        raise ValueError(
            "DataLoader: the saved position lies inside a batch of batch_sampler; "
            "expected the batches it was saved with"
        )
    yield from batches


def _fetch(
    dataset: Any,
    collate_fn: Callable[[Sequence[Any]], Any],
    indices: Sequence[int],
    seed: int,
    epoch: int,
) -> Any:
    """The samples at `indices` as one batch, each loaded under its own random stream."""
    getter = batch_getter(dataset)
    if getter is not None:
        try:
            samples = getter(indices)
        except Exception as error:
            raise _sample_error(dataset, f"samples {_few(indices)}", epoch, error) from error
        if len(samples) != len(indices):
            raise RuntimeError(
                f"{type(dataset).__name__}.__getitems__ returned {len(samples)} samples for "
                f"{len(indices)} indices; expected as many"
            )
    else:
        samples = [_sample(dataset, index, seed, epoch) for index in indices]
    try:
        return collate_fn(samples)
    except Exception as error:
        error.add_note(f"DataLoader: while collating samples {_few(indices)} of epoch {epoch}")
        raise


def _sample(dataset: Any, index: int, seed: int, epoch: int) -> Any:
    with sampling(seed, epoch, index):
        try:
            return dataset[index]
        except Exception as error:
            raise _sample_error(dataset, f"sample {index}", epoch, error) from error


def _sample_error(dataset: Any, what: str, epoch: int, error: Exception) -> SampleError:
    return SampleError(
        f"DataLoader: {what} of {type(dataset).__name__} (epoch {epoch}) could not be loaded: "
        f"{type(error).__name__}: {error}"
    )


def _few(indices: Sequence[int], shown: int = 8) -> str:
    more = f", ... ({len(indices)} in all)" if len(indices) > shown else ""
    return ", ".join(str(index) for index in indices[:shown]) + more


def _check_arguments(
    num_workers: int, prefetch_factor: int | None, timeout: float, pin_memory: bool
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
    if pin_memory:
        raise ValueError(
            "DataLoader: pin_memory=True is not supported; expected False "
            "(batches are ordinary host memory)"
        )
