"""Losses of classes: `nll_loss cross_entropy binary_cross_entropy ...`; `reduction` is "mean",
"sum" or "none".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DimensionError, DTypeError, InvalidValueError, ShapeError
from tensorlib.kernels import softmax as kernels
from tensorlib.ops import activation, elementwise, shape
from tensorlib.ops import reduction as reductions
from tensorlib.ops._common import Array, Grads, astype, called, record, single, wants
from tensorlib.ops.loss import _reduce, legacy_reduction
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@accepts("f", half="loss")
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative of the log-probability [N, C, ...] at class `target` [N, ...], weighted by class."""
    reduction = legacy_reduction(size_average, reduce, reduction)
    x = input.array
    picked, factor, total = _picked("nll_loss", x, target, weight, ignore_index, reduction)
    axis = 1 if x.ndim > 1 else 0
    values = np.take_along_axis(x, picked, axis)
    loss = -(values * factor)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(x)
        np.put_along_axis(out, picked, -factor * _spread(grad, reduction, total, axis), axis)
        return (out,)

    onehot = _one_hot_like(x, picked, axis)

    def smooth(grad: Any) -> Grads:
        return (_spread(grad, reduction, total, axis) * (onehot() * -factor),)

    return record(_collect(loss, reduction, total, axis), backward, input, smooth=smooth)


def _one_hot_like(x: Any, picked: Any, axis: int) -> Any:
    size, kind, count = x.shape, x.dtype, x.ndim

    def make() -> Any:
        places = np.arange(size[axis]).reshape([-1] + [1] * (count - 1 - axis))
        return (places == picked).astype(kind)

    return make


def _picked(
    where: str, x: Array, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Array, Array, Any]:
    """Class indices shaped for take_along_axis, the factor of each, and the divisor of the mean."""
    if reduction not in ("mean", "sum", "none"):
        raise InvalidValueError(
            where, f"{reduction} is not a valid value for reduction", "'mean', 'sum' or 'none'"
        )
    t = target.array
    if x.ndim == 0 or (x.ndim == 1 and t.ndim != 0 and not (t.shape == (1,))):
        raise ShapeError(
            where, f"input {x.shape}, target {t.shape}", "[C] with [], or [N, C, ...] with [N, ...]"
        )
    axis = 1 if x.ndim > 1 else 0
    if x.ndim > 1 and (x.shape[0], *x.shape[2:]) != t.shape:
        if x.shape[0] != (t.shape[0] if t.ndim else -1):
            raise BatchSize(
                where,
                f"Expected input batch_size ({x.shape[0]}) to match target batch_size "
                f"({t.shape[0] if t.ndim else 0}), input {x.shape}, target {t.shape}",
            )
        raise ShapeError(
            where,
            f"Expected target size {(x.shape[0], *x.shape[2:])}, got {t.shape}, input {x.shape}",
        )
    if t.dtype != np.int64 and (t.dtype != np.uint8 or x.ndim > 2):
        raise DTypeError(
            where,
            f"expected target dtype to be Long or Byte, but got {dtypes.of(t.dtype)}",
            "class indices of int64 (uint8 for [N, C])",
            hint="use target.long()",
        )
    classes = x.shape[axis]
    valid = t != ignore_index
    inside = (t >= 0) & (t < classes)
    if not (inside | ~valid).all():
        bad = t[valid & ~inside].reshape(-1)[0]
        raise DimensionError(
            where,
            f"Target {bad} is out of bounds",
            f"a class from 0 to {classes - 1}, or ignore_index={ignore_index}",
        )
    safe = np.where(valid, t, 0).astype(np.int64)
    if weight is not None:
        if weight.array.dtype != x.dtype:
            raise DTypeError(
                where,
                f"expected scalar type {dtypes.of(x.dtype)} but found"
                f" {dtypes.of(weight.array.dtype)} as weight",
            )
        if weight.array.shape != (classes,):
            raise ShapeError(
                where,
                f"weight tensor should be defined either for all {classes} classes or no classes "
                f"but got weight tensor of shape: {weight.array.shape}",
            )
        factor = np.where(valid, weight.array[safe], 0).astype(x.dtype)
    else:
        factor = valid.astype(x.dtype)
    total = factor.sum(dtype=x.dtype)
    if x.ndim == 1:
        safe, factor = safe.reshape(1), factor.reshape(1)
        return safe, factor, total
    return np.expand_dims(safe, axis), np.expand_dims(factor, axis), total


class BatchSize(ShapeError, ValueError):
    """Input and target of different batch sizes (ValueError in PyTorch)."""


def _collect(loss: Array, reduction: str, total: Any, axis: int) -> Any:
    if reduction == "none":
        return loss.reshape(()) if loss.ndim == 1 and axis == 0 else loss.squeeze(axis)
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / total


