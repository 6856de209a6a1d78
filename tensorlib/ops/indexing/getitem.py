"""`x[...]` and `x[...] = y`, for every form of index, and `index_put`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import (
    DimensionError,
    InvalidValueError,
)
from tensorlib.ops._common import (
    Array,
    Grads,
    record,
    record_view,
)
from tensorlib.ops.strides import in_order, ordered, strided

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class IndexTypeError(DimensionError, TypeError):
    """Something that cannot be an index."""


# -- what an index means ---------------------------------------------------------------------------


def parse_index(index: Any) -> tuple[tuple[Any, ...], bool]:
    """NumPy's form of an index, and whether it is basic (gives a view)."""
    kind = type(index)
    if kind is int:
        return (index, ...), True
    if kind is slice:
        return (_slice(index), ...), True
    parsed: list[Any] = []
    basic, whole = True, False
    for item in index if kind is tuple else _items(index):
        kind = type(item)
        if kind is int or item is None:
            pass
        elif kind is slice:
            item = _slice(item)
        elif item is Ellipsis:
            if whole:
                continue
            whole = True
        else:
            item = index_array(item)
            basic = basic and type(item) is int  # a bool is none
        parsed.append(item)
    if basic and not whole:
        parsed.append(Ellipsis)
    return tuple(parsed), basic


def _items(index: Any) -> Any:
    """The parts of an index; a list that holds more than numbers counts as a tuple."""
    if isinstance(index, tuple):
        return index
    if isinstance(index, list | range | str) and len(index) < 32:
        for item in index:
            if hasattr(item, "array") or not (hasattr(item, "__index__") or _is_number(item)):
                warnings.warn(
                    "Using a non-tuple sequence for multidimensional indexing is deprecated; use "
                    "x[tuple(seq)] instead of x[seq]",
                    UserWarning,
                    stacklevel=4,
                )
                return index
    return (index,)


def _is_number(item: Any) -> bool:
    return isinstance(item, float | complex | np.generic)


def _slice(item: slice) -> slice:
    step = item.step
    if step is not None and step.__index__() <= 0:
        raise InvalidValueError(
            "index", f"step {step}: step must be greater than zero", hint="use flip()"
        )
    if hasattr(item.start, "array") or hasattr(item.stop, "array") or hasattr(step, "array"):
        parts = (item.start, item.stop, step)
        return slice(*(p.__index__() if hasattr(p, "array") else p for p in parts))
    return item


def index_array(item: Any) -> Any:
    """An index array, or an int for a 0-dim one."""
    if hasattr(item, "array"):
        item = item.array
    elif isinstance(item, bool):
        return item
    elif isinstance(item, np.integer):
        return int(item)
    elif isinstance(item, list | tuple | range):
        item = np.asarray([i.array if hasattr(i, "array") else i for i in item])
        if item.dtype.kind in "fV" or item.size == 0:
            item = item.astype(np.int64)
    elif isinstance(item, str):
        raise IndexTypeError("index", "new(): invalid data type 'str'")
    elif not isinstance(item, np.ndarray):
        raise DimensionError(
            "index",
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are "
            f"valid indices (got {type(item).__name__})",
        )
    if item.dtype == np.uint8:
        warnings.warn(
            "indexing with dtype tensorlib.uint8 is now deprecated, please use a dtype "
            "tensorlib.bool instead.",
            UserWarning,
            stacklevel=5,
        )
        return item.astype(bool)
    if item.dtype.kind != "b" and item.dtype not in (np.int64, np.int32):
        raise DimensionError(
            "index",
            f"tensors used as indices must be long, int, byte or bool tensors, got {item.dtype}",
        )
    return int(item) if item.ndim == 0 and item.dtype.kind != "b" else item


def stages(place: tuple[Any, ...]) -> tuple[Any, Any]:
    """The view that the integers in an advanced index make first (they do not take part in it, as
    they would in NumPy), and the rest.
    """
    first: list[Any] = []
    rest: list[Any] = []
    for item in place:
        if type(item) is int:
            first.append(item)
        elif _keeps(item):
            first.append(item)
            rest.append(item if item is Ellipsis else slice(None))
        else:
            rest.append(item)
            first.extend([slice(None)] * taken(item))
    if Ellipsis not in first:
        first.append(Ellipsis)
    return tuple(first), tuple(rest)


