"""New tensors: from data, filled, counted, random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes, random
from tensorlib.autograd.tape import wrap
from tensorlib.device import device as device_type
from tensorlib.device import device_of, move, namespace_of
from tensorlib.errors import ArgumentError, DTypeError, InvalidValueError, ShapeError
from tensorlib.ops._common import shape_of

if TYPE_CHECKING:
    from tensorlib.random import Generator
    from tensorlib.tensor import Tensor


def _finish(array: Any, requires_grad: bool, where: Any = None) -> Tensor:
    if where is not None:
        array = move(array, where if isinstance(where, device_type) else device_type(where))
    result = wrap(array)
    if requires_grad:
        result.requires_grad_()
    return result


def tensor(
    data: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A tensor with a copy of `data`: numbers, nested sequences, arrays. Python floats get the
    default dtype, ints int64.
    """
    return _finish(_from_data(data, dtype, True), requires_grad, device)


def _from_data(data: Any, dtype: Any, copy: bool) -> Any:
    kind = None if dtype is None else dtypes.numpy_dtype(dtype)
    if hasattr(data, "array") and hasattr(data, "requires_grad"):
        array = data.array
        return (
            array.astype(kind)
            if kind is not None and array.dtype != kind
            else (array.copy() if copy else array)
        )
    if isinstance(data, np.ndarray | np.generic) or hasattr(data, "__cuda_array_interface__"):
        array = np.asarray(data) if isinstance(data, np.generic) else data
        dtypes.of(array.dtype)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if kind is not None and array.dtype != kind:
            return array.astype(kind)
        return array.copy() if copy else array
    if hasattr(data, "__array__"):
        return _from_data(np.asarray(data), dtype, copy)
    if isinstance(data, list | tuple) and _holds_tensors(data):
        data = _plain(data)
    try:
        array = np.asarray(data)
    except ValueError:
        raise RaggedError(
            "tensor", "nested sequences of different lengths", "a rectangular nesting"
        ) from None
    except OverflowError as error:
        raise ShapeError("tensor", f"value out of range ({error})") from None
    if array.dtype.kind not in "biufc":
        raise ArgumentError(
            "tensor",
            f"new(): invalid data type {type(data).__name__!r} (NumPy sees {array.dtype})",
            "numbers",
        )
    if kind is None:
        if array.dtype.kind == "f":
            kind = array.dtype if _has_numpy(data) else dtypes.default_numpy()
        elif array.dtype.kind == "c":
            kind = dtypes.default_complex()
        elif array.size == 0 and not isinstance(data, np.ndarray):
            kind = dtypes.default_numpy()
        elif array.dtype == np.uint64:
            raise ShapeError("tensor", "Overflow when unpacking long", "integers below 2**63")
        else:
            kind = array.dtype
    elif array.dtype.kind == "f" and kind.kind in "iu":
        return np.trunc(array).astype(np.int64).astype(kind)
    return array.astype(kind)


class RaggedError(InvalidValueError):
    """Rows of different lengths."""


def _has_numpy(data: Any) -> bool:
    """Whether the first leaf of nested lists is a NumPy value, whose type PyTorch keeps."""
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, np.generic | np.ndarray)


def _holds_tensors(data: Any) -> bool:
    return any(
        hasattr(v, "requires_grad") or (isinstance(v, list | tuple) and _holds_tensors(v))
        for v in data[:1]
    )


