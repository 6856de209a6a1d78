"""Element types under PyTorch's names, and PyTorch's promotion rules (Python scalars and 0-dim
tensors never widen).
"""

from __future__ import annotations

import builtins
from functools import cache
from typing import Any

import numpy as np

from tensorlib.errors import ArgumentError, DTypeError, ShapeError

NumpyDType = np.dtype[Any]


class dtype:
    """An element type; one object per type, comparable with `is`. Prints as `tensorlib.float32`."""

    __module__ = "tensorlib"
    __slots__ = ("is_complex", "is_floating_point", "is_signed", "itemsize", "name", "numpy")

    def __init__(self, name: str, numpy_type: Any) -> None:
        self.name = name
        self.numpy: NumpyDType = np.dtype(numpy_type)
        self.itemsize: builtins.int = self.numpy.itemsize
        self.is_floating_point = self.numpy.kind in "fV"
        self.is_complex = self.numpy.kind == "c"
        self.is_signed = self.numpy.kind in "ifcV"

    def __repr__(self) -> str:
        return f"tensorlib.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_name, (self.name,)

    def to_real(self) -> dtype:
        """The type of the absolute value."""
        return of(_REAL.get(self.numpy, self.numpy))

    def to_complex(self) -> dtype:
        """The complex type with parts of this floating-point type (float16's: complex64)."""
        if self.numpy.kind not in "fcV":
            raise DTypeError("to_complex", f"Unknown Complex ScalarType for {self}")
        return of(complex_of(self.numpy))


