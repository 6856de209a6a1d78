"""Pooling of one to three dimensions: max, average, adaptive, Lp."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import InvalidValueError, ShapeError
from tensorlib.kernels import pooling as kernels
from tensorlib.ops import elementwise, shape
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    called,
    check_dtype,
    not_for,
    record,
    single,
    wrap,
)
from tensorlib.ops.convolution import sizes_of
from tensorlib.ops.out import takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Sizes = tuple[int, ...]


def _geometry(
    where: str,
    x: Array,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    spatial: int,
) -> tuple[Sizes, Sizes, Any, Sizes, Sizes]:
    k = sizes_of(where, "kernel_size", kernel_size, spatial, 1)
    s = (
        k
        if stride is None or stride == () or stride == []
        else sizes_of(where, "stride", stride, spatial, 1)
    )
    p = sizes_of(where, "padding", padding, spatial, 0)
    d = sizes_of(where, "dilation", dilation, spatial, 1)
    if any(2 * a > b for a, b in zip(p, k, strict=True)):
        raise ShapeError(
            where,
            f"pad should be at most half of effective kernel size, but got pad={p}, "
            f"kernel_size={k}",
        )
    sizes, pads = [], []
    for n, ki, si, pi, di in zip(x.shape[2:], k, s, p, d, strict=True):
        span = n + 2 * pi - di * (ki - 1) - 1
        out = (span + si - 1 if ceil_mode else span) // si + 1
        if ceil_mode and (out - 1) * si >= n + pi:
            out -= 1
        if out < 1:
            raise ShapeError(
                where,
                f"input {x.shape} gives output size {out}: too small",
                f"at least the kernel {k}",
            )
        sizes.append(out)
        pads.append((pi, max(pi, (out - 1) * si + di * (ki - 1) + 1 - n - pi)))
    return k, s, tuple(pads), d, tuple(sizes)


class WrongRank(ShapeError, InvalidValueError):
    """An input of too many or few dimensions (RuntimeError or ValueError in PyTorch)."""


def _batched(
    where: str, input: Tensor, spatial: int, kinds: str = "f"
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`input` with a batch dimension, in at least float32, and what brings a result back."""
    check_dtype(where, input.array, kinds, "a type PyTorch pools")
    ndim, kind = input.array.ndim, input.array.dtype
    if ndim not in (spatial + 1, spatial + 2):
        raise WrongRank(
            where, f"shape {input.array.shape}", f"{spatial + 1} or {spatial + 2} dimensions"
        )
    if not all(input.array.shape[ndim - spatial - 1 :]):
        raise ShapeError(
            where, f"shape {input.array.shape}", "positive sizes of all but the batch dimension"
        )
    batch = single(input)
    if ndim == spatial + 2:
        return batch, lambda result: astype(result, kind)
    return shape.unsqueeze(batch, 0), lambda result: astype(shape.squeeze(result, 0), kind)


def _max(
    where: str,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: bool,
    spatial: int,
) -> Any:
    kinds = "fiu" if indices or spatial > 1 else "f"
    batch, finish = _batched(where, input, spatial, kinds)
    x = batch.array
    k, s, pads, d, sizes = _geometry(
        where, x, kernel_size, stride, padding, dilation, ceil_mode, spatial
    )
    output = kernels.max_pool(x, k, s, pads, d, sizes)

    def backward(grad: Array) -> Grads:
        return (kernels.max_pool_grad(grad, x, output, k, s, pads, d, sizes),)

    def smooth(grad: Any) -> Grads:
        places = kernels.max_pool_indices(x.array, output.array, k, s, pads, d, sizes)
        return (_unpooled(grad, places, x.array.shape),)

    backward.__qualname__ = f"max_pool{spatial}d.backward"
    result = finish(record(output, backward, batch, smooth=smooth))
    if not indices:
        return result
    places = kernels.max_pool_indices(x, output, k, s, pads, d, sizes)
    return result, wrap(places.reshape(result.array.shape))


def _unpooled(values: Tensor, places: Array, size: Sizes) -> Tensor:
    """`values` added at flat `places` of each plane of a zero tensor of `size`."""
    from tensorlib.ops.indexing import scatter_add

    n, c = size[:2]
    zeros = wrap(np.zeros((n, c, math.prod(size[2:])), values.array.dtype))
    flat = scatter_add(zeros, 2, wrap(places.reshape(n, c, -1)), shape.reshape(values, (n, c, -1)))
    return shape.reshape(flat, size)


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of [N, C, L]; `return_indices`: also where it stood."""
    return _max(
        "max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 1
    )


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of [N, C, H, W]; with `return_indices` also where it
    stood.
    """
    return _max(
        "max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 2
    )


