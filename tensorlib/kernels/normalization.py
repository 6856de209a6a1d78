"""Normalisation of rows and of columns in few passes over memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel
from tensorlib.kernels.convolution import channels_first, channels_last
from tensorlib.ops.strides import is_channels_last


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 5, 5)).astype(np.float32)
    return [(x, rng.standard_normal(3).astype(np.float32), None, 1e-5), (x, None, None, 1e-5)]


def _grad_samples() -> list[tuple[Any, ...]]:
    found = []
    for x, weight, bias, eps in _samples():
        output, mean, invstd = batch_norm_train.reference(x, weight, bias, eps)
        found.append((output, x, mean, invstd, weight))
    return found


def column_sums(rows: Any) -> Any:
    """Sums over the first axis of [M, C], by a product with ones: several accumulators per column,
    one pass.
    """
    xp = array_namespace(rows)
    return xp.ones(rows.shape[0], rows.dtype) @ rows


def _flat(x: Any, like: Any) -> Any:
    """[N, C, ...] as rows [M, C] where `like` has its channels innermost, else as planes
    [N, C, P].
    """
    if like.ndim == 2 or is_channels_last(like):
        return channels_last(x).reshape(-1, x.shape[1])
    return x.reshape(*x.shape[:2], -1)


def _sums(flat: Any) -> Any:
    """Sum of each channel of what `_flat` made; planes are added up in float64, as in PyTorch."""
    if flat.ndim == 2:
        return column_sums(flat)
    xp = array_namespace(flat)
    planes = flat @ xp.ones(flat.shape[2], flat.dtype)
    return planes.sum(0, dtype=np.result_type(flat.dtype, np.float64)).astype(flat.dtype)


def _shaped(flat: Any, shape: tuple[int, ...]) -> Any:
    """What `_flat` made as [N, C, ...] again."""
    if flat.ndim == 3:
        return flat.reshape(shape)
    return channels_first(flat.reshape(shape[0], *shape[2:], shape[1]))


def channel_sums(x: Any) -> Any:
    """Sums of [N, C, ...] over all but the channels."""
    return _sums(_flat(x, x))


@kernel(_samples)
def batch_norm_train(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """`(output, mean, 1/std)` of [N, C, ...] normalised per channel with the statistics of the
    batch.
    """
    flat = _flat(x, x)
    spread = (-1,) + (1,) * (flat.ndim - 2)  # of a number per channel
    count = x.size // max(x.shape[1], 1)
    mean = _sums(flat) / count
    out = np.subtract(flat, mean.reshape(spread), order="C")
    few = count < 64 and flat.ndim == 2
    variance = (np.einsum("ij,ij->j", out, out) if few else _sums(out * out)) / count
    invstd = 1 / np.sqrt(variance + x.dtype.type(eps))
    out *= (invstd if weight is None else invstd * weight).reshape(spread)
    if bias is not None:
        out += bias.reshape(spread)
    return _shaped(out, x.shape), mean, invstd


@kernel(_grad_samples)
def batch_norm_train_grad(grad: Any, x: Any, mean: Any, invstd: Any, weight: Any) -> Any:
    """Gradients for input, weight and bias of `batch_norm_train`."""
    back, hat = _flat(grad, x), _flat(x, x)
    spread = (-1,) + (1,) * (hat.ndim - 2)
    hat = hat - mean.reshape(spread)
    hat *= invstd.reshape(spread)
    count = x.size // max(x.shape[1], 1)
    bias_grad = _sums(back)
    weight_grad = _sums(back * hat)
    hat *= (weight_grad / count).reshape(spread)
    np.subtract(back, hat, out=hat)
    hat -= (bias_grad / count).reshape(spread)
    hat *= (invstd if weight is None else invstd * weight).reshape(spread)
    return _shaped(hat, x.shape), weight_grad, bias_grad


def _row_samples() -> list[tuple[Any, ...]]:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    return [(x, 1e-5)]


@kernel(_row_samples)
def row_norm(rows: Any, eps: float) -> Any:
    """`(normalised, 1/std)` of each row of [M, D]."""
    count = rows.shape[-1]
    out = rows - np.add.reduce(rows, -1, keepdims=True) / count
    variance = np.einsum("ij,ij->i", out, out)[:, None] / count
    invstd = 1 / np.sqrt(variance + rows.dtype.type(eps))
    out *= invstd
    return out, invstd
