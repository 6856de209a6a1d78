"""Special functions: `erf erfc erfinv lgamma digamma ...`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.ops._common import Array, Grads, floating, record

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

# erf(x) = x P(x^2) / Q(x^2) on [-4, 4] in single precision (the rational minimax form used by Eigen
# and XLA)
_ERF_P = (
    -1.60960333262415e-02,
    -2.95459980854025e-03,
    -7.34990630326855e-04,
    -5.69250639462346e-05,
    -2.10102402082508e-06,
    2.77068142495902e-08,
    -2.72614225801306e-10,
)
_ERF_Q = (
    -1.42647390514189e-02,
    -7.37332916720468e-03,
    -1.68282697438203e-03,
    -2.13374055278905e-04,
    -1.45660718464996e-05,
)
# erfc in double precision by Chebyshev series in t = 2/(2+x) (W. Press et al., Numerical Recipes
# 3rd ed., 6.2.2)
_ERFC = (
    -1.3026537197817094,
    6.4196979235649026e-1,
    1.9476473204185836e-2,
    -9.561514786808631e-3,
    -9.46595344482036e-4,
    3.66839497852761e-4,
    4.2523324806907e-5,
    -2.0278578112534e-5,
    -1.624290004647e-6,
    1.303655835580e-6,
    1.5626441722e-8,
    -8.5238095915e-8,
    6.529054439e-9,
    5.059343495e-9,
    -9.91364156e-10,
    -2.27365122e-10,
    9.6467911e-11,
    2.394038e-12,
    -6.886027e-12,
    8.94487e-13,
    3.13092e-13,
    -1.12708e-13,
    3.81e-16,
    7.106e-15,
    -1.523e-15,
    -9.4e-17,
    1.21e-16,
    -2.8e-17,
)


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    out = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out *= x
        out += x.dtype.type(c)
    return out


def erf_array(x: Any) -> Any:
    """erf of an array; within 3 units in the last place in single, 1e-15 in double precision."""
    if x.dtype == np.float32:
        limited = np.clip(x, np.float32(-4), np.float32(4))
        squared = limited * limited
        return limited * _polynomial(squared, _ERF_P) / _polynomial(squared, _ERF_Q)
    if x.dtype == np.float16:
        return erf_array(x.astype(np.float32)).astype(np.float16)
    small = np.abs(x) < 0.5
    term = np.where(small, x, 0.0)
    squared = term * term
    series = term.copy()
    for k in range(1, 16):
        term = term * -squared / k
        series = series + term / (2 * k + 1)
    return np.where(
        small, series * (2 / math.sqrt(math.pi)), np.sign(x) * (1 - _erfc_positive(np.abs(x)))
    )


def _erfc_positive(z: Any) -> Any:
    t = 2.0 / (2.0 + z)
    ty = 4.0 * t - 2.0
    d, dd = np.zeros_like(z), np.zeros_like(z)
    for c in _ERFC[:0:-1]:
        d, dd = ty * d - dd + c, d
    return t * np.exp(-z * z + 0.5 * (_ERFC[0] + ty * d) - dd)


def erf(input: Tensor) -> Tensor:
    """Error function."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * (np.exp(-x * x) * (2 / math.sqrt(math.pi))),)

    return record(erf_array(x), backward, input)


def erfc(input: Tensor) -> Tensor:
    """`1 - erf(input)`, exact for large input."""
    x = (input := floating(input)).array
    wide = x.astype(np.float64)
    output = np.where(
        wide >= 0, _erfc_positive(np.abs(wide)), 2 - _erfc_positive(np.abs(wide))
    ).astype(x.dtype)

    def backward(grad: Array) -> Grads:
        return (grad * (np.exp(-x * x) * (-2 / math.sqrt(math.pi))),)

    return record(output, backward, input)


def erfinv(input: Tensor) -> Tensor:
    """Inverse of `erf`."""
    input = floating(input)
    x = input.array.astype(np.float64)
    # Giles' approximation in w = -log(1 - x^2), refined by two Newton steps
    w = -np.log((1 - x) * (1 + x))
    centre = _polynomial(np.minimum(w, 5) - 2.5, _GILES_CENTRE)
    tail = _polynomial(np.sqrt(np.maximum(w, 5)) - 3, _GILES_TAIL)
    y = np.where(w < 5, centre, tail) * x
    for _ in range(2):
        error = np.where(
            np.abs(x) < 0.5,
            erf_array(y) - x,
            np.sign(x) * ((1 - np.abs(x)) - _erfc_positive(np.abs(y))),
        )
        step = error / (2 / math.sqrt(math.pi) * np.exp(-y * y))
        y = np.where(np.isfinite(step), y - step, y)
    y = np.where(np.abs(x) == 1, np.sign(x) * np.inf, y)
    output = y.astype(input.array.dtype)

    def backward(grad: Array) -> Grads:
        return (grad * (np.exp(output * output) * (math.sqrt(math.pi) / 2)),)

    return record(output, backward, input)


