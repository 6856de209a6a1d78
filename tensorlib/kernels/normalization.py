"""Normalisation of rows and of columns in few passes over memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel
from tensorlib.kernels.convolution import channels_first, channels_last
from tensorlib.ops.strides import in_planes, is_channels_last


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)

    def one(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    found: list[tuple[Any, ...]] = [(one(4, 3, 5, 5), one(3), None, 1e-5)]
    x = one(3, 37, 5, 7)
    last = channels_first(np.ascontiguousarray(channels_last(x)))
    for image in (
        x,
        last,
        last[:, :, 1:],
        one(67, 37),
        one(16, 67).T,
        one(5, 9, 3),
        one(2, 64, 16),
    ):
        c = image.shape[1]
        found += [(image, one(c), one(c), 1e-5), (image + np.float32(2), None, None, 1e-3)]
    wild = one(6, 8, 4, 4)
    wild[1, 2, 1, 1], wild[2, 3, 0, 0] = np.nan, np.inf
    return [*found, (wild, one(8), one(8), 1e-5)]


def _grad_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(2)
    found = []
    for x, weight, bias, eps in _samples():
        _, mean, invstd = batch_norm_train.reference(x, weight, bias, eps)
        grad = rng.standard_normal(x.shape).astype(np.float32)
        found.append((grad, x, mean, invstd, weight))
    found.append((np.broadcast_to(np.float32(1), x.shape), *found[-1][1:]))
    return found


def _relu_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(1)
    found: list[tuple[Any, ...]] = []
    for sample in _samples():
        shape = sample[0].shape
        found += [(*sample, None), (*sample, rng.standard_normal(shape).astype(np.float32))]
    return found


def _relu_grad_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(2)
    found = []
    for x, weight, bias, eps, residual in _relu_samples():
        output, mean, invstd = batch_norm_relu_train.reference(x, weight, bias, eps, residual)
        grad = rng.standard_normal(x.shape).astype(np.float32)
        found.append((grad, x, output, mean, invstd, weight, bias, residual is not None))
    return found


def _scale_samples() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for x, weight, bias, _, residual in _relu_samples():
        scale = np.linspace(-1, 2, x.shape[1], dtype=np.float32) if weight is None else weight
        shift = scale if bias is None else bias
        found += [(x, scale, shift, weight is None, residual), (x, scale, shift)]
    return found


def column_sums(rows: Any) -> Any:
    """Sums over the first axis of [M, C], by a product with ones: several accumulators per column,
    one pass.
    """
    xp = array_namespace(rows)
    return xp.ones(rows.shape[0], rows.dtype) @ rows


def flat(x: Any, like: Any) -> Any:
    """[N, C, ...] as rows [M, C] where `like` has its channels innermost, else as planes
    [N, C, P].
    """
    if like.ndim == 2 or is_channels_last(like):
        return channels_last(x).reshape(-1, x.shape[1])
    return x.reshape(*x.shape[:2], -1)


def _sums(values: Any) -> Any:
    """Sum of each channel of what `flat` made; planes are added up in float64, as in PyTorch."""
    if values.ndim == 2:
        return column_sums(values)
    xp = array_namespace(values)
    planes = values @ xp.ones(values.shape[2], values.dtype)
    return planes.sum(0, dtype=np.result_type(values.dtype, np.float64)).astype(values.dtype)


def shaped(values: Any, shape: tuple[int, ...]) -> Any:
    """What `flat` made as [N, C, ...] again."""
    if values.ndim == 3:
        return values.reshape(shape)
    return channels_first(values.reshape(shape[0], *shape[2:], shape[1]))


def channel_sums(x: Any) -> Any:
    """Sums of [N, C, ...] over all but the channels."""
    return _sums(flat(x, x))


@kernel(_samples)
def batch_norm_train(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """`(output, mean, 1/std)` of [N, C, ...] normalised per channel with the statistics of the
    batch.
    """
    values = flat(x, x)
    spread = (-1,) + (1,) * (values.ndim - 2)  # of a number per channel
    count = x.size // max(x.shape[1], 1)
    mean = _sums(values) / count
    out = np.subtract(values, mean.reshape(spread), order="C")
    few = count < 64 and values.ndim == 2
    variance = (np.einsum("ij,ij->j", out, out) if few else _sums(out * out)) / count
    invstd = 1 / np.sqrt(variance + x.dtype.type(eps))
    out *= (invstd if weight is None else invstd * weight).reshape(spread)
    if bias is not None:
        out += bias.reshape(spread)
    return shaped(out, x.shape), mean, invstd


@kernel(_grad_samples)
def batch_norm_train_grad(grad: Any, x: Any, mean: Any, invstd: Any, weight: Any) -> Any:
    """Gradients for input, weight and bias of `batch_norm_train`."""
    back, hat = flat(grad, x), flat(x, x)
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
    return shaped(hat, x.shape), weight_grad, bias_grad


@kernel(_relu_samples)
def batch_norm_relu_train(x: Any, weight: Any, bias: Any, eps: float, residual: Any) -> Any:
    """`(output, mean, 1/std)`: `batch_norm_train`, plus `residual` where there is one, its positive
    part.
    """
    output, mean, invstd = batch_norm_train(x, weight, bias, eps)
    if residual is not None:
        output += residual
    return np.maximum(output, 0, out=output), mean, invstd


@kernel(_relu_grad_samples)
def batch_norm_relu_train_grad(
    grad: Any, x: Any, output: Any, mean: Any, invstd: Any, weight: Any, bias: Any, residual: bool
) -> Any:
    """Gradients for input, weight, bias and residual of `batch_norm_relu_train`."""
    masked = grad * ~(output <= 0)  # at NaN PyTorch lets it through
    parts = batch_norm_train_grad(masked, x, mean, invstd, weight)
    return (*parts, masked if residual else None)


@kernel(_scale_samples)
def scale_shift(x: Any, scale: Any, shift: Any, relu: bool = False, residual: Any = None) -> Any:
    """`x * scale + shift` by channels of [N, C, ...], plus `residual` where there is one; with
    `relu` its positive part.
    """
    spread = (1, -1) + (1,) * (x.ndim - 2)
    out = in_planes(x) * scale.reshape(spread)
    out += shift.reshape(spread)
    if residual is not None:
        out += residual
    return np.maximum(out, 0, out=out) if relu else out


def _row_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    found: list[tuple[Any, ...]] = []
    for shape in ((4, 6), (70, 37), (5, 1030), (33, 64), (3, 1)):
        rows = rng.standard_normal(shape).astype(np.float32) + np.float32(1)
        weight, bias = rng.standard_normal((2, shape[1])).astype(np.float32)
        found += [(rows, weight, bias, 1e-5), (rows, None, None, 1e-3), (rows, weight, None, 1e-5)]
    wild = rows.repeat(9, 1)
    wild[0, 3] = np.nan
    return [*found, (rows.repeat(40, 1).T, None, None, 1e-5), (wild, None, None, 1e-5)]


def _row_grad_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(1)
    found = []
    for rows, weight, bias, eps in _row_samples()[:-1]:
        _, mean, invstd = layer_norm.reference(rows, weight, bias, eps)
        grad = rng.standard_normal(rows.shape).astype(np.float32)
        found.append((grad, rows, mean, invstd, weight, bias is not None))
    return found


@kernel(_row_samples)
def layer_norm(rows: Any, weight: Any, bias: Any, eps: float) -> Any:
    """`(output, mean, 1/std)` of each row of [M, D] normalised, times `weight` plus `bias` [D]."""
    count = rows.shape[-1]
    mean = np.add.reduce(rows, -1, keepdims=True) / count
    out = rows - mean
    invstd = 1 / np.sqrt(np.einsum("ij,ij->i", out, out)[:, None] / count + rows.dtype.type(eps))
    out *= invstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out, mean, invstd


@kernel(_row_grad_samples)
def layer_norm_grad(grad: Any, rows: Any, mean: Any, invstd: Any, weight: Any, bias: bool) -> Any:
    """Gradients for input, weight and bias of `layer_norm`, None where there is none."""
    hat = rows - mean
    hat *= invstd
    inner = grad if weight is None else grad * weight
    count = rows.shape[-1]
    centre = inner.sum(-1, keepdims=True) / count
    along = np.einsum("ij,ij->i", inner, hat)[:, None] / count
    dx = (inner - centre - hat * along) * invstd
    return (
        dx,
        None if weight is None else column_sums(grad * hat),
        column_sums(grad) if bias else None,
    )


def _group_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(3)
    found: list[tuple[Any, ...]] = []
    for shape, groups in (((2, 6, 5, 7), 3), ((3, 8, 16), 8), ((4, 12), 4), ((2, 4, 3, 3, 5), 1)):
        x = rng.standard_normal(shape).astype(np.float32) + np.float32(1)
        weight, bias = rng.standard_normal((2, shape[1])).astype(np.float32)
        found += [(x, groups, weight, bias, 1e-5), (x, groups, None, None, 1e-3)]
    last = channels_first(np.ascontiguousarray(channels_last(found[0][0])))
    return [*found, (last, *found[0][1:])]


def _group_grad_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(4)
    found = []
    for x, groups, weight, bias, eps in _group_samples():
        _, mean, invstd = group_norm.reference(x, groups, weight, bias, eps)
        grad = rng.standard_normal(x.shape).astype(np.float32)
        found.append((grad, x, groups, mean, invstd, weight))
    return found


def _grouped(x: Any, groups: int) -> Any:
    """[N, C, ...] as [N, G, C / G, P]."""
    n, c = x.shape[:2]
    return x.reshape(n, groups, c // groups, math.prod(x.shape[2:]))


@kernel(_group_samples)
def group_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Any:
    """`(output, mean, 1/std)` of [N, C, ...] normalised over groups of channels, times `weight`
    plus `bias` [C]; the statistics are [N, G].
    """
    values = _grouped(x, groups)
    count = max(math.prod(values.shape[2:]), 1)
    mean = values.sum((2, 3), keepdims=True) / count
    out = values - mean
    variance = np.einsum("ngcp,ngcp->ng", out, out) / count
    invstd = 1 / np.sqrt(variance + x.dtype.type(eps))
    out *= invstd[:, :, None, None]
    if weight is not None:
        out *= weight.reshape(groups, -1, 1)
    if bias is not None:
        out += bias.reshape(groups, -1, 1)
    return out.reshape(x.shape), mean[:, :, 0, 0], invstd


@kernel(_group_grad_samples)
def group_norm_grad(grad: Any, x: Any, groups: int, mean: Any, invstd: Any, weight: Any) -> Any:
    """Gradients for input, weight and bias of `group_norm`."""
    back, hat = _grouped(grad, groups), _grouped(x, groups)
    hat = hat - mean[:, :, None, None]
    hat *= invstd[:, :, None, None]
    weight_grad = np.einsum("ngcp,ngcp->gc", back, hat).reshape(-1)
    bias_grad = back.sum((0, 3)).reshape(-1)
    if weight is not None:
        back = back * weight.reshape(groups, -1, 1)
    count = max(math.prod(hat.shape[2:]), 1)
    along = np.einsum("ngcp,ngcp->ng", back, hat) / count
    hat *= along[:, :, None, None]
    dx = back - back.sum((2, 3), keepdims=True) / count
    dx -= hat
    dx *= invstd[:, :, None, None]
    return dx.reshape(x.shape), weight_grad, bias_grad
