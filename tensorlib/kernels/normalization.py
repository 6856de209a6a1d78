"""Normalisation of rows and of columns in few passes over memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel
from tensorlib.kernels.convolution import channels_first, channels_last


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


def as_rows(x: Any) -> Any:
    """[N, C, ...] as [N*..., C], without a copy when channels are last in memory."""
    return channels_last(x).reshape(-1, x.shape[1])


def from_rows(rows: Any, shape: tuple[int, ...]) -> Any:
    """[N*..., C] as the view [N, C, ...]."""
    return channels_first(rows.reshape(shape[0], *shape[2:], shape[1]))


@kernel(_samples)
def batch_norm_train(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """`(output, mean, 1/std)` of [N, C, ...] normalised per channel with the statistics of the
    batch.
    """
    rows = as_rows(x)
    count = rows.shape[0]
    mean = column_sums(rows) / count
    out = rows - mean
    variance = (
        np.einsum("ij,ij->j", out, out) / count if count < 64 else column_sums(out * out) / count
    )
    invstd = 1 / np.sqrt(variance + x.dtype.type(eps))
    out *= invstd if weight is None else invstd * weight
    if bias is not None:
        out += bias
    return from_rows(out, x.shape), mean, invstd


@kernel(_grad_samples)
def batch_norm_train_grad(grad: Any, x: Any, mean: Any, invstd: Any, weight: Any) -> Any:
    """Gradients for input, weight and bias of `batch_norm_train`."""
    back = as_rows(grad)
    hat = as_rows(x) - mean
    hat *= invstd
    count = back.shape[0]
    bias_grad = column_sums(back)
    weight_grad = column_sums(back * hat)
    hat *= weight_grad / count
    np.subtract(back, hat, out=hat)
    hat -= bias_grad / count
    hat *= invstd if weight is None else invstd * weight
    return from_rows(hat, x.shape), weight_grad, bias_grad


def _row_samples() -> list[tuple[Any, ...]]:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    return [(x, 1e-5)]


@kernel(_row_samples)
def row_norm(rows: Any, eps: float) -> Any:
    """`(normalised, 1/std)` of each row of [M, D]."""
    count = rows.shape[-1]
    out = rows - rows.sum(-1, keepdims=True) / count
    variance = np.einsum("ij,ij->i", out, out)[:, None] / count
    invstd = 1 / np.sqrt(variance + rows.dtype.type(eps))
    out *= invstd
    return out, invstd
