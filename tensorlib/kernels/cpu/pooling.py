"""Compiled pooling of images [N, C, H, W], channels innermost in memory or in planes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import pooling as reference
from tensorlib.kernels.convolution import Pads, Sizes, channels_first
from tensorlib.kernels.cpu import Tasks, address, blocks, dense, empty, scratch, single, worth
from tensorlib.kernels.cpu.convolution import channels_last
from tensorlib.ops.strides import is_channels_last

_run = Tasks("pooling")

LEAST = 1 << 14  # numbers from which on the compiled body is the faster one
PIECE = 1 << 14  # numbers that one block works on, about
PAST = 1 << 22  # bytes of a result from which on it is written past the caches
TILE = 64  # channels of one block of a gradient
LANES = 16  # the widest vector


def _rows(x: Any) -> Any:
    return channels_last(x)


def _is_four(x: Any, window: tuple[Any, ...], sizes: Sizes) -> bool:
    """Whether windows are 2x2, side by side and inside, and channels whole vectors."""
    return (
        window == (2, 2, 2, 2, 0, 0, 1, 1)
        and x.shape[1] % LANES == 0
        and 2 * sizes[0] <= x.shape[2]
        and 2 * sizes[1] <= x.shape[3]
    )


def _images(x: Any) -> bool:
    return worth(x.size, LEAST) and x.ndim == 4 and x.size > 0 and single(x)


def _numbers(k: Sizes, s: Sizes, padding: Pads) -> tuple[int, ...]:
    return (*k, *s, padding[0][0], padding[1][0])


def _pooled(
    x: Any, k: Sizes, s: Sizes, padding: Pads, dilation: Sizes, sizes: Sizes, divisor: float
) -> Any:
    """The largest elements, or sums over `divisor` where that is not 0."""
    n, c, h, w = x.shape
    window = (*_numbers(k, s, padding), *dilation, divisor)
    if is_channels_last(x):
        rows, out = _rows(x), empty((n, *sizes, c))
        if divisor == 0 and _is_four(x, window[:-1], sizes):
            count, length = blocks(n * sizes[0], max(1, PIECE // (sizes[1] * c)), 256)
            arrays = address(rows), address(out)
            _run.max_of_four(count, *arrays, n * sizes[0], length, c, h, w, *sizes)
            return channels_first(out)
        past = int(c % LANES == 0 and out.nbytes >= PAST)
        arrays = address(rows), address(out)
        _run.pool_rows(n * sizes[0], *arrays, n, c, h, w, *sizes, *window, past)
        return channels_first(out)
    x, out = dense(x), empty((n, c, *sizes))
    count, length = blocks(n * c, max(1, PIECE // (h * w)), 256)
    line = scratch(4 * w + 64)
    arrays = address(x), address(out)
    _run.pool_planes(count, *arrays, n * c, h, w, *sizes, *window, *line, length)
    return out


def _pools(
    x: Any, kernel_size: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, sizes: Sizes
) -> bool:
    return _images(x)


@reference.max_pool.override("images of float32", _pools)
def max_pool(
    x: Any, kernel_size: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, sizes: Sizes
) -> Any:
    """One pass, without a border in memory."""
    return _pooled(x, kernel_size, stride, padding, dilation, sizes, 0.0)


def _sums(
    x: Any,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    dilation: Sizes,
    sizes: Sizes,
    divisor: Any = 1,
) -> bool:
    return _images(x) and _is_number(divisor)


def _is_number(divisor: Any) -> bool:
    return type(divisor) in (int, np.float32)


@reference.sum_pool.override("images of float32, one divisor", _sums)
def sum_pool(
    x: Any,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    dilation: Sizes,
    sizes: Sizes,
    divisor: Any = 1,
) -> Any:
    """As `max_pool`."""
    return _pooled(x, kernel_size, stride, padding, dilation, sizes, float(divisor))


def _max_back(
    grad: Any,
    x: Any,
    output: Any,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    dilation: Sizes,
    sizes: Sizes,
) -> bool:
    return _images(x) and single(grad, output)


@reference.max_pool_grad.override("images of float32", _max_back)
def max_pool_grad(
    grad: Any,
    x: Any,
    output: Any,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    dilation: Sizes,
    sizes: Sizes,
) -> Any:
    """Looks for the largest elements again; writes the result to memory once."""
    n, c, h, w = x.shape
    window = (*_numbers(kernel_size, stride, padding), *dilation)
    if is_channels_last(x):
        given = [_rows(a) for a in (grad, x, output)]
        out = empty((n, h, w, c))
        if _is_four(x, window, sizes):
            count, length = blocks(n * sizes[0], max(1, PIECE // (4 * sizes[1] * c)), 256)
            arrays = (*map(address, given), address(out))
            _run.max_of_four_grad(count, *arrays, n * sizes[0], length, c, h, w, *sizes)
            return channels_first(out)
        tile = min(TILE, c) if n > 1 else LANES
        arrays = (*map(address, given), address(out))
        count = n * -(-c // tile)
        _run.max_grad_rows(count, *arrays, n, c, h, w, *sizes, *window, tile)
        return channels_first(out)
    given = [dense(a) for a in (grad, x, output)]
    out = empty(x.shape)
    count, length = blocks(n * c, max(1, PIECE // (h * w)), 256)
    arrays = (*map(address, given), address(out))
    _run.max_grad_planes(count, *arrays, n * c, h, w, *sizes, *window, length)
    return out


def _sum_back(
    grad: Any,
    shape: Sizes,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    sizes: Sizes,
    divisor: Any = 1,
) -> bool:
    return _images(grad) and _is_number(divisor)


@reference.sum_pool_grad.override("images of float32, one divisor", _sum_back)
def sum_pool_grad(
    grad: Any,
    shape: Sizes,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    sizes: Sizes,
    divisor: Any = 1,
) -> Any:
    """One pass over the result."""
    n, c, h, w = shape
    window = (*_numbers(kernel_size, stride, padding), float(divisor))
    if is_channels_last(grad):
        given, out = _rows(grad), empty((n, h, w, c))
        arrays = address(given), address(out)
        _run.sum_grad_rows(n * h, *arrays, n, c, h, w, *sizes, *window)
        return channels_first(out)
    given, out = dense(grad), empty(shape)
    count, length = blocks(n * c, max(1, PIECE // (h * w)), 256)
    arrays = address(given), address(out)
    _run.sum_grad_planes(count, *arrays, n * c, h, w, *sizes, *window, length)
    return out
