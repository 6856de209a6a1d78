"""Pooling by places: maxima put back (`max_unpool1d ...`) and maxima of random windows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DTypeError, InvalidValueError, ShapeError
from tensorlib.ops import indexing, pooling, shape
from tensorlib.ops._common import Array, Grads, called, check_dtype, record, wrap
from tensorlib.ops.convolution import sizes_of

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Sizes = tuple[int, ...]


@called("SqueezeBackward1")
def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """Values [N, C, L] of a `max_pool1d` at the places they came from, zeros elsewhere."""
    return _unpool("max_unpool1d", input, indices, kernel_size, stride, padding, output_size, 1)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """Values [N, C, H, W] of a `max_pool2d` at the places they came from, zeros elsewhere."""
    return _unpool("max_unpool2d", input, indices, kernel_size, stride, padding, output_size, 2)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """Values [N, C, D, H, W] of a `max_pool3d` at the places they came from, zeros elsewhere."""
    return _unpool("max_unpool3d", input, indices, kernel_size, stride, padding, output_size, 3)


def _unpool(
    where: str,
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
    spatial: int,
) -> Tensor:
    x, places = input.array, indices.array
    kernel = sizes_of(where, "kernel_size", kernel_size, spatial, 1)
    steps = kernel if stride is None else sizes_of(where, "stride", stride, spatial, 1)
    pads = sizes_of(where, "padding", padding, spatial, 0)
    sizes = _unpooled_sizes(where, x, kernel, steps, pads, output_size)
    if places.dtype != np.int64:
        raise DTypeError(
            where,
            f"elements in indices should be type int64 but got: {dtypes.of(places.dtype)}",
            hint="use the indices of the pooling as they are",
        )
    if x.ndim not in (spatial + 1, spatial + 2) or 0 in x.shape[-spatial - 1 :]:
        raise ShapeError(
            where,
            f"input of shape {x.shape}",
            f"{spatial + 1} or {spatial + 2} dimensions without empty ones",
        )
    if x.shape != places.shape:
        raise ShapeError(
            where, f"indices of shape {places.shape} for input {x.shape}", "equal shapes"
        )
    check_dtype(where, x, "f", "floating point")
    lead = x.shape[:-spatial]
    count = math.prod(sizes)
    flat = places.reshape(*lead, math.prod(x.shape[-spatial:]))
    if flat.size and (flat.min() < 0 or flat.max() >= count):
        bad = flat[(flat < 0) | (flat >= count)][0]
        raise ShapeError(
            where, f"Found an invalid max index: {bad}", f"places in the output volume {sizes}"
        )
    output = np.zeros((*lead, count), x.dtype)
    np.put_along_axis(output, flat, x.reshape(flat.shape), -1)

    def backward(grad: Array) -> Grads:
        return (np.take_along_axis(grad.reshape(*lead, count), flat, -1).reshape(places.shape),)

    def smooth(grad: Any) -> Grads:
        found = indexing.gather(shape.reshape(grad, (*lead, count)), -1, wrap(flat))
        return (shape.reshape(found, places.shape),)

    backward.__qualname__ = f"{where}.backward"
    return record(output.reshape(*lead, *sizes), backward, input, smooth=smooth)


def _unpooled_sizes(
    where: str, x: Array, kernel: Sizes, stride: Sizes, pads: Sizes, output_size: Any
) -> Sizes:
    spatial = len(kernel)
    natural = tuple(
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(x.shape[-spatial:], stride, kernel, pads, strict=False)
    )
    if output_size is None:
        sizes = natural
    else:
        sizes = tuple(int(n) for n in output_size)
        sizes = sizes[2:] if len(sizes) == spatial + 2 else sizes
        if len(sizes) != spatial:
            raise InvalidValueError(
                where, f"output_size {tuple(output_size)}", f"{spatial} or {spatial + 2} numbers"
            )
        for i, (wanted, n, s) in enumerate(zip(sizes, natural, stride, strict=False)):
            if not n - s < wanted < n + s:
                raise InvalidValueError(
                    where,
                    f"invalid output_size {sizes}: dim {i} is {wanted}",
                    f"between {n - s} and {n + s}",
                )
    if any(n < 0 for n in sizes):
        raise InvalidValueError(where, f"output size {sizes}", "non-negative numbers")
    return sizes


# -- fractional ------------------------------------------------------------------------------------


@called("FractionalMaxPool2DBackward0")
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """Maxima of windows at random steps: [N, C, H, W] to `output_size`, or `output_ratio` times
    the input's. B. Graham, Fractional Max-Pooling, 2014.
    """
    found = fractional_max_pool2d_with_indices(
        input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    )
    return found if return_indices else found[0]


@called("FractionalMaxPool3DBackward0")
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """Maxima of windows at random steps: [N, C, D, H, W] to `output_size`, or `output_ratio` times
    the input's.
    """
    found = fractional_max_pool3d_with_indices(
        input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    )
    return found if return_indices else found[0]


def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`fractional_max_pool2d` and the places of the maxima in each plane."""
    where = "fractional_max_pool2d"
    return _fractional(where, input, kernel_size, output_size, output_ratio, _random_samples, 2)


