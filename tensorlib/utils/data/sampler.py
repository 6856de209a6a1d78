"""Samplers: the order in which a `DataLoader` asks for samples.

A random sampler's order is a function of (seed, epoch). The seed is the `initial_seed()` of the
generator given, or of the global one when the sampler is made; neither generator is ever moved.
`set_epoch` (the `DataLoader` calls it) gives every epoch its own order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from .randomness import epoch_generator, order, sample_generator

if TYPE_CHECKING:
    from tensorlib import Generator

T_co = TypeVar("T_co", covariant=True)


class Sampler(Generic[T_co]):
    """Anything that yields indices; `__len__` says how many."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__()")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ..."""

    def __init__(self, data_source: Sized):
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class SeededSampler(Sampler[int]):
    """A sampler whose order follows from `seed` and `epoch`."""

    def __init__(self, generator: Generator | None = None):
        self.seed = seed_of(generator)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch


class RandomSampler(SeededSampler):
    """A permutation per epoch, or draws with replacement.

    Args:
        num_samples: how many to draw; default `len(data_source)`. Without replacement more than one
            permutation is strung together where needed, as torch does.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ):
        super().__init__(generator)
        self.data_source = data_source
        self.replacement = replacement
        self.num_samples = len(data_source) if num_samples is None else num_samples
        if self.num_samples < 0 or (self.num_samples and not len(data_source)):
            raise ValueError(
                f"RandomSampler: num_samples={num_samples} from {len(data_source)} samples; "
                "expected a number of samples that can be drawn"
            )

    def __iter__(self) -> Iterator[int]:
        from tensorlib import randint, randperm

        count = len(self.data_source)
        if not self.replacement and self.num_samples == count:
            return iter(order(count, self.seed, self.epoch).tolist())
        generator = epoch_generator(self.seed, self.epoch)
        if self.replacement:
            return iter(randint(0, count, (self.num_samples,), generator=generator).tolist())
        rounds = -(-self.num_samples // count)
        drawn = [randperm(count, generator=generator).numpy() for _ in range(rounds)]
        return iter(np.concatenate([np.empty(0, np.int64), *drawn])[: self.num_samples].tolist())

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(SeededSampler):
    """The given indices in a random order."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None):
        super().__init__(generator)
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return (self.indices[i] for i in order(len(self.indices), self.seed, self.epoch).tolist())

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(SeededSampler):
    """`num_samples` indices drawn with probabilities proportional to `weights`.

    The draws come from NumPy's `Generator.choice` on a Philox stream of (seed, epoch), so they are
    reproducible but not torch's numbers.
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ):
        super().__init__(generator)
        self.weights = np.asarray(weights, np.float64)
        if self.weights.ndim != 1 or not (self.weights >= 0).all() or not self.weights.sum() > 0:
            raise ValueError(
                "WeightedRandomSampler: weights must be a list of numbers >= 0, not all 0"
            )
        possible = int(np.count_nonzero(self.weights))
        if num_samples <= 0 or (not replacement and num_samples > possible):
            raise ValueError(
                f"WeightedRandomSampler: num_samples={num_samples} of {possible} samples with a "
                "weight; expected at least 1, and without replacement no more than there are"
            )
        self.num_samples = num_samples
        self.replacement = replacement

    def __iter__(self) -> Iterator[int]:
        draws = sample_generator(self.seed, self.epoch, 0, stream=1).choice(
            len(self.weights),
            self.num_samples,
            replace=self.replacement,
            p=self.weights / self.weights.sum(),
        )
        return iter(draws.tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Indices of `sampler` in lists of `batch_size`; the last may be short, or is dropped."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(f"BatchSampler: batch_size={batch_size!r}; expected an integer >= 1")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches(iter(self.sampler))

    def batches(self, indices: Iterator[int]) -> Iterator[list[int]]:
        """Batches of the given indices (a resumed epoch gives what is left of it)."""
        batch: list[int] = []
        for index in indices:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]  # Sized where the caller asks for len
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)


def seed_of(generator: Any) -> int:
    """The seed a generator was made with; the global one's without a generator. Draws nothing."""
    if generator is not None:
        return int(generator.initial_seed())
    from tensorlib import initial_seed

    return int(initial_seed())
