"""Dropout: random zeros in training, the rest scaled up."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.creation import empty_as
from tensorlib.errors import DTypeError, InvalidValueError, ShapeError
from tensorlib.ops import draws
from tensorlib.random import current

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_SELU_LIMIT = 1.7580993408473766


def _dropped(
    where: str, input: Tensor, p: float, training: bool, inplace: bool, *,
    channels: bool = False, alpha: bool = False,
) -> Tensor:  # fmt: skip
    """`input` times noise of zeros (with probability `p`) and the factor that keeps the mean; one
    number for each whole channel with `channels`; with `alpha`, of SELU's limit instead of zero.
    """
    if not 0.0 <= p <= 1.0:
        raise InvalidValueError(
            where, f"dropout probability has to be between 0 and 1, but got {p}"
        )
    x = input.array
    if not training or p == 0 or not x.size:
        return input
    product = input.mul_ if inplace else input.mul
    if p == 1:
        return product(wrap(np.zeros((), x.dtype)))
    draws.expect_plain(where, x.dtype)
    if channels and x.ndim < 2:
        raise ShapeError(
            where, f"Feature dropout requires at least 2 dimensions in the input, shape {x.shape}"
        )
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
    noise = wrap(np.empty(shape, x.dtype) if channels else empty_as(x, x.dtype))
    one: float = 1.0
    if not alpha and x.dtype == np.float32:
        one = np.divide(1, 1 - p, dtype=x.dtype)
    draws.fill(noise.array, lambda n, k, _: current().bernoulli(1 - p, k, n, one))
    if not alpha:
        if x.dtype.kind not in "fcV":
            raise DTypeError(where, f"not implemented for {input.dtype}", "floating-point numbers")
        if x.dtype == np.float32:
            return product(noise)
        kept = np.divide(1, 1 - p, dtype=np.float32 if x.itemsize == 2 else x.dtype)
        return product(noise.mul_(wrap(kept.astype(x.dtype))))
    scale = 1.0 / math.sqrt((_SELU_LIMIT * _SELU_LIMIT * p + 1) * (1 - p))
    offset = noise.add(-1).mul_(_SELU_LIMIT * scale).add_(_SELU_LIMIT * scale * p)
    return product(noise.mul_(scale)).add_(offset)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training: elements zeroed with probability `p`, the rest divided by `1 - p`."""
    return _dropped("dropout", input, p, training, inplace)


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Dropout that keeps mean and variance of SELU outputs. Klambauer et al., 2017."""
    return _dropped("alpha_dropout", input, p, training, inplace, alpha=True)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """`alpha_dropout` of whole channels of [N, C, ...]."""
    return _dropped("feature_alpha_dropout", input, p, training, inplace, channels=True, alpha=True)


def _whole_channels(
    where: str, input: Tensor, p: float, training: bool, inplace: bool, batched: bool
) -> Tensor:
    if batched:
        return _dropped(where, input, p, training, inplace, channels=True)
    result = _dropped(where, input.unsqueeze(0), p, training, inplace, channels=True)
    return input if inplace else result.squeeze(0)


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, L] or [C, L] zeroed."""
    ndim = input.array.ndim
    if ndim not in (2, 3):
        raise ShapeError("dropout1d", f"input of shape {input.array.shape}", "2 or 3 dimensions")
    return _whole_channels("dropout1d", input, p, training, inplace, ndim == 3)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, H, W] zeroed; of [N, C, L], with a warning."""
    ndim = input.array.ndim
    if ndim == 3:
        _warn("dropout2d: a 3D input is taken as (N, C, L). Hint: use dropout1d for that.")
    elif ndim != 4:
        _warn(f"dropout2d: a {ndim}-D input is deprecated, 3 or 4 expected. Hint: use dropout.")
    return _whole_channels("dropout2d", input, p, training, inplace, True)


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, D, H, W] or [C, D, H, W] zeroed."""
    ndim = input.array.ndim
    if ndim not in (4, 5):
        _warn(f"dropout3d: a {ndim}-D input is deprecated, 4 or 5 expected. Hint: use dropout.")
    return _whole_channels("dropout3d", input, p, training, inplace, ndim == 5)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)
