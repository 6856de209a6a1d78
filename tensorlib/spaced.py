"""New tensors counted or spaced by a rule, and complex numbers from their parts."""

from __future__ import annotations

import builtins
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.creation import finish, into, kind_of, number, refuse, size_of
from tensorlib.errors import (
    ArgumentError,
    DTypeError,
    InvalidValueError,
    ShapeError,
    UnsupportedError,
)
from tensorlib.ops._common import Array, expect_tensor
from tensorlib.ops._formula import derived

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_wide = np.dtype(np.float64)


def _numbers(where: str, **values: Any) -> list[Any]:
    return [number(where, name, value) for name, value in values.items()]


def _real(where: str, values: list[Any]) -> None:
    if any(isinstance(v, builtins.complex) for v in values):
        raise ShapeError(where, "value cannot be converted to type double without overflow")


def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from `start` (default 0) up to but without `end`; int64 unless a float is given."""
    refuse("arange", layout, pin_memory)
    if start is None:
        start, end = 0, end
    elif end is None:
        start, end = 0, start
    start, end, step = given = _numbers("arange", start=start, end=end, step=step)
    _real("arange", given)
    if dtype is None and out is None:
        floats = any(isinstance(v, float) for v in given)
        kind: Any = dtypes.default_numpy() if floats else np.dtype(np.int64)
    else:
        kind = kind_of(dtype, "arange", out)
    if kind.kind in "bc":
        raise DTypeError("arange", f"not implemented for {dtypes.of(kind)}", "real numbers")
    count = _steps("arange", kind, start, end, step)
    result = finish(_counted(kind, start, step, count), requires_grad, device)
    return result if out is None else into("arange", out, result)


def _steps(where: str, kind: Any, start: Any, end: Any, step: Any) -> int:
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ShapeError(where, f"unsupported range: {start} -> {end}")
    whole = kind.kind in "iu"
    if whole and step and not int(step):
        raise InvalidValueError(where, f"step must be nonzero, step {step} as {dtypes.of(kind)}")
    if not step:
        raise ShapeError(where, "step must be nonzero")
    if (end - start) * (1 if step > 0 else -1) < 0:
        raise ShapeError(
            where,
            f"upper bound and lower bound inconsistent with step sign: {start}, {end}, step {step}",
        )
    if whole and kind.itemsize == 8:
        return -((int(start) - int(end)) // int(step))
    found: int = math.ceil((end - start) / step)
    return found


def _counted(kind: Any, start: Any, step: Any, count: int) -> Array:
    values: Array
    if kind.kind in "iu":
        first, gap = int(start), int(step)
        values = np.arange(first, first + count * gap, gap, dtype=np.int64)
        return values.astype(kind, copy=False)
    work = np.dtype(np.float32) if _narrow(kind) else _wide
    values = np.arange(count).astype(work)
    values *= work.type(step)
    values += work.type(start)
    return values.astype(kind, copy=False)


def range(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from `start` to `end`, both included; deprecated in favour of `arange`."""
    warnings.warn(
        "range: deprecated, its end is included unlike that of Python's range. Hint: use arange.",
        UserWarning,
        stacklevel=2,
    )
    refuse("range", layout)
    if end is None:
        start, end = 0, start
    start, end, step = given = _numbers("range", start=start, end=end, step=step)
    _real("range", given)
    kind = kind_of(dtype, "range", out)
    if kind.kind in "bc":
        raise DTypeError("range", f"not implemented for {dtypes.of(kind)}", "real numbers")
    _steps("range", kind, start, end, step)
    count = math.floor((end - start) / step) + 1
    result = finish(_counted(kind, start, step, count), requires_grad, device)
    return result if out is None else into("range", out, result)


def _spaced_kind(where: str, dtype: Any, out: Any, ends: list[Any]) -> Any:
    complex_ = any(isinstance(v, builtins.complex) for v in ends)
    if dtype is None and out is None:
        return dtypes.default_complex() if complex_ else dtypes.default_numpy()
    kind = kind_of(dtype, where, out)
    if kind.kind == "b":
        raise DTypeError(where, "not implemented for tensorlib.bool", "numbers")
    if complex_ and kind.kind != "c":
        raise ShapeError(
            where,
            f"inferred dtype {dtypes.of(dtypes.default_complex())} can't be safely cast to passed "
            f"dtype {dtypes.of(kind)}",
        )
    return kind


