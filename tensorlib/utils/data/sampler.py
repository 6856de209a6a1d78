"""Samplers: the order in which a `DataLoader` asks for samples, in torch's numbers.

Random ones draw from the generator given, or from the global one, each time they are iterated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from tensorlib import Generator

T_co = TypeVar("T_co", covariant=True)
_BLOCK = 32  # draws with replacement that torch makes at a time


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


class RandomSampler(Sampler[int]):
    """A permutation, or draws with replacement.

    Args:
        num_samples: how many to draw; default `len(data_source)`. Without replacement more than one
            permutation is strung together where needed.
        generator: draws the order; without one, a generator whose seed one global draw gives.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ):
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if not isinstance(replacement, bool):
            raise TypeError(f"RandomSampler: replacement={replacement!r}; expected True or False")
        _check_count("RandomSampler", self.num_samples)

    @property
    def num_samples(self) -> int:
        """How many indices an iteration gives."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        from tensorlib import Generator, randint, randperm

        count, wanted = len(self.data_source), self.num_samples
        generator = self.generator or Generator().manual_seed(draw_seed(None))
        if self.replacement:
            for block in [_BLOCK] * (wanted // _BLOCK) + [wanted % _BLOCK]:
                yield from randint(0, count, (block,), generator=generator).tolist()
            return
        for _ in range(wanted // count):
            yield from randperm(count, generator=generator).tolist()
        # drawn also where nothing of it is taken, as in torch: the next epoch follows it
        yield from randperm(count, generator=generator).tolist()[: wanted % count]

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in a random order."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None):
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        from tensorlib import randperm

        for i in randperm(len(self.indices), generator=self.generator).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """`num_samples` indices drawn with probabilities proportional to `weights`."""

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ):
        from tensorlib import as_tensor, float64

        _check_count("WeightedRandomSampler", num_samples)
        if not isinstance(replacement, bool):
            raise ValueError(
                f"WeightedRandomSampler: replacement={replacement!r}; expected True or False"
            )
        self.weights = as_tensor(weights, dtype=float64)
        if self.weights.ndim != 1:
            raise ValueError(
                f"WeightedRandomSampler: weights of shape {tuple(self.weights.shape)}; "
                "expected one dimension, a number per sample"
            )
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        from tensorlib import multinomial

        drawn = multinomial(
            self.weights, self.num_samples, self.replacement, generator=self.generator
        )
        yield from drawn.tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Indices of `sampler` in lists of `batch_size`; the last may be short, or is dropped."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(f"BatchSampler: batch_size={batch_size!r}; expected an integer >= 1")
        if not isinstance(drop_last, bool):
            raise ValueError(f"BatchSampler: drop_last={drop_last!r}; expected True or False")
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


def draw_seed(generator: Generator | None) -> int:
    """What torch seeds an epoch's order or workers with: one 64-bit draw of the generator."""
    from tensorlib import empty, int64

    return int(empty((), dtype=int64).random_(generator=generator).item())


def seed_of(generator: Any) -> int:
    """The seed a generator was made with; the global one's without a generator. Draws nothing."""
    if generator is not None:
        return int(generator.initial_seed())
    from tensorlib import initial_seed

    return int(initial_seed())


def _check_count(where: str, count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
        raise ValueError(
            f"{where}: num_samples={count!r}; expected an integer >= 1. "
            "Hint: is the data set empty?"
        )
