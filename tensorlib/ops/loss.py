"""Losses of numbers and distributions: `mse_loss l1_loss huber_loss kl_div ...`; `reduction` is
"mean", "sum" or "none". Those of classes are in `classification`, of margins in `margins`.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import InvalidValueError, ShapeError
from tensorlib.ops import elementwise, shape
from tensorlib.ops import reduction as reductions
from tensorlib.ops._common import Array, Grads, broadcast_shapes, called, promoted, record, wrap
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def legacy_reduction(size_average: Any, reduce: Any, reduction: str) -> str:
    """`reduction`, or the word for PyTorch's deprecated pair of flags, with a warning."""
    if size_average is None and reduce is None:
        return reduction
    word = "none" if reduce is False else "sum" if size_average is False else "mean"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction={word!r} instead.",
        stacklevel=4,
    )
    return word


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


@accepts("f", half="loss")
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Squared differences."""
    reduction = legacy_reduction(size_average, reduce, reduction)
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


@accepts("fciu", half="loss")
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
    reduction = legacy_reduction(size_average, reduce, reduction)
    if weight is not None:
        loss = elementwise.mul(loss, weight)
        if reduction == "mean":
            return elementwise.div(
                reductions.sum(loss), reductions.sum(shape.expand_as(weight, loss))
            )
    return _reduce(loss, reduction, "l1_loss")


@called("SmoothL1LossBackward0")
@accepts("f", half="loss")
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
    return _reduce(loss, legacy_reduction(size_average, reduce, reduction), "smooth_l1_loss")


@called("HuberLossBackward0")
@accepts("f", half="loss")
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


@accepts("f", half="loss")
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
    reduction = legacy_reduction(size_average, reduce, reduction)
    if reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math"
            " definition.'mean' will be changed to behave the same as 'batchmean' in the next major"
            " release.",
            stacklevel=2,
        )
    if reduction == "batchmean":
        return elementwise.div(
            reductions.sum(loss), input.array.shape[0] if input.array.ndim else 1
        )
    return _reduce(loss, reduction, "kl_div")


@accepts("fiu", half="loss")
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
    return _reduce(loss, legacy_reduction(size_average, reduce, reduction), "poisson_nll_loss")


@accepts("f", half="loss")
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
        elif (
            len(given) != len(size)
            or sum(m for n, m in zip(size, given, strict=True) if n != m) != 1
        ):
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
