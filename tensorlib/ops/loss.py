"""Losses: `cross_entropy nll_loss mse_loss binary_cross_entropy kl_div ctc_loss ...`; `reduction`
is "mean", "sum" or "none".
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DimensionError, DTypeError, InvalidValueError, ShapeError
from tensorlib.kernels import softmax as kernels
from tensorlib.ops import activation, elementwise, shape
from tensorlib.ops import reduction as reductions
from tensorlib.ops._common import Array, Grads, broadcast_shapes, promoted, record, wrap
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _legacy(size_average: Any, reduce: Any, reduction: str) -> str:
    """PyTorch's deprecated pair of flags, in one word."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def _reduce(loss: Tensor, reduction: str, where: str) -> Tensor:
    if reduction == "mean":
        return reductions.mean(loss)
    if reduction == "sum":
        return reductions.sum(loss)
    if reduction == "none":
        return loss
    raise InvalidValueError(
        where, f"{reduction} is not a valid value for reduction", "'mean', 'sum' or 'none'"
    )


def _pair(input: Tensor, target: Tensor, where: str) -> tuple[Tensor, Tensor]:
    if input.array.shape != target.array.shape:
        broadcast_shapes(input.array.shape, target.array.shape)
        warnings.warn(
            f"Using a target size ({target.array.shape}) that is different to the input size "
            f"({input.array.shape}). This "
            "will likely lead to incorrect results due to broadcasting. Please ensure they have "
            "the same size.",
            stacklevel=4,
        )
    return promoted(input, target)


@accepts("f")
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Squared differences."""
    reduction = _legacy(size_average, reduce, reduction)
    input, target = _pair(input, target, "mse_loss")
    x, y = input.array, target.array
    if weight is not None or reduction != "mean" or x.shape != y.shape:
        loss = elementwise.square(elementwise.sub(input, target))
        if weight is not None:
            loss = elementwise.mul(loss, weight)
            if reduction == "mean":
                return elementwise.div(
                    reductions.sum(loss), reductions.sum(shape.expand_as(weight, loss))
                )
        return _reduce(loss, reduction, "mse_loss")
    difference = (x - y).reshape(-1)
    count = max(x.size, 1)
    output = np.dot(difference, difference) / x.dtype.type(x.size)

    def backward(grad: Array) -> Grads:
        scaled = (x - y) * (grad * (2 / count))
        return scaled, -scaled

    return record(output, backward, input, target)


@accepts("fciu")
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Absolute differences."""
    input, target = _pair(input, target, "l1_loss")
    loss = elementwise.abs(elementwise.sub(input, target))
    reduction = _legacy(size_average, reduce, reduction)
    if weight is not None:
        loss = elementwise.mul(loss, weight)
        if reduction == "mean":
            return elementwise.div(
                reductions.sum(loss), reductions.sum(shape.expand_as(weight, loss))
            )
    return _reduce(loss, reduction, "l1_loss")


@accepts("f")
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """`0.5 d^2 / beta` where |d| < beta, `|d| - 0.5 beta` elsewhere."""
    if beta < 0:
        raise ShapeError("smooth_l1_loss", f"does not support negative values for beta, {beta}")
    if beta == 0:
        return l1_loss(input, target, size_average, reduce, reduction)
    loss = elementwise.div(_huber(input, target, beta, "smooth_l1_loss"), beta)
    return _reduce(loss, _legacy(size_average, reduce, reduction), "smooth_l1_loss")


@accepts("f")
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """`0.5 d^2` where |d| < delta, `delta (|d| - 0.5 delta)` elsewhere."""
    if delta <= 0:
        raise ShapeError("huber_loss", f"does not support non-positive values for delta, {delta}")
    loss = _huber(input, target, delta, "huber_loss")
    return _reduce(
        loss if weight is None else elementwise.mul(loss, weight), reduction, "huber_loss"
    )


def _huber(input: Tensor, target: Tensor, delta: float, where: str) -> Tensor:
    input, target = _pair(input, target, where)
    difference = elementwise.sub(input, target)
    x = difference.array
    size = np.abs(x)

    def huber_loss(grad: Array) -> Grads:
        return (grad * np.clip(x, -delta, delta),)

    huber_loss.__qualname__ = f"{where}.backward"
    output = np.where(size < delta, 0.5 * x * x, delta * (size - 0.5 * delta)).astype(
        x.dtype, copy=False
    )
    return record(output, huber_loss, difference)


# -- classification --------------------------------------------------------------------------------


