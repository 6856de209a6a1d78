"""Activations: `relu sigmoid tanh gelu softmax ...`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import needs_grad
from tensorlib.errors import DTypeError, InvalidValueError, ShapeError
from tensorlib.kernels import activation as kernels
from tensorlib.kernels import softmax as softmax_kernels
from tensorlib.ops import elementwise
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    called,
    check_dtype,
    dim_index,
    floating,
    record,
    single,
    wrap,
)
from tensorlib.ops.out import takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

P = ParamSpec("P")


def _number(input: Tensor, where: str, kinds: str = "f") -> Array:
    check_dtype(where, input.array, kinds, "floating point" if kinds == "f" else "numbers")
    array: Array = input.array
    return array


def _widened(input: Tensor, where: str, kinds: str = "f") -> tuple[Tensor, Array, Any]:
    """`input` and its array in at least float32, and the type the result is to have."""
    kind = _number(input, where, kinds).dtype
    input = single(input)
    return input, input.array, kind


def _gradient(where: str, made: Any, held: Any, *numbers: Any) -> Any:
    """The backward of a kernel `made(grad, held, *numbers)`."""

    def backward(grad: Array) -> Grads:
        return (made(grad, held, *numbers),)

    backward.__qualname__ = where
    return backward


def _in_place(operation: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    from tensorlib.ops.inplace import store

    return store(input, operation.__name__ + "_", operation, *args, **kwargs)


def _over(
    operation: Callable[..., Tensor], input: Tensor, args: tuple[Any, ...], made: Any,
    numbers: tuple[Any, ...], slope: Any = None,
) -> Tensor:  # fmt: skip
    """`operation(input, *args)` in place, without other memory where it can be: by the kernel
    `made(x, *numbers)`, whose gradient is wanted only where `slope` gives it from the output.
    """
    x = input.array
    if x.dtype.char not in "fd" or (slope is None and needs_grad(input)):
        return _in_place(operation, input, *args)

    def direct(input: Tensor, *args: Any) -> Tensor:
        x = input.array
        made(x, *numbers, out=x)
        if slope is None:
            return wrap(x)
        backward = _gradient(operation.__name__, slope, x, *numbers)
        return record(x, backward, input)

    direct.__name__ = operation.__name__
    return _in_place(direct, input, *args)


def relu(input: Tensor) -> Tensor:
    """`max(input, 0)`."""
    x = input.array
    if x.dtype.kind in "bc":
        raise DTypeError("relu", f"not supported for {dtypes.of(x.dtype)}", "a real number type")
    output = kernels.relu(x)
    backward = _gradient("relu", kernels.relu_grad, output)
    return record(output, backward, input)


def relu_(input: Tensor) -> Tensor:
    """`relu` in place."""
    return _over(relu, input, (), kernels.relu, (), kernels.relu_grad)


@takes_out
def sigmoid(input: Tensor) -> Tensor:
    """`1 / (1 + exp(-input))`."""
    input = floating(input)
    output = kernels.sigmoid(input.array)
    backward = _gradient("sigmoid", kernels.sigmoid_grad, output)
    return record(output, backward, input)


@takes_out
def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    input = floating(input)
    output = kernels.tanh(input.array)
    backward = _gradient("tanh", kernels.tanh_grad, output)
    return record(output, backward, input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """`min(max(input, 0), 6)`."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """`input` limited to [min_val, max_val]."""
    x = _number(input, "hardtanh", "fiu")
    if min_val > max_val:
        raise InvalidValueError("hardtanh", f"min_val {min_val} is larger than max_val {max_val}")
    limits = min_val, max_val
    if inplace:
        return _over(hardtanh, input, limits, kernels.hardtanh, limits, kernels.hardtanh_grad)
    output = kernels.hardtanh(x, min_val, max_val).astype(x.dtype, copy=False)
    backward = _gradient("hardtanh", kernels.hardtanh_grad, x, min_val, max_val)
    return record(output, backward, input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """`input` where positive, `negative_slope * input` elsewhere."""
    if inplace:
        given = (negative_slope,)
        slope = kernels.leaky_relu_grad if negative_slope > 0 else None
        return _over(leaky_relu, input, given, kernels.leaky_relu, given, slope)
    input, x, kind = _widened(input, "leaky_relu")
    backward = _gradient("leaky_relu", kernels.leaky_relu_grad, x, negative_slope)
    output = kernels.leaky_relu(x, negative_slope)
    return astype(record(output, backward, input), kind)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Leaky ReLU with a learned slope, one for all or one per channel (dimension 1)."""
    input, x, kind = _widened(input, "prelu")
    w = (weight := single(weight)).array
    channels = x.shape[1] if x.ndim > 1 else 1
    if w.size not in (1, channels) or w.ndim > 1:
        raise ShapeError(
            "prelu", f"weight of shape {w.shape} for input {x.shape}", f"1 or {channels} slopes"
        )
    form = tuple(w.size if i == 1 else 1 for i in range(x.ndim))

    def backward(grad: Array) -> Grads:
        slope = w.reshape(form)
        partial = np.where(x > 0, 0, x * grad)
        axes = tuple(i for i in range(x.ndim) if not (w.size > 1 and i == 1))
        return np.where(x > 0, grad, grad * slope), partial.sum(axes).reshape(w.shape)

    output = np.where(x > 0, x, x * w.reshape(form))
    return astype(record(output, backward, input, weight), kind)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Leaky ReLU with a random slope in training, the mean slope otherwise."""
    if inplace:
        return _in_place(rrelu, input, lower, upper, training)
    if lower > upper:
        raise ShapeError("rrelu", f"lower {lower} is larger than upper {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    x = _number(input, "rrelu")
    if x.dtype.itemsize < 4:
        raise DTypeError("rrelu", f"not implemented for {dtypes.of(x.dtype)} in training")
    # one draw for each element that needs a slope, in double precision, as PyTorch's
    slope = np.ones(x.shape, x.dtype)
    low = x <= 0
    slope[low] = wrap(np.empty(np.count_nonzero(low))).uniform_(lower, upper).array

    def backward(grad: Array) -> Grads:
        return (grad * slope,)

    def smooth(grad: Any) -> Grads:
        return (elementwise.mul(grad, wrap(slope)),)

    return record(x * slope, backward, input, smooth=smooth)


def _exponential(
    where: str, input: Tensor, alpha: float, scale: float = 1.0, slope: float = 1.0
) -> Tensor:
    """`scale * x` where positive, `scale * alpha * (exp(slope * x) - 1)` elsewhere."""
    input, x, kind = _widened(input, where)
    backward = _gradient(where, kernels.elu_grad, x, alpha, scale, slope)
    output = kernels.elu(x, alpha, scale, slope)
    return astype(record(output, backward, input), kind)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`input` where positive, `alpha * (exp(input) - 1)` elsewhere."""
    if inplace:
        return _over(elu, input, (alpha,), kernels.elu, (alpha, 1.0, 1.0))
    return _exponential("elu", input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Self-normalising exponential unit."""
    if inplace:
        return _in_place(selu, input)
    return _exponential("selu", input, 1.6732632423543772, 1.0507009873554805)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`."""
    if inplace:
        return _in_place(celu, input, alpha)
    if alpha == 0:
        raise ShapeError("celu", "alpha cannot be 0")
    return _exponential("celu", input, alpha, slope=1 / alpha)


@takes_out
@called("GeluBackward0")
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """`x * Phi(x)` with the normal distribution function; "tanh" uses its approximation."""
    input, x, kind = _widened(input, "gelu")
    if approximate not in ("none", "tanh"):
        raise ShapeError("gelu", f"approximate={approximate!r}", "'none' or 'tanh'")
    if approximate == "tanh":
        backward = _gradient("gelu", kernels.gelu_tanh_grad, x)
        return astype(record(kernels.gelu_tanh(x), backward, input), kind)
    backward = _gradient("gelu", kernels.gelu_grad, x)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops import special

        cdf = 0.5 * (1 + special.erf(x * math.sqrt(0.5)))  # type: ignore[arg-type]  # a Tensor when run again
        return (grad * (cdf + x * (elementwise.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)))),)  # type: ignore[arg-type]

    return astype(record(kernels.gelu(x), backward, input, smooth=smooth), kind)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """`x * sigmoid(x)`."""
    if inplace:
        return _over(silu, input, (), kernels.silu, ())
    input, x, kind = _widened(input, "silu", "fc")
    backward = _gradient("silu", kernels.silu_grad, x)
    return astype(record(kernels.silu(x), backward, input), kind)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """`x * tanh(softplus(x))`."""
    if inplace:
        return _over(mish, input, (), kernels.mish, ())
    input, x, kind = _widened(input, "mish")
    backward = _gradient("mish", kernels.mish_grad, x)
    return astype(record(kernels.mish(x), backward, input), kind)


