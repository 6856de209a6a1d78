"""Dropout: random zeros in training, the rest scaled up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import InvalidValueError, ShapeError
from tensorlib.ops._common import Array, Grads, record

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _check(where: str, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise InvalidValueError(
            where, f"dropout probability has to be between 0 and 1, but got {p}"
        )


def _masked(input: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
    from tensorlib import random

    x = input.array
    keep: Array = random.default_generator.bernoulli(shape, 1 - p, np.bool_)
    scale = 0.0 if p == 1 else 1.0 / (1.0 - p)

    def dropout(grad: Array) -> Grads:
        return (grad * keep * scale,)

    return record(x * keep * x.dtype.type(scale), dropout, input)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training: elements zeroed with probability `p`, the rest divided by `1 - p`."""
    _check("dropout", p)
    return _apply(input, input.array.shape, p, training, inplace)


def _apply(
    input: Tensor, shape: tuple[int, ...], p: float, training: bool, inplace: bool
) -> Tensor:
    if not training or p == 0 or not math.prod(shape):
        return input
    if not inplace:
        return _masked(input, shape, p)
    from tensorlib.tensor import store

    return store(input, "dropout_", lambda x: _masked(x, shape, p))


def _channels(where: str, input: Tensor, spatial: int) -> tuple[int, ...]:
    x = input.array
    if x.ndim < 2:
        raise ShapeError(
            where, f"Feature dropout requires at least 2 dimensions in the input, shape {x.shape}"
        )
    if spatial != 2 and x.ndim == spatial + 1:  # one image: PyTorch leaves 2-d as it was
        return (*x.shape[:1], *(1,) * spatial)
    return (*x.shape[:2], *(1,) * (x.ndim - 2))


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, L] zeroed."""
    _check("dropout1d", p)
    return _apply(input, _channels("dropout1d", input, 1), p, training, inplace)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, H, W] zeroed."""
    _check("dropout2d", p)
    return _apply(input, _channels("dropout2d", input, 2), p, training, inplace)


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, D, H, W] zeroed."""
    _check("dropout3d", p)
    return _apply(input, _channels("dropout3d", input, 3), p, training, inplace)


_SELU_LIMIT = -1.7580993408473766


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Dropout that keeps mean and variance of SELU outputs."""
    from tensorlib import random
    from tensorlib.ops import elementwise
    from tensorlib.ops._common import wrap

    _check("alpha_dropout", p)
    if inplace:
        raise InvalidValueError("alpha_dropout", "inplace=True is not supported", "inplace=False")
    if not training or p == 0:
        return input
    x = input.array
    keep: Any = random.default_generator.bernoulli(x.shape, 1 - p, x.dtype)
    a = 1.0 / math.sqrt((_SELU_LIMIT**2 * p + 1) * (1 - p)) if p < 1 else 0.0
    offset = (keep - 1) * x.dtype.type(-_SELU_LIMIT * a) + x.dtype.type(-_SELU_LIMIT * a * p)
    return elementwise.add(elementwise.mul(input, wrap(keep * x.dtype.type(a))), wrap(offset))