@accepts("f")
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
    reduction = _legacy(size_average, reduce, reduction)
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
    if t.dtype.kind not in "iu":
        raise DTypeError(
            where,
            f"expected scalar type Long but found {dtypes.of(t.dtype)}",
            "class indices",
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
    return grad / total if reduction == "mean" else grad


@accepts("f")
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
    reduction = _legacy(size_average, reduce, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ShapeError(
            "cross_entropy", f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}"
        )
    if target.array.shape == input.array.shape and target.array.dtype.kind == "f":
        return _probabilities(input, target, weight, reduction, label_smoothing)
    x = input.array
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


@accepts("f")
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
    return _reduce(loss, _legacy(size_average, reduce, reduction), "binary_cross_entropy")


@accepts("f")
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
    rest = elementwise.mul(elementwise.rsub(target, 1), input)
    soft = activation.logsigmoid(input)
    if pos_weight is None:
        loss = elementwise.sub(rest, soft)
    else:
        factor = elementwise.add(elementwise.mul(elementwise.sub(pos_weight, 1), target), 1)
        loss = elementwise.sub(rest, elementwise.mul(factor, soft))
    if weight is not None:
        loss = elementwise.mul(loss, weight)
    return _reduce(
        loss, _legacy(size_average, reduce, reduction), "binary_cross_entropy_with_logits"
    )


@accepts("f")
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """`target * (log(target) - input)`; `input` holds log-probabilities; "batchmean" divides by the
    batch size.
    """
    from tensorlib.ops.special import xlogy

    if log_target:
        loss = elementwise.mul(elementwise.exp(target), elementwise.sub(target, input))
    else:
        loss = elementwise.sub(xlogy(target, target), elementwise.mul(target, input))
    reduction = _legacy(size_average, reduce, reduction)
    if reduction == "batchmean":
        return elementwise.div(
            reductions.sum(loss), input.array.shape[0] if input.array.ndim else 1
        )
    return _reduce(loss, reduction, "kl_div")


@accepts("fiu")
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: Any = None,
    eps: float = 1e-8,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of counts `target` with rate `exp(input)` (or `input`)."""
    if log_input:
        loss = elementwise.sub(elementwise.exp(input), elementwise.mul(target, input))
    else:
        loss = elementwise.sub(
            input, elementwise.mul(target, elementwise.log(elementwise.add(input, eps)))
        )
    if full:  # Stirling's approximation of log(target!)
        from tensorlib.ops.indexing import where

        logs = elementwise.log(target)
        half = elementwise.mul(elementwise.log(elementwise.mul(target, 2 * math.pi)), 0.5)
        stirling = elementwise.add(elementwise.sub(elementwise.mul(target, logs), target), half)
        zeros = wrap(np.zeros_like(stirling.array))
        loss = elementwise.add(loss, where(elementwise.gt(target, 1), stirling, zeros))
    return _reduce(loss, _legacy(size_average, reduce, reduction), "poisson_nll_loss")


@accepts("f")
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Any,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of `target` under a normal distribution with mean `input` and
    variance `var`.
    """
    if not hasattr(var, "array"):
        var = elementwise.mul(wrap(np.ones_like(input.array)), var)
    if (var.array < 0).any():
        raise InvalidValueError("gaussian_nll_loss", "var has negative entry/entries", "variances")
    size, given = input.array.shape, var.array.shape
    if given != size:
        if given == size[:-1]:
            var = shape.unsqueeze(var, -1)
        elif given[:-1] != size[:-1] or given[-1] != 1:
            raise InvalidValueError(
                "gaussian_nll_loss", f"var is of incorrect size {given}", f"{size} or {size[:-1]}"
            )
    limited = elementwise.add(
        var, wrap((np.maximum(var.array, eps) - var.array).astype(var.array.dtype))
    )
    square = elementwise.div(elementwise.square(elementwise.sub(input, target)), limited)
    loss = elementwise.mul(elementwise.add(elementwise.log(limited), square), 0.5)
    if full:
        loss = elementwise.add(loss, 0.5 * math.log(2 * math.pi))
    return _reduce(loss, reduction, "gaussian_nll_loss")


# -- margins ---------------------------------------------------------------------------------------


@accepts("fiub")
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """`max(0, -target * (input1 - input2) + margin)`."""
    if not input1.array.ndim == input2.array.ndim == target.array.ndim:
        raise ShapeError(
            "margin_ranking_loss",
            f"sizes {input1.array.shape}, {input2.array.shape} and {target.array.shape}",
            "equally many dimensions",
        )
    product = elementwise.mul(elementwise.neg(target), elementwise.sub(input1, input2))
    loss = elementwise.clamp(elementwise.add(product, margin), min=0)
    return _reduce(loss, _legacy(size_average, reduce, reduction), "margin_ranking_loss")


@accepts("f")
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """`input` where target is 1, `max(0, margin - input)` where it is -1."""
    from tensorlib.ops.indexing import where

    far = elementwise.clamp(elementwise.rsub(input, margin), min=0)
    zeros = wrap(np.zeros_like(input.array))
    loss = elementwise.add(
        where(elementwise.ne(target, -1), input, zeros),
        where(elementwise.ne(target, 1), far, zeros),
    )
    return _reduce(loss, _legacy(size_average, reduce, reduction), "hinge_embedding_loss")


@accepts("f", "keep")
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """`log(1 + exp(-target * input))`."""
    rise = elementwise.exp(elementwise.mul(elementwise.neg(target), input))
    return _reduce(
        elementwise.log1p(rise), _legacy(size_average, reduce, reduction), "soft_margin_loss"
    )


@accepts("f")
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean binary cross entropy of logits over classes."""
    loss = binary_cross_entropy_with_logits(input, target, reduction="none")
    if weight is not None:
        loss = elementwise.mul(loss, weight)
    return _reduce(
        reductions.mean(loss, -1),
        _legacy(size_average, reduce, reduction),
        "multilabel_soft_margin_loss",
    )


@accepts("f", "refuse")
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """`sum(max(0, margin - x[y] + x[i]) ** p) / C` over the other classes i."""
    from tensorlib.ops.indexing import gather

    if p not in (1, 2):
        raise InvalidValueError("multi_margin_loss", f"p={p}", "1 or 2")
    size, goal = input.array.shape, target.array.shape
    if len(size) > 2 or (len(size) == 1 and not size[0]) or (len(size) == 2 and not size[1]):
        raise ShapeError("multi_margin_loss", f"input has shape {size}", "[C] or [N, C], C > 0")
    if goal != (size[:1] if len(size) == 2 else ()) and not (len(size) < 2 and goal == (1,)):
        raise ShapeError("multi_margin_loss", f"target has shape {goal}, input {size}", "[N]")
    one = len(size) < 2
    x = shape.reshape(input, (1, -1)) if one else input
    t = shape.reshape(target, (-1, 1))
    if weight is not None and weight.array.ndim != 1:
        raise InvalidValueError("multi_margin_loss", "weight must be one-dimensional", "[C]")
    if weight is not None and weight.array.shape != x.array.shape[1:]:
        raise ShapeError(
            "multi_margin_loss",
            f"inconsistent weight size, expected {x.array.shape[1]} but got {weight.array.shape}",
        )
    if reduction not in ("mean", "sum", "none"):
        raise InvalidValueError(
            "multi_margin_loss",
            f"{reduction} is not a valid value for reduction",
            "mean, sum, none",
        )
    if target.array.dtype != np.int64:
        raise DTypeError(
            "multi_margin_loss",
            f"expected scalar type Long but found {dtypes.of(target.array.dtype)}",
        )
    right = gather(x, 1, t)
    loss = elementwise.clamp(elementwise.add(elementwise.sub(x, right), margin), min=0)
    if p == 2:
        loss = elementwise.square(loss)
    if weight is not None:
        loss = elementwise.mul(loss, wrap(weight.array[t.array]))
    others = np.arange(x.array.shape[1]) != t.array
    loss = elementwise.mul(loss, wrap(others.astype(x.array.dtype)))
    loss = elementwise.div(reductions.sum(loss, 1), x.array.shape[1])
    if one:
        loss = shape.reshape(loss, goal)
    return _reduce(loss, _legacy(size_average, reduce, reduction), "multi_margin_loss")


@accepts("fiub")
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """`1 - cos` where target is 1, `max(0, cos - margin)` where it is -1."""
    from tensorlib.ops.indexing import where

    eps = 1e-12
    product = reductions.sum(elementwise.mul(input1, input2), -1)
    first = elementwise.add(reductions.sum(elementwise.square(input1), -1), eps)
    second = elementwise.add(reductions.sum(elementwise.square(input2), -1), eps)
    cosine = elementwise.div(product, elementwise.sqrt(elementwise.mul(first, second)))
    zeros = wrap(np.zeros_like(cosine.array))
    near = where(elementwise.eq(target, 1), elementwise.rsub(cosine, 1), zeros)
    far = where(
        elementwise.eq(target, -1), elementwise.clamp(elementwise.sub(cosine, margin), min=0), zeros
    )
    return _reduce(
        elementwise.add(near, far),
        _legacy(size_average, reduce, reduction),
        "cosine_embedding_loss",
    )


@accepts("fciu")
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """`max(0, d(anchor, positive) - d(anchor, negative) + margin)`."""
    if margin <= 0:
        raise InvalidValueError(
            "triplet_margin_loss", f"margin must be greater than 0, got {margin}"
        )
    if not anchor.array.ndim == positive.array.ndim == negative.array.ndim:
        raise ShapeError(
            "triplet_margin_loss",
            f"sizes {anchor.array.shape}, {positive.array.shape} and {negative.array.shape}",
            "equally many dimensions",
        )
    from tensorlib.ops.embedding import pairwise_distance

    near, far = (
        pairwise_distance(anchor, positive, p, eps),
        pairwise_distance(anchor, negative, p, eps),
    )
    if swap:
        far = elementwise.minimum(far, pairwise_distance(positive, negative, p, eps))
    loss = elementwise.clamp(elementwise.add(elementwise.sub(near, far), margin), min=0)
    return _reduce(loss, _legacy(size_average, reduce, reduction), "triplet_margin_loss")