def _keeps(item: Any) -> bool:
    """Whether an entry of an index leaves dimensions in their place."""
    return item is None or item is Ellipsis or isinstance(item, slice)


def joined(place: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """Without an ellipsis that stands for no dimension: in NumPy it would keep the index arrays
    around it apart.
    """
    if any(item is Ellipsis for item in place[1:-1]):
        used = sum(map(taken, place))
        if used == ndim:
            return tuple(item for item in place if item is not Ellipsis)
    return place


def taken(item: Any) -> int:
    """How many dimensions an entry of an index takes."""
    if item is None or item is Ellipsis or np.ndim(item) == 0:
        return int(type(item) is int or isinstance(item, slice))
    return int(item.ndim) if item.dtype.kind == "b" else 1


# -- reading ---------------------------------------------------------------------------------------


def getitem(input: Tensor, index: Any) -> Tensor:
    """`input[index]`: a view for integers, slices, None and `...`; a copy for index tensors and
    masks.
    """
    place, basic = parse_index(index)
    if not basic:
        if any(type(item) is int for item in place):
            first, place = stages(place)
            input = viewed(input, first)
        return _gathered(input, place)
    return viewed(input, place)


def viewed(input: Tensor, place: tuple[Any, ...]) -> Tensor:
    x = input.array
    shape = x.shape
    try:
        output = x[place]
    except IndexError as error:
        raise out_of_range(error, shape, place) from None
    if None in place:
        output = _unsqueezed(x, output, place)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        out[place] = grad
        return (out,)

    def smooth(grad: Any) -> Grads:
        return (index_backward(grad, place, shape, True),)

    result = record_view(output, backward, input, smooth=smooth)
    if result._node is not None:
        result._node.label = _label(place)
    return result


def _label(place: tuple[Any, ...]) -> str:
    """PyTorch's name of the last step of a basic index."""
    for item in reversed(place):
        if type(item) is int:
            return "SelectBackward0"
        if item is None:
            return "UnsqueezeBackward0"
        if item is not Ellipsis and (item != slice(None) or len(place) <= 2):
            return "SliceBackward0"
    return "AliasBackward0"


def out_of_range(error: Exception, shape: tuple[int, ...], place: tuple[Any, ...]) -> Exception:
    if not shape:
        return DimensionError(
            "index", "invalid index of a 0-dim tensor", hint="use tensor.item() for the number"
        )
    if "broadcast" in str(error):
        shapes = [list(i.shape) for i in place if isinstance(i, np.ndarray)]
        return DimensionError(
            "index",
            f"shape mismatch: indexing tensors could not be broadcast together with shapes "
            f"{shapes}",
        )
    return DimensionError(
        "index",
        f"{error}, tensor of shape {shape}",
        hint="indices count from 0, or from the end if negative",
    )


def _unsqueezed(x: Any, output: Any, place: tuple[Any, ...]) -> Any:
    """`output` with PyTorch's strides at the new dimensions (NumPy's are 0)."""
    used = sum(item is not None and item is not Ellipsis for item in place)
    strides = list(output.strides)
    source = target = 0
    for item in place:
        if item is Ellipsis:
            source, target = source + x.ndim - used, target + x.ndim - used
        elif item is None:
            inner = source < x.ndim
            strides[target] = x.shape[source] * x.strides[source] if inner else x.itemsize
            target += 1
        else:
            source += 1
            target += isinstance(item, slice)
    if output.strides == tuple(strides):
        return output
    return strided(output, output.shape, tuple(strides))


def _gathered(input: Tensor, place: tuple[Any, ...]) -> Tensor:
    x = input.array
    shape = x.shape
    place = joined(place, x.ndim)
    axis = _only_axis(place)
    try:
        if axis and x.flags.c_contiguous:
            output = np.take(x, place[axis], axis)  # row-major, where x[place] is not
        else:
            output = _laid_out(x, x[place], place)
    except (IndexError, ValueError) as error:
        raise out_of_range(error, shape, place) from None
    unique = not any(isinstance(p, np.ndarray) and p.dtype.kind != "b" for p in place)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        if unique:
            out[place] = grad
        else:
            add_at(out, place, grad)
        return (out,)

    def smooth(grad: Any) -> Grads:
        return (index_backward(grad, place, shape, unique),)

    result = record(output, backward, input, smooth=smooth)
    if result._node is not None:
        result._node.label = "IndexBackward0"
    return result


def _only_axis(place: tuple[Any, ...]) -> int:
    """The dimension of the only index array if it is the last entry after full slices, or 0."""
    last = len(place) - 1
    if any(p != slice(None) for p in place[:last] if isinstance(p, slice)) or not all(
        isinstance(p, slice) for p in place[:last]
    ):
        return 0
    item = place[last]
    found = isinstance(item, np.ndarray) and item.dtype.kind in "iu" and item.flags.c_contiguous
    return last if found else 0


def _laid_out(x: Any, output: Any, place: tuple[Any, ...]) -> Any:
    """`output` in the order of dimensions PyTorch gives it."""
    indices = [p for p in place if isinstance(p, np.ndarray) and p.dtype.kind != "b"]
    if x.flags.c_contiguous and all(i.flags.c_contiguous for i in indices):
        return output if output.flags.c_contiguous else output.copy("C")
    fitted = _index_strides(x, output, place)
    order = ordered(output.shape, *fitted)
    strides = in_order(output.shape, order, output.itemsize)
    if output.strides == strides:
        return output
    flat = np.empty_like(output, shape=(output.size,))
    result = strided(flat, output.shape, strides)
    result[...] = output
    return result


def _index_strides(x: Any, output: Any, place: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """Strides by which the source and the index arrays are walked, per dimension of `output`."""
    rest = x.ndim - sum(map(taken, place))
    steps: list[int] = []  # of the dimensions that stay
    spots: list[int] = []
    arrays: list[Any] = []
    source = 0
    full = place if any(p is Ellipsis for p in place) else (*place, ...)
    kept = 0
    for item in full:
        if item is None:
            steps.append(0)
            kept += 1
        elif item is Ellipsis:
            steps += x.strides[source : source + rest]
            source, kept = source + rest, kept + rest
        elif isinstance(item, slice):
            steps.append(x.strides[source] * (item.step or 1))
            source, kept = source + 1, kept + 1
        else:
            spots.append(kept)
            if np.ndim(item) and item.dtype.kind == "b":
                arrays.append((8,))
                source += item.ndim
            elif np.ndim(item):
                arrays.append(
                    [s if n > 1 else 0 for n, s in zip(item.shape, item.strides, strict=True)]
                )
                source += 1
    wide = output.ndim - len(steps)
    at = spots[0] if len(set(spots)) == 1 else 0
    zeros = (0,) * len(steps)
    found = [(*steps[:at], *(0,) * wide, *steps[at:])]
    for own in arrays:
        own = (0,) * (wide - len(own)) + tuple(own)
        found.append((*zeros[:at], *own, *zeros[at:]))
    return found


def index_backward(grad: Tensor, place: Any, shape: tuple[int, ...], unique: bool) -> Tensor:
    """The differentiable form of scattering `grad` into zeros."""
    output = np.zeros_like(grad.array, shape=shape)
    if unique:
        output[place] = grad.array
    else:
        add_at(output, place, grad.array)

    def backward(outer: Array) -> Grads:
        return (outer[place],)

    def smooth(outer: Any) -> Grads:
        return (getitem(outer, place),)

    return record(output, backward, grad, smooth=smooth)


def add_at(out: Any, place: Any, values: Any) -> None:
    """`out[place] += values` with repeated indices added up; fast for rows."""
    first = place[0] if isinstance(place, tuple) else place
    rest = place[1:] if isinstance(place, tuple) else ()
    if (
        isinstance(first, np.ndarray)
        and first.dtype.kind in "iu"
        and all(r is Ellipsis for r in rest)
        and out.ndim > 1
    ):
        rows = first.reshape(-1)
        rows = np.where(rows < 0, rows + out.shape[0], rows)
        flat = np.asarray(values).reshape(len(rows), -1) if len(rows) else np.zeros((0, 1))
        add_rows(out.reshape(out.shape[0], -1), rows, flat)
        return
    np.add.at(out, place, values)


def add_rows(out: Any, rows: Array, values: Array) -> None:
    """`out[rows[i]] += values[i]` in the order of i, by sorting rows into segments."""
    if not len(rows) or not out.size:
        return
    order = np.argsort(rows, kind="stable")
    ordered_rows = rows[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered_rows[1:] != ordered_rows[:-1]]))
    out[ordered_rows[starts]] += np.add.reduceat(values[order], starts, axis=0)
