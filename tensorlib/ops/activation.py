"""Activations: `relu sigmoid tanh gelu softmax ...`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DTypeError, InvalidValueError, ShapeError
from tensorlib.kernels import softmax as softmax_kernels
from tensorlib.ops import elementwise
from tensorlib.ops._common import Array, Grads, astype, dim_index, floating, record, single
from tensorlib.ops.out import takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _real(input: Tensor, where: str) -> Array:
    x: Array = input.array
    if x.dtype.kind != "f":
        raise DTypeError(
            where,
            f"not implemented for {dtypes.of(x.dtype)}",
            "floating point",
            hint="use x.float()",
        )
    return x


def relu(input: Tensor) -> Tensor:
    """`max(input, 0)`."""
    x = input.array
    if x.dtype.kind in "bc":
        raise DTypeError("relu", f"not supported for {dtypes.of(x.dtype)}", "a real number type")
    output = np.maximum(x, 0)

    def backward(grad: Array) -> Grads:
        return (grad * (output > 0),)

    return record(output, backward, input)


def sigmoid(input: Tensor) -> Tensor:
    """`1 / (1 + exp(-input))`."""
    x = (input := floating(input)).array
    output = _sigmoid(x)

    def backward(grad: Array) -> Grads:
        return (grad * (output * (1 - output)),)

    return record(output, backward, input)


def _sigmoid(x: Any) -> Any:
    """Overflow of exp gives the limit 0; a Tensor's stand-in has its own, without overflow."""
    return x.sigmoid() if hasattr(x, "sigmoid") else np.reciprocal(1 + np.exp(-x))


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    input = floating(input)
    output = np.tanh(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * (1 - output * output),)

    return record(output, backward, input)


def relu6(input: Tensor) -> Tensor:
    """`min(max(input, 0), 6)`."""
    return hardtanh(input, 0.0, 6.0)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`input` limited to [min_val, max_val]."""
    x = input.array
    if min_val > max_val:
        raise InvalidValueError("hardtanh", f"min_val {min_val} is larger than max_val {max_val}")

    def backward(grad: Array) -> Grads:
        return (grad * ((x > min_val) & (x < max_val)),)

    return record(np.clip(x, x.dtype.type(min_val), x.dtype.type(max_val)), backward, input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`input` where positive, `negative_slope * input` elsewhere."""
    x = _real(input, "leaky_relu")

    def backward(grad: Array) -> Grads:
        return (np.where(x > 0, grad, grad * negative_slope),)

    return record(np.where(x > 0, x, x * x.dtype.type(negative_slope)), backward, input)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Leaky ReLU with a learned slope, one for all or one per channel (dimension 1)."""
    x, w = _real(input, "prelu"), weight.array
    channels = x.shape[1] if x.ndim > 1 else 1
    if w.size not in (1, channels) or w.ndim > 1:
        raise ShapeError(
            "prelu", f"weight of shape {w.shape} for input {x.shape}", f"1 or {channels} slopes"
        )
    shape = (-1,) + (1,) * (x.ndim - 2) if w.size > 1 and x.ndim > 1 else ()
    if not shape:
        shape = (1,) * x.ndim

    def backward(grad: Array) -> Grads:
        slope = w.reshape(shape)
        partial = np.where(x > 0, 0, x * grad)
        axes = tuple(i for i in range(x.ndim) if not (w.size > 1 and i == 1))
        return np.where(x > 0, grad, grad * slope), partial.sum(axes).reshape(w.shape)

    return record(np.where(x > 0, x, x * w.reshape(shape)), backward, input, weight)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False
) -> Tensor:
    """Leaky ReLU with a random slope in training, the mean slope otherwise."""
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    from tensorlib import random
    from tensorlib.ops._common import wrap

    slope = wrap(
        random.default_generator.uniform(input.array.shape, input.array.dtype, lower, upper)
    )
    from tensorlib.ops.indexing import where

    result: Tensor = where(elementwise.gt(input, 0), input, elementwise.mul(input, slope))
    return result


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`input` where positive, `alpha * (exp(input) - 1)` elsewhere."""
    x = _real(input, "elu")

    def backward(grad: Array) -> Grads:
        return (np.where(x > 0, grad, grad * (alpha * np.exp(np.minimum(x, 0)))),)

    return record(
        np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0))), backward, input
    )


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(input: Tensor) -> Tensor:
    """Self-normalising exponential unit."""
    return elementwise.mul(elu(input, _SELU_ALPHA), _SELU_SCALE)


