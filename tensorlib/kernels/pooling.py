"""Pooling: one pass per window offset over whole arrays, channels last in memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel
from tensorlib.kernels.convolution import (
    Pads,
    Sizes,
    _offsets,
    _shift,
    channels_first,
    channels_last,
    padded,
)


def _samples() -> list[tuple[Any, ...]]:
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(np.float32)
    return [
        (x, (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), (3, 3)),
        (x, (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), (4, 6)),
    ]


def _max_grad_samples() -> list[tuple[Any, ...]]:
    return [(max_pool.reference(*a), a[0], max_pool.reference(*a), *a[1:]) for a in _samples()]


def _lowest(dtype: Any) -> Any:
    return -np.inf if dtype.kind in "fV" else np.iinfo(dtype).min


@kernel(_samples)
def max_pool(
    x: Any, kernel_size: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, sizes: Sizes
) -> Any:
    """The largest element of each window of [N, C, ...]; NaN wins."""
    image = _bordered(x, padding, _lowest(x.dtype))
    out = None
    for offset in _offsets(kernel_size):
        part = _shift(image, offset, stride, dilation, sizes)
        out = part.copy() if out is None else np.maximum(out, part, out=out)
    return channels_first(out)


def _bordered(x: Any, padding: Pads, value: Any) -> Any:
    last = channels_last(x)
    return padded(last, padding, value) if any(p for pair in padding for p in pair) else last


@kernel(_max_grad_samples)
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
    """Gradient of `max_pool`: each window's goes to the first of its largest elements."""
    xp = array_namespace(x)
    image = _bordered(x, padding, _lowest(x.dtype))
    top, back = channels_last(output), channels_last(grad)
    tiled = kernel_size == stride and dilation == (1,) * len(stride)  # windows do not overlap
    used = tuple(m * s for m, s in zip(sizes, stride, strict=True))
    exact = tiled and used == image.shape[1:-1]
    out = (xp.empty if exact else xp.zeros)(image.shape, grad.dtype)
    free = None
    for offset in _offsets(kernel_size):
        hit = _shift(image, offset, stride, dilation, sizes) == top
        if free is None:
            free = ~hit
        else:
            hit &= free
            free &= ~hit
        place = _shift(out, offset, stride, dilation, sizes)
        if tiled:
            np.multiply(hit, back, out=place)
        else:
            place += hit * back
    inner = [slice(lo, lo + n) for n, (lo, _) in zip(x.shape[2:], padding, strict=True)]
    return channels_first(out[(slice(None), *inner)])


def max_pool_indices(
    x: Any,
    output: Any,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    dilation: Sizes,
    sizes: Sizes,
) -> Any:
    """Flat positions, in each channel's plane, of the first largest element of each window."""
    xp = array_namespace(x)
    image = _bordered(x, padding, _lowest(x.dtype))
    plane = xp.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
    places = xp.pad(plane, padding, constant_values=-1)[None, ..., None]
    top = channels_last(output)
    found = xp.full(top.shape, -1, np.int64)
    for offset in _offsets(kernel_size):
        value = _shift(image, offset, stride, dilation, sizes)
        place = _shift(places, offset, stride, dilation, sizes)
        hit = ((value == top) | (value != value)) & (found < 0) & (place >= 0)
        found = np.where(hit, place, found)
    return channels_first(found)


@kernel(_samples)
def sum_pool(
    x: Any, kernel_size: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, sizes: Sizes
) -> Any:
    """The sum of each window of [N, C, ...], the border counted as zero."""
    image = _bordered(x, padding, 0.0)
    out = None
    for offset in _offsets(kernel_size):
        part = _shift(image, offset, stride, dilation, sizes)
        out = part.copy() if out is None else np.add(out, part, out=out)
    return channels_first(out)


def sum_pool_grad(
    grad: Any, shape: Sizes, kernel_size: Sizes, stride: Sizes, padding: Pads, sizes: Sizes
) -> Any:
    """Gradient of `sum_pool` for an input of `shape`."""
    xp = array_namespace(grad)
    full = tuple(
        max(n + lo + hi, (m - 1) * s + k)
        for n, (lo, hi), m, s, k in zip(shape[2:], padding, sizes, stride, kernel_size, strict=True)
    )
    out = xp.zeros((shape[0], *full, shape[1]), grad.dtype)
    back = channels_last(grad)
    ones = (1,) * len(kernel_size)
    for offset in _offsets(kernel_size):
        _shift(out, offset, stride, ones, sizes)[...] += back
    inner = [slice(lo, lo + n) for n, (lo, _) in zip(shape[2:], padding, strict=True)]
    return channels_first(out[(slice(None), *inner)])
