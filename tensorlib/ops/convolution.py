"""Convolutions and transposed convolutions of one to three dimensions, and `unfold`/`fold`.

A convolution is linear in its input and in its weight, so three operations (forward, gradient for
the input, gradient for
the weight) are each other's derivatives, to any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DTypeError, InvalidValueError, ShapeError
from tensorlib.kernels.convolution import (
    conv_forward,
    conv_input_grad,
    conv_weight_grad,
    output_size,
)
from tensorlib.kernels.normalization import channel_sums
from tensorlib.ops import _autocast, elementwise, shape
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    called,
    check_dtype,
    conj,
    record,
    single,
    wants,
)
from tensorlib.ops.strides import is_channels_last, laid_out_as
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Pads = tuple[tuple[int, int], ...]
Sizes = tuple[int, ...]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, L] (or [C, L]) with [O, C/groups, K]."""
    return _convolve(input, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, H, W] (or [C, H, W]) with [O, C/groups, KH, KW]; `padding` may be
    "same" or "valid".
    """
    return _convolve(input, weight, bias, stride, padding, dilation, groups, 2)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, D, H, W] (or [C, D, H, W]) with [O, C/groups, KD, KH, KW]."""
    return _convolve(input, weight, bias, stride, padding, dilation, groups, 3)


def sizes_of(where: str, name: str, value: Any, count: int, least: int) -> Sizes:
    """One number for all dimensions, or one each."""
    found = (value,) * count if isinstance(value, int) else tuple(value)
    if len(found) == 1:
        found = found * count
    if len(found) != count or not all(isinstance(v, int) or hasattr(v, "__index__") for v in found):
        raise ArgumentError(where, f"{name} {value!r}", f"one integer or {count}")
    if any(v < least for v in found):
        raise ShapeError(where, f"{name} {value!r}", f"numbers of at least {least}")
    return found


def _pads(where: str, padding: Any, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * len(kernel)
        if padding != "same":
            raise InvalidConv(where, f"padding={padding!r}", "'same', 'valid' or numbers")
        if any(s != 1 for s in stride):
            raise InvalidConv(
                where, "padding='same' is not supported for strided convolutions", "stride 1"
            )
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    return tuple((p, p) for p in sizes_of(where, "padding", padding, len(kernel), 0))


class InvalidConv(ShapeError, InvalidValueError):
    """An impossible combination of convolution arguments."""


def _check(
    where: str, x: Array, w: Array, bias: Any, spatial: int, channels: int, outputs: int
) -> None:
    check_dtype(where, x, "fciu", "numbers")
    if w.ndim != spatial + 2:
        raise ShapeError(where, f"weight has shape {w.shape}", f"{spatial + 2} dimensions")
    if x.ndim != spatial + 2:
        raise ShapeError(
            where,
            f"Expected {spatial + 1}D (unbatched) or {spatial + 2}D (batched) input to {where}, "
            f"but got input of size: {x.shape}",
        )
    if x.dtype != w.dtype:
        raise DTypeError(
            where,
            f"Input type ({dtypes.of(x.dtype)}) and weight type ({dtypes.of(w.dtype)}) should be "
            f"the same",
            hint="convert the input with .to(weight.dtype)",
        )
    if x.shape[1] != channels:
        raise ShapeError(
            where,
            f"Given weight of size {w.shape}, expected input{x.shape} to have {channels} "
            f"channels, but got {x.shape[1]} channels instead",
            hint="images are [N, C, H, W]",
        )
    if bias is not None and bias.array.shape != (outputs,):
        raise ShapeError(where, f"bias has shape {bias.array.shape}", f"({outputs},)")
    if bias is not None and bias.array.dtype != x.dtype:
        raise DTypeError(
            where,
            f"Input type ({dtypes.of(x.dtype)}) and bias type ({dtypes.of(bias.array.dtype)}) "
            f"should be the same",
        )


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    spatial: int,
) -> Tensor:
    where = f"conv{spatial}d"
    if _autocast.active:
        input, weight, bias = _autocast.lower(input, weight, bias)
    if input.array.ndim == spatial + 1:
        return shape.squeeze(
            _convolve(
                shape.unsqueeze(input, 0), weight, bias, stride, padding, dilation, groups, spatial
            ),
            0,
        )
    x, w = input.array, weight.array
    stride, dilation = (
        sizes_of(where, "stride", stride, spatial, 1),
        sizes_of(where, "dilation", dilation, spatial, 1),
    )
    if groups < 1 or w.shape[0] % groups:
        raise ShapeError(
            where,
            f"groups={groups} with weight of shape {w.shape}",
            "a divisor of the output channels",
        )
    _check(where, x, w, bias, spatial, w.shape[1] * groups if w.ndim > 1 else 0, w.shape[0])
    pads = _pads(where, padding, w.shape[2:], stride, dilation)
    for n, k, (lo, hi), d in zip(x.shape[2:], w.shape[2:], pads, dilation, strict=True):
        if d * (k - 1) + 1 > n + lo + hi:
            raise ShapeError(
                where,
                f"Calculated padded input size per channel: {n + lo + hi}. Kernel size: "
                f"{d * (k - 1) + 1}. Kernel size can't be greater than actual input size, input "
                f"{x.shape}, weight {w.shape}",
            )
    wide = single(input), single(weight), single(bias)
    return astype(_forward(*wide, stride, pads, dilation, groups), x.dtype)