def _plain(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return [_plain(v) for v in data]
    return data.array if hasattr(data, "array") else data


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` as a tensor, sharing memory with an array or tensor where the type fits."""
    if hasattr(data, "requires_grad") and hasattr(data, "to"):
        result: Tensor = (
            data if dtype is None and device is None else data.to(device=device, dtype=dtype)
        )
        return result
    return _finish(_from_data(data, dtype, False), False, device)


asarray = as_tensor


def from_numpy(ndarray: Any) -> Tensor:
    """A tensor that shares memory with a NumPy array."""
    if not isinstance(ndarray, np.ndarray):
        raise ArgumentError("from_numpy", f"expected np.ndarray (got {type(ndarray).__name__})")
    dtypes.of(ndarray.dtype)
    if any(s < 0 for s in ndarray.strides):
        raise InvalidValueError(
            "from_numpy",
            f"strides {ndarray.strides}: negative strides are not supported",
            hint="pass array.copy()",
        )
    return wrap(ndarray)


def frombuffer(
    buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A one-dimensional tensor over the memory of a buffer."""
    return _finish(np.frombuffer(buffer, dtypes.numpy_dtype(dtype), count, offset), requires_grad)


def _kind(dtype: Any) -> Any:
    return dtypes.default_numpy() if dtype is None else dtypes.numpy_dtype(dtype)


def _sized(where: str, size: tuple[Any, ...]) -> tuple[int, ...]:
    found = shape_of(where, size)
    if any(n < 0 for n in found):
        raise ShapeError(
            where, f"Trying to create tensor with negative dimension {min(found)}: {list(found)}"
        )
    return found


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the given size."""
    return _finish(namespace_of(device).zeros(_sized("zeros", size), _kind(dtype)), requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the given size."""
    return _finish(namespace_of(device).ones(_sized("ones", size), _kind(dtype)), requires_grad)


def empty(
    *size: Any,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uninitialised memory of the given size."""
    return _finish(namespace_of(device).empty(_sized("empty", size), _kind(dtype)), requires_grad)


def full(
    size: Any,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`fill_value` everywhere; its Python type decides the dtype."""
    value = fill_value.item() if hasattr(fill_value, "array") else fill_value
    if dtype is None:
        kind = dtypes.scalar_numpy(np.dtype(bool), value)
    else:
        kind = dtypes.numpy_dtype(dtype)
    return _finish(namespace_of(device).full(_sized("full", (size,)), value, kind), requires_grad)


def _like(input: Tensor, dtype: Any) -> Any:
    return input.array.dtype if dtype is None else dtypes.numpy_dtype(dtype)


def zeros_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Zeros of the size, type and device of `input`."""
    return _finish(np.zeros_like(input.array, _like(input, dtype)), requires_grad, device)


def ones_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Ones of the size, type and device of `input`."""
    return _finish(np.ones_like(input.array, _like(input, dtype)), requires_grad, device)


def empty_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uninitialised memory of the size, type and device of `input`."""
    return _finish(np.empty_like(input.array, _like(input, dtype)), requires_grad, device)


def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """`fill_value` in the size, type and device of `input`."""
    return _finish(
        np.full_like(input.array, fill_value, _like(input, dtype)), requires_grad, device
    )


def _numbers(*values: Any) -> list[Any]:
    return [v.item() if hasattr(v, "array") else v for v in values]


def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from `start` (default 0) up to but without `end`; int64 unless a float is given."""
    if end is None:
        start, end = 0, start
    start, end, step = _numbers(start, end, step)
    if step == 0:
        raise ShapeError("arange", "step must be nonzero")
    if (end - start) * step < 0:
        raise ShapeError(
            "arange",
            f"upper bound and lower bound inconsistent with step sign: {start}, {end}, step {step}",
        )
    if dtype is None:
        floats = any(isinstance(v, float) for v in (start, end, step))
        kind: Any = dtypes.default_numpy() if floats else np.dtype(np.int64)
    else:
        kind = dtypes.numpy_dtype(dtype)
    if kind.kind in "iub" and all(isinstance(v, int) for v in (start, end, step)):
        return _finish(np.arange(start, end, step, kind), requires_grad, device)  # type: ignore[call-overload]  # NumPy's stubs are wider
    count = math.ceil((end - start) / step)
    values = start + np.arange(count, dtype=np.float64) * step
    return _finish(values.astype(kind), requires_grad, device)


def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` evenly spaced numbers from `start` to `end`, both included."""
    start, end = _numbers(start, end)
    if steps < 0:
        raise ShapeError("linspace", f"number of steps must be non-negative, got {steps}")
    kind = _kind(dtype)
    if kind.kind in "iu":
        return _finish(np.trunc(np.linspace(start, end, steps)).astype(kind), requires_grad, device)
    if steps == 1:
        return _finish(np.full(1, start, kind), requires_grad, device)
    # PyTorch counts from both ends in the target type, so that the halves mirror each other
    step = (kind.type(end) - kind.type(start)) / kind.type(max(steps - 1, 1))
    i = np.arange(steps).astype(kind)
    values = np.where(
        np.arange(steps) < steps // 2, kind.type(start) + step * i, kind.type(end) - step * i[::-1]
    )
    return _finish(values.astype(kind), requires_grad, device)


def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`base` to the power of evenly spaced numbers."""
    start, end = _numbers(start, end)
    return _finish(
        np.logspace(start, end, steps, base=base).astype(_kind(dtype)), requires_grad, device
    )


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal of an n x m matrix."""
    return _finish(
        np.eye(*_sized("eye", (n, n if m is None else m)), dtype=_kind(dtype)),
        requires_grad,
        device,
    )


def complex(real: Tensor, imag: Tensor) -> Tensor:
    """A complex tensor from its parts."""
    from tensorlib.ops import elementwise

    if real.array.dtype != imag.array.dtype:
        raise DTypeError(
            "complex",
            f"Expected object of scalar type {real.dtype} but got {imag.dtype} for second argument",
        )
    return elementwise.add(real, elementwise.mul(imag, 1j))


# -- random ----------------------------------------------------------------------------------------


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return _finish(
        random.pick(generator).uniform(_sized("rand", size), _kind(dtype)), requires_grad, device
    )


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of mean 0 and deviation 1."""
    return _finish(
        random.pick(generator).normal(_sized("randn", size), _kind(dtype)), requires_grad, device
    )


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high); `randint(high, size)` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    if high is None or size is None:
        raise ArgumentError(
            "randint", "size is missing", "randint(high, size) or randint(low, high, size)"
        )
    if low >= high:
        raise ShapeError(
            "randint",
            f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}",
        )
    kind = np.dtype(np.int64) if dtype is None else dtypes.numpy_dtype(dtype)
    return _finish(
        random.pick(generator).integers(low, high, _sized("randint", (size,)), kind),
        requires_grad,
        device,
    )


