"""Data sets: things with `__getitem__(index)` and `__len__()`, by torch's names.

A dataset may also offer torch's `__getitems__(indices)`, which returns the samples of a whole batch
at once; the `DataLoader` uses it. When the samples of a batch are rows of arrays, return `Rows`:
`default_collate` takes its columns as they are, one gather per batch instead of one per sample.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from tensorlib import Generator, Tensor

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """A map from an index to a sample. Subclasses write `__getitem__` and `__len__`."""

    def __getitem__(self, index: int) -> T_co:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")

    def __add__(self, other: Dataset[T_co]) -> ConcatDataset[T_co]:
        return ConcatDataset([self, other])


class Rows(Sequence[tuple[Any, ...]]):
    """The samples of a batch held as columns; sample i is `tuple(c[i] for c in columns)`."""

    def __init__(self, *columns: Any):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Rows(*(column[index] for column in self.columns))
        if not -len(self) <= index < len(self):
            raise IndexError(f"Rows: index {index} is out of range for {len(self)} samples")
        return tuple(column[index] for column in self.columns)


class TensorDataset(Dataset[tuple[Any, ...]]):
    """Samples are rows of Tensors or arrays that share their first size, as torch's."""

    def __init__(self, *tensors: Tensor | np.ndarray):
        if not tensors:
            raise ValueError("TensorDataset: no tensors were given; expected at least one")
        sizes = [len(tensor) for tensor in tensors]
        if len(set(sizes)) > 1:
            raise ValueError(f"TensorDataset: the first sizes are {sizes}; expected equal ones")
        self.tensors = tensors

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Sequence[int]) -> Rows:
        at = np.asarray(indices, np.int64)
        return Rows(*(_gather(tensor, at) for tensor in self.tensors))

    def __len__(self) -> int:
        return len(self.tensors[0])


class Subset(Dataset[T_co]):
    """The samples of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]):
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: int) -> T_co:
        return self.dataset[self.indices[index]]

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], Sequence[T_co]] | None:
        """Offered when the data set underneath offers it."""
        inner = batch_getter(self.dataset)
        if inner is None:
            return None
        return lambda indices: inner([self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset[T_co]):
    """Several data sets, one after the other."""

    def __init__(self, datasets: Iterable[Dataset[T_co]]):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: no data sets were given; expected at least one")
        self.cumulative_sizes = list(accumulate(length(dataset) for dataset in self.datasets))

    def __getitem__(self, index: int) -> T_co:
        if not -len(self) <= index < len(self):
            raise IndexError(f"ConcatDataset: index {index} is out of range for {len(self)}")
        index %= len(self)
        which = bisect_right(self.cumulative_sizes, index)
        return self.datasets[which][index - ([0, *self.cumulative_sizes][which])]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


def random_split(
    dataset: Dataset[T_co], lengths: Sequence[int | float], generator: Generator | None = None
) -> list[Subset[T_co]]:
    """Disjoint random subsets of the given sizes, or fractions that sum to 1 (torch's rounding).

    The permutation is `randperm(len(dataset), generator=generator)`: without a generator this draws
    from the global one, as torch does; it is a draw that the caller asked for.
    """
    from tensorlib import randperm

    total = length(dataset)
    if any(isinstance(part, float) for part in lengths):
        if not math.isclose(sum(lengths), 1) or any(not 0 <= part <= 1 for part in lengths):
            raise ValueError(
                f"random_split: the fractions {list(lengths)} sum to {sum(lengths)}; expected 1"
            )
        sizes = [math.floor(total * part) for part in lengths]
        for i in range(total - sum(sizes)):
            sizes[i % len(sizes)] += 1
    else:
        sizes = [int(part) for part in lengths]
    if sum(sizes) != total:
        raise ValueError(
            f"random_split: the lengths {sizes} sum to {sum(sizes)}; expected {total} samples"
        )
    indices = randperm(total, generator=generator).tolist()
    ends = list(accumulate(sizes))
    return [
        Subset(dataset, indices[end - size : end]) for size, end in zip(sizes, ends, strict=True)
    ]


def length(dataset: Any) -> int:
    """`len(dataset)`, or an error that names the class."""
    try:
        return len(dataset)
    except TypeError as error:
        raise TypeError(
            f"{type(dataset).__name__}: no __len__; expected a map-style data set with "
            "__getitem__(index) and __len__() (iterable data sets are not supported)"
        ) from error


def batch_getter(dataset: Any) -> Callable[[Sequence[int]], Sequence[Any]] | None:
    """The data set's `__getitems__` where it has one."""
    getter = getattr(dataset, "__getitems__", None)
    return getter if callable(getter) else None


def _gather(tensor: Any, at: np.ndarray) -> Any:
    """Rows of an array, or of a Tensor (outside the tape: a batch is data)."""
    if isinstance(tensor, np.ndarray):
        return tensor[at]
    return type(tensor)._wrap(tensor.array[at])