class _Name:
    """A constant that prints as its name in tensorlib."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"tensorlib.{self.name}"

    def __reduce__(self) -> str:
        return self.name


class layout(_Name):
    """How the elements of a tensor are kept: `tensorlib.strided`."""

    __slots__ = ()


class memory_format(_Name):
    """Which dimension is innermost in memory: `tensorlib.channels_last` and its like."""

    __slots__ = ()


strided = layout("strided")
contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last")
channels_last_3d = memory_format("channels_last_3d")

float16 = half = dtype("float16", np.float16)
float32 = float = dtype("float32", np.float32)
float64 = double = dtype("float64", np.float64)
complex64 = cfloat = dtype("complex64", np.complex64)
complex128 = cdouble = dtype("complex128", np.complex128)
uint8 = dtype("uint8", np.uint8)
uint16 = dtype("uint16", np.uint16)
uint32 = dtype("uint32", np.uint32)
uint64 = dtype("uint64", np.uint64)
int8 = dtype("int8", np.int8)
int16 = short = dtype("int16", np.int16)
int32 = int = dtype("int32", np.int32)
int64 = long = dtype("int64", np.int64)
bool = dtype("bool", np.bool_)

FLOATS = (float16, float32, float64, complex64, complex128)
ALL = (*FLOATS, uint8, uint16, uint32, uint64, int8, int16, int32, int64, bool)

_NAMES = {d.name: d for d in ALL}
_OF = {d.numpy: d for d in ALL}
_PYTHON = {"float": np.float64, "int": np.int64, "bool": np.bool_, "complex": np.complex128}
_REAL = {
    np.dtype(np.complex64): np.dtype(np.float32),
    np.dtype(np.complex128): np.dtype(np.float64),
}
_COMPLEX = {2: np.dtype(np.complex64), 4: np.dtype(np.complex64), 8: np.dtype(np.complex128)}
_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}  # V: bfloat16, which NumPy does not know

_INFINITY = builtins.float("inf")
_default: dtype = float32


def __getattr__(name: str) -> Any:
    """`bfloat16`, whose arithmetic comes from ml_dtypes, is made when first asked for."""
    if name != "bfloat16":
        raise AttributeError(f"module 'tensorlib.dtypes' has no attribute {name!r}")
    import ml_dtypes

    made = dtype("bfloat16", ml_dtypes.bfloat16)
    _NAMES[name] = _OF[made.numpy] = globals()[name] = made
    return made


def _by_name(name: str) -> dtype:
    return _NAMES[name] if name in _NAMES else __getattr__(name)


def known(numpy_type: NumpyDType) -> builtins.bool:
    """Whether tensors have elements of this NumPy type."""
    return numpy_type in _OF


def complex_of(numpy_type: NumpyDType) -> NumpyDType:
    """The complex type whose parts have this floating-point type."""
    return numpy_type if numpy_type.kind == "c" else _COMPLEX[numpy_type.itemsize]  # type: ignore[return-value]  # NumPy's stubs are wider


def digits(numpy_type: NumpyDType) -> builtins.int:
    """Bits of precision of a floating-point type: integers up to two to this power are exact."""
    return builtins.int(float_info(numpy_type).nmant) + 1


@cache
def float_info(numpy_type: NumpyDType) -> Any:
    """`numpy.finfo`, of bfloat16 too."""
    if numpy_type.kind == "V":
        import ml_dtypes

        return ml_dtypes.finfo(numpy_type)  # type: ignore[no-untyped-call]  # untyped library
    return np.finfo(numpy_type)


@cache
def limits(numpy_type: NumpyDType) -> tuple[builtins.int, builtins.int]:
    """Least and greatest value of an integer type."""
    if numpy_type.kind == "b":
        return 0, 1
    info = np.iinfo(numpy_type)
    return builtins.int(info.min), builtins.int(info.max)


def fitting(value: Any, numpy_type: NumpyDType) -> Any:
    """`value` as an element of the type; RuntimeError where it does not fit.

    Fractions are cut off for integers; negative numbers wrap in unsigned types, as in C.
    """
    kind, given = numpy_type.kind, value
    if kind == "b":
        return value != 0
    if isinstance(value, builtins.complex) and kind != "c":
        fits, value = value.imag == 0, value.real
    else:
        fits = True
    if kind in "iu" and fits:
        low, high = limits(numpy_type)
        fits = (-high if kind == "u" else low) <= value <= high  # not NaN
        if fits:
            value = builtins.int(value)
            return value % (high + 1) if value < 0 and kind == "u" else value
    elif kind in "fV" and fits and builtins.abs(value) != _INFINITY and value == value:
        fits = builtins.abs(value) <= builtins.float(float_info(numpy_type).max)
    if not fits:
        raise ShapeError(
            "dtype", f"value cannot be converted to type {of(numpy_type)} without overflow, {given}"
        )
    return value


def real_number(value: Any) -> Any:
    """A number without the imaginary part, which must be zero."""
    if not isinstance(value, builtins.complex):
        return value
    if value.imag:
        raise ShapeError("dtype", f"{value} cannot be converted to a real number without loss")
    return value.real


def of(numpy_type: Any) -> dtype:
    """The tensorlib dtype of a NumPy dtype."""
    found = _OF.get(numpy_type)
    if found is None:
        try:
            found = _OF[np.dtype(numpy_type).newbyteorder("=")]
        except (KeyError, TypeError):
            raise ArgumentError(
                "dtype",
                f"NumPy type {numpy_type!r} has no tensor type",
                f"one of {', '.join(_NAMES)}",
                hint="convert with array.astype(...) first",
            ) from None
    return found


def numpy_dtype(kind: Any, where: str = "dtype") -> NumpyDType:
    """The NumPy dtype of a tensorlib dtype, a Python type (`float` is float64, as in PyTorch) or a
    NumPy dtype.
    """
    if type(kind) is dtype:
        return kind.numpy
    if isinstance(kind, type) and kind.__module__ == "builtins" and kind.__name__ in _PYTHON:
        return np.dtype(_PYTHON[kind.__name__])
    if isinstance(kind, np.dtype) or (isinstance(kind, type) and issubclass(kind, np.generic)):
        return of(np.dtype(kind)).numpy
    raise ArgumentError(where, f"{kind!r} is not a dtype", "such as tensorlib.float32")


def get_default_dtype() -> dtype:
    """The type of new floating-point tensors."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Set the type of new floating-point tensors: float32, float64, float16 or bfloat16."""
    global _default
    if not isinstance(d, dtype):
        raise ArgumentError("set_default_dtype", f"{d!r} is not a dtype", "a tensorlib dtype")
    if not d.is_floating_point:
        raise ArgumentError("set_default_dtype", f"{d} given", "a floating-point dtype")
    _default = d


def default_numpy() -> NumpyDType:
    """NumPy's form of the default dtype."""
    return _default.numpy


def default_complex() -> NumpyDType:
    """The complex type as wide as the default dtype."""
    return _COMPLEX[_default.itemsize]  # type: ignore[return-value]  # NumPy's stubs are wider


