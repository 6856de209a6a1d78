"""Normalisation: `batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DimensionError, DTypeError, InvalidValueError, ShapeError
from tensorlib.kernels import normalization as kernels
from tensorlib.ops import elementwise, reduction, shape
from tensorlib.ops._common import Array, Grads, called, check_dtype, record, wrap
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class OneValue(ShapeError, ValueError):
    """A batch of one value per channel has no variance (ValueError in PyTorch)."""


def _check_types(where: str, x: Array, *parameters: Tensor | None) -> None:
    """Floating point, and parameters of the same type."""
    check_dtype(where, x, "f", "floating point")
    for parameter in parameters:
        if parameter is not None and parameter.array.dtype != x.dtype:
            raise DTypeError(
                where,
                f"mixed dtypes: input is {dtypes.of(x.dtype)}, a parameter is "
                f"{dtypes.of(parameter.array.dtype)}",
                "one type, or a half precision input with float32 parameters",
            )


@accepts("f")
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """[N, C, ...] normalised per channel: by the batch in training (updating the running
    statistics), by them otherwise.
    """
    x = input.array
    if x.shape == (0,):  # PyTorch takes this one shape without channels
        return shape.clone(input)
    _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps)
    if not training:
        return _evaluate(input, running_mean, running_var, weight, bias, eps)
    w = None if weight is None else weight.array
    output, mean, invstd = kernels.batch_norm_train(x, w, None if bias is None else bias.array, eps)
    _update(running_mean, running_var, mean, invstd, momentum, eps, x.size // max(x.shape[1], 1))
    inputs = (input, *(t for t in (weight, bias) if t is not None))

    def backward(grad: Array) -> Grads:
        parts = kernels.batch_norm_train_grad(grad, x, mean, invstd, w)
        return (
            parts[0],
            *((parts[1],) if weight is not None else ()),
            *((parts[2],) if bias is not None else ()),
        )

    def smooth(grad: Any) -> Grads:
        return _smooth_batch_norm(grad, x, w, eps, weight is not None, bias is not None)

    return record(output, backward, *inputs, smooth=smooth)


def batch_norm_relu(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
) -> Tensor:
    """`relu(batch_norm(input, ...) + residual)` of float32, in fewer passes over memory; without
    training it records no gradient.
    """
    x = input.array
    _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps)
    other = None if residual is None else residual.array
    if not training:
        scale, shift = _scale_shift(running_mean, running_var, weight, bias, eps)
        return wrap(kernels.scale_shift(x, scale, shift, True, other))
    w = None if weight is None else weight.array
    b = None if bias is None else bias.array
    output, mean, invstd = kernels.batch_norm_relu_train(x, w, b, eps, other)
    _update(running_mean, running_var, mean, invstd, momentum, eps, x.size // max(x.shape[1], 1))
    inputs = (input, *(t for t in (weight, bias, residual) if t is not None))
    offset = None if b is None else b.copy()  # PyTorch allows the bias to change meanwhile
    added = residual is not None

    def backward(grad: Array) -> Grads:
        parts = kernels.batch_norm_relu_train_grad(grad, x, output, mean, invstd, w, offset, added)
        return (
            parts[0],
            *((parts[1],) if weight is not None else ()),
            *((parts[2],) if bias is not None else ()),
            *((parts[3],) if added else ()),
        )

    def smooth(grad: Any) -> Grads:
        masked = grad * ~(output <= 0)
        parts = _smooth_batch_norm(masked, x, w, eps, weight is not None, bias is not None)
        return (*parts, masked) if added else parts

    backward.__qualname__ = "relu.backward"  # PyTorch's last step
    return record(output, backward, *inputs, smooth=smooth)


def _check_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> None:
    x = input.array
    if x.ndim < 2:
        raise DimensionError("batch_norm", f"input has shape {x.shape}", "[N, C, ...]")
    if eps < 0 or (training and eps == 0):
        raise InvalidValueError("batch_norm", f"eps must be positive, but got {eps}")
    _check_types("batch_norm", x, running_mean, running_var, weight, bias)
    for name, value in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        if value is not None and value.array.shape != (x.shape[1],):
            raise ShapeError(
                "batch_norm",
                f"{name} should contain {x.shape[1]} elements not {value.array.size}, input "
                f"{x.shape}",
            )
    if not training:
        if running_mean is None or running_var is None:
            raise ShapeError(
                "batch_norm",
                "Expected running_mean and running_var to be defined when training=False",
            )
    elif x.size // max(x.shape[1], 1) == 1:
        raise OneValue(
            "batch_norm",
            f"Expected more than 1 value per channel when training, got input size {x.shape}",
        )


def _smooth_batch_norm(grad: Any, x: Any, w: Any, eps: float, has_w: bool, has_b: bool) -> Grads:
    axes = (0, *range(2, x.ndim))
    w = None if w is None else w.reshape((1, -1) + (1,) * (x.ndim - 2))
    return _smooth_norm(grad, x, w, axes, axes, eps, has_w, has_b)


def _smooth_norm(
    grad: Any,
    x: Any,
    w: Any,
    axes: tuple[int, ...],
    others: tuple[int, ...],
    eps: float,
    has_w: bool,
    has_b: bool,
) -> Grads:
    """Gradients of normalising over `axes` in operators, with the statistics computed again from
    `x`.
    """
    centred = x - x.mean(axes, True)
    invstd = ((centred * centred).mean(axes, True) + eps) ** -0.5
    hat = centred * invstd
    inner = grad if w is None else grad * w
    dx = invstd * (inner - inner.mean(axes, True) - hat * (inner * hat).mean(axes, True))
    parts: Grads = (dx,)
    if has_w:
        parts += ((grad * hat).sum(others) if others else grad * hat,)
    if has_b:
        parts += (grad.sum(others) if others else grad,)
    return parts


def _update(
    running_mean: Any,
    running_var: Any,
    mean: Any,
    invstd: Any,
    momentum: float,
    eps: float,
    count: int,
) -> None:
    """Move the running statistics towards the batch's; the variance unbiased."""
    from tensorlib.autograd.tape import bump

    if not count:
        return
    if running_mean is not None:
        target = running_mean.array
        target *= target.dtype.type(1 - momentum)
        target += mean * target.dtype.type(momentum)
        bump(running_mean)
    if running_var is not None:
        variance = (1 / (invstd.astype(np.float64) ** 2) - eps) * (count / (count - 1))
        target = running_var.array
        target *= target.dtype.type(1 - momentum)
        target += (np.maximum(variance, 0) * momentum).astype(target.dtype)
        bump(running_var)


