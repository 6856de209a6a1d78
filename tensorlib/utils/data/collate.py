"""default_collate: a list of samples into one batch, by torch's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .dataset import Rows


def default_collate(batch: Sequence[Any]) -> Any:
    """Batch samples along a new first dimension.

    Tensors and arrays are stacked into a Tensor; floats become float64, ints int64 and bools bool
    Tensors; strings and bytes stay lists. Mappings and named tuples are collated by field; tuples
    and lists become a list with one batch per position (torch's choice). `Rows` are batched
    already. Samples that cannot be stacked are an error that shows their shapes.
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
        return list(batch)
    if isinstance(first, Mapping):
        collated = {key: default_collate([sample[key] for sample in batch]) for key in first}
        return collated if type(first) is dict else type(first)(collated)  # type: ignore[call-arg]
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
        return fields
    raise TypeError(
        f"default_collate: samples hold {type(first).__name__}; expected Tensors, arrays, numbers, "
        "strings, mappings or sequences. Hint: pass a collate_fn"
    )


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