def _spread(grad: Any, reduction: str, total: Any, axis: int) -> Any:
    """The gradient of each element's loss from that of the reduced one."""
    if reduction == "none":
        if hasattr(grad, "array"):
            return shape.reshape(grad, (1,)) if grad.ndim == 0 else shape.unsqueeze(grad, axis)
        return grad.reshape(1) if grad.ndim == 0 else np.expand_dims(grad, axis)
    if reduction == "mean":
        return grad / total if total else grad * 0  # nothing but ignored targets
    return grad


@accepts("f", half="loss")
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of logits [N, C, ...] with class indices [N, ...] or class probabilities [N, C,
    ...].
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ShapeError(
            "cross_entropy", f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}"
        )
    if target.array.shape == input.array.shape and target.array.dtype.kind in "fV":
        if ignore_index >= 0:
            raise ShapeError(
                "cross_entropy",
                f"ignore_index={ignore_index} is not supported for floating point target",
            )
        return _probabilities(input, target, weight, reduction, label_smoothing)
    x = input.array
    if weight is None and not label_smoothing and reduction in ("mean", "sum", "none"):
        t = target.array
        if _ordinary(x, t, ignore_index):
            return _rows(input, t, reduction)
    axis = 1 if x.ndim > 1 else 0
    picked, factor, total = _picked("cross_entropy", x, target, weight, ignore_index, reduction)
    logs = kernels.log_softmax(x, axis) if x.size else x
    loss = -(np.take_along_axis(logs, picked, axis) * factor)
    smoothing = label_smoothing / x.shape[axis] if label_smoothing else 0.0
    spread: Any = None
    if smoothing:
        valid = (
            np.expand_dims(target.array, axis) if x.ndim > 1 else target.array.reshape(1)
        ) != ignore_index
        classes = (
            x.dtype.type(1)
            if weight is None
            else weight.array.reshape([-1] + [1] * (x.ndim - 1 - axis))
        )
        spread = (classes * valid).astype(x.dtype)
        loss = (1 - label_smoothing) * loss - smoothing * (logs * spread).sum(axis, keepdims=True)
        loss = loss.astype(x.dtype, copy=False)

    def backward(grad: Array) -> Grads:
        each = _spread(grad, reduction, total, axis)
        scale = factor * (1 - label_smoothing) if smoothing else factor
        out = np.exp(logs)
        if smoothing:
            out *= scale + smoothing * (
                spread.sum(axis, keepdims=True)
                if spread.shape[axis] > 1
                else spread * out.shape[axis]
            )
            out -= smoothing * spread
        else:
            out *= scale
        np.put_along_axis(out, picked, np.take_along_axis(out, picked, axis) - scale, axis)
        out *= each
        return (out.astype(x.dtype, copy=False),)

    onehot = _one_hot_like(x, picked, axis)

    def smooth(grad: Any) -> Grads:
        each = _spread(grad, reduction, total, axis)
        goal = onehot() * factor * (1 - label_smoothing)
        if smoothing:
            goal = goal + smoothing * np.broadcast_to(spread, goal.shape)
        soft = activation.softmax(x, axis)
        return (each * (soft * goal.sum(axis, keepdims=True) - goal),)

    return record(_collect(loss, reduction, total, axis), backward, input, smooth=smooth)


def _ordinary(x: Array, t: Array, ignore_index: int) -> bool:
    """Whether this is the usual case, [N, C] with N classes of which none is left out."""
    if type(x) is not np.ndarray or x.ndim != 2 or x.dtype.char not in "fd":
        return False
    if t.ndim != 1 or t.dtype.char != "l":
        return False
    rows, classes = x.shape
    if rows != t.shape[0] or not rows or np.minimum.reduce(t) < 0:
        return False
    if 0 <= ignore_index < classes and (t == ignore_index).any():
        return False
    return bool(np.maximum.reduce(t) < classes)