@cache
def promote_numpy(a: NumpyDType, b: NumpyDType) -> NumpyDType:
    """PyTorch's promotion of two types of the same standing: the higher category wins, then the
    wider.
    """
    if a == b:
        return a
    ra, rb = _RANK[a.kind], _RANK[b.kind]
    if (a.kind == "u" and a.itemsize > 1 and rb != 2) or (
        b.kind == "u" and b.itemsize > 1 and ra != 2
    ):
        raise DTypeError(
            "promote_types",
            "Promotion for uint16, uint32, uint64 types is not supported, attempted to promote "
            f"{of(a)} and {of(b)}",
            hint="convert one of them with to()",
        )
    if ra < 2 and rb < 2:
        return np.promote_types(a, b)
    if ra >= 2 and rb >= 2:
        if "V" in (a.kind, b.kind):  # as float32, which is as wide
            a, b = (np.dtype(np.float32) if d.kind == "V" else d for d in (a, b))
        return np.promote_types(a, b)
    return a if ra > rb else b


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The smallest type to which both `type1` and `type2` convert, by PyTorch's table."""
    return of(promote_numpy(type1.numpy, type2.numpy))


def result_numpy(a: NumpyDType, a_ndim: Any, b: NumpyDType, b_ndim: Any) -> NumpyDType:
    """Type of an operation on two tensors: a 0-dim one matters only if its category is higher."""
    if (a_ndim == 0) != (b_ndim == 0):
        high, low = (b, a) if a_ndim == 0 else (a, b)
        rank = _RANK[high.kind]
        if rank >= _RANK[low.kind]:
            return high
        if rank == 0 and low.kind == "u":  # refuses the wide unsigned types
            return promote_numpy(high, low)
        if low.kind == "c" and rank == 2:  # float64 with a 0-dim complex64 stays wide
            return complex_of(high)
        return low
    return promote_numpy(a, b)


def scalar_numpy(a: NumpyDType, value: Any) -> NumpyDType:
    """Type of an operation of a tensor of type `a` with the Python scalar `value`."""
    kind = a.kind
    if isinstance(value, complex):
        return a if kind == "c" else (_COMPLEX[a.itemsize] if kind in "fV" else default_complex())  # type: ignore[return-value]  # NumPy's stubs are wider
    if type(value) is builtins.bool or kind in "fcV":
        return a
    if isinstance(value, builtins.float):
        return default_numpy()
    return np.dtype(np.int64) if kind == "b" else a


def can_cast(from_: dtype, to: dtype) -> builtins.bool:
    """Whether PyTorch lets an in-place result of type `from_` be stored in `to` (never down a
    category).
    """
    source, target = _RANK[from_.numpy.kind], _RANK[to.numpy.kind]
    return source <= target


class finfo:
    """Limits of a floating-point type: `eps max min tiny smallest_normal resolution bits`."""

    def __init__(self, type: dtype | None = None) -> None:
        chosen = _default if type is None else _expect_dtype("finfo", type)
        if not (chosen.is_floating_point or chosen.is_complex):
            raise ArgumentError(
                "finfo", f"requires a floating point input type, got {chosen}", hint="use iinfo"
            )
        chosen = chosen.to_real()
        info = float_info(chosen.numpy)
        self.dtype, self.bits = chosen.name, 8 * chosen.itemsize
        self.eps, self.max, self.min, self.tiny, self.resolution = (
            builtins.float(v) for v in (info.eps, info.max, info.min, info.tiny, info.resolution)
        )
        # of the decimal digits, not of the type
        self.resolution = builtins.float(f"{self.resolution:.0e}")
        self.smallest_normal = self.tiny

    def __eq__(self, other: object) -> builtins.bool:
        return isinstance(other, finfo) and self.dtype == other.dtype

    def __hash__(self) -> builtins.int:
        return hash(self.dtype)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
            f"eps={self.eps:g}, smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, "
            f"dtype={self.dtype})"
        )


class iinfo:
    """Limits of an integer type: `max min bits`."""

    def __init__(self, type: dtype) -> None:
        chosen = _expect_dtype("iinfo", type)
        if chosen.numpy.kind not in "iu":
            raise ArgumentError(
                "iinfo", f"requires an integer input type, got {chosen}", hint="use finfo"
            )
        self.dtype, self.bits = chosen.name, 8 * chosen.itemsize
        self.min, self.max = limits(chosen.numpy)

    def __eq__(self, other: object) -> builtins.bool:
        return isinstance(other, iinfo) and self.dtype == other.dtype

    def __hash__(self) -> builtins.int:
        return hash(self.dtype)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"


def _expect_dtype(where: str, type: Any) -> dtype:
    if not isinstance(type, dtype):
        raise ArgumentError(
            where, f"argument 'type' must be dtype, not {type!r}", "such as tensorlib.float32"
        )
    return type