_GILES_CENTRE = (
    1.50140941,
    0.246640727,
    -0.00417768164,
    -0.00125372503,
    0.00021858087,
    -4.39150654e-06,
    -3.5233877e-06,
    3.43273939e-07,
    2.81022636e-08,
)
_GILES_TAIL = (
    2.83297682,
    1.00167406,
    0.00943887047,
    -0.0076224613,
    0.00573950773,
    -0.00367342844,
    0.00134934322,
    0.000100950558,
    -0.000200214257,
)


_lgamma = np.vectorize(
    lambda v: math.inf if v <= 0 and v == int(v) else math.lgamma(v), otypes=[np.float64]
)


def lgamma(input: Tensor) -> Tensor:
    """Logarithm of the absolute gamma function."""
    x = (input := floating(input)).array
    output = (_lgamma(x) if x.size else x).astype(x.dtype)

    def backward(grad: Array) -> Grads:
        return (grad * _digamma(x),)

    return record(output, backward, input)


def digamma(input: Tensor) -> Tensor:
    """Derivative of `lgamma`."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * _trigamma(x),)

    return record(_digamma(x), backward, input)


def _digamma(x: Any) -> Any:
    z = x.astype(np.float64)
    negative = z < 0
    reflect = np.where(negative, -math.pi / np.tan(math.pi * np.where(negative, z, 0.5)), 0)
    z = np.where(negative, 1 - z, z)
    out = np.zeros_like(z)
    for _ in range(8):
        low = z < 8
        out = out - np.where(low, 1 / z, 0)
        z = np.where(low, z + 1, z)
    r = 1 / (z * z)
    tail = r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r * (1 / 132)))))
    return (out + np.log(z) - 0.5 / z - tail + reflect).astype(x.dtype)


def _trigamma(x: Any) -> Any:
    z = x.astype(np.float64)
    negative = z < 0
    reflect = np.where(negative, (math.pi / np.sin(math.pi * np.where(negative, z, 0.5))) ** 2, 0)
    sign = np.where(negative, -1, 1)
    z = np.where(negative, 1 - z, z)
    out = np.zeros_like(z)
    for _ in range(10):
        low = z < 10
        out = out + np.where(low, 1 / (z * z), 0)
        z = np.where(low, z + 1, z)
    r = 1 / (z * z)
    out = out + 1 / z + r / 2 + r / z * (1 / 6 - r * (1 / 30 - r * (1 / 42 - r / 30)))
    return (sign * out + reflect).astype(x.dtype)


def sinc(input: Tensor) -> Tensor:
    """`sin(pi x) / (pi x)`, 1 at zero."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        safe = np.where(x == 0, 1, x)
        return (grad * np.where(x == 0, 0, (np.cos(math.pi * safe) - np.sinc(safe)) / safe),)

    return record(np.sinc(x), backward, input)


def xlogy(input: Tensor, other: Any) -> Tensor:
    """`input * log(other)`, 0 where `input` is 0."""
    from tensorlib.ops._common import pair

    a, b = pair(input, other, "xlogy")
    a, b = floating(a), floating(b)
    x, y = a.array, b.array
    output = np.where((x == 0) & ~np.isnan(y), 0, x * np.log(np.where(x == 0, 1, y)))

    def backward(grad: Array) -> Grads:
        return grad * np.log(np.where((x == 0) & (y <= 0), 1, y)), grad * (x / y)

    return record(output.astype(x.dtype), backward, a, b)


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """`log(exp(input) + exp(other))`."""
    a, b = floating(input), floating(other)
    x, y = a.array, b.array
    output = np.logaddexp(x, y)

    def backward(grad: Array) -> Grads:
        return grad * np.exp(x - output), grad * np.exp(y - output)

    return record(output, backward, a, b)


def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """`log2(2**input + 2**other)`."""
    a, b = floating(input), floating(other)
    x, y = a.array, b.array
    output = np.logaddexp2(x, y)

    def backward(grad: Array) -> Grads:
        return grad * np.exp2(x - output), grad * np.exp2(y - output)

    return record(output, backward, a, b)
