"""Tensors from data: numbers and nested sequences, arrays, buffers, other libraries' tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import wrap
from tensorlib.errors import ArgumentError, InvalidValueError, ShapeError
from tensorlib.ops._common import astype

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_PLAIN = {bool, int, float, complex}
_BUFFERS = bytes | bytearray | memoryview


def tensor(
    data: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A tensor with a copy of `data`: numbers, nested sequences, arrays.

    Python floats get the default dtype, ints int64; NumPy's values keep theirs. Raises ValueError
    for rows of different lengths or numbers beyond the dtype's range (RuntimeError when the dtype
    was asked for), TypeError for text and objects.
    """
    from tensorlib.creation import finish, refuse

    refuse("tensor", None, pin_memory)
    kind = None if dtype is None else dtypes.numpy_dtype(dtype, "tensor")
    if hasattr(data, "requires_grad"):
        warnings.warn(
            "tensor: To copy construct from a tensor, it is recommended to use "
            "sourceTensor.detach().clone() or sourceTensor.detach().clone().requires_grad_(True), "
            "rather than tensor(sourceTensor).",
            UserWarning,
            stacklevel=2,
        )
    array = _from_data("tensor", data, kind, True)
    return finish(array, requires_grad, device)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` as a tensor, sharing memory with an array or tensor where the type fits."""
    if hasattr(data, "requires_grad"):
        result: Tensor = (
            data if dtype is None and device is None else data.to(device=device, dtype=dtype)
        )
        return result
    from tensorlib.creation import finish

    kind = None if dtype is None else dtypes.numpy_dtype(dtype, "as_tensor")
    return finish(_from_data("as_tensor", data, kind, False), False, device)


def asarray(
    obj: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """`obj` as a tensor: shares memory where it can (`copy=None`), always or never.

    Buffers (bytes, array.array) are read as numbers of `dtype`. ValueError if `copy=False` cannot
    be.
    """
    from tensorlib.creation import finish

    if hasattr(obj, "requires_grad"):
        return _asarray_of_tensor(obj, dtype, device, copy, requires_grad)
    kind = None if dtype is None else dtypes.numpy_dtype(dtype, "asarray")
    if not isinstance(obj, np.ndarray) and hasattr(obj, "__dlpack__"):
        from tensorlib.utils.dlpack import from_dlpack

        obj = from_dlpack(obj).array
    if isinstance(obj, np.ndarray):
        source = _checked("asarray", obj)
    elif not isinstance(obj, list | tuple | range | np.generic) and _is_buffer(obj):
        source = frombuffer(obj, dtype=dtype or dtypes.get_default_dtype()).array
    else:
        if copy is False:
            raise InvalidValueError("asarray", "can't alias arbitrary sequence into a tensor")
        source = _from_data("asarray", obj, kind, True)
    if kind is not None and source.dtype != kind:
        if copy is False:
            raise InvalidValueError(
                "asarray", f"can't alias tensor with dtype {source.dtype} into dtype {dtype}"
            )
        source = _cast(source, kind)
    elif copy:
        source = source.copy("K")
    return finish(source, bool(requires_grad), device)


def _asarray_of_tensor(obj: Any, dtype: Any, device: Any, copy: Any, requires_grad: Any) -> Tensor:
    result: Tensor = obj.to(device=device, dtype=dtype)
    if result is not obj and copy is False:
        raise InvalidValueError(
            "asarray", f"can't alias tensor with dtype {obj.dtype} into dtype {dtype}"
        )
    if copy and result is obj:
        result = obj.clone()
    if requires_grad is None or requires_grad == result.requires_grad:
        return result
    return result.detach().requires_grad_(requires_grad)


def from_numpy(ndarray: Any) -> Tensor:
    """A tensor that shares memory with a NumPy array.

    TypeError for other objects and for arrays of text or objects; ValueError for negative strides
    and foreign byte order.
    """
    if not isinstance(ndarray, np.ndarray):
        raise ArgumentError("from_numpy", f"expected np.ndarray (got {type(ndarray).__name__})")
    return wrap(_checked("from_numpy", ndarray))


def frombuffer(
    buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A one-dimensional tensor over the memory of a buffer."""
    from tensorlib.creation import finish

    kind = dtypes.numpy_dtype(dtype, "frombuffer")
    if not _is_buffer(buffer):
        raise InvalidValueError("frombuffer", "object does not implement Python buffer protocol")
    size, item = memoryview(buffer).nbytes, kind.itemsize
    if not size or not count:
        raise InvalidValueError(
            "frombuffer", f"both buffer length ({size}) and count ({count}) must not be 0"
        )
    if not 0 <= offset < size:
        raise InvalidValueError(
            "frombuffer",
            f"offset ({offset} bytes) must be non-negative and no greater than buffer length "
            f"({size} bytes) minus 1",
        )
    if count < 0 and (size - offset) % item:
        raise InvalidValueError(
            "frombuffer",
            f"buffer length ({size} bytes) after offset ({offset} bytes) must be a multiple of "
            f"element size ({item})",
        )
    if count * item > size - offset:
        raise InvalidValueError(
            "frombuffer",
            f"requested buffer length ({count} * {item} bytes) after offset ({offset} bytes) must "
            f"not be greater than actual buffer length ({size} bytes)",
        )
    array = np.frombuffer(buffer, kind, count if count > 0 else -1, offset)
    return finish(array, requires_grad, "cpu")


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


# -- arrays ----------------------------------------------------------------------------------------


def _checked(where: str, array: Any) -> Any:
    """An array a tensor can be made of without copy."""
    kind = array.dtype
    if not kind.isnative:
        raise InvalidValueError(
            where,
            f"given numpy array has byte order different from the native byte order ({kind})",
            hint="pass array.astype(array.dtype.newbyteorder('='))",
        )
    if not dtypes.known(kind):
        supported = ", ".join(d.name for d in dtypes.ALL)
        raise ArgumentError(
            where,
            f"can't convert np.ndarray of type {kind.type.__module__}.{kind.type.__name__}",
            f"one of {supported}",
            hint="convert with array.astype(...) first; see df.dtypes for a pandas frame's columns",
        )
    if type(array) is not np.ndarray:
        if hasattr(array, "filled"):
            raise ArgumentError(where, "a masked array has no tensor form", hint="array.filled(v)")
        array = array.view(np.ndarray)
    for step in array.strides:
        if step < 0:
            raise InvalidValueError(
                where,
                f"At least one stride in the given numpy array is negative, {array.strides}",
                hint="pass array.copy()",
            )
        if step % kind.itemsize:
            raise InvalidValueError(
                where,
                f"given numpy array strides {array.strides} not a multiple of the element byte "
                f"size {kind.itemsize}",
                hint="pass array.copy()",
            )
    return array


def _cast(array: Any, kind: Any) -> Any:
    return astype(wrap(array), kind).array


def _from_data(where: str, data: Any, kind: Any, copy: bool) -> Any:
    """The array of `data`, of NumPy type `kind` unless that is None."""
    if hasattr(data, "requires_grad"):
        array = data.array
    elif isinstance(data, np.ndarray):
        array = _checked(where, data)
    elif isinstance(data, np.generic):
        array = _checked(where, np.asarray(data))
    elif hasattr(data, "__cuda_array_interface__"):
        array = data
    else:
        return _from_numbers(where, data, kind)
    if kind is not None and array.dtype != kind:
        return _cast(array, kind)
    return array.copy("K") if copy else array


# -- numbers and sequences -------------------------------------------------------------------------


def _from_numbers(where: str, data: Any, kind: Any) -> Any:
    if isinstance(data, str | bytes):
        raise ArgumentError(where, f"new(): invalid data type {type(data).__name__!r}", "numbers")
    types = _leaf_types(data) if type(data) in (list, tuple) else {type(data)}
    if types <= _PLAIN:
        try:
            array = np.asarray(data)
        except ValueError:
            array = np.empty(0, object)  # rows of different lengths: named below
        if array.dtype.kind in "bifc" and (array.dtype.kind not in "fV" or float in types):
            wanted = kind or _default_of(array)
            return _narrowed(where, array, wanted)
    shape = _shape(where, data)
    wanted = kind or _inferred(where, data)
    values = list(_leaves(where, data, shape, 0, wanted))
    if wanted.kind == "u" or (wanted.kind in "ib"):
        array = _integers(where, values, wanted)
    else:
        array = np.array(values, np.complex128 if wanted.kind == "c" else np.float64).astype(wanted)
    return array.reshape(shape)


def _leaf_types(data: Any) -> set[type]:
    types = set(map(type, data))
    for kind in (list, tuple):
        if kind in types:
            types.discard(kind)
            for part in data:
                if type(part) is kind:
                    types |= _leaf_types(part)
    return types


def _default_of(array: Any) -> Any:
    kind = array.dtype.kind
    if kind in "fV" or array.size == 0:
        return dtypes.default_numpy()
    return dtypes.default_complex() if kind == "c" else array.dtype


def _narrowed(where: str, array: Any, kind: Any) -> Any:
    """NumPy's reading of Python numbers in the wanted type."""
    source = array.dtype.kind
    if source == "c" and kind.kind != "c":
        raise ArgumentError(where, "must be real number, not complex", f"dtype {dtypes.of(kind)}")
    if kind.kind in "iu" and source != "b" and array.size:
        low, high = dtypes.limits(kind)
        least = -high if kind.kind == "u" else low  # small negative numbers wrap, as in C
        whole = array if source == "i" else np.trunc(array)
        ends = whole.min(), whole.max()
        if not (least <= _whole(ends[0]) and _whole(ends[1]) <= high):
            raise ShapeError(
                where,
                f"value cannot be converted to type {kind.name} without overflow, "
                f"{ends[0]} to {ends[1]}",
                f"{low} to {high}",
            )
        if source == "f":
            return _cast(array, kind)
    return array.astype(kind)


def _whole(value: Any) -> float:
    """A number that compares exactly with integers; NaN as infinity."""
    return int(value) if np.isfinite(value) else float("inf")


def _is_sequence(value: Any) -> bool:
    if isinstance(value, list | tuple | np.ndarray):
        return True
    if isinstance(value, dict) or hasattr(value, "requires_grad") or isinstance(value, np.generic):
        return False
    return hasattr(type(value), "__getitem__") and hasattr(type(value), "__len__")


def _shape(where: str, data: Any) -> tuple[int, ...]:
    sizes: list[int] = []
    while _is_sequence(data):
        sizes.append(len(data))
        if len(sizes) > 64 or isinstance(data, str):
            raise InvalidValueError(where, f"too many dimensions {type(data).__name__!r}")
        if not sizes[-1]:
            break
        try:
            data = data[0]
        except (KeyError, IndexError):
            raise InvalidValueError(
                where,
                f"could not determine the shape of object type {type(data).__name__!r}",
                hint="pass its values as an array",
            ) from None
    return tuple(sizes)


def _inferred(where: str, data: Any) -> Any:
    """The type all leaves promote to."""
    if isinstance(data, np.ndarray | np.generic):
        return _checked(where, np.asarray(data)).dtype
    if hasattr(data, "requires_grad"):
        return data.array.dtype
    if isinstance(data, bool | int | float | complex):
        return dtypes.scalar_numpy(np.dtype(bool), data)
    if isinstance(data, str | bytes):
        raise ArgumentError(where, f"new(): invalid data type {type(data).__name__!r}", "numbers")
    if not _is_sequence(data):
        raise ShapeError(where, f"Could not infer dtype of {type(data).__name__}", "numbers")
    if not len(data):
        return dtypes.default_numpy()
    found = None
    for part in data:
        kind = _inferred(where, part)
        found = kind if found is None else dtypes.promote_numpy(found, kind)
    return found


def _leaves(where: str, data: Any, shape: tuple[int, ...], dim: int, kind: Any) -> Iterator[Any]:
    """The numbers of a nested sequence of this shape."""
    if dim == len(shape):
        yield _leaf(where, data, kind)
        return
    if not _is_sequence(data):
        raise ArgumentError(
            where, f"not a sequence: {type(data).__name__} at dim {dim}", f"{shape[dim]} items"
        )
    if len(data) != shape[dim]:
        raise InvalidValueError(
            where, f"expected sequence of length {shape[dim]} at dim {dim} (got {len(data)})"
        )
    for part in data.tolist() if isinstance(data, np.ndarray) else data:
        yield from _leaves(where, part, shape, dim + 1, kind)


def _leaf(where: str, value: Any, kind: Any) -> Any:
    if hasattr(value, "requires_grad"):
        if value.numel() != 1:
            raise InvalidValueError(
                where,
                "only one element tensors can be converted to Python scalars, shape "
                f"{tuple(value.shape)}",
                hint="use stack() or cat()",
            )
        value = value.item()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, complex) and kind.kind != "c":
        raise ArgumentError(where, "must be real number, not complex", f"dtype {dtypes.of(kind)}")
    if isinstance(value, bool | int | float | complex):
        if kind.kind in "fV" and isinstance(value, int):
            return float(value)
        return value
    if kind.kind in "fV" and hasattr(value, "__float__"):
        return float(value)
    if kind.kind in "iub" and hasattr(value, "__index__"):
        return value.__index__()
    raise ArgumentError(where, f"{type(value).__name__!r} object cannot be read as a number")


def _integers(where: str, values: list[Any], kind: Any) -> Any:
    if kind.kind == "b":
        return np.array([bool(v) for v in values], kind)
    if kind == np.uint64:
        if any(not -(1 << 63) <= v < 1 << 64 for v in values):
            raise InvalidValueError(where, f"Overflow when unpacking long long, {max(values)}")
        return np.array([int(v) % (1 << 64) for v in values], kind)
    for value in values:
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise InvalidValueError(where, f"Overflow when unpacking long long, {value}")
    return _narrowed(where, np.array(values), kind) if values else np.empty(0, kind)