def _forward(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Sizes,
    pads: Pads,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    x, w = input.array, weight.array
    want_x, want_w = wants(input), wants(weight)
    shift = None if bias is None else bias.array
    output = laid_out_as(conv_forward(x, w, stride, pads, dilation, groups, shift), x, w)
    axes = (0, *range(2, x.ndim))

    def backward(grad: Array) -> Grads:
        dx = dw = None
        if want_x:
            dx = conv_input_grad(grad, conj(w), x.shape, stride, pads, dilation, groups)
            dx = laid_out_as(dx, x, w)
        if want_w:
            last = is_channels_last(w)
            dw = conv_weight_grad(conj(x), grad, w.shape, stride, pads, dilation, groups, last)
        return (dx, dw) if bias is None else (dx, dw, channel_sums(grad))

    def smooth(grad: Any) -> Grads:
        dx = dw = None
        if want_x:
            dx = _input_grad(grad, conj(w), x.shape, stride, pads, dilation, groups)
        if want_w:
            dw = _weight_grad(conj(x), grad, w.shape, stride, pads, dilation, groups)
        return (dx, dw) if bias is None else (dx, dw, grad.sum(axes))

    backward.__qualname__ = "conv2d.backward"
    inputs = (input, weight) if bias is None else (input, weight, bias)
    return record(output, backward, *inputs, smooth=smooth)


def _input_grad(
    grad: Any, weight: Any, size: Sizes, stride: Sizes, pads: Pads, dilation: Sizes, groups: int
) -> Tensor:
    """`conv_input_grad` as an operation: a transposed convolution."""
    g, w = grad.array, weight.array
    want_g, want_w = wants(grad), wants(weight)
    output = laid_out_as(conv_input_grad(g, w, size, stride, pads, dilation, groups), g, w)

    def conv_transpose2d(back: Array) -> Grads:
        dg = dw = None
        if want_g:
            dg = laid_out_as(conv_forward(back, conj(w), stride, pads, dilation, groups), g, w)
        if want_w:
            dw = conv_weight_grad(back, conj(g), w.shape, stride, pads, dilation, groups)
        return dg, dw

    def smooth(back: Any) -> Grads:
        dg = dw = None
        if want_g:
            dg = _forward(back, conj(w), None, stride, pads, dilation, groups)
        if want_w:
            dw = _weight_grad(back, conj(g), w.shape, stride, pads, dilation, groups)
        return dg, dw

    conv_transpose2d.__qualname__ = "conv_transpose2d.backward"
    return record(output, conv_transpose2d, grad, weight, smooth=smooth)


def _weight_grad(
    input: Any, grad: Any, size: Sizes, stride: Sizes, pads: Pads, dilation: Sizes, groups: int
) -> Tensor:
    """`conv_weight_grad` as an operation."""
    x, g = input.array, grad.array
    output = conv_weight_grad(x, g, size, stride, pads, dilation, groups)

    def conv_weight(back: Array) -> Grads:
        dx = conv_input_grad(conj(g), back, x.shape, stride, pads, dilation, groups)
        return dx, conv_forward(conj(x), back, stride, pads, dilation, groups)

    def smooth(back: Any) -> Grads:
        dx = _input_grad(conj(g), back, x.shape, stride, pads, dilation, groups)
        return dx, _forward(conj(x), back, None, stride, pads, dilation, groups)

    conv_weight.__qualname__ = "conv2d.backward"
    return record(output, conv_weight, input, grad, smooth=smooth)


def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """`conv1d` of sequences first: [T, N, C] with [K, C, O] to [T', N, O]."""
    sequences = shape.permute(input, 1, 2, 0)
    result = conv1d(sequences, shape.permute(weight, 2, 1, 0), bias, padding=pad)
    return shape.permute(result, 2, 0, 1)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Gradient of `conv1d` as a layer: [N, C, L] with [C, O/groups, K]."""
    return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation, 1)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Gradient of `conv2d` as a layer: [N, C, H, W] with [C, O/groups, KH, KW]."""
    return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation, 2)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Gradient of `conv3d` as a layer: [N, C, D, H, W] with [C, O/groups, KD, KH, KW]."""
    return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation, 3)


def _convolved(input: Any, *args: Any) -> str:
    """PyTorch's name of the step."""
    return "ConvolutionBackward0" if input.array.ndim == args[-1] + 2 else "SqueezeBackward1"


