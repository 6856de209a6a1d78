"""Padding, and rearranging between channels and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ShapeError, UnsupportedError
from tensorlib.ops import shape as shapes
from tensorlib.ops._common import Array, Grads, called, check_dtype, record
from tensorlib.ops.strides import is_channels_last

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _padding(
    input: Any, pad: Any, mode: str = "constant", value: Any = None, *_: Any, **__: Any
) -> str:
    """PyTorch's name of the step."""
    if mode == "constant":
        return "ConstantPadNdBackward0"
    if mode == "circular":
        return "torch::autograd::CopySlices"
    return f"{'Reflection' if mode == 'reflect' else 'Replication'}Pad{len(pad) // 2}DBackward0"


@called(_padding)
def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """`input` with borders; `pad` lists (before, after) from the last dimension backwards; negative
    sizes cut.
    """
    x = input.array
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ShapeError(
            "pad",
            f"pad {tuple(pad)} for a tensor of shape {x.shape}",
            "two numbers per dimension, last first",
        )
    sides = [(0, 0)] * (x.ndim - len(pad) // 2)
    sides += [(int(pad[i]), int(pad[i + 1])) for i in range(len(pad) - 2, -1, -2)]
    if mode == "constant":
        return pad_constant(input, sides, 0.0 if value is None else value)
    if mode not in _MODES:
        raise UnsupportedError(
            "pad", f"unrecognised padding mode {mode!r}", f"constant, {', '.join(_MODES)}"
        )
    if value not in (None, 0, 0.0):
        raise ShapeError("pad", f"Padding mode {mode!r} doesn't take in value argument {value}")
    if x.ndim - len(pad) // 2 not in (1, 2):
        raise UnsupportedError(
            "pad",
            f"mode {mode!r} with {len(pad) // 2} padded dimensions of {x.ndim}",
            "all but the first one or two",
        )
    image = input
    check_dtype("pad", x, "fciub" if mode == "circular" else "fciu", "numbers")
    for axis, (before, after) in enumerate(sides):
        if not (before or after):
            continue
        n = x.shape[axis]
        limit = n - 1 if mode == "reflect" else n
        if mode != "replicate" and max(before, after) > limit:
            raise ShapeError(
                "pad",
                f"Padding size should be less than the corresponding input dimension: ({before}, "
                f"{after}) at dimension {axis} of input {x.shape}",
            )
        input = _pad_axis(input, axis, before, after, mode)
    return input if mode == "circular" else shapes.laid_out_like(input, image)


def constant_pad_nd(input: Tensor, pad: Sequence[int], value: Any = 0) -> Tensor:
    """`pad(input, pad, "constant", value)`."""
    return _pad(input, pad, "constant", value)


_pad = pad


def pad_constant(input: Tensor, sides: Sequence[tuple[int, int]], value: Any) -> Tensor:
    """`input` with (before, after) elements of `value` per dimension; negative numbers cut."""
    x = input.array
    cut = tuple(slice(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(sides, x.shape, strict=True))
    for (b, a), n, axis in zip(sides, x.shape, range(x.ndim), strict=True):
        if n + b + a < 0:
            raise ShapeError(
                "pad", f"padding ({b}, {a}) makes dimension {axis} of shape {x.shape} negative"
            )
    grown = tuple((max(b, 0), max(a, 0)) for b, a in sides)
    output = _bordered(x[cut], grown, value)
    inner = tuple(slice(b, output.shape[i] - a) for i, (b, a) in enumerate(grown))
    back = tuple((-b, -a) for b, a in sides)
    del inner

    def pad(grad: Array) -> Grads:
        return (_negated(grad, back),)

    def smooth(grad: Any) -> Grads:
        return (pad_constant(grad, back, 0.0),)

    pad.__qualname__ = "constant_pad_nd.backward"
    return record(output, pad, input, smooth=smooth)


def _bordered(x: Any, sides: tuple[tuple[int, int], ...], value: Any) -> Any:
    """Like `x` in memory order, with a border."""
    shape = tuple(b + n + a for (b, a), n in zip(sides, x.shape, strict=True))
    out = np.full_like(x, value, shape=shape, order="K" if is_channels_last(x) else "C")
    out[tuple(slice(b, b + n) for (b, _), n in zip(sides, x.shape, strict=True))] = x
    return out


def _negated(grad: Any, sides: tuple[tuple[int, int], ...]) -> Any:
    cut = tuple(
        slice(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(sides, grad.shape, strict=True)
    )
    inner = grad[cut]
    grown = tuple((max(b, 0), max(a, 0)) for b, a in sides)
    return _bordered(inner, grown, 0) if any(p for s in grown for p in s) else inner


def _pad_axis(input: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    from tensorlib.ops._common import wrap
    from tensorlib.ops.indexing import index_select

    kind: Any = _MODES[mode]
    order = np.arange(input.array.shape[axis])
    cut = slice(max(-before, 0), len(order) + max(before, 0) + max(after, 0) - max(-after, 0))
    if mode == "circular":  # what is left is what goes round
        order = order[max(-before, 0) : len(order) - max(-after, 0)]
        cut = slice(None)
    order = np.pad(order, (max(before, 0), max(after, 0)), kind)[cut]
    return index_select(input, axis, wrap(order))


@called("PixelShuffleBackward0")
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """[..., C r^2, H, W] to [..., C, H r, W r]."""
    r = upscale_factor
    *lead, c, h, w = _image("pixel_shuffle", input)
    if c % (r * r):
        raise ShapeError(
            "pixel_shuffle",
            f"{c} channels with upscale_factor {r}",
            f"a multiple of {r * r} channels",
        )
    n = len(lead)
    x = shapes.reshape(input, (*lead, c // (r * r), r, r, h, w))
    x = shapes.permute(x, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return shapes.laid_out_like(shapes.reshape(x, (*lead, c // (r * r), h * r, w * r)), input)


@called("PixelUnshuffleBackward0")
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """[..., C, H r, W r] to [..., C r^2, H, W]."""
    r = downscale_factor
    *lead, c, h, w = _image("pixel_unshuffle", input)
    if h % r or w % r:
        raise ShapeError(
            "pixel_unshuffle", f"size {h}x{w} with downscale_factor {r}", f"multiples of {r}"
        )
    n = len(lead)
    x = shapes.reshape(input, (*lead, c, h // r, r, w // r, r))
    x = shapes.permute(x, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return shapes.laid_out_like(shapes.reshape(x, (*lead, c * r * r, h // r, w // r)), input)


@called("ChannelShuffleBackward0")
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels of [N, C, ...] dealt round-robin over `groups`."""
    n, c, *rest = input.array.shape
    if groups < 1 or c % groups:
        raise ShapeError(
            "channel_shuffle", f"number of channels {c} must be divisible by groups {groups}"
        )
    x = shapes.reshape(input, (n, groups, c // groups, *rest))
    return shapes.reshape(shapes.transpose(x, 1, 2), (n, c, *rest))


def _image(where: str, input: Tensor) -> tuple[int, ...]:
    if input.array.ndim < 3:
        raise ShapeError(
            where, f"expects input to have at least 3 dimensions, but got {input.array.shape}"
        )
    found: tuple[int, ...] = input.array.shape
    return found