def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers 0 to n-1 in random order."""
    if n < 0:
        raise ShapeError("randperm", f"n must be non-negative, got {n}")
    order = random.pick(generator).permutation(n)
    return _finish(
        order if dtype is None else order.astype(dtypes.numpy_dtype(dtype)), requires_grad, device
    )


def rand_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uniform numbers in [0, 1) in the size of `input`."""
    values = random.default_generator.uniform(input.array.shape, _like(input, dtype))
    return _finish(values, requires_grad, device or device_of(input.array))


def randn_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Normal numbers in the size of `input`."""
    values = random.default_generator.normal(input.array.shape, _like(input, dtype))
    return _finish(values, requires_grad, device or device_of(input.array))


def randint_like(input: Tensor, low: int, high: int | None = None, *, dtype: Any = None) -> Tensor:
    """Integers in [low, high) in the size of `input`."""
    if high is None:
        low, high = 0, low
    return _finish(
        random.default_generator.integers(low, high, input.array.shape, _like(input, dtype)), False
    )


def normal(
    mean: Any,
    std: Any = 1.0,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
) -> Tensor:
    """Normal numbers; `mean` and `std` may be tensors."""
    source = random.pick(generator)
    if size is not None:
        return wrap(source.normal(_sized("normal", (size,)), _kind(dtype), mean, std))
    m = mean.array if hasattr(mean, "array") else np.asarray(mean)
    s = std.array if hasattr(std, "array") else np.asarray(std)
    kind = (mean if hasattr(mean, "array") else std).array.dtype
    draws = source.normal(np.broadcast_shapes(m.shape, s.shape), kind)
    return wrap((draws * s.astype(kind) + m.astype(kind)).astype(kind))


def bernoulli(
    input: Tensor, p: float | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Ones with the probabilities in `input` (or with `p` everywhere)."""
    x = input.array
    if p is None and x.dtype.kind != "f":
        raise DTypeError("bernoulli", f"not implemented for {dtypes.of(x.dtype)}", "probabilities")
    if p is None and x.size and not ((x >= 0) & (x <= 1)).all():
        raise ShapeError(
            "bernoulli",
            "Expected p_in >= 0 && p_in <= 1 to be true",
            "probabilities between 0 and 1",
        )
    return wrap(random.pick(generator).bernoulli(x.shape, x if p is None else p, x.dtype))


def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Indices drawn with the weights in the rows of `input`."""
    x = input.array
    if x.dtype.kind != "f" or x.ndim not in (1, 2):
        raise ShapeError(
            "multinomial",
            f"shape {x.shape}, {dtypes.of(x.dtype)}: prob_dist must be 1 or 2 dim of floats",
        )
    if num_samples < 1:
        raise ShapeError("multinomial", f"cannot sample num_samples={num_samples} samples")
    if not replacement and num_samples > x.shape[-1]:
        raise ShapeError(
            "multinomial",
            f"cannot sample num_samples={num_samples} > prob_dist.size(-1)={x.shape[-1]} samples "
            f"without replacement",
        )
    if not np.isfinite(x).all() or (x < 0).any():
        raise ShapeError(
            "multinomial", "probability tensor contains either `inf`, `nan` or element < 0"
        )
    if x.size and (x.sum(-1) <= 0).any():
        raise ShapeError(
            "multinomial", "invalid multinomial distribution (sum of probabilities <= 0)"
        )
    source = random.pick(generator)
    if not replacement or num_samples == 1:
        scores = x / source.exponential(x.shape, x.dtype)
        if num_samples == 1:
            return wrap(np.argmax(scores, -1, keepdims=True))
        return wrap(np.argsort(-scores, -1, kind="stable")[..., :num_samples].copy())
    rows = np.cumsum(x.reshape(-1, x.shape[-1]), -1, dtype=x.dtype)
    rows = rows / rows[:, -1:]
    draws = source.uniform((len(rows), num_samples), np.float64)
    found = np.stack([np.searchsorted(r, d, "left") for r, d in zip(rows, draws, strict=True)])
    return wrap(np.minimum(found, x.shape[-1] - 1).reshape(*x.shape[:-1], num_samples))