@takes_out
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta * x)) / beta`; linear where `beta * x` exceeds `threshold`."""
    input, x, kind = _widened(input, "softplus")
    backward = _gradient("softplus", kernels.softplus_grad, x, beta, threshold)
    soft = kernels.softplus(x, beta, threshold)
    return astype(record(soft, backward, input), kind)


@takes_out
def logsigmoid(input: Tensor) -> Tensor:
    """`log(sigmoid(x))`."""
    input, x, kind = _widened(input, "logsigmoid")

    def backward(grad: Array) -> Grads:
        return (grad * kernels.logistic(-x),)

    output = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
    return astype(record(output, backward, input), kind)


def softsign(input: Tensor) -> Tensor:
    """`x / (1 + |x|)`."""
    return elementwise.div(input, elementwise.add(elementwise.abs(input), 1))


def tanhshrink(input: Tensor) -> Tensor:
    """`x - tanh(x)`."""
    return elementwise.sub(input, tanh(input))


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """`x * relu6(x + 3) / 6`."""
    if inplace:
        return _over(hardswish, input, (), kernels.hardswish, ())
    input, x, kind = _widened(input, "hardswish")
    backward = _gradient("hardswish", kernels.hardswish_grad, x)
    return astype(record(kernels.hardswish(x), backward, input), kind)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """`relu6(x + 3) / 6`."""
    if inplace:
        return _over(hardsigmoid, input, (), kernels.hardsigmoid, ())
    input, x, kind = _widened(input, "hardsigmoid")
    backward = _gradient("hardsigmoid", kernels.hardsigmoid_grad, x)
    return astype(record(kernels.hardsigmoid(x), backward, input), kind)


@takes_out
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`x` where |x| exceeds `lambd`, 0 elsewhere."""
    x = _number(input, "hardshrink")

    def backward(grad: Array) -> Grads:
        return (grad * (np.abs(x) > lambd),)

    return record(x * (np.abs(x) > lambd), backward, input)


@takes_out
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`x` moved towards zero by `lambd`."""
    input, x, kind = _widened(input, "softshrink")
    if lambd < 0:
        raise ShapeError(
            "softshrink", f"lambda must be greater or equal to 0, but found to be {lambd}"
        )

    def backward(grad: Array) -> Grads:
        return (grad * (np.abs(x) > lambd),)

    output = np.sign(x) * np.maximum(np.abs(x) - x.dtype.type(lambd), 0)
    return astype(record(output, backward, input), kind)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """`x` where above `threshold`, `value` elsewhere."""
    if inplace:
        return _in_place(_threshold, input, threshold, value)
    x = _number(input, "threshold", "fiu")

    def backward(grad: Array) -> Grads:
        return (grad * (x > threshold),)

    return record(np.where(x > threshold, x, x.dtype.type(value)), backward, input)


_threshold = threshold  # the function's own parameter hides its name


@called("GluBackward0")
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """First half along `dim` times the sigmoid of the second."""
    from tensorlib.ops.shape import split

    input, x, kind = _widened(input, "glu")
    if not x.ndim:
        raise ShapeError("glu", "does not support 0-dimensional tensors")
    axis = dim_index(dim, x.ndim, "glu")
    if x.shape[axis] % 2:
        raise ShapeError("glu", f"Halving dimension must be even, but {axis} is {x.shape[axis]}")
    a, b = split(input, x.shape[axis] // 2, axis)
    return astype(elementwise.mul(a, sigmoid(b)), kind)


@takes_out
def softmax(input: Tensor, dim: Any = None, dtype: Any = None) -> Tensor:
    """Exponentials of `input`, normalised to sum to one along `dim`."""
    x, axis, input, kind = _soft("softmax", input, dim, dtype)
    output = softmax_kernels.softmax(x, axis) if x.size else x.copy()
    if not input.array.ndim:
        output = output.reshape(())

    def backward(grad: Array) -> Grads:
        if not grad.ndim:
            return (grad * 0,)
        return (softmax_kernels.softmax_grad(grad, output, axis),)

    result = record(output, backward, input)
    return result if kind is output.dtype else astype(result, kind)


def _soft(where: str, input: Tensor, dim: Any, dtype: Any) -> tuple[Any, int, Tensor, Any]:
    if dim is None:
        dim = 0 if input.array.ndim in (0, 1, 3) else 1
    if dtype is not None:
        input = elementwise.cast(input, dtype)
    axis = dim_index(dim, input.array.ndim, where)
    kind = _number(input, where).dtype
    x = (input := single(input)).array
    return (x if x.ndim else x.reshape(1)), axis, input, kind


@takes_out
def log_softmax(input: Tensor, dim: Any = None, dtype: Any = None) -> Tensor:
    """Logarithm of `softmax`, without overflow."""
    x, axis, input, kind = _soft("log_softmax", input, dim, dtype)
    output = softmax_kernels.log_softmax(x, axis) if x.size else x.copy()
    output = output.reshape(input.array.shape)

    def backward(grad: Array) -> Grads:
        if not grad.ndim:
            return (grad * 0,)
        return (softmax_kernels.log_softmax_grad(grad, output, axis),)

    return astype(record(output, backward, input), kind)


@takes_out
@called("LogitBackward0")
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """`log(x / (1 - x))`, `x` limited to [eps, 1 - eps] if given."""
    _number(input, "logit", "fiub")
    x = floating(input) if eps is None else elementwise.clamp(floating(input), eps, 1 - eps)
    return elementwise.log(elementwise.div(x, elementwise.rsub(x, 1)))


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """Samples of the Gumbel-softmax distribution (E. Jang et al., 2016); `hard` gives one-hot
    vectors with the gradient of the soft ones. `eps` has no effect, as in PyTorch.
    """
    _number(logits, "gumbel_softmax")
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    drawn = wrap(np.empty_like(logits.array)).exponential_()
    noisy = elementwise.add(logits, wrap(-np.log(drawn.array)))
    soft = softmax(elementwise.div(noisy, tau), dim)
    if not hard:
        return soft
    axis = dim_index(dim, soft.array.ndim, "gumbel_softmax")
    values = np.atleast_1d(soft.array)
    one_hot = np.zeros_like(values)
    np.put_along_axis(one_hot, np.expand_dims(values.argmax(axis), axis), 1, axis)
    return elementwise.add(wrap(one_hot.reshape(soft.array.shape) - soft.array), soft)


def _twin(
    operation: Callable[Concatenate[Tensor, P], Tensor],
) -> Callable[Concatenate[Tensor, P], Tensor]:
    def twin(input: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return _in_place(operation, input, *args, **kwargs)

    twin.__name__ = twin.__qualname__ = operation.__name__ + "_"
    twin.__doc__ = f"`{operation.__name__}` in place."
    return twin


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`hardtanh` in place."""
    return hardtanh(input, min_val, max_val, True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu` in place."""
    return leaky_relu(input, negative_slope, True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` in place."""
    return elu(input, alpha, True)


selu_, celu_, rrelu_ = _twin(selu), _twin(celu), _twin(rrelu)
threshold_ = _twin(threshold)
