"""What all families of operations share: operands under PyTorch's promotion rules, dims, casts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import (
    Grads,
    called,
    named,
    record,
    record_outputs,
    record_view,
    record_views,
    wants,
    wrap,
)
from tensorlib.device import Array
from tensorlib.errors import (
    ArgumentError,
    DimensionError,
    DTypeError,
    InvalidValueError,
    ShapeError,
)

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = [
    "Array",
    "Grads",
    "Number",
    "astype",
    "broadcast_shapes",
    "called",
    "cast",
    "check_dtype",
    "choice",
    "conj",
    "differ",
    "dim_index",
    "dims_of",
    "expect_tensor",
    "floating",
    "floating_pair",
    "is_array",
    "named",
    "not_for",
    "pair",
    "promoted",
    "record",
    "record_outputs",
    "record_view",
    "record_views",
    "reducer_dims",
    "same_shape",
    "scalar_array",
    "scalar_dtype",
    "scalar_operand",
    "shape_of",
    "single",
    "wants",
    "wrap",
]

Number = bool | int | float | complex


def astype(input: Tensor, dtype: Any) -> Tensor:
    """`input` with elements of NumPy type `dtype`; itself when it has it."""
    if input.array.dtype == dtype:
        return input
    if input.array.dtype.kind in "fV" and dtype.kind in "iu":
        output = _float_to_int(input.array, dtype)
    elif input.array.dtype.kind == "c" and dtype.kind != "c":
        output = input.array.real.astype(dtype)
    else:
        output = input.array.astype(dtype)

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record(output, backward, input)


def cast(input: Tensor, dtype: Any) -> Tensor:
    """`input` as `dtype`; itself when it is that already."""
    if not isinstance(dtype, dtypes.dtype):
        dtype = dtypes.of(dtypes.numpy_dtype(dtype))
    return astype(input, dtype.numpy)


def _float_to_int(array: Array, dtype: Any) -> Array:
    if (
        dtype.kind == "u" and dtype.itemsize < 8
    ):  # through int64, so that negative values wrap as in C on x86
        return array.astype(np.int64).astype(dtype)
    return array.astype(dtype)


def single(input: Any) -> Any:
    """`input`, with half precision widened to float32: PyTorch computes in that and rounds once."""
    if input is not None and input.array.dtype.char in "eE":  # float16, ml_dtypes' bfloat16
        return astype(input, np.dtype(np.float32))
    return input


def conj(value: Any) -> Any:
    """The conjugate of a complex array or Tensor, others themselves."""
    return value.conj() if getattr(value, "array", value).dtype.kind == "c" else value


def scalar_dtype(value: Any) -> Any:
    """The NumPy type of a tensor made of the Python number `value`."""
    if isinstance(value, bool):
        return np.dtype(np.bool_)
    if isinstance(value, int):
        return np.dtype(np.int64)
    return dtypes.default_complex() if isinstance(value, complex) else dtypes.default_numpy()


def common_dtype(*operands: Any) -> Any:
    """The NumPy type of an operation on several arrays and Python numbers: those with dimensions
    first, then 0-dim ones, then numbers, each of which matters only if its category is higher.
    """
    ranks: list[Any] = [None, None, None]
    for one in operands:
        if hasattr(one, "dtype"):
            place, kind = (0 if one.ndim else 1), one.dtype
        else:
            place, kind = 2, scalar_dtype(one)
        ranks[place] = kind if ranks[place] is None else dtypes.promote_numpy(ranks[place], kind)
    result = ranks[2]
    for higher in (ranks[1], ranks[0]):
        if result is None or higher is None:
            result = higher or result
        else:
            result = dtypes.result_numpy(higher, 1, result, 0)
    return result


def conjugate(array: Any) -> Any:
    """The complex conjugate; a real array itself."""
    return np.conj(array) if array.dtype.kind == "c" else array


def wide(array: Any) -> Any:
    """float16 as float32, in which PyTorch computes it; others themselves."""
    return array.astype(np.float32) if array.dtype.char in "eE" else array


def times(array: Any, number: Any) -> Any:
    """`array * number`; half precision is multiplied in float32 by the number as it is."""
    if array.dtype.char in "eE":
        return (array.astype(np.float32) * number).astype(array.dtype)
    return array * number


def is_array(value: Any) -> bool:
    """Whether `value` is a NumPy array, which PyTorch takes as an operand too."""
    return isinstance(value, np.ndarray)


def expect_tensor(where: str, name: str, value: Any) -> None:
    """Refuse an argument that is no Tensor, as PyTorch does (TypeError)."""
    if not hasattr(value, "array"):
        raise ArgumentError(
            where,
            f"argument '{name}' must be Tensor, not {type(value).__name__}",
            hint="make it one with tensor(...)",
        )


def floating(input: Tensor) -> Tensor:
    """`input`, with integers and booleans converted to the default floating type."""
    return input if input.array.dtype.kind in "fcV" else astype(input, dtypes.default_numpy())


def promoted(input: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in their common type."""
    a, b = input.array, other.array
    if a.dtype == b.dtype:
        return input, other
    common = dtypes.result_numpy(a.dtype, a.ndim, b.dtype, b.ndim)
    return astype(input, common), astype(other, common)


