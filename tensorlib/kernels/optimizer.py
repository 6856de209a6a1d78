"""Updates of many parameters at once, in place; each step rounds where PyTorch's does.

A row is `(parameter, gradient, state arrays ..., numbers of this parameter ...)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import kernel

Rows = list[tuple[Any, ...]]


def _rows(buffers: int, *numbers: float) -> Rows:
    rng = np.random.default_rng(0)
    rows: Rows = []
    for shape in ((5, 7), (33,), (), (2, 40000), (0,)):
        arrays = [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]
        state = [rng.uniform(0, 1, shape).astype(np.float32) for _ in range(buffers)]
        rows.append((*arrays, *state, *numbers))
    return rows


def _adam_samples() -> list[tuple[Any, ...]]:
    plain = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.0, "shrink": 1.0}
    return [
        (_rows(2, 0.3, 0.1), *plain.values(), False),
        (_rows(3, 0.3, 0.1), 0.4, 0.9, 1e-6, 0.01, 1.0, True),
        (_rows(2, 0.3, 0.1), 0.9, 0.99, 1e-8, 0.0, 0.99, False),
    ]


@kernel(_adam_samples)
def adam_step(
    rows: Rows,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    shrink: float,
    maximize: bool,
) -> Any:
    """Adam on rows `(x, gradient, m, v, [largest v], divisor, size)`: x is multiplied by `shrink`,
    loses size * m / (sqrt(v) / divisor + eps). Returns what it changed.
    """
    one = np.float32
    for x, g, m, v, *top, divisor, size in rows:
        if shrink != 1:
            np.multiply(x, one(shrink), x)
        g = _direction(x, g, decay, maximize)
        if 1 - beta1 < 0.5:
            np.add(m, (g - m) * one(1 - beta1), m)
        else:
            np.add(g, (g - m) * (one(1 - beta1) - one(1)), m)
        np.multiply(v, one(beta2), v)
        np.add(v, g * one(1 - beta2) * g, v)
        peak = np.maximum(top[0], v, out=top[0]) if top else v
        scale = np.sqrt(peak) / one(divisor) + one(eps)
        np.add(x, m * one(-size) / scale, x)
    return [row[:-2] for row in rows]


def _sgd_samples() -> list[tuple[Any, ...]]:
    return [
        (_rows(0, 0.0), 0.1, 0.0, 1.0, 0.0, False, False),
        (_rows(1, 0.0), 0.1, 0.9, 1.0, 0.01, True, True),
        (_rows(1, 1.0), 0.1, 0.9, 0.5, 0.0, False, False),
        (_rows(1, 0.0), 0.1, 0.9, 0.5, 0.1, False, False),
    ]


@kernel(_sgd_samples)
def sgd_step(
    rows: Rows,
    lr: float,
    momentum: float,
    rest: float,
    decay: float,
    nesterov: bool,
    maximize: bool,
) -> Any:
    """Gradient descent on rows `(x, gradient, [buffer], whether the buffer is to become the
    gradient)`; `rest` is 1 - dampening. Returns what it changed.
    """
    one = np.float32
    for x, g, *buffer, first in rows:
        g = _direction(x, g, decay, maximize)
        if buffer:
            held = buffer[0]
            if first:
                held[...] = g
            else:
                np.multiply(held, one(momentum), held)
                np.add(held, g * one(rest), held)
            g = g + held * one(momentum) if nesterov else held
        np.add(x, g * one(-lr), x)
    return [row[:-1] for row in rows]


def _direction(x: Any, g: Any, decay: float, maximize: bool) -> Any:
    """The gradient, negated for `maximize`, with weight decay in it."""
    if maximize:
        g = -g
    return g + x * np.float32(decay) if decay else g