def _scale_shift(
    running_mean: Any, running_var: Any, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Array, Array]:
    """What evaluation multiplies a channel with, and adds to it."""
    variance = running_var.array
    scale = 1 / np.sqrt(variance + variance.dtype.type(eps))
    shift = -running_mean.array * scale
    if weight is not None:
        shift *= weight.array
        scale = scale * weight.array
    if bias is not None:
        shift = shift + bias.array
    return scale, shift


def _evaluate(
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    x, mean, variance = input.array, running_mean.array, running_var.array
    flat = (1, -1) + (1,) * (x.ndim - 2)
    w = None if weight is None else weight.array
    scale, shift = _scale_shift(running_mean, running_var, weight, bias, eps)
    output = kernels.scale_shift(
        x, scale.astype(x.dtype, copy=False), shift.astype(x.dtype, copy=False)
    )
    axes = (0, *range(2, x.ndim))
    inputs = (input, *(t for t in (weight, bias) if t is not None))

    def backward(grad: Array) -> Grads:
        inverse = ((variance + eps) ** -0.5).reshape(flat).astype(x.dtype)
        parts: Grads = (grad * (inverse if w is None else inverse * w.reshape(flat)),)
        if weight is not None:
            parts += ((grad * ((x - mean.reshape(flat)) * inverse)).sum(axes),)
        if bias is not None:
            parts += (grad.sum(axes),)
        return parts

    def smooth(grad: Any) -> Grads:
        inverse = ((running_var.array + eps) ** -0.5).reshape(flat).astype(grad.array.dtype)
        parts: Grads = (grad * (inverse if w is None else w.reshape(flat) * inverse),)
        if weight is not None:
            parts += ((grad * ((x - running_mean.array.reshape(flat)) * inverse)).sum(axes),)
        if bias is not None:
            parts += (grad.sum(axes),)
        return parts

    backward.__qualname__ = "batch_norm.backward"
    return record(output, backward, *inputs, smooth=smooth)


@accepts("f")
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int] | int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`input` normalised over its last dimensions, times `weight` plus `bias`."""
    x = input.array
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    n = len(sizes)
    _check_types("layer_norm", x, weight, bias)
    if not n or x.shape[-n:] != sizes:
        raise ShapeError(
            "layer_norm",
            f"Given normalized_shape={list(sizes)}, expected input with shape [*, "
            f"{', '.join(map(str, sizes))}], but got input of size {x.shape}",
        )
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.array.shape != sizes:
            raise ShapeError("layer_norm", f"{name} has shape {value.array.shape}", f"{sizes}")
    axes = tuple(range(x.ndim - n, x.ndim))
    lead = tuple(range(x.ndim - n))
    size = math.prod(sizes)
    w = None if weight is None else weight.array
    flat = None if w is None else w.reshape(size)
    output, mean, invstd = kernels.layer_norm(
        x.reshape(-1, size), flat, None if bias is None else bias.array.reshape(size), eps
    )
    inputs = (input, *(t for t in (weight, bias) if t is not None))

    def backward(grad: Array) -> Grads:
        dx, dw, db = kernels.layer_norm_grad(
            grad.reshape(-1, size),
            x.reshape(-1, size),
            mean,
            invstd,
            None if w is None else w.reshape(size),
            bias is not None,
        )
        parts: Grads = (dx.reshape(x.shape),)
        if weight is not None:
            parts += (dw.reshape(sizes),)
        if bias is not None:
            parts += (db.reshape(sizes),)
        return parts

    def smooth(grad: Any) -> Grads:
        return _smooth_norm(grad, x, w, axes, lead, eps, weight is not None, bias is not None)

    return record(output.reshape(x.shape), backward, *inputs, smooth=smooth)


@accepts("fc")
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`input` divided by its root mean square over the last dimensions `normalized_shape`."""
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    n = len(sizes)
    if not n or input.array.shape[-n:] != sizes:
        raise ShapeError(
            "rms_norm",
            f"Given normalized_shape={list(sizes)}, got input of size {input.array.shape}",
        )
    if weight is not None and weight.array.shape != sizes:
        raise ShapeError("rms_norm", f"weight has shape {weight.array.shape}", f"{sizes}")
    limit = dtypes.float_info(input.array.dtype).eps.item() if eps is None else eps
    size = reduction.mean(elementwise.square(input), tuple(range(-n, 0)), True)
    result = elementwise.mul(input, elementwise.rsqrt(elementwise.add(size, limit)))
    return result if weight is None else elementwise.mul(result, weight)


