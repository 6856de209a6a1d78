"""Activations and their gradients, element by element.

A gradient `f_grad(grad, x, ...)` is written with operators and NumPy's functions, so that it can be
run on a Tensor's stand-ins for second derivatives (but for `gelu_grad`); `relu`, `sigmoid`, `tanh`,
`hardtanh` and `leaky_relu` give theirs from the output. `out` may be `x` itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.kernels import kernel

_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_TANH, _CUBE = math.sqrt(2 / math.pi), 0.044715


def _values() -> list[Any]:
    """Odd sizes, several layouts, and the ends of the range."""
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal(1037) * 6).astype(np.float32)
    ends = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, -3e38, 90, -90, 20], np.float32
    )
    image = rng.standard_normal((2, 5, 7, 3)).astype(np.float32)
    return [
        wide,
        ends,
        wide[:0],
        wide[::3],
        np.broadcast_to(wide[:5], (3, 5)),
        image,
        image.transpose(0, 3, 1, 2),
        image[:, 1:4],
    ]


def _forward(*numbers: float) -> Any:
    return lambda: [(x, *numbers) for x in _values()]


def _gradients(*numbers: float) -> Any:
    def samples() -> list[tuple[Any, ...]]:
        found = [
            (np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape), x[np.isfinite(x)])
            if x.size == 12
            else (np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape), x)
            for x in _values()
        ]
        return [(grad[: x.shape[0]] if x.ndim else grad, x, *numbers) for grad, x in found]

    return samples


def _into(out: Any, value: Any) -> Any:
    if out is None:
        return value
    out[...] = value
    return out


def wide(x: Any) -> Any:
    """An array (or its stand-in) with half precision widened: a result is saved rounded."""
    return x.astype(np.float32) if x.dtype.char in "eE" else x


def conj(value: Any) -> Any:
    """The conjugate of a complex array or Tensor, others themselves."""
    return value.conj() if value.dtype.kind == "c" else value


def logistic(x: Any) -> Any:
    """Overflow of exp gives the limit 0; a Tensor has its own, without overflow."""
    if hasattr(x, "sigmoid"):
        return x.sigmoid()
    return np.reciprocal(1 + np.exp(-wide(x))).astype(x.dtype, copy=False)


@kernel(_forward())
def relu(x: Any, out: Any = None) -> Any:
    """max(x, 0)."""
    return np.maximum(x, 0, out=out)


@kernel(_gradients())
def relu_grad(grad: Any, y: Any) -> Any:
    """At NaN it passes, as PyTorch's."""
    return grad * ~(y <= 0)


@kernel(_forward(-1.0, 1.0))
def hardtanh(x: Any, low: float, high: float, out: Any = None) -> Any:
    """x limited to [low, high]."""
    return np.clip(x, x.dtype.type(low), x.dtype.type(high), out=out)


@kernel(_gradients(-1.0, 1.0))
def hardtanh_grad(grad: Any, y: Any, low: float, high: float) -> Any:
    """Zero at the limits."""
    return grad * ((y > low) & (y < high))


@kernel(_forward(0.1))
def leaky_relu(x: Any, slope: float, out: Any = None) -> Any:
    """x where positive, slope x elsewhere."""
    return _into(out, np.where(x > 0, x, x * x.dtype.type(slope)))


@kernel(_gradients(0.1))
def leaky_relu_grad(grad: Any, x: Any, slope: float) -> Any:
    """From x, or for a positive slope from the output."""
    return np.where(x > 0, grad, grad * slope)


@kernel(_forward())
def sigmoid(x: Any, out: Any = None) -> Any:
    """1 / (1 + e^-x)."""
    return _into(out, logistic(x))


@kernel(_gradients())
def sigmoid_grad(grad: Any, y: Any) -> Any:
    """From the output."""
    y = wide(y)
    return wide(grad) * conj(y * (1 - y))


@kernel(_forward())
def tanh(x: Any, out: Any = None) -> Any:
    """Hyperbolic tangent."""
    return np.tanh(x, out=out)


@kernel(_gradients())
def tanh_grad(grad: Any, y: Any) -> Any:
    """From the output."""
    y = wide(y)
    return wide(grad) * conj(1 - y * y)


@kernel(_forward())
def silu(x: Any, out: Any = None) -> Any:
    """x sigmoid(x)."""
    return _into(out, x * logistic(x))


@kernel(_gradients())
def silu_grad(grad: Any, x: Any) -> Any:
    """s (1 + x (1 - s)) with s = sigmoid(x)."""
    gate = logistic(x)
    return grad * conj(gate * (1 + x * (1 - gate)))


