"""Convolution as matrix products over windows, channels last in memory, in blocks that stay in the
cache.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel

Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

BLOCK = (
    1 << 18
)  # elements of the window matrix made at a time: 1 MiB of float32, measured best for 2 MiB of L2


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    return [
        (draw(2, 3, 7, 6), draw(4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
        (draw(2, 4, 9, 8), draw(6, 2, 3, 2), (2, 1), ((0, 1), (2, 0)), (1, 2), 2),
        (draw(2, 4, 5, 5), draw(4, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
        (draw(1, 3, 5, 5), draw(2, 3, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
        (draw(0, 3, 5, 5), draw(2, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
        (draw(2, 3, 9), draw(4, 3, 4), (3,), ((2, 2),), (2,), 1),
        (draw(1, 16, 5, 6), draw(32, 16, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ]


def _grad_samples() -> list[tuple[Any, ...]]:
    found = []
    for x, w, stride, padding, dilation, groups in _samples():
        grad = conv_forward.reference(x, w, stride, padding, dilation, groups)
        found.append((grad, w, x.shape, stride, padding, dilation, groups))
    return found


def _weight_samples() -> list[tuple[Any, ...]]:
    found = []
    for x, w, stride, padding, dilation, groups in _samples():
        grad = conv_forward.reference(x, w, stride, padding, dilation, groups)
        found.append((x, grad, w.shape, stride, padding, dilation, groups))
    return found


def output_size(
    size: int, kernel_size: int, stride: int, padding: tuple[int, int], dilation: int
) -> int:
    """Number of window positions along one dimension."""
    return (size + padding[0] + padding[1] - dilation * (kernel_size - 1) - 1) // stride + 1


def channels_last(x: Any) -> Any:
    """The view [N, ..., C] of [N, C, ...]."""
    return x.transpose((0, *range(2, x.ndim), 1))


def channels_first(x: Any) -> Any:
    """The view [N, C, ...] of [N, ..., C]."""
    return x.transpose((0, x.ndim - 1, *range(1, x.ndim - 1)))


def padded(x: Any, padding: Pads, value: float = 0.0) -> Any:
    """[N, ..., C], contiguous, with the border added (or, where negative, cut off)."""
    xp = array_namespace(x)
    if any(p < 0 for pair in padding for p in pair):
        cut = [
            slice(max(-lo, 0), n - max(-hi, 0))
            for (lo, hi), n in zip(padding, x.shape[1:-1], strict=True)
        ]
        x = x[(slice(None), *cut)]
        padding = tuple((max(lo, 0), max(hi, 0)) for lo, hi in padding)
    if not any(p for pair in padding for p in pair):
        return xp.ascontiguousarray(x)
    sizes = [lo + n + hi for (lo, hi), n in zip(padding, x.shape[1:-1], strict=True)]
    shape = (x.shape[0], *sizes, x.shape[-1])
    out = xp.zeros(shape, x.dtype) if value == 0 else xp.full(shape, value, x.dtype)
    inner = [slice(lo, lo + n) for (lo, _), n in zip(padding, x.shape[1:-1], strict=True)]
    out[(slice(None), *inner)] = x
    return out


def windows(x: Any, kernel_size: Sizes, stride: Sizes, dilation: Sizes, out: Sizes) -> Any:
    """The view [N, *out, *kernel, C] of all windows of a padded [N, ..., C]."""
    xp = array_namespace(x)
    inner = x.strides[1:-1]
    strides = (
        x.strides[0],
        *(s * t for s, t in zip(inner, stride, strict=True)),
        *(s * d for s, d in zip(inner, dilation, strict=True)),
        x.strides[-1],
    )
    return xp.lib.stride_tricks.as_strided(
        x, (x.shape[0], *out, *kernel_size, x.shape[-1]), strides
    )


def _blocks(images: int, width: int) -> list[tuple[int, int]]:
    """Ranges of images whose window matrix has about BLOCK elements."""
    step = max(1, BLOCK // max(width, 1))
    return [(i, min(i + step, images)) for i in range(0, images, step)]


def _rows(
    x: Any, w_shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes
) -> tuple[Any, Sizes]:
    """Windows view of `x` [N, C, ...] and the output sizes."""
    kernel_size = tuple(w_shape[2:])
    sizes = _sizes(x, w_shape, stride, padding, dilation)
    last = padded(channels_last(x), padding)
    return windows(last, kernel_size, stride, dilation, sizes), sizes


def _few_channels(x: Any, w_shape: Sizes) -> bool:
    """Whether windows have so few channels that copying them element by element would dominate."""
    return x.shape[1] <= 4 and math.prod(w_shape[2:]) > 1


def _plane_blocks(x: Any, w_shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes) -> Any:
    """`(begin, end, columns [C*K, positions])` per block of images, copied line by line."""
    xp = array_namespace(x)
    sizes = _sizes(x, w_shape, stride, padding, dilation)
    if any(p < 0 for pair in padding for p in pair):
        image = channels_first(padded(channels_last(x), padding))
    else:
        image = xp.pad(x, ((0, 0), (0, 0), *padding)) if any(map(any, padding)) else x
    image = xp.ascontiguousarray(image.swapaxes(0, 1))  # [C, N, ...]
    depth = x.shape[1] * math.prod(w_shape[2:])
    positions = math.prod(sizes)
    for begin, end in _blocks(x.shape[0], depth * positions):
        columns = xp.empty((x.shape[1], math.prod(w_shape[2:]), end - begin, *sizes), x.dtype)
        for channel in range(x.shape[1]):
            planes = image[channel, begin:end, ..., None]
            for tap, offset in enumerate(_offsets(w_shape[2:])):
                columns[channel, tap] = _shift(planes, offset, stride, dilation, sizes)[..., 0]
        yield begin, end, columns.reshape(depth, (end - begin) * positions)


def _sizes(x: Any, w_shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes) -> Sizes:
    """Output sizes of an input [N, C, ...]."""
    return tuple(
        output_size(*a)
        for a in zip(x.shape[2:], w_shape[2:], stride, padding, dilation, strict=True)
    )


def _matrix(w: Any) -> Any:
    """[O, C, *K] as [O, K*C], the order of a window in channels-last memory."""
    return channels_last(w).reshape(w.shape[0], -1)


@kernel(_samples)
def conv_forward(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int, bias: Any = None
) -> Any:
    """Cross-correlation of [N, C, ...] with [O, C/groups, *K], plus `bias` [O]: [N, O, ...] in some
    dense order in memory.
    """
    out = _forward(x, w, stride, padding, dilation, groups)
    if bias is not None:
        out += bias.reshape((1, -1) + (1,) * (x.ndim - 2))
    return out


def _forward(x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int) -> Any:
    xp = array_namespace(x, w)
    if groups > 1:
        return _grouped_forward(x, w, stride, padding, dilation, groups)
    if _few_channels(x, w.shape):
        sizes = _sizes(x, w.shape, stride, padding, dilation)
        out = xp.empty((x.shape[0], *sizes, w.shape[0]), x.dtype)
        flat = w.reshape(w.shape[0], -1).T
        for begin, end, columns in _plane_blocks(x, w.shape, stride, padding, dilation):
            xp.matmul(columns.T, flat, out=out[begin:end].reshape(columns.shape[1], w.shape[0]))
        return channels_first(out)
    view, sizes = _rows(x, w.shape, stride, padding, dilation)
    matrix = _matrix(w).T
    width = math.prod(view.shape[1:])
    out = xp.empty((x.shape[0], *sizes, w.shape[0]), x.dtype)
    depth = matrix.shape[0]
    positions = math.prod(sizes)
    if math.prod(w.shape[2:]) == 1:
        xp.matmul(view.reshape(-1, depth), matrix, out=out.reshape(-1, w.shape[0]))
        return channels_first(out)
    for begin, end in _blocks(x.shape[0], width):
        xp.matmul(
            view[begin:end].reshape(-1, depth),
            matrix,
            out=out[begin:end].reshape((end - begin) * positions, w.shape[0]),
        )
    return channels_first(out)


def _split(view: Any, groups: int) -> Any:
    """[N, *out, *K, C] as [groups, N*out, K*C/groups]."""
    spatial = (view.ndim - 2) // 2
    positions = view.shape[0] * math.prod(view.shape[1 : 1 + spatial])
    taps = math.prod(view.shape[1 + spatial : -1])
    channels = view.shape[-1] // groups
    blocks = view.reshape(positions, taps, groups, channels).transpose(2, 0, 1, 3)
    return blocks.reshape(groups, positions, taps * channels)


def _grouped_matrix(w: Any, groups: int) -> Any:
    """[O, C/g, *K] as [g, O/g, K*C/g]."""
    return _matrix(w).reshape(groups, w.shape[0] // groups, -1)


def _offsets(kernel_size: Sizes) -> list[Sizes]:
    return list(np.ndindex(*kernel_size))


def _shift(x: Any, offset: Sizes, stride: Sizes, dilation: Sizes, sizes: Sizes) -> Any:
    """The elements of a padded [N, ..., C] that tap `offset` sees at all output positions."""
    place = [
        slice(o * d, o * d + (n - 1) * s + 1, s)
        for o, s, d, n in zip(offset, stride, dilation, sizes, strict=True)
    ]
    return x[(slice(None), *place)]


def _grouped_forward(
    x: Any, w: Any, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Any:
    xp = array_namespace(x, w)
    sizes = tuple(
        output_size(*a)
        for a in zip(x.shape[2:], w.shape[2:], stride, padding, dilation, strict=True)
    )
    if w.shape[1] == 1 and w.shape[0] == groups:  # depthwise: a weighted sum of shifted images
        last = padded(channels_last(x), padding)
        out = xp.zeros((x.shape[0], *sizes, w.shape[0]), x.dtype)
        for offset in _offsets(w.shape[2:]):
            out += _shift(last, offset, stride, dilation, sizes) * w[(slice(None), 0, *offset)]
        return channels_first(out)
    view, sizes = _rows(x, w.shape, stride, padding, dilation)
    product = _split(view, groups) @ _grouped_matrix(w, groups).transpose(0, 2, 1)
    out = xp.ascontiguousarray(product.transpose(1, 0, 2)).reshape(x.shape[0], *sizes, w.shape[0])
    return channels_first(out)


@kernel(_grad_samples)
def conv_input_grad(
    grad: Any, w: Any, shape: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Any:
    """Gradient of `conv_forward` for its input of `shape`; also the forward pass of a transposed
    convolution.
    """
    kernel_size = tuple(w.shape[2:])
    if groups == 1 and all(s == 1 for s in stride):
        flipped = w[(slice(None), slice(None), *(slice(None, None, -1) for _ in kernel_size))]
        back = tuple(
            (d * (k - 1) - lo, d * (k - 1) - hi)
            for k, d, (lo, hi) in zip(kernel_size, dilation, padding, strict=True)
        )
        return conv_forward(grad, flipped.swapaxes(0, 1), stride, back, dilation, 1)
    xp = array_namespace(grad, w)
    sizes = tuple(grad.shape[2:])
    full = tuple(n + lo + max(hi, 0) for n, (lo, hi) in zip(shape[2:], padding, strict=True))
    out = xp.zeros((shape[0], *full, shape[1]), grad.dtype)
    last = xp.ascontiguousarray(channels_last(grad))
    if w.shape[1] == 1 and w.shape[0] == groups:
        for offset in _offsets(kernel_size):
            _shift(out, offset, stride, dilation, sizes)[...] += last * w[(slice(None), 0, *offset)]
    elif groups == 1:
        taps = channels_last(w)  # [O, *K, C]
        rows = last.reshape(-1, w.shape[0])
        for offset in _offsets(kernel_size):
            part = rows @ taps[(slice(None), *offset)]
            _shift(out, offset, stride, dilation, sizes)[...] += part.reshape(
                shape[0], *sizes, shape[1]
            )
    else:
        rows = last.reshape(-1, groups, w.shape[0] // groups).transpose(1, 0, 2)
        taps = channels_last(w).reshape(groups, w.shape[0] // groups, *kernel_size, w.shape[1])
        for offset in _offsets(kernel_size):
            part = (rows @ taps[(slice(None), slice(None), *offset)]).transpose(1, 0, 2)
            _shift(out, offset, stride, dilation, sizes)[...] += part.reshape(
                shape[0], *sizes, shape[1]
            )
    inner = [slice(lo, lo + n) for n, (lo, _) in zip(shape[2:], padding, strict=True)]
    return channels_first(out[(slice(None), *inner)])


@kernel(_weight_samples)
def conv_weight_grad(
    x: Any,
    grad: Any,
    shape: Sizes,
    stride: Sizes,
    padding: Pads,
    dilation: Sizes,
    groups: int,
    last: bool = False,
) -> Any:
    """Gradient of `conv_forward` for its weight of `shape`; `last`: its channels may be innermost
    in memory, as those of the weight are.
    """
    xp = array_namespace(x, grad)
    back = xp.ascontiguousarray(channels_last(grad))
    if groups == 1 and _few_channels(x, shape):
        total = xp.zeros((shape[0], math.prod(shape[1:])), x.dtype)
        for begin, end, columns in _plane_blocks(x, shape, stride, padding, dilation):
            total += (columns @ back[begin:end].reshape(-1, shape[0])).T
        return total.reshape(shape)
    kernel_size = tuple(shape[2:])
    if groups > 1 and shape[1] == 1 and shape[0] == groups:
        sizes = tuple(grad.shape[2:])
        image = padded(channels_last(x), padding)
        out = xp.empty(shape, x.dtype)
        for offset in _offsets(kernel_size):
            part = _shift(image, offset, stride, dilation, sizes) * back
            out[(slice(None), 0, *offset)] = part.reshape(-1, shape[0]).sum(0)
        return out
    view, sizes = _rows(x, shape, stride, padding, dilation)
    if groups > 1:
        rows = back.reshape(-1, groups, shape[0] // groups).transpose(1, 2, 0)
        matrix = (rows @ _split(view, groups)).reshape(shape[0], *kernel_size, shape[1])
        return xp.ascontiguousarray(channels_first(matrix))
    depth = math.prod(kernel_size) * shape[1]
    matrix = xp.zeros((shape[0], depth), x.dtype)
    for begin, end in _blocks(x.shape[0], math.prod(view.shape[1:])):
        matrix += back[begin:end].reshape(-1, shape[0]).T @ view[begin:end].reshape(-1, depth)
    return xp.ascontiguousarray(channels_first(matrix.reshape(shape[0], *kernel_size, shape[1])))