def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`."""
    x = _real(input, "celu")

    def backward(grad: Array) -> Grads:
        return (np.where(x > 0, grad, grad * np.exp(np.minimum(x, 0) / alpha)),)

    return record(
        np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0) / alpha)),
        backward,
        input,
    )


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """`x * Phi(x)` with the normal distribution function; "tanh" uses its approximation."""
    from tensorlib.ops.special import erf_array

    x = _real(input, "gelu")
    if approximate == "tanh":
        return _gelu_tanh(input)
    if approximate != "none":
        raise ShapeError("gelu", f"approximate={approximate!r}", "'none' or 'tanh'")
    half = x.dtype.type(math.sqrt(0.5))
    output = erf_array(x * half)
    output += 1
    output *= x
    output *= x.dtype.type(0.5)

    def backward(grad: Array) -> Grads:
        cdf = 0.5 * (1 + erf_array(x * half))
        return (grad * (cdf + x * (np.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)))),)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops import special

        cdf = 0.5 * (1 + special.erf(x * math.sqrt(0.5)))  # type: ignore[arg-type]  # a Tensor when run again
        return (grad * (cdf + x * (elementwise.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)))),)  # type: ignore[arg-type]

    return record(output, backward, input, smooth=smooth)


def _gelu_tanh(input: Tensor) -> Tensor:
    inner = elementwise.mul(
        elementwise.add(input, elementwise.mul(elementwise.pow(input, 3), 0.044715)),
        math.sqrt(2 / math.pi),
    )
    return elementwise.mul(elementwise.mul(input, 0.5), elementwise.add(tanh(inner), 1))


def silu(input: Tensor) -> Tensor:
    """`x * sigmoid(x)`."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        gate = _sigmoid(x)
        return (grad * (gate * (1 + x * (1 - gate))),)

    return record(x * _sigmoid(x), backward, input)


def mish(input: Tensor) -> Tensor:
    """`x * tanh(softplus(x))`."""
    x = _real(input, "mish")

    def backward(grad: Array) -> Grads:
        t = np.tanh(np.log1p(np.exp(np.minimum(x, 0) - np.maximum(x, 0))) + np.maximum(x, 0))
        return (grad * (t + x * (1 - t * t) * _sigmoid(x)),)

    return record(x * np.tanh(np.logaddexp(x, x.dtype.type(0))), backward, input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta * x)) / beta`; linear where `beta * x` exceeds `threshold`."""
    x = _real(input, "softplus")
    scaled = x * x.dtype.type(beta)
    soft = np.where(
        scaled > threshold,
        x,
        np.log1p(np.exp(np.minimum(scaled, x.dtype.type(threshold)))) / x.dtype.type(beta),
    )

    def backward(grad: Array) -> Grads:
        return (grad * np.where(x * beta > threshold, 1, _sigmoid(x * beta)),)

    return record(soft, backward, input)


def logsigmoid(input: Tensor) -> Tensor:
    """`log(sigmoid(x))`."""
    x = _real(input, "logsigmoid")

    def backward(grad: Array) -> Grads:
        return (grad * _sigmoid(-x),)

    return record(np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))), backward, input)


def softsign(input: Tensor) -> Tensor:
    """`x / (1 + |x|)`."""
    return elementwise.div(input, elementwise.add(elementwise.abs(input), 1))


def tanhshrink(input: Tensor) -> Tensor:
    """`x - tanh(x)`."""
    return elementwise.sub(input, tanh(input))


def hardswish(input: Tensor) -> Tensor:
    """`x * relu6(x + 3) / 6`."""
    x = _real(input, "hardswish")

    def backward(grad: Array) -> Grads:
        return (np.where(x <= -3, 0, np.where(x < 3, grad * (x / 3 + 0.5), grad)),)

    return record(x * np.clip(x + 3, 0, 6) / 6, backward, input)


def hardsigmoid(input: Tensor) -> Tensor:
    """`relu6(x + 3) / 6`."""
    x = _real(input, "hardsigmoid")

    def backward(grad: Array) -> Grads:
        return (grad * ((x > -3) & (x < 3)) / 6,)

    return record(np.clip(x + 3, 0, 6) / 6, backward, input)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`x` where |x| exceeds `lambd`, 0 elsewhere."""
    x = _real(input, "hardshrink")

    def backward(grad: Array) -> Grads:
        return (grad * (np.abs(x) > lambd),)

    return record(x * (np.abs(x) > lambd), backward, input)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`x` moved towards zero by `lambd`."""
    x = _real(input, "softshrink")
    if lambd < 0:
        raise ShapeError(
            "softshrink", f"lambda must be greater or equal to 0, but found to be {lambd}"
        )

    def backward(grad: Array) -> Grads:
        return (grad * (np.abs(x) > lambd),)

    return record(np.sign(x) * np.maximum(np.abs(x) - x.dtype.type(lambd), 0), backward, input)


def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """`x` where above `threshold`, `value` elsewhere."""
    x = input.array

    def backward(grad: Array) -> Grads:
        return (grad * (x > threshold),)

    return record(np.where(x > threshold, x, x.dtype.type(value)), backward, input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """First half along `dim` times the sigmoid of the second."""
    from tensorlib.ops.shape import split

    axis = dim_index(dim, input.array.ndim, "glu")
    size = input.array.shape[axis] if input.array.ndim else 1
    if size % 2:
        raise ShapeError(
            "glu", f"Halving dimension must be even, but dimension {axis} is size {size}"
        )
    a, b = split(input, size // 2, axis)
    return elementwise.mul(a, sigmoid(b))


@takes_out
def softmax(input: Tensor, dim: Any = None, *, dtype: Any = None) -> Tensor:
    """Exponentials of `input`, normalised to sum to one along `dim`."""
    x, axis, input, kind = _soft("softmax", input, dim, dtype)
    output = (softmax_kernels.softmax(x, axis) if x.size else x.copy()).reshape(input.array.shape)

    def backward(grad: Array) -> Grads:
        if not grad.ndim:
            return (grad * 0,)
        return (output * (grad - (grad * output).sum(axis, keepdims=True)),)

    return astype(record(output, backward, input), kind)


def _soft(where: str, input: Tensor, dim: Any, dtype: Any) -> tuple[Any, int, Tensor, Any]:
    if dim is None:
        dim = 0 if input.array.ndim in (0, 1, 3) else 1
    if dtype is not None:
        input = elementwise.cast(input, dtype)
    axis = dim_index(dim, input.array.ndim, where)
    kind = _real(input, where).dtype
    x = (input := single(input)).array
    return (x if x.ndim else x.reshape(1)), axis, input, kind


@takes_out
def log_softmax(input: Tensor, dim: Any = None, *, dtype: Any = None) -> Tensor:
    """Logarithm of `softmax`, without overflow."""
    x, axis, input, kind = _soft("log_softmax", input, dim, dtype)
    output = softmax_kernels.log_softmax(x, axis) if x.size else x.copy()
    output = output.reshape(input.array.shape)

    def backward(grad: Array) -> Grads:
        if not grad.ndim:
            return (grad * 0,)
        return (grad - np.exp(output) * grad.sum(axis, keepdims=True),)

    return astype(record(output, backward, input), kind)


def softmin(input: Tensor, dim: int | None = None, *, dtype: Any = None) -> Tensor:
    """`softmax(-input)`."""
    return softmax(elementwise.neg(input), dim, dtype=dtype)


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """`log(x / (1 - x))`, `x` limited to [eps, 1 - eps] if given."""
    x = floating(input) if eps is None else elementwise.clamp(floating(input), eps, 1 - eps)
    return elementwise.log(elementwise.div(x, elementwise.rsub(x, 1)))