def max_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of [N, C, D, H, W]; with `return_indices` also where it
    stood.
    """
    return _max(
        "max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 3
    )


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """Puts pooled values back where `indices` say, zeros elsewhere."""
    batch, finish = _batched("max_unpool2d", input, 2)
    k = sizes_of("max_unpool2d", "kernel_size", kernel_size, 2, 1)
    s = k if stride is None else sizes_of("max_unpool2d", "stride", stride, 2, 1)
    p = sizes_of("max_unpool2d", "padding", padding, 2, 0)
    if output_size is None:
        sizes = [
            (n - 1) * si - 2 * pi + ki
            for n, si, pi, ki in zip(batch.array.shape[2:], s, p, k, strict=True)
        ]
    else:
        sizes = list(output_size)[-2:]
    result = _unpooled(
        batch, indices.array.reshape(batch.array.shape), (*batch.array.shape[:2], *sizes)
    )
    return finish(result)


def _average(
    where: str,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    spatial: int,
) -> Tensor:
    batch, finish = _batched(where, input, spatial, "fi")
    x = batch.array
    if (x.dtype.kind == "i" and x.dtype.itemsize < 8) or (
        spatial == 3 and input.array.dtype.char in "eE"
    ):
        raise not_for(where, input.array, "a type PyTorch averages")
    k, s, pads, d, sizes = _geometry(where, x, kernel_size, stride, padding, 1, ceil_mode, spatial)
    if divisor_override == 0:
        raise ShapeError(where, "divisor must be not zero")
    size = x.shape
    divisor = _divisor(
        size[2:], k, s, pads, padding, sizes, count_include_pad, divisor_override, x.dtype
    )
    if x.dtype.kind == "i":
        total = kernels.sum_pool(x, k, s, pads, d, sizes)
        total = np.sign(total) * np.sign(divisor) * (np.abs(total) // np.abs(divisor))
    else:
        total = kernels.sum_pool(x, k, s, pads, d, sizes, divisor)

    def backward(grad: Array) -> Grads:
        return (kernels.sum_pool_grad(grad, size, k, s, pads, sizes, divisor),)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.convolution import _input_grad

        n, c = size[:2]
        planes = shape.reshape(elementwise.div(grad, wrap(np.asarray(divisor))), (n * c, 1, *sizes))
        ones = wrap(np.ones((1, 1, *k), grad.array.dtype))
        back = _input_grad(planes, ones, (n * c, 1, *size[2:]), s, pads, d, 1)
        return (shape.reshape(back, size),)

    backward.__qualname__ = f"avg_pool{spatial}d.backward"
    return finish(record(total, backward, batch, smooth=smooth))


def _divisor(
    lengths: Sizes,
    k: Sizes,
    s: Sizes,
    pads: Any,
    padding: Any,
    sizes: Sizes,
    include: bool,
    override: int | None,
    kind: Any,
) -> Any:
    """How many elements each window averages over: a number where they are equal."""
    if override is not None:
        return kind.type(override)
    counts = []
    for n, ki, si, (lo, _), m in zip(lengths, k, s, pads, sizes, strict=True):
        start = np.arange(m) * si - lo
        stop = np.minimum(start + ki, n + lo)
        if not include:
            start, stop = np.maximum(start, 0), np.minimum(stop, n)
        counts.append(stop - start)
    if all((c == c[0]).all() for c in counts):
        return kind.type(math.prod(int(c[0]) for c in counts))
    grid = counts[0]
    for c in counts[1:]:
        grid = np.multiply.outer(grid, c)
    return grid.astype(kind)


@called("SqueezeBackward1")
def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window of [N, C, L]."""
    return _average(
        "avg_pool1d", input, kernel_size, stride, padding, ceil_mode, count_include_pad, None, 1
    )


@takes_out
def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of [N, C, H, W]."""
    return _average(
        "avg_pool2d",
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        2,
    )


@takes_out
def avg_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of [N, C, D, H, W]."""
    return _average(
        "avg_pool3d",
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        3,
    )


# -- adaptive --------------------------------------------------------------------------------------


def _targets(where: str, output_size: Any, lengths: Sizes) -> Sizes:
    given = (
        (output_size,) * len(lengths)
        if isinstance(output_size, int) or output_size is None
        else tuple(output_size)
    )
    if len(given) != len(lengths):
        raise ShapeError(where, f"output_size {output_size}", f"{len(lengths)} numbers")
    found = tuple(n if g is None else int(g) for g, n in zip(given, lengths, strict=True))
    if any(f < 0 for f in found):
        raise ShapeError(where, f"output_size {output_size}", "non-negative numbers")
    return found


def _edges(length: int, count: int) -> tuple[Array, Array]:
    """First and last+1 input position of each adaptive window."""
    i = np.arange(count)
    return i * length // max(count, 1), -((-(i + 1) * length) // max(count, 1))


def _averaging(length: int, count: int, kind: Any) -> Array:
    """[count, length] whose rows average the adaptive windows."""
    start, stop = _edges(length, count)
    place = np.arange(length)
    inside = (place >= start[:, None]) & (place < stop[:, None])
    return (inside / (stop - start)[:, None]).astype(kind)  # type: ignore[no-any-return]  # NumPy's stubs are wider


