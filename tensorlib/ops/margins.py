"""Losses of margins and distances: `margin_ranking_loss triplet_margin_loss multi_margin_loss ...`;
`reduction` is "mean", "sum" or "none".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DTypeError, InvalidValueError, ShapeError
from tensorlib.ops import activation, elementwise, shape
from tensorlib.ops import reduction as reductions
from tensorlib.ops._common import called, choice, wrap
from tensorlib.ops.loss import _reduce, legacy_reduction
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


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
    return _reduce(loss, legacy_reduction(size_average, reduce, reduction), "margin_ranking_loss")


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
    return _reduce(loss, legacy_reduction(size_average, reduce, reduction), "hinge_embedding_loss")


@called("SoftMarginLossBackward0")
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
        elementwise.log1p(rise),
        legacy_reduction(size_average, reduce, reduction),
        "soft_margin_loss",
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
    # as PyTorch: unlike binary_cross_entropy_with_logits it takes targets of integers
    here = elementwise.mul(target, activation.logsigmoid(input))
    there = elementwise.mul(
        elementwise.rsub(target, 1), activation.logsigmoid(elementwise.neg(input))
    )
    loss = elementwise.neg(elementwise.add(here, there))
    if weight is not None:
        loss = elementwise.mul(loss, weight)
    return _reduce(
        reductions.mean(loss, -1),
        legacy_reduction(size_average, reduce, reduction),
        "multilabel_soft_margin_loss",
    )


@called("MultiMarginLossBackward0")
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
    return _reduce(loss, legacy_reduction(size_average, reduce, reduction), "multi_margin_loss")


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
        legacy_reduction(size_average, reduce, reduction),
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
    from tensorlib.ops.embedding import pairwise_distance

    reduction = legacy_reduction(size_average, reduce, reduction)
    return _triplet(
        "triplet_margin_loss",
        (anchor, positive, negative),
        lambda a, b: pairwise_distance(a, b, p, eps),
        margin,
        swap,
        reduction,
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with a distance of one's own (`pairwise_distance` by default)."""
    from tensorlib.ops.embedding import pairwise_distance

    return _triplet(
        "triplet_margin_with_distance_loss",
        (anchor, positive, negative),
        distance_function or pairwise_distance,
        margin,
        swap,
        reduction,
    )


def _triplet(
    where: str,
    triplet: tuple[Tensor, Tensor, Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    margin: float,
    swap: bool,
    reduction: str,
) -> Tensor:
    anchor, positive, negative = triplet
    if reduction not in ("mean", "sum", "none"):
        raise InvalidValueError(
            where, f"{reduction} is not a valid value for reduction", "'mean', 'sum' or 'none'"
        )
    if margin <= 0:
        raise InvalidValueError(where, f"margin must be greater than 0, got {margin}")
    if len({t.array.ndim for t in triplet}) > 1:
        raise ShapeError(
            where, f"sizes {[t.array.shape for t in triplet]}", "equally many dimensions"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = elementwise.minimum(far, distance(positive, negative))
    loss = elementwise.clamp(elementwise.add(elementwise.sub(near, far), margin), min=0)
    return _reduce(loss, reduction, where)


@called("MultilabelMarginLossBackward0")
@accepts("f", "refuse")
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """`sum(max(0, 1 - x[label] + x[other])) / C` over the labels in each row of `target` ([N, C] as
    `input`, up to the first -1) and the other classes.
    """
    from tensorlib.ops.indexing import gather

    where = "multilabel_margin_loss"
    reduction = legacy_reduction(size_average, reduce, reduction)
    choice(where, "reduction", reduction, ("mean", "sum", "none"))
    size, t = input.array.shape, target.array
    if len(size) > 2 or (len(size) and not size[-1]):
        raise ShapeError(where, f"input has shape {size}", "[C] or [N, C], C > 0")
    if t.shape != size and not (len(size) < 2 and t.size == input.array.size):
        raise ShapeError(where, f"inconsistent target size: {t.shape} for input {size}")
    if t.dtype != np.int64:
        raise DTypeError(where, f"expected scalar type Long but found {dtypes.of(t.dtype)}")
    x = shape.reshape(input, (-1, size[-1] if size else 1))
    count = x.array.shape[1]
    t = t.reshape(x.array.shape)
    if t.size and (t.min() < -1 or t.max() >= count):
        raise ShapeError(where, f"target from {t.min()} to {t.max()}", f"-1 to {count - 1}")
    label = np.logical_and.accumulate(t >= 0, 1)
    t = np.where(label, t, 0)[:, : int(label.sum(1).max()) if t.size else 0]
    label = label[:, : t.shape[1]]
    other = np.ones(x.array.shape, bool)
    other[np.nonzero(label)[0], t[label]] = False
    kept = wrap((label[:, :, None] & other[:, None, :]).astype(x.array.dtype))
    rise = elementwise.sub(shape.unsqueeze(x, 1), shape.unsqueeze(gather(x, 1, wrap(t)), 2))
    loss = elementwise.mul(elementwise.clamp(elementwise.add(rise, 1), min=0), kept)
    loss = elementwise.div(reductions.sum(loss, (1, 2)), count)
    if len(size) < 2:
        loss = shape.reshape(loss, ())
    return _reduce(loss, reduction, where)
