"""Asking a data set for the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .collate import default_collate
from .dataset import Rows, batch_getter
from .randomness import sampling


class SampleError(RuntimeError):
    """A data set raised while a sample was loaded; names the sample, the cause is `__cause__`."""


def fetch(
    dataset: Any,
    collate_fn: Callable[[Sequence[Any]], Any],
    indices: Sequence[int],
    seed: int,
    epoch: int,
    alone: bool,
) -> Any:
    """The samples at `indices` as one batch, each loaded under its own random stream; or the only
    sample by itself. Without indices a batch of no samples, in the form of the others.
    """
    if not indices:
        return _none_of(fetch(dataset, collate_fn, [0], seed, epoch, alone))
    if alone:
        return collate_fn(_sample(dataset, indices[0], seed, epoch))
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
        if isinstance(samples, Rows) and collate_fn is not default_collate:
            samples = list(samples)
    else:
        samples = [_sample(dataset, index, seed, epoch) for index in indices]
    try:
        return collate_fn(samples)
    except Exception as error:
        error.add_note(f"DataLoader: while collating samples {_few(indices)} of epoch {epoch}")
        raise


def _none_of(batch: Any) -> Any:
    """A collated batch without its samples."""
    if isinstance(batch, Mapping):
        return {key: _none_of(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        if len(batch) == 1 and isinstance(batch[0], (str, bytes)):  # a field of texts
            return batch[:0]
        fields = [_none_of(value) for value in batch]
        if hasattr(batch, "_fields"):  # a named tuple
            return type(batch)(*fields)
        return type(batch)(fields)
    if hasattr(batch, "shape") and len(batch.shape) and batch.shape[0] == 1:
        return batch[:0]
    raise TypeError(
        f"DataLoader: a batch without samples cannot be made of {type(batch).__name__}; expected "
        "Tensors or arrays with the samples in the first dimension, in lists, tuples or mappings. "
        "Hint: drop_last=True"
    )


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