def _adaptive_average(where: str, input: Tensor, output_size: Any, spatial: int) -> Tensor:
    from tensorlib.ops import linalg, reduction

    batch, finish = _batched(where, input, spatial)
    lengths = batch.array.shape[2:]
    targets = _targets(where, output_size, lengths)
    if all(t == 1 for t in targets):
        result = reduction.mean(batch, tuple(range(2, 2 + spatial)), True)
    elif all(t and n % t == 0 for n, t in zip(lengths, targets, strict=True)):
        steps = tuple(n // t for n, t in zip(lengths, targets, strict=True))
        result = _average(where, batch, steps, steps, 0, False, True, None, spatial)
    else:
        result = batch
        for axis, (n, t) in enumerate(zip(lengths, targets, strict=True), start=2):
            weights = wrap(_averaging(n, t, batch.array.dtype).T)
            result = shape.movedim(
                linalg.matmul(shape.movedim(result, axis, -1), weights), -1, axis
            )
    return finish(shape.laid_out_like(result, batch))


@called("SqueezeBackward1")
def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """[N, C, L] averaged to length `output_size`."""
    return _adaptive_average("adaptive_avg_pool1d", input, output_size, 1)


@called("AdaptiveAvgPool2DBackward0")
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """[N, C, H, W] averaged to `output_size` (None keeps a size)."""
    return _adaptive_average("adaptive_avg_pool2d", input, output_size, 2)


@called("AdaptiveAvgPool3DBackward0")
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """[N, C, D, H, W] averaged to `output_size` (None keeps a size)."""
    return _adaptive_average("adaptive_avg_pool3d", input, output_size, 3)


def _adaptive_max(where: str, input: Tensor, output_size: Any, indices: bool, spatial: int) -> Any:
    from tensorlib.ops.indexing import gather

    batch, finish = _batched(where, input, spatial)
    x = batch.array
    lengths = x.shape[2:]
    targets = _targets(where, output_size, lengths)
    edges = [_edges(n, t) for n, t in zip(lengths, targets, strict=True)]
    spans = [int((b - a).max()) if len(a) else 0 for a, b in edges]
    flat = x.reshape(*x.shape[:2], -1)
    best: Any = None
    place: Any = None
    for offset in np.ndindex(*spans):  # windows shorter than the longest repeat their last element
        position: Any = 0
        for (start, stop), o, n in zip(edges, offset, lengths, strict=True):
            position = np.add.outer(np.asarray(position) * n, np.minimum(start + o, stop - 1))
        position = position.reshape(-1)
        value = flat[:, :, position]
        if best is None:
            best, place = value, np.broadcast_to(position, value.shape).copy()
        else:
            better = (value > best) | ((value != value) & (best == best))
            best, place = np.where(better, value, best), np.where(better, position, place)
    found = wrap(place)
    result = gather(shape.reshape(batch, (*x.shape[:2], -1)), 2, found)
    result = shape.laid_out_like(shape.reshape(result, (*x.shape[:2], *targets)), batch)
    result = finish(result)
    return (result, shape.reshape(found, result.array.shape)) if indices else result


@called("SqueezeBackward1")
def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of [N, C, L] in `output_size` windows."""
    return _adaptive_max("adaptive_max_pool1d", input, output_size, return_indices, 1)


@called("AdaptiveMaxPool2DBackward0")
def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of [N, C, H, W] in `output_size` windows."""
    return _adaptive_max("adaptive_max_pool2d", input, output_size, return_indices, 2)


@called("AdaptiveMaxPool3DBackward0")
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of [N, C, D, H, W] in `output_size` windows."""
    return _adaptive_max("adaptive_max_pool3d", input, output_size, return_indices, 3)


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: int, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """`sum(x**p) ** (1/p)` of each window of [N, C, L]."""
    return _powers("lp_pool1d", input, norm_type, kernel_size, stride, ceil_mode, 1)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """`sum(x**p) ** (1/p)` of each window of [N, C, H, W]."""
    return _powers("lp_pool2d", input, norm_type, kernel_size, stride, ceil_mode, 2)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """`sum(x**p) ** (1/p)` of each window of [N, C, D, H, W]."""
    return _powers("lp_pool3d", input, norm_type, kernel_size, stride, ceil_mode, 3)


def _powers(
    where: str,
    input: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any,
    ceil_mode: bool,
    spatial: int,
) -> Tensor:
    from tensorlib.ops.activation import relu

    if math.isinf(norm_type):
        size = elementwise.abs(input)
        size = size if norm_type > 0 else elementwise.neg(size)
        result = _max(where, size, kernel_size, stride, 0, 1, ceil_mode, False, spatial)
        return result if norm_type > 0 else elementwise.neg(result)
    k = sizes_of(where, "kernel_size", kernel_size, spatial, 1)
    power = elementwise.pow(input, norm_type)
    mean = _average(where, power, k, stride, 0, ceil_mode, True, None, spatial)
    total = elementwise.mul(elementwise.sign(mean), relu(elementwise.abs(mean)))
    return elementwise.pow(elementwise.mul(total, math.prod(k)), 1.0 / norm_type)
