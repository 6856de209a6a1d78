"""Window functions under torch's older names, such as `hann_window`: computed in the given type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import creation, dtypes, spaced
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops import elementwise, shape
from tensorlib.ops._common import Array, wrap
from tensorlib.ops.special import scipy_special

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _window(
    name: str,
    length: Any,
    periodic: bool,
    values: Callable[[Tensor, int], Tensor],
    dtype: Any,
    layout: Any,
    device: Any,
    pin_memory: bool,
    requires_grad: bool,
) -> Tensor:
    """`values(n, count)` for n = 0, ..., count - 1; a periodic window lacks the last point."""
    where = f"{name}_window"
    creation.refuse(where, layout, pin_memory)
    kind = dtype or dtypes.get_default_dtype()
    if isinstance(length, bool) or not isinstance(length, int):
        raise ArgumentError(where, f"window_length must be int, not {type(length).__name__}")
    if length < 0:
        raise ShapeError(where, f"requires non-negative window_length, got {length}")
    if not kind.is_floating_point:
        raise DTypeError(where, f"expects floating point dtypes, got {kind}")
    if length < 2:
        return creation.ones(length, dtype=kind, device=device, requires_grad=requires_grad)
    count = length + 1 if periodic else length
    numbers = spaced.arange(count, dtype=kind, device=device)
    found = values(numbers, count)
    found = wrap(found.array[:length].copy())
    return found.requires_grad_() if requires_grad else found


def _times(numbers: Tensor, factor: float) -> Tensor:
    """The product with `factor` rounded to the type, as PyTorch does here."""
    return elementwise.mul(numbers, float(numbers.array.dtype.type(factor)))


def _cosines(numbers: Tensor, step: float, weight: float) -> Tensor:
    return _times(elementwise.cos(_times(numbers, step)), weight)


def hann_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`(1 - cos(x)) / 2` for x from 0 to 2 pi."""
    options = (dtype, layout, device, pin_memory, requires_grad)

    def values(n: Tensor, count: int) -> Tensor:
        return elementwise.add(_cosines(n, math.pi * 2 / (count - 1), -0.5), 0.5)

    return _window("hann", window_length, periodic, values, *options)


def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`alpha - beta cos(x)` for x from 0 to 2 pi."""
    options = (dtype, layout, device, pin_memory, requires_grad)

    def values(n: Tensor, count: int) -> Tensor:
        return elementwise.add(_cosines(n, math.pi * 2 / (count - 1), -beta), alpha)

    return _window("hamming", window_length, periodic, values, *options)


def blackman_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`0.42 - 0.5 cos(x) + 0.08 cos(2 x)` for x from 0 to 2 pi."""
    options = (dtype, layout, device, pin_memory, requires_grad)

    def values(n: Tensor, count: int) -> Tensor:
        half = _times(n, math.pi / (count - 1))
        waves = elementwise.sub(_cosines(half, 4, 0.08), _cosines(half, 2, 0.5))
        return elementwise.add(waves, 0.42)

    return _window("blackman", window_length, periodic, values, *options)


def bartlett_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`1 - |x|` for x from -1 to 1."""
    options = (dtype, layout, device, pin_memory, requires_grad)

    def values(n: Tensor, count: int) -> Tensor:
        rising = _times(n, 2.0 / (count - 1))
        first = ((count - 1) >> 1) + 1
        falling = elementwise.rsub(shape.narrow(rising, 0, first, count - first), 2)
        return shape.cat([shape.narrow(rising, 0, 0, first), falling], 0)

    return _window("bartlett", window_length, periodic, values, *options)


def kaiser_window(
    window_length: int,
    periodic: bool = True,
    beta: float = 12.0,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`i0(beta sqrt(1 - x^2)) / i0(beta)` for x from -1 to 1."""
    options = (dtype, layout, device, pin_memory, requires_grad)

    def values(n: Tensor, count: int) -> Tensor:
        i0 = scipy_special("i0")
        x: Array = n.array.astype(np.float64) * (2.0 / (count - 1)) - 1
        found = i0(beta * np.sqrt(np.maximum(1 - x * x, 0))) / i0(beta)
        return wrap(found.astype(n.array.dtype))

    return _window("kaiser", window_length, periodic, values, *options)