def _rows(input: Tensor, t: Array, reduction: str) -> Tensor:
    """Cross entropy of the usual case, in few steps: small models spend their time between them."""
    x = input.array
    count = x.shape[0]
    output, powers, total = kernels.cross_entropy(x, t, wants(input))
    if reduction != "none":
        output = np.add.reduce(output)
        if reduction == "mean":
            output = output / x.dtype.type(count)

    def backward(grad: Array) -> Grads:
        scale = grad / count if reduction == "mean" else grad if grad.ndim == 0 else grad[:, None]
        return (kernels.cross_entropy_grad(powers, total, t, scale),)

    def smooth(grad: Any) -> Grads:
        goal = np.zeros_like(x.array)
        goal[np.arange(count), t] = 1
        each = grad / count if reduction == "mean" else grad
        return ((activation.softmax(x, 1) - goal) * (each.unsqueeze(1) if each.ndim else each),)

    backward.__qualname__ = "cross_entropy"
    return record(output, backward, input, smooth=smooth)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """`cross_entropy` of the logits `linear(input, linear_weight, linear_bias)`: input [N, F] or
    [F], weight [C, ..., F], bias [C, ...], target [N, ...]. Of `options` (how PyTorch cuts the
    batch to save memory) only the type remains: with any, half precision computes in float32.
    """
    from tensorlib.ops.linalg import linear

    where = "linear_cross_entropy"
    kind = input.array.dtype
    if options is not None:
        if not input.dtype.is_floating_point:
            raise InvalidValueError(where, f"acc_dtype {input.dtype}", "floating point")
        input, linear_weight = single(input), single(linear_weight)
        linear_bias, weight = single(linear_bias), single(weight)
    size, form = input.array.shape, linear_weight.array.shape
    if len(size) not in (1, 2):
        raise ShapeError(where, f"input with {len(size)} dimensions", "1 or 2")
    if len(form) < 2:
        raise ShapeError(where, f"linear_weight with {len(form)} dimensions", "at least 2")
    if size[-1] != form[-1]:
        raise ShapeError(
            where, f"input {size} and linear_weight {form}", "equal last dimensions (in_features)"
        )
    if linear_bias is not None and linear_bias.array.shape != form[:-1]:
        raise ShapeError(where, f"linear_bias of shape {linear_bias.array.shape}", f"{form[:-1]}")
    if len(form) > 2 and len(size) == 1:
        raise ShapeError(where, f"unbatched input {size} for linear_weight {form}", "[N, F]")
    logits_shape = (*size[:-1], *form[:-1])
    if ignore_index is not None and target.array.shape == logits_shape:
        raise ShapeError(
            where, "ignore_index cannot be specified when target contains probabilities"
        )
    rows = shape.reshape(linear_weight, (-1, form[-1]))
    bias = None if linear_bias is None else shape.reshape(linear_bias, (-1,))
    loss = cross_entropy(
        shape.reshape(linear(input, rows, bias), logits_shape),
        target,
        weight=weight,
        reduction=reduction,
        ignore_index=-100 if ignore_index is None else ignore_index,
        label_smoothing=label_smoothing,
    )
    return astype(loss, kind)


def _probabilities(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    axis = 1 if input.array.ndim > 1 else 0
    classes = input.array.shape[axis]
    if label_smoothing:
        target = elementwise.add(
            elementwise.mul(target, 1 - label_smoothing), label_smoothing / classes
        )
    logs = activation.log_softmax(input, axis)
    product = elementwise.mul(logs, target)
    if weight is not None:
        product = elementwise.mul(
            product, shape.reshape(weight, [-1] + [1] * (input.array.ndim - 1 - axis))
        )
    loss = elementwise.neg(reductions.sum(product, axis))
    if reduction == "mean":
        return elementwise.div(reductions.sum(loss), max(loss.array.size, 1))
    return _reduce(loss, reduction, "cross_entropy")


@called("BinaryCrossEntropyBackward0")
@accepts("f", half="loss")
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of probabilities; logarithms are limited to -100 as in PyTorch."""
    x, y = input.array, target.array
    if x.shape != y.shape:
        raise BatchSize(
            "binary_cross_entropy",
            f"Using a target size ({y.shape}) that is different to the input size ({x.shape})",
            "equal sizes",
        )
    if x.size and not ((x >= 0) & (x <= 1)).all():
        raise ShapeError(
            "binary_cross_entropy",
            "all elements of input should be between 0 and 1",
            hint="apply sigmoid(), or use binary_cross_entropy_with_logits",
        )
    if x.dtype != y.dtype:
        raise DTypeError(
            "binary_cross_entropy",
            f"input {dtypes.of(x.dtype)}, target {dtypes.of(y.dtype)}",
            "equal dtypes",
        )

    def backward(grad: Array) -> Grads:
        slope = (x - y) / np.maximum((1 - x) * x, 1e-12)
        return grad * slope, grad * (np.maximum(np.log1p(-x), -100) - np.maximum(np.log(x), -100))

    output = -(y * np.maximum(np.log(x), -100) + (1 - y) * np.maximum(np.log1p(-x), -100)).astype(
        x.dtype
    )
    loss = record(output, backward, input, target)
    if weight is not None:
        loss = elementwise.mul(loss, weight)
    return _reduce(loss, legacy_reduction(size_average, reduce, reduction), "binary_cross_entropy")


@called("BinaryCrossEntropyWithLogitsBackward0")
@accepts("f", half="loss")
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of `sigmoid(input)`, without overflow."""
    if input.array.shape != target.array.shape:
        raise BatchSize(
            "binary_cross_entropy_with_logits",
            f"Target size ({target.array.shape}) must be the same as input size "
            f"({input.array.shape})",
        )
    rest = elementwise.rsub(target, 1).mul_(input)  # in place: a target of integers is refused
    soft = activation.logsigmoid(input)
    if pos_weight is None:
        loss = elementwise.sub(rest, soft)
    else:
        factor = elementwise.add(elementwise.mul(elementwise.sub(pos_weight, 1), target), 1)
        loss = elementwise.sub(rest, elementwise.mul(factor, soft))
    if weight is not None:
        loss = elementwise.mul(loss, weight)
    return _reduce(
        loss, legacy_reduction(size_average, reduce, reduction), "binary_cross_entropy_with_logits"
    )
