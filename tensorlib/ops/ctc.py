"""Connectionist temporal classification (A. Graves et al., 2006) of a whole batch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DTypeError, InvalidValueError, ShapeError
from tensorlib.ops import elementwise, indexing, reduction, shape
from tensorlib.ops._common import Array, Grads, record, wrap
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@accepts("f", "refuse")
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Negative log-likelihood of `targets` [N, S] (or joined) by `log_probs` [T, N, C] (or [T, C]).

    The mean divides each loss by its target's length. The gradient is PyTorch's: that of
    log-probabilities made by log_softmax.
    """
    if reduction not in ("mean", "sum", "none"):
        raise InvalidValueError("ctc_loss", f"reduction={reduction!r}", "'mean', 'sum' or 'none'")
    single = log_probs.array.ndim == 2
    probs = shape.unsqueeze(log_probs, 1) if single else log_probs
    lengths, sizes = _integers(input_lengths), _integers(target_lengths)
    labels = _labels(probs.array, targets.array, lengths, sizes, blank)
    losses = _negative_log_likelihood(probs, labels, lengths, sizes)
    if zero_infinity:
        losses = indexing.masked_fill(losses, wrap(np.isinf(losses.array)), 0.0)
    if reduction == "none":
        return shape.squeeze(losses, 0) if single else losses
    return _summarised(losses, sizes, reduction)


def _summarised(losses: Tensor, sizes: Array, how: str) -> Tensor:
    if how == "sum":
        return reduction.sum(losses)
    return reduction.mean(
        elementwise.div(losses, wrap(np.maximum(sizes, 1).astype(losses.array.dtype)))
    )


def _integers(value: Any) -> Array:
    array = value.array if hasattr(value, "array") else np.asarray(value)
    return np.atleast_1d(array).astype(np.int64)


def _labels(probs: Array, targets: Array, lengths: Array, sizes: Array, blank: int) -> Array:
    """[N, 2 S + 1] with blanks around every label (and after the end of shorter ones)."""
    steps, batch, classes = probs.shape
    if probs.dtype.kind not in "fV":
        raise DTypeError(
            "ctc_loss", f"not implemented for {dtypes.of(probs.dtype)}", "log-probabilities"
        )
    if not 0 <= blank < classes:
        raise ShapeError(
            "ctc_loss", f"blank must be in label range, got {blank} of {classes} classes"
        )
    if lengths.shape != (batch,) or sizes.shape != (batch,):
        raise ShapeError(
            "ctc_loss", f"lengths of {lengths.shape} and {sizes.shape}", f"one for each of {batch}"
        )
    if lengths.size and lengths.max() > steps:
        raise ShapeError(
            "ctc_loss", f"Expected input_lengths to have value at most {steps}, got {lengths.max()}"
        )
    longest = int(sizes.max()) if batch else 0
    rows = np.full((batch, longest), blank, np.int64)
    if targets.ndim == 1 and batch == 1 and targets.size == sizes.sum():
        rows[0, : sizes[0]] = targets
    elif targets.ndim == 1:
        if targets.size != sizes.sum():
            raise ShapeError(
                "ctc_loss", f"{targets.size} joined targets for lengths {sizes.tolist()}"
            )
        ends = np.cumsum(sizes)
        for i, (end, n) in enumerate(zip(ends, sizes, strict=True)):
            rows[i, :n] = targets[end - n : end]
    else:
        if targets.shape[0] != batch or targets.shape[1] < longest:
            raise ShapeError(
                "ctc_loss", f"targets of shape {targets.shape}", f"[{batch}, at least {longest}]"
            )
        for i, n in enumerate(sizes):
            rows[i, :n] = targets[i, :n]
    if rows.size and (rows.min() < 0 or rows.max() >= classes):
        raise ShapeError(
            "ctc_loss", f"targets from {rows.min()} to {rows.max()}", f"0 to {classes - 1}"
        )
    labels = np.full((batch, 2 * longest + 1), blank, np.int64)
    labels[:, 1::2] = rows
    return labels


def _lattice(emitted: Array, skip: Array, first: Array) -> Array:
    """Log forward sums [T, N, L] of emissions [T, N, L]; `skip` allows a step of two."""
    alpha = np.full(emitted.shape, -np.inf)
    if not len(emitted):
        return alpha
    alpha[0] = np.where(first, emitted[0], -np.inf)
    for t in range(1, len(emitted)):
        before = alpha[t - 1]
        total = before.copy()
        total[:, 1:] = np.logaddexp(total[:, 1:], before[:, :-1])
        total[:, 2:] = np.logaddexp(total[:, 2:], np.where(skip[:, 2:], before[:, :-2], -np.inf))
        alpha[t] = total + emitted[t]
    return alpha


def _negative_log_likelihood(probs: Tensor, labels: Array, lengths: Array, sizes: Array) -> Tensor:
    lp = probs.array
    steps, batch, _ = lp.shape
    wide = labels.shape[1]
    each = np.arange(batch)
    emitted = lp[:, each[:, None], labels].astype(np.float64)
    skip = np.zeros(labels.shape, bool)
    skip[:, 2:] = (labels[:, 2:] != labels[:, :-2]) & (np.arange(2, wide) % 2 == 1)
    place = np.arange(wide)
    alpha = _lattice(emitted, skip, (place < 2) & (place[None] <= 2 * sizes[:, None]))
    end = np.maximum(lengths - 1, 0)
    last = 2 * sizes
    final = alpha[end, each, last] if steps else np.full(batch, -np.inf)
    other = np.where(
        sizes > 0, alpha[end, each, np.maximum(last - 1, 0)] if steps else -np.inf, -np.inf
    )
    likelihood = np.logaddexp(final, other)
    likelihood = np.where(lengths == 0, np.where(sizes == 0, 0.0, -np.inf), likelihood)

    def ctc_loss(grad: Array) -> Grads:
        # the backward sums are the forward sums of the reversed sequences
        out = np.zeros(lp.shape)
        for i in range(batch):
            count, n = int(lengths[i]), int(2 * sizes[i] + 1)
            if not count:
                continue
            row, back = labels[i, :n], emitted[:count, i : i + 1, :n]
            jump = np.zeros((1, n), bool)
            jump[0, 2:] = skip[i, 2:n][::-1]
            beta = _lattice(back[::-1, :, ::-1], jump, (np.arange(n) < 2)[None])[::-1, 0, ::-1]
            joint = alpha[:count, i, :n] + beta
            by_class = np.full((count, lp.shape[2]), -np.inf)
            for position, label in enumerate(row):
                by_class[:, label] = np.logaddexp(by_class[:, label], joint[:, position])
            own = lp[:count, i].astype(np.float64)
            out[:count, i] = np.exp(own) - np.exp(by_class - likelihood[i] - own)
        out[:, grad == 0] = 0  # an impossible target, whose loss zero_infinity took out
        out *= grad[None, :, None]
        return (out.astype(lp.dtype),)

    return record((-likelihood).astype(lp.dtype), ctc_loss, probs)