@kernel(_forward())
def gelu(x: Any, out: Any = None) -> Any:
    """x Phi(x) with the normal distribution function."""
    from tensorlib.ops.special import erf_array

    found = erf_array(x * x.dtype.type(_HALF))
    found += 1
    found *= x.dtype.type(0.5)
    found *= x
    return _into(out, found)


@kernel(_gradients())
def gelu_grad(grad: Any, x: Any) -> Any:
    """Phi(x) + x phi(x)."""
    from tensorlib.ops.special import erf_array

    cdf = 0.5 * (1 + erf_array(x * x.dtype.type(_HALF)))
    return grad * (cdf + x * (np.exp(x * x * -0.5) * _DENSITY))


@kernel(_forward())
def gelu_tanh(x: Any, out: Any = None) -> Any:
    """GELU with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) for the error function."""
    inner = x * x
    inner *= x.dtype.type(_CUBE)
    inner += 1
    inner *= x
    inner *= x.dtype.type(_TANH)
    inner = np.tanh(inner)
    inner += 1
    inner *= x.dtype.type(0.5)
    inner *= x
    return _into(out, inner)


@kernel(_gradients())
def gelu_tanh_grad(grad: Any, x: Any) -> Any:
    """(1 + t + x (1 - t^2) u') / 2 with t = tanh(u)."""
    square = x * x
    t = np.tanh((x + x * square * _CUBE) * _TANH)
    slope = (1 + square * (3 * _CUBE)) * _TANH
    return grad * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


@kernel(_forward())
def mish(x: Any, out: Any = None) -> Any:
    """x tanh(log(1 + e^x))."""
    return _into(out, x * np.tanh(np.logaddexp(x, x.dtype.type(0))))


@kernel(_gradients())
def mish_grad(grad: Any, x: Any) -> Any:
    """t + x (1 - t^2) sigmoid(x) with t = tanh(log(1 + e^x))."""
    t = np.tanh(np.log1p(np.exp(np.minimum(x, 0) - np.maximum(x, 0))) + np.maximum(x, 0))
    return grad * (t + x * (1 - t * t) * logistic(x))


@kernel(_forward(2.0, 20.0))
def softplus(x: Any, beta: float, threshold: float, out: Any = None) -> Any:
    """log(1 + e^(beta x)) / beta; x where beta x exceeds the threshold."""
    kind = x.dtype.type
    scaled = x * kind(beta)
    soft = np.log1p(np.exp(np.minimum(scaled, kind(threshold)))) / kind(beta)
    return _into(out, np.where(scaled > threshold, x, soft))


@kernel(_gradients(2.0, 20.0))
def softplus_grad(grad: Any, x: Any, beta: float, threshold: float) -> Any:
    """sigmoid(beta x)."""
    return grad * np.where(x * beta > threshold, 1, logistic(x * beta))


@kernel(_forward(1.5, 1.25, 0.5))
def elu(x: Any, alpha: float, scale: float, slope: float, out: Any = None) -> Any:
    """scale x where positive, scale alpha (e^(slope x) - 1) elsewhere."""
    curve = x.dtype.type(scale * alpha) * np.expm1(np.minimum(x, 0) * slope)
    return _into(out, np.where(x > 0, x * x.dtype.type(scale), curve))


@kernel(_gradients(1.5, 1.25, 0.5))
def elu_grad(grad: Any, x: Any, alpha: float, scale: float, slope: float) -> Any:
    """scale, or scale alpha slope e^(slope x)."""
    curve = grad * (scale * alpha * slope * np.exp(np.minimum(x, 0) * slope))
    return np.where(x > 0, grad * scale, curve)


@kernel(_forward())
def hardswish(x: Any, out: Any = None) -> Any:
    """x clip(x + 3, 0, 6) / 6."""
    return _into(out, x * np.clip(x + 3, 0, 6) / 6)


@kernel(_gradients())
def hardswish_grad(grad: Any, x: Any) -> Any:
    """0, x / 3 + 1/2, 1."""
    return np.where(x <= -3, 0, np.where(x < 3, grad * (x / 3 + 0.5), grad))


@kernel(_forward())
def hardsigmoid(x: Any, out: Any = None) -> Any:
    """clip(x + 3, 0, 6) / 6."""
    return _into(out, np.clip(x + 3, 0, 6) / 6)


@kernel(_gradients())
def hardsigmoid_grad(grad: Any, x: Any) -> Any:
    """1/6 inside."""
    return grad * ((x > -3) & (x < 3)) / 6