def _ends(where: str, start: Any, end: Any, steps: Any) -> tuple[Any, Any, int]:
    for name, value in (("start", start), ("end", end)):
        if hasattr(value, "array") and value.array.ndim:
            raise ShapeError(
                where,
                f"only supports 0-dimensional start and end tensors, but got {name} with "
                f"{value.array.ndim} dimension(s)",
            )
    if not hasattr(steps, "__index__") or isinstance(steps, bool):
        raise ArgumentError(where, f"argument 'steps' must be int, not {type(steps).__name__}")
    count = steps.__index__()
    if count < 0:
        raise ShapeError(where, f"number of steps must be non-negative, got {count}")
    start, end = _numbers(where, start=start, end=end)
    return start, end, count


def _from_both_ends(start: Any, end: Any, count: int, kind: Any) -> Array:
    """Counted from both ends, so that the halves mirror each other; integers in float64."""
    work = _wide if kind.kind in "iu" else kind
    first, last = (np.asarray(dtypes.fitting(v, kind), kind).astype(work)[()] for v in (start, end))
    if count == 1:
        return np.full(1, first, work)
    step = (last - first) / work.type(max(count - 1, 1))
    index = np.arange(count)
    upward, downward = index.astype(work), (count - 1 - index).astype(work)
    values: Array = np.where(index < count // 2, first + step * upward, last - step * downward)
    return values


def _narrow(kind: Any) -> bool:
    return bool(kind.kind in "fV" and kind.itemsize == 2)


def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` evenly spaced numbers from `start` to `end`, both included."""
    refuse("linspace", layout, pin_memory)
    start, end, count = _ends("linspace", start, end, steps)
    kind = _spaced_kind("linspace", dtype, out, [start, end])
    values = _from_both_ends(start, end, count, kind).astype(kind)
    result = finish(values, requires_grad, device)
    return result if out is None else into("linspace", out, result)


def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`base` to the power of evenly spaced numbers."""
    refuse("logspace", layout, pin_memory)
    start, end, count = _ends("logspace", start, end, steps)
    kind = _spaced_kind("logspace", dtype, out, [start, end])
    powers = _from_both_ends(start, end, count, np.dtype(np.float32) if _narrow(kind) else kind)
    values = np.power(powers.dtype.type(base), powers).astype(kind)
    result = finish(values, requires_grad, device)
    return result if out is None else into("logspace", out, result)


def eye(
    n: int,
    m: int | None = None,
    *,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal of an n x m matrix."""
    refuse("eye", layout, pin_memory)
    for name, value in (("n", n), ("m", n if m is None else m)):
        if not hasattr(value, "__index__"):
            raise ArgumentError("eye", f"argument '{name}' must be int, not {type(value).__name__}")
        if value < 0:
            raise ShapeError("eye", f"{name} must be greater or equal to 0, got {value}")
    shape = size_of("eye", ((n, n if m is None else m),))
    result = finish(np.eye(*shape, dtype=kind_of(dtype, "eye", out)), requires_grad, device)
    return result if out is None else into("eye", out, result)


def _parts(where: str, names: tuple[str, str], a: Any, b: Any) -> tuple[Tensor, Tensor]:
    expect_tensor(where, names[0], a)
    expect_tensor(where, names[1], b)
    if a.array.dtype.kind != "f" or b.array.dtype.kind != "f":
        raise ShapeError(
            where, f"Expected both inputs to be floating-point tensors but got {a.dtype}, {b.dtype}"
        )
    if a.array.dtype != b.array.dtype:
        raise ShapeError(
            where,
            f"Expected object of scalar type {a.dtype} but got scalar type {b.dtype} for second "
            "argument",
        )
    if a.array.itemsize == 2:
        raise UnsupportedError(where, "tensors of complex32 are not supported", "float32, float64")
    return a, b


def complex(real: Tensor, imag: Tensor, *, out: Tensor | None = None) -> Tensor:
    """A complex tensor from its parts, which have one dtype."""
    a, b = _parts("complex", ("real", "imag"), real, imag)
    x, y = a.array, b.array
    output = np.empty(np.broadcast_shapes(x.shape, y.shape), dtypes.complex_of(x.dtype))
    output.real, output.imag = x, y

    def parts(grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return grad.real, grad.imag

    result = derived(output, parts, a, b, name="complex")
    return result if out is None else into("complex", out, result, exact=True)


def polar(abs: Tensor, angle: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Complex numbers from their absolute values and angles, which have one dtype."""
    from tensorlib.ops import elementwise

    a, b = _parts("polar", ("abs", "angle"), abs, angle)
    cosine, sine = elementwise.cos(b), elementwise.sin(b)
    result = complex(elementwise.mul(a, cosine), elementwise.mul(a, sine))
    return result if out is None else into("polar", out, result, exact=True)