def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`fractional_max_pool3d` and the places of the maxima in each volume."""
    where = "fractional_max_pool3d"
    return _fractional(where, input, kernel_size, output_size, output_ratio, _random_samples, 3)


def _fractional(
    where: str,
    input: Tensor,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    samples: Tensor | None,
    spatial: int,
) -> tuple[Tensor, Tensor]:
    x = input.array
    if output_size is None and output_ratio is None:
        raise InvalidValueError(
            where, "neither output_size nor output_ratio is given", "one of the two"
        )
    lengths = x.shape[-spatial:]
    if output_size is None:
        many = not isinstance(output_ratio, int | float)
        ratios = tuple(output_ratio) if many else (output_ratio,) * spatial
        if len(ratios) != spatial:
            raise InvalidValueError(where, f"output_ratio {output_ratio}", f"1 or {spatial}")
        output_size = tuple(int(n * r) for n, r in zip(lengths, ratios, strict=False))
    kernel = sizes_of(where, "kernel_size", kernel_size, spatial, 1)
    sizes = sizes_of(where, "output_size", output_size, spatial, 1)
    if x.ndim not in (spatial + 1, spatial + 2) or 0 in x.shape[-spatial - 1 :]:
        raise ShapeError(
            where,
            f"input of shape {x.shape}",
            f"{spatial + 1} or {spatial + 2} dimensions without empty ones",
        )
    for n, m, k in zip(lengths, sizes, kernel, strict=True):
        if m + k - 1 > n:
            raise ShapeError(
                where, f"pool size {k} for {m} outputs is too large relative to input size {n}"
            )
    check_dtype(where, x, "f", "floating point")
    channels = x.shape[-spatial - 1]
    batch = x.shape[0] if x.ndim == spatial + 2 else 1
    if samples is None:
        samples = wrap(np.empty((batch, channels, spatial), x.dtype)).uniform_()
    drawn = samples.array[:batch]
    if drawn.shape != (batch, channels, spatial) or drawn.dtype != x.dtype:
        raise ShapeError(
            where,
            f"_random_samples of {samples.dtype} {drawn.shape}",
            f"{input.dtype} {(batch, channels, spatial)}",
        )
    order = (1, 0) if spatial == 2 else (0, 1, 2)  # PyTorch draws the width of images first
    starts = [
        _starts(drawn[..., place], n, m, k)
        for place, n, m, k in zip(order, lengths, sizes, kernel, strict=True)
    ]
    flat = x.reshape(batch, channels, math.prod(lengths))
    places = _largest(flat, starts, lengths, kernel)
    output = indexing.gather(shape.reshape(input, flat.shape), 2, wrap(places))
    form = (*x.shape[:-spatial], *sizes)
    return shape.reshape(output, form), wrap(places.reshape(form))


def _starts(sample: Array, length: int, count: int, window: int) -> Array:
    """[N, C, count] first positions of the windows, in the arithmetic of the samples' type."""
    kind = sample.dtype.type
    starts = np.full((*sample.shape, count), length - window, np.int64)
    if count > 1:
        step = kind(length - window) / kind(count - 1)
        at = (np.arange(count - 1).astype(kind) + sample[..., None]) * step
        starts[..., :-1] = at.astype(np.int64) - (sample * step).astype(np.int64)[..., None]
    return starts


def _largest(flat: Array, starts: list[Array], lengths: Sizes, kernel: Sizes) -> Array:
    """[N, C, outputs] places of the first maximum (or last NaN) of each window."""
    best: Any = None
    place: Any = None
    for offset in np.ndindex(*kernel):
        position: Any = np.zeros((*flat.shape[:2], 1), np.int64)
        for start, o, n in zip(starts, offset, lengths, strict=True):
            position = (position * n)[..., None] + (start + o)[:, :, None, :]
            position = position.reshape(*flat.shape[:2], position.shape[2] * position.shape[3])
        value = np.take_along_axis(flat, position, 2)
        if best is None:
            best, place = value, position
        else:
            better = (value > best) | np.isnan(value)
            best, place = np.where(better, value, best), np.where(better, position, place)
    found: Array = place
    return found


# -- maxima and their places -----------------------------------------------------------------------


def _with_indices(pool: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(pool)
    def both(input: Tensor, *args: Any, return_indices: bool = False, **kwargs: Any) -> Any:
        return pool(input, *args, return_indices=True, **kwargs)

    both.__name__ = both.__qualname__ = f"{pool.__name__}_with_indices"
    return both


max_pool1d_with_indices = _with_indices(pooling.max_pool1d)
max_pool2d_with_indices = _with_indices(pooling.max_pool2d)
max_pool3d_with_indices = _with_indices(pooling.max_pool3d)
adaptive_max_pool1d_with_indices = _with_indices(pooling.adaptive_max_pool1d)
adaptive_max_pool2d_with_indices = _with_indices(pooling.adaptive_max_pool2d)
adaptive_max_pool3d_with_indices = _with_indices(pooling.adaptive_max_pool3d)