@called("NativeGroupNormBackward0")
@accepts("f")
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """[N, C, ...] normalised over groups of channels and all positions."""
    x = input.array
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise ShapeError(
            "group_norm",
            f"Expected number of channels in input to be divisible by num_groups, but got input "
            f"of shape {x.shape} and num_groups={num_groups}",
        )
    _check_types("group_norm", x, weight, bias)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.array.shape != (x.shape[1],):
            raise ShapeError("group_norm", f"{name} has shape {value.array.shape}", f"{x.shape[1]}")
    if x.shape[0] == 1 and x.size == num_groups:
        raise OneValue(
            "group_norm",
            f"Expected more than 1 value per channel when training, got input size {x.shape}",
        )
    w = None if weight is None else weight.array
    output, mean, invstd = kernels.group_norm(
        x, num_groups, w, None if bias is None else bias.array, eps
    )
    inputs = (input, *(t for t in (weight, bias) if t is not None))

    def backward(grad: Array) -> Grads:
        dx, dw, db = kernels.group_norm_grad(grad, x, num_groups, mean, invstd, w)
        parts: Grads = (dx,)
        if weight is not None:
            parts += (dw,)
        if bias is not None:
            parts += (db,)
        return parts

    def smooth(grad: Any) -> Grads:
        n, c = x.shape[:2]
        form = (n, num_groups, c // num_groups, -1)
        scale = None if w is None else w.reshape((1, *form[1:]))
        has = weight is not None, bias is not None
        dx, *rest = _smooth_norm(
            grad.reshape(form), x.reshape(form), scale, (2, 3), (0, 3), eps, *has
        )
        return (dx.reshape(x.shape), *(part.reshape((c,)) for part in rest))

    return shape.laid_out_like(record(output, backward, *inputs, smooth=smooth), input)


@called("ViewBackward0")
@accepts("f")
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """[N, C, ...] normalised per image and channel."""
    x = input.array
    _check_types("instance_norm", x, running_mean, running_var, weight, bias)
    if (running_mean is None) != (running_var is None):
        raise InvalidValueError(
            "instance_norm", "only one of running_mean and running_var is given", "both or neither"
        )
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if math.prod(x.shape[2:]) == 1:
        raise OneValue(
            "instance_norm",
            f"Expected more than 1 spatial element when training, got input size {x.shape}",
        )
    if running_mean is not None or running_var is not None:
        axes = tuple(range(2, x.ndim))
        count = math.prod(x.shape[2:])
        mean, variance = x.mean(axes), x.var(axes)
        _update(
            running_mean,
            running_var,
            mean.mean(0),
            1 / np.sqrt(variance.mean(0) + eps),
            momentum,
            eps,
            count,
        )
    return shape.contiguous(group_norm(input, x.shape[1], weight, bias, eps))


@accepts("fiubc")
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Channels divided by a power of the energy of their neighbours."""
    from tensorlib.ops.padding import pad_constant
    from tensorlib.ops.shape import unfold

    if input.array.ndim < 3:
        raise InvalidValueError(
            "local_response_norm",
            f"Expected 3D or higher dimensionality input (got {input.array.shape})",
        )
    if input.array.dtype != np.int64:
        check_dtype("local_response_norm", input.array, "f", "floating point or int64")
    if not input.array.size:
        return input
    whole = input.array.dtype.kind == "i"  # PyTorch averages whole numbers by whole numbers
    sides = [(0, 0)] * input.array.ndim
    sides[1] = (size // 2, (size - 1) // 2)
    squares = unfold(pad_constant(elementwise.square(input), sides, 0.0), 1, size, 1)
    if whole:
        energy = elementwise.div(reduction.sum(squares, -1), size, rounding_mode="trunc")
    else:
        energy = reduction.mean(squares, -1)
    return elementwise.div(
        input, elementwise.pow(elementwise.add(elementwise.mul(energy, alpha), k), beta)
    )
