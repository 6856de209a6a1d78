"""Softmax, its logarithm, and the cross entropy of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import kernel


def _arrays() -> list[tuple[Any, int]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6, 3)).astype(np.float32)
    wide = rng.standard_normal((5, 1003)).astype(np.float32)
    ends = np.array([[0, np.inf, 1], [0, -np.inf, 1], [-np.inf] * 3, [0, np.nan, 1]], np.float32)
    return [
        (x, -1),
        (x, 1),
        (x * 100, 0),
        (wide, 1),
        (wide, 0),
        (wide.T, 0),
        (wide[:, ::2], 1),
        (ends, 1),
        (ends.T.copy(), 0),
    ]


def _pairs() -> list[tuple[Any, ...]]:
    return [
        (np.sin(x * 7), softmax.reference(x, axis), axis)
        for x, axis in _arrays()
        if np.isfinite(x).all()
    ]


@kernel(_arrays)
def softmax(x: Any, axis: int) -> Any:
    """Exponentials normalised to sum to one along `axis`."""
    out = np.subtract(x, np.maximum.reduce(x, axis, keepdims=True), order="C")
    np.exp(out, out=out)
    out /= np.add.reduce(out, axis, keepdims=True)
    return out


@kernel(_pairs)
def softmax_grad(grad: Any, y: Any, axis: int) -> Any:
    """From the output."""
    return y * (grad - (grad * y).sum(axis, keepdims=True))


@kernel(_arrays)
def log_softmax(x: Any, axis: int) -> Any:
    """Logarithm of softmax along `axis`."""
    out = np.subtract(x, np.maximum.reduce(x, axis, keepdims=True), order="C")
    out -= np.log(np.add.reduce(np.exp(out), axis, keepdims=True))
    return out


@kernel(lambda: [(grad, np.log(y), axis) for grad, y, axis in _pairs() if (y > 0).all()])
def log_softmax_grad(grad: Any, y: Any, axis: int) -> Any:
    """From the output."""
    return grad - np.exp(y) * grad.sum(axis, keepdims=True)


def _classes() -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    return [
        (x, rng.integers(0, x.shape[1], len(x)))
        for x, axis in _arrays()
        if x.ndim == 2 and axis and not np.isnan(x).any()
    ]


@kernel(lambda: [(*given, keep) for given in _classes() for keep in (True, False)])
def cross_entropy(x: Any, t: Any, keep: bool) -> tuple[Any, Any, Any]:
    """`(losses, powers, totals)` of rows and the classes that are right: e^(x - maximum), if to be
    kept for the gradient, and their sums.
    """
    shifted = x - np.maximum.reduce(x, 1, keepdims=True)
    powers = np.exp(shifted)
    totals = np.add.reduce(powers, 1, keepdims=True)
    losses = np.log(totals[:, 0]) - shifted[np.arange(len(t)), t]
    return losses, powers if keep else None, totals


def _scaled() -> list[tuple[Any, ...]]:
    found = []
    for x, t in _classes():
        if np.isfinite(x).all():
            _, powers, totals = cross_entropy.reference(x, t, True)
            found.append((powers, totals, t, np.float32(0.25)))
            found.append((powers, totals, t, np.cos(x[:, :1])))
    return found


@kernel(_scaled)
def cross_entropy_grad(powers: Any, totals: Any, t: Any, scale: Any) -> Any:
    """Softmax less one at the right class, times `scale`, a number or one for each row [N, 1]."""
    out = powers / totals
    out[np.arange(len(t)), t] -= 1
    out *= scale
    return out
