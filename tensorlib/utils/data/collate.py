"""default_collate: a list of samples into one batch, by torch's rules."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from .dataset import Rows


def default_collate(batch: Sequence[Any]) -> Any:
    """Batch samples along a new first dimension.

    Tensors and arrays are stacked into a Tensor; floats become float64, ints int64 and bools bool
    Tensors; strings and bytes stay as they are. Mappings and named tuples are collated by field;
    tuples become a list with one batch per position, other sequences one of their own type
    (torch's choice). `Rows` are batched already. Samples that cannot be stacked are an error that
    shows their shapes.
    """
    if isinstance(batch, Rows):
        return [default_batch(column) for column in batch.columns]
    first = batch[0]
    tensor = _tensor_class()
    if isinstance(first, tensor):
        from tensorlib import stack

        _check_same_shape([sample.shape for sample in batch])
        return stack(list(batch))
    if isinstance(first, (np.ndarray, np.generic)):
        if first.dtype.kind not in "biufc":
            raise TypeError(f"default_collate: arrays of dtype {first.dtype}; expected numbers")
        _check_same_shape([np.shape(sample) for sample in batch])
        return tensor._wrap(np.stack([np.asarray(sample) for sample in batch]))
    if isinstance(first, bool):
        return tensor._wrap(np.array(batch, np.bool_))
    if isinstance(first, int):
        return tensor._wrap(np.array(batch, np.int64))
    if isinstance(first, float):
        return tensor._wrap(np.array(batch, np.float64))
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return _like(first, {key: default_collate([s[key] for s in batch]) for key in first})
    if isinstance(first, Sequence):
        sizes = {len(sample) for sample in batch}
        if len(sizes) > 1:
            raise RuntimeError(
                f"default_collate: samples of {sorted(sizes)} elements in one batch; "
                "expected equally long ones"
            )
        fields = [default_collate(field) for field in zip(*batch, strict=True)]
        if hasattr(first, "_fields"):  # a named tuple
            return type(first)(*fields)
        return fields if isinstance(first, tuple) else _like(first, fields)
    raise TypeError(
        f"default_collate: samples hold {type(first).__name__}; expected Tensors, arrays, numbers, "
        "strings, mappings or sequences. Hint: pass a collate_fn"
    )


def default_convert(data: Any) -> Any:
    """Arrays inside `data` as Tensors, the rest as it is: what a loader without batches gives."""
    if isinstance(data, (np.ndarray, np.generic)) and not isinstance(data, np.character):
        from tensorlib import as_tensor

        return data if data.dtype.kind in "SUO" else as_tensor(data)
    if isinstance(data, Mapping):
        return _like(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        items = [default_convert(item) for item in data]
        if hasattr(data, "_fields"):  # a named tuple
            return type(data)(*items)
        return items if isinstance(data, tuple) else _like(data, items)
    return data


def _like(first: Any, made: Any) -> Any:
    """`made`, a dict or list, as the type of `first`, keeping what else `first` carries."""
    if type(first) is type(made):
        return made
    try:
        if isinstance(first, MutableMapping):
            clone = copy.copy(first)
            clone.update(made)
            return clone
        if isinstance(first, MutableSequence):
            filled = copy.copy(first)
            for i, item in enumerate(made):
                filled[i] = item
            return filled
        return type(first)(made)
    except TypeError:  # such as range: no copy, no constructor from items
        return made


def default_batch(column: Any) -> Any:
    """A batched column as a Tensor, without a copy."""
    return _tensor_class()._wrap(column) if isinstance(column, np.ndarray) else column


def _check_same_shape(shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) > 1:
        raise RuntimeError(
            f"default_collate: samples of shapes {sorted({tuple(s) for s in shapes})} in one "
            "batch; expected equal ones. Hint: resize or pad them, or pass a collate_fn"
        )


def _tensor_class() -> Any:
    from tensorlib import Tensor

    return Tensor