@called(_convolved)
def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    spatial: int,
) -> Tensor:
    where = f"conv_transpose{spatial}d"
    if _autocast.active:
        input, weight, bias = _autocast.lower(input, weight, bias)
    if input.array.ndim == spatial + 1:
        batched = _transposed(
            shape.unsqueeze(input, 0),
            weight,
            bias,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
            spatial,
        )
        return shape.squeeze(batched, 0)
    x, w = input.array, weight.array
    stride, dilation = (
        sizes_of(where, "stride", stride, spatial, 1),
        sizes_of(where, "dilation", dilation, spatial, 1),
    )
    pads = sizes_of(where, "padding", padding, spatial, 0)
    extra = sizes_of(where, "output_padding", output_padding, spatial, 0)
    if groups < 1 or x.shape[1] % groups:
        raise ShapeError(
            where,
            f"groups={groups} with input of shape {x.shape}",
            "a divisor of the input channels",
        )
    outputs = w.shape[1] * groups if w.ndim > 1 else 0
    _check(where, x, w, bias, spatial, w.shape[0], outputs)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ShapeError(
            where,
            f"output padding {extra} must be smaller than either stride {stride} or dilation "
            f"{dilation}",
        )
    sizes = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(
            x.shape[2:], stride, pads, dilation, w.shape[2:], extra, strict=True
        )
    )
    if any(n < 1 for n in sizes):
        raise ShapeError(where, f"calculated output size {sizes} is too small for input {x.shape}")
    # a convolution with less padding at the end has exactly the input's positions
    both = tuple((p, p - e) for p, e in zip(pads, extra, strict=True))
    wide = single(input), single(weight), single(bias)
    result = _input_grad(
        wide[0], wide[1], (x.shape[0], outputs, *sizes), stride, both, dilation, groups
    )
    if bias is not None:
        result = elementwise.add(result, shape.reshape(wide[2], (1, outputs) + (1,) * spatial))
    return astype(result, x.dtype)


@called("Im2ColBackward0")
@accepts("fcb")
def unfold(
    input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Sliding blocks of [N, C, H, W] as columns: [N, C*KH*KW, L]."""
    from tensorlib.ops import padding as pads
    from tensorlib.ops import shape as shapes

    if input.array.ndim == 3:
        return shapes.squeeze(
            unfold(shapes.unsqueeze(input, 0), kernel_size, dilation, padding, stride), 0
        )
    if input.array.ndim != 4:
        raise ShapeError(
            "unfold", f"Expected 3D or 4D (batch mode) tensor, shape {input.array.shape}"
        )
    k, d = (
        sizes_of("unfold", "kernel_size", kernel_size, 2, 1),
        sizes_of("unfold", "dilation", dilation, 2, 1),
    )
    p, s = sizes_of("unfold", "padding", padding, 2, 0), sizes_of("unfold", "stride", stride, 2, 1)
    n, c, h, w = input.array.shape
    rows, columns = (
        output_size(m, *a)
        for m, a in zip((h, w), zip(k, s, zip(p, p, strict=True), d, strict=True), strict=True)
    )
    if rows < 1 or columns < 1:
        raise ShapeError(
            "unfold", f"input {input.array.shape} is smaller than the kernel {k} with dilation {d}"
        )
    x = (
        pads.pad_constant(input, [(0, 0), (0, 0), (p[0], p[0]), (p[1], p[1])], 0.0)
        if any(p)
        else input
    )
    blocks = shapes.unfold(
        shapes.unfold(x, 2, d[0] * (k[0] - 1) + 1, s[0]), 3, d[1] * (k[1] - 1) + 1, s[1]
    )
    from tensorlib.ops.indexing import getitem

    blocks = getitem(blocks, (..., slice(None, None, d[0]), slice(None, None, d[1])))
    return shapes.reshape(
        shapes.permute(blocks, 0, 1, 4, 5, 2, 3), (n, c * k[0] * k[1], rows * columns)
    )


@accepts("fc")
def fold(
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """The inverse of `unfold` with overlapping blocks added up: [N, C*KH*KW, L] to [N, C, H, W]."""
    import numpy as np

    from tensorlib.kernels.convolution import output_size as count
    from tensorlib.ops._common import wrap

    if input.array.ndim == 2:
        return shape.squeeze(
            fold(shape.unsqueeze(input, 0), output_size, kernel_size, dilation, padding, stride), 0
        )
    size = sizes_of("fold", "output_size", output_size, 2, 1)
    k, d = (
        sizes_of("fold", "kernel_size", kernel_size, 2, 1),
        sizes_of("fold", "dilation", dilation, 2, 1),
    )
    p, s = sizes_of("fold", "padding", padding, 2, 0), sizes_of("fold", "stride", stride, 2, 1)
    taps = k[0] * k[1]
    n, depth, length = input.array.shape
    out = [count(size[i], k[i], s[i], (p[i], p[i]), d[i]) for i in range(2)]
    if depth % taps or length != out[0] * out[1]:
        raise ShapeError(
            "fold",
            f"input of shape {input.array.shape}",
            f"[N, C*{taps}, {out[0] * out[1]}] for output {size}",
        )
    # each tap is one channel of a transposed convolution with the unit kernels
    columns = shape.reshape(input, (n * (depth // taps), taps, out[0], out[1]))
    units = wrap(np.eye(taps, dtype=input.array.dtype).reshape(taps, 1, *k))
    pads = tuple((q, q) for q in p)
    result = _input_grad(columns, units, (columns.array.shape[0], 1, *size), s, pads, d, 1)
    return shape.reshape(result, (n, depth // taps, *size))
