"""Data sets: things with `__getitem__(index)` and `__len__()`, by torch's names.

A dataset may also offer torch's `__getitems__(indices)`, which returns the samples of a whole batch
at once; the `DataLoader` uses it. When the samples of a batch are rows of arrays, return `Rows`:
`default_collate` takes its columns as they are, one gather per batch instead of one per sample.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
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


class IterableDataset(Dataset[T_co]):
    """A stream of samples. Subclasses write `__iter__`, and `__len__` where it is known."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__()")

    def __add__(self, other: Dataset[T_co]) -> ChainDataset[T_co]:  # type: ignore[override]  # torch's: a stream
        return ChainDataset([self, other])


class ChainDataset(IterableDataset[T_co]):
    """Several streams, one after the other."""

    def __init__(self, datasets: Iterable[Dataset[T_co]]):
        self.datasets = list(datasets)

    def _streams(self) -> Iterator[Any]:
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise AssertionError(
                    f"ChainDataset: {type(dataset).__name__} given; expected an IterableDataset"
                )
            yield dataset

    def __iter__(self) -> Iterator[T_co]:
        for stream in self._streams():
            yield from stream

    def __len__(self) -> int:
        return sum(length(stream) for stream in self._streams())


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
            raise AssertionError(f"TensorDataset: the first sizes are {sizes}; expected equal ones")
        self.tensors = tensors

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], Rows] | None:
        """Not offered by a subclass that makes its samples itself."""
        if type(self).__getitem__ is not TensorDataset.__getitem__:
            return None
        return self._rows

    def _rows(self, indices: Sequence[int]) -> Rows:
        at = np.asarray(indices, np.int64)
        return Rows(*(_gather(tensor, at) for tensor in self.tensors))

    def __len__(self) -> int:
        return len(self.tensors[0])


class StackDataset(Dataset[Any]):
    """Sample i is a tuple of every data set's sample i; or a dict, of data sets given by name."""

    def __init__(self, *args: Dataset[Any], **kwargs: Dataset[Any]):
        if bool(args) == bool(kwargs):
            raise ValueError(
                f"StackDataset: {len(args)} data sets in order and {len(kwargs)} by name; "
                "expected at least one, all of one kind"
            )
        self.datasets: Any = args or kwargs
        sizes = [length(dataset) for dataset in args or kwargs.values()]
        if len(set(sizes)) > 1:
            raise ValueError(f"StackDataset: the sizes are {sizes}; expected equal ones")
        self._length = sizes[0]

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.datasets, dict):
            return {name: dataset[index] for name, dataset in self.datasets.items()}
        return tuple(dataset[index] for dataset in self.datasets)

    def __len__(self) -> int:
        return self._length


class Subset(Dataset[T_co]):
    """The samples of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]):
        kind = type(self)
        if kind.__getitem__ is not Subset.__getitem__ and kind.__getitems__ is Subset.__getitems__:
            raise NotImplementedError(
                f"Subset: {kind.__name__} overrides __getitem__ but not __getitems__; expected "
                "both. Hint: def __getitems__(self, indices): return [self[i] for i in indices]"
            )
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
            raise AssertionError("ConcatDataset: no data sets were given; expected at least one")
        if any(isinstance(dataset, IterableDataset) for dataset in self.datasets):
            raise AssertionError(
                "ConcatDataset: an IterableDataset was given; expected data sets with "
                "__getitem__(index). Hint: use ChainDataset"
            )
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
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        if any(not 0 <= part <= 1 for part in lengths):
            raise ValueError(f"random_split: fractions {list(lengths)}; expected them in 0 .. 1")
        sizes = [math.floor(total * part) for part in lengths]
        for i in range(total - sum(sizes)):
            sizes[i % len(sizes)] += 1
        for i, size in enumerate(sizes):
            if not size:
                warnings.warn(
                    f"Length of split at index {i} is 0. This might result in an empty dataset.",
                    stacklevel=2,
                )
    else:
        sizes = list(lengths)  # type: ignore[arg-type]  # the sum below refuses fractions
    if sum(sizes) != total:
        raise ValueError(
            f"random_split: the lengths {sizes} sum to {sum(sizes)}; expected {total} samples, "
            "or fractions that sum to 1"
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
            "__getitem__(index) and __len__(), or an IterableDataset"
        ) from error


def batch_getter(dataset: Any) -> Callable[[Sequence[int]], Sequence[Any]] | None:
    """The data set's `__getitems__` where it has one."""
    getter = getattr(dataset, "__getitems__", None)
    return getter if callable(getter) else None


def _gather(tensor: Any, at: np.ndarray) -> Any:
    """Rows of an array or a Tensor; of one without a gradient outside the tape: data."""
    if isinstance(tensor, np.ndarray) or tensor.requires_grad:
        return tensor[at]
    return type(tensor)._wrap(tensor.array[at])