def scalar_operand(input: Tensor, value: Any, where: str) -> Tensor:
    """`input` in the type its operation with the Python scalar `value` has."""
    kind, given = type(value), input.array.dtype.kind
    if (kind is int and given != "b") or (kind is float and given in "fcV"):
        return input
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, bool | int | float | complex):
        raise ArgumentError(
            where,
            f"argument 'other' must be Tensor or a number, not {type(value).__name__}",
            hint="convert it with tensor(...) or float(...)",
        )
    common = dtypes.scalar_numpy(input.array.dtype, value)
    return input if input.array.dtype == common else astype(input, common)


def scalar_array(value: Any, dtype: Any) -> Any:
    """A number as a 0-dim array; one too large for an integer type wraps around."""
    try:
        return np.asarray(value, dtype)
    except OverflowError:
        return np.asarray(value).astype(dtype)


def pair(input: Any, other: Any, where: str) -> tuple[Tensor, Tensor]:
    """Two tensors of common type from a tensor and a tensor or number (in either place)."""
    if hasattr(input, "array"):
        if hasattr(other, "array"):
            return promoted(input, other)
        input = scalar_operand(input, other, where)
        return input, wrap(scalar_array(other, input.array.dtype))
    expect_tensor(where, "other", other)
    other = scalar_operand(other, input, where)
    return wrap(scalar_array(input, other.array.dtype)), other


def floating_pair(input: Any, other: Any, where: str) -> tuple[Tensor, Tensor]:
    """As `pair`, in floating point (or complex): a number is not rounded to an integer type."""
    first, second = hasattr(input, "array"), hasattr(other, "array")
    if first and not second:
        input = floating(input)
    elif second and not first:
        other = floating(other)
    a, b = pair(input, other, where)
    return floating(a), floating(b)


def differ(where: str, a: Array, b: Array) -> ShapeError:
    """The error for shapes that do not broadcast."""
    return ShapeError(
        where,
        f"shapes {a.shape} and {b.shape} do not broadcast: the size of tensor a must match the "
        f"size of tensor b at each "
        "dimension counted from the end, unless one of them is 1",
        hint="add dimensions with unsqueeze(), or check which dim is which",
    )


def broadcast_shapes(*shapes: Sequence[int] | int) -> tuple[int, ...]:
    """The shape that tensors of these shapes broadcast to."""
    try:
        return np.broadcast_shapes(*(s if isinstance(s, int) else tuple(s) for s in shapes))
    except ValueError:
        raise ShapeError(
            "broadcast_shapes",
            f"shapes {list(shapes)} do not broadcast",
            "equal sizes or 1 at each dimension counted from the end",
        ) from None


def dim_index(dim: Any, ndim: int, where: str) -> int:
    """`dim` counted from the front; a 0-dim tensor takes 0 and -1, as in PyTorch."""
    if type(dim) is int and -ndim <= dim < ndim:
        return dim if dim >= 0 else dim + ndim
    size = max(ndim, 1)
    if not isinstance(dim, int | np.integer) or isinstance(dim, bool):
        raise ArgumentError(where, f"dim must be int, not {type(dim).__name__}")
    if not -size <= dim < size:
        raise DimensionError(
            where, f"Dimension out of range, got {dim}", f"to be in range of [{-size}, {size - 1}]"
        )
    return int(dim) + size if dim < 0 else int(dim)


def dims_of(dim: Any, ndim: int, where: str) -> tuple[int, ...]:
    """Several dims counted from the front, none twice."""
    given = (dim,) if isinstance(dim, int | np.integer) else tuple(dim)
    found = tuple(dim_index(d, ndim, where) for d in given)
    if len(set(found)) != len(found):
        raise AutogradDim(where, f"dim {given} names a dimension twice")
    return found


class AutogradDim(ShapeError):
    """A dimension given twice (RuntimeError in PyTorch)."""


def reducer_dims(dim: Any, ndim: int, where: str) -> tuple[int, ...] | None:
    """NumPy's `axis` for PyTorch's `dim`: None and () mean all dimensions."""
    if dim is None:
        return None
    if type(dim) is int and -ndim <= dim < ndim:
        return (dim if dim >= 0 else dim + ndim,)
    if isinstance(dim, list | tuple) and len(dim) == 0:
        return None
    found = dims_of(dim, ndim, where)
    return found if ndim else None


def shape_of(where: str, sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given as one sequence or as separate integers."""
    if len(sizes) == 1 and not hasattr(sizes[0], "__index__"):
        sizes = tuple(sizes[0])
    try:
        return tuple(s.__index__() for s in sizes)
    except (AttributeError, TypeError):
        raise ArgumentError(where, f"sizes {sizes} given", "integers") from None


def same_shape(where: str, **arrays: Array) -> None:
    """Refuse arrays of different shapes."""
    if len({a.shape for a in arrays.values()}) > 1:
        raise ShapeError(
            where, ", ".join(f"{k} has shape {a.shape}" for k, a in arrays.items()), "equal shapes"
        )


def check_dtype(where: str, array: Array, kinds: str, expected: str) -> None:
    """Refuse an array whose type is not of the given NumPy kinds; bfloat16 is as "f"."""
    kind = array.dtype.kind
    if kind not in kinds and not (kind == "V" and "f" in kinds):
        raise not_for(where, array, expected)


def not_for(where: str, array: Array, expected: str) -> DTypeError:
    """The error for an array whose type the operation does not take."""
    return DTypeError(where, f"not implemented for {dtypes.of(array.dtype)}", expected)


def choice(where: str, name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse a value outside a fixed list."""
    if value not in allowed:
        raise InvalidValueError(
            where,
            f"{value!r} is not a valid value for {name}",
            f"one of {', '.join(map(repr, allowed))}",
        )
