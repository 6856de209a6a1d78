"""Pooling: one pass per window offset over whole arrays, in the order they lie in memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel
from tensorlib.kernels.convolution import Pads, Sizes, _offsets
from tensorlib.ops.strides import in_planes


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 7, 6)).astype(np.float32)
    found: list[tuple[Any, ...]] = [
        (x, (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), (3, 3)),
        (x, (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), (4, 6)),
        (x, (2, 3), (3, 2), ((1, 3), (1, 2)), (2, 1), (3, 3)),
    ]
    wide = rng.integers(-3, 3, (2, 7, 6, 21)).astype(np.float32)  # equal ones among them
    wide[0, 3, 3, 5], wide[1, 0, 0, 20] = np.nan, -np.inf
    many = wide.transpose(0, 3, 1, 2)
    found += [(many, *rest) for _, *rest in found]
    return [*found, (many[:, :, ::-1, 1:], (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (4, 3))]


def _max_grad_samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(1)
    found = []
    for sample in _samples():
        output = max_pool.reference(*sample)
        grad = rng.standard_normal(output.shape).astype(np.float32)
        found.append((grad, sample[0], output, *sample[1:]))
    return found


def _mean_samples() -> list[tuple[Any, ...]]:
    many = np.linspace(1, 4, 18, dtype=np.float32).reshape(6, 3)
    last = (*_samples()[-1], np.float32(9))
    return [*_samples(), last, (*_samples()[0], many[:3]), (*_samples()[-1], many[:4])]


def _sum_grad_samples() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [
        (grad, x.shape, k, s, pads, sizes)
        for grad, x, _, k, s, pads, dilation, sizes in _max_grad_samples()
        if dilation == (1, 1)
    ]
    return [*found, (*found[0], np.float32(4)), (*found[-1], np.float32(9)), (*found[0], np.eye(3))]


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
        part = _seen(image, offset, stride, dilation, sizes)
        out = part.copy(order="K") if out is None else np.maximum(out, part, out=out)
    return out


def _bordered(x: Any, padding: Pads, value: Any) -> Any:
    """[N, C, ...] with the border added, its channels innermost in memory where they are in `x`."""
    xp = array_namespace(x)
    x = in_planes(x)
    if not any(map(any, padding)):
        return x
    sizes = [lo + n + hi for (lo, hi), n in zip(padding, x.shape[2:], strict=True)]
    out = xp.full_like(x, value, shape=(*x.shape[:2], *sizes))
    out[_inside(x.shape, padding)] = x
    return out


def _inside(shape: Sizes, padding: Pads) -> Any:
    """Where in the bordered array an array of `shape` is."""
    return (..., *(slice(lo, lo + n) for n, (lo, _) in zip(shape[2:], padding, strict=True)))


def _seen(x: Any, offset: Sizes, stride: Sizes, dilation: Sizes, sizes: Sizes) -> Any:
    """The elements of a bordered [N, C, ...] at `offset` in the windows at all positions."""
    places = zip(offset, stride, dilation, sizes, strict=True)
    return x[(..., *(slice(o * d, o * d + (n - 1) * s + 1, s) for o, s, d, n in places))]


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
    tiled = kernel_size == stride and dilation == (1,) * len(stride)  # windows do not overlap
    used = tuple(m * s for m, s in zip(sizes, stride, strict=True))
    exact = tiled and used == image.shape[2:]
    out = (xp.empty_like if exact else xp.zeros_like)(image, dtype=grad.dtype)
    free = None
    for offset in _offsets(kernel_size):
        value = _seen(image, offset, stride, dilation, sizes)
        hit = (value == output) | (value != value)
        if free is None:
            free = ~hit
        else:
            hit &= free
            free &= ~hit
        place = _seen(out, offset, stride, dilation, sizes)
        if tiled:
            np.multiply(hit, grad, out=place)
        else:
            place += hit * grad
    return out[_inside(x.shape, padding)]


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
    places = xp.pad(plane, padding, constant_values=-1)
    found = xp.full_like(output, -1, dtype=np.int64)
    for offset in _offsets(kernel_size):
        value = _seen(image, offset, stride, dilation, sizes)
        place = _seen(places, offset, stride, dilation, sizes)
        hit = ((value == output) | (value != value)) & (found < 0) & (place >= 0)
        np.copyto(found, place, where=hit)
    return found


@kernel(_mean_samples)
def sum_pool(
    x: Any,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    dilation: Sizes,
    sizes: Sizes,
    divisor: Any = 1,
) -> Any:
    """The sum of each window of [N, C, ...], the border counted as zero, over `divisor`."""
    image = _bordered(x, padding, 0)
    out = None
    for offset in _offsets(kernel_size):
        part = _seen(image, offset, stride, dilation, sizes)
        out = part.copy(order="K") if out is None else np.add(out, part, out=out)
    if type(divisor) is not int:
        out /= divisor
    return out


@kernel(_sum_grad_samples)
def sum_pool_grad(
    grad: Any,
    shape: Sizes,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Pads,
    sizes: Sizes,
    divisor: Any = 1,
) -> Any:
    """Gradient of `sum_pool` for an input of `shape`."""
    xp = array_namespace(grad)
    grad = in_planes(grad)
    if type(divisor) is not int:
        grad = grad / divisor
    full = tuple(
        max(n + lo + hi, (m - 1) * s + k)
        for n, (lo, hi), m, s, k in zip(shape[2:], padding, sizes, stride, kernel_size, strict=True)
    )
    out = xp.zeros_like(grad, shape=(*shape[:2], *full))
    ones = (1,) * len(kernel_size)
    for offset in _offsets(kernel_size):
        _seen(out, offset, stride, ones, sizes)[...] += grad
    return out[_inside(shape, padding)]
