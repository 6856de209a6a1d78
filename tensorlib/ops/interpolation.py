"""Images at other sizes and places: `interpolate grid_sample affine_grid`.

Every mode but nearest is a matrix per dimension: each output is a weighted sum of inputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import InvalidValueError, ShapeError, UnsupportedError
from tensorlib.ops import elementwise, indexing, linalg, shape
from tensorlib.ops._common import Array, called, not_for, wants, wrap
from tensorlib.ops.types import accepts

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_SPATIAL = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
_NEAREST = ("nearest", "nearest-exact")


class InvalidMode(InvalidValueError, NotImplementedError):
    """A mode that does not go with the number of dimensions."""


_UPSAMPLED = {
    "nearest": "Nearest",
    "nearest-exact": "NearestExact",
    "linear": "Linear",
    "bilinear": "Bilinear",
    "bicubic": "Bicubic",
    "trilinear": "Trilinear",
}


def _upsampling(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    *_: Any,
    **__: Any,
) -> str:
    """PyTorch's name of the step."""
    spatial = input.array.ndim - 2
    if mode == "area":
        return "SqueezeBackward1" if spatial == 1 else f"AdaptiveAvgPool{spatial}DBackward0"
    return f"Upsample{_UPSAMPLED[mode]}{spatial}DBackward0"


@called(_upsampling)
@accepts("fu")
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """[N, C, ...] at spatial `size`, or at `scale_factor` times its size.

    Modes: nearest, nearest-exact, area; linear (3D), bilinear and bicubic (4D), trilinear (5D).
    """
    lengths = input.array.shape[2:]
    count = len(lengths)
    if mode not in (*_NEAREST, "area", *_SPATIAL):
        raise InvalidMode(
            "interpolate", f"mode={mode!r}", "a mode of torch.nn.functional.interpolate"
        )
    if count not in (1, 2, 3) or _SPATIAL.get(mode, count) != count:
        raise InvalidMode(
            "interpolate",
            f"input of shape {input.array.shape} with mode={mode!r}",
            "[N, C, ...] to fit",
        )
    if mode not in _SPATIAL and align_corners is not None:
        raise InvalidValueError(
            "interpolate",
            f"align_corners={align_corners} with mode={mode!r}",
            "a linear or cubic mode",
        )
    if antialias and mode not in ("bilinear", "bicubic"):
        raise InvalidValueError(
            "interpolate", f"antialias with mode={mode!r}", "bilinear or bicubic"
        )
    sizes, scales = _targets(lengths, size, scale_factor, bool(recompute_scale_factor))
    if mode == "area":
        from tensorlib.ops.pooling import _adaptive_average

        return _adaptive_average("interpolate", input, sizes, count)
    result = input
    if input.array.dtype.kind == "u" and mode in _SPATIAL:
        if count != 2:
            raise not_for("interpolate", input.array, f"floating point for mode={mode!r}")
        pixels = input.array
        for axis in (3, 2):
            n, m, scale = lengths[axis - 2], sizes[axis - 2], scales[axis - 2]
            matrix = _resampling(n, m, scale, mode == "bicubic", bool(align_corners), antialias)
            pixels = _fixed_point(pixels, matrix, axis)
        return wrap(pixels)
    for axis, (n, m, scale) in enumerate(zip(lengths, sizes, scales, strict=True), start=2):
        if mode in _NEAREST:
            step = np.float32(scale if scale is not None else n / m)
            offset = np.float32(0.5 if mode == "nearest-exact" else 0)
            places = ((np.arange(m, dtype=np.float32) + offset) * step).astype(np.int64)
            result = indexing.index_select(result, axis, wrap(np.minimum(places, n - 1)))
        elif n != m or scale not in (None, 1.0):
            matrix = _resampling(n, m, scale, mode == "bicubic", bool(align_corners), antialias)
            columns = wrap(np.ascontiguousarray(matrix.T.astype(input.array.dtype)))
            moved = linalg.matmul(shape.movedim(result, axis, -1), columns)
            result = shape.movedim(moved, -1, axis)
    return shape.clone(result) if result is input else shape.laid_out_like(result, input)


def _fixed_point(pixels: Array, matrix: Array, axis: int) -> Array:
    """One pass over uint8 pixels with int16 weights and rounding, as PyTorch (after Pillow)."""
    largest = matrix.max()
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    scaled = matrix * (1 << bits)
    weights = np.where(scaled < 0, scaled - 0.5, scaled + 0.5).astype(np.int64)
    total = np.moveaxis(pixels, axis, -1).astype(np.int64) @ weights.T + (1 << (bits - 1))
    return np.moveaxis(np.clip(total >> bits, 0, 255).astype(np.uint8), -1, axis)


def upsample(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """The old name of `interpolate`."""
    _deprecated("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """The old name of `interpolate` with mode "nearest"."""
    _deprecated("upsample_nearest")
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """The old name of `interpolate` with mode "bilinear" and aligned corners."""
    _deprecated("upsample_bilinear")
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)


def _deprecated(name: str) -> None:
    warnings.warn(
        f"`nn.functional.{name}` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=3,
    )


def _targets(
    lengths: tuple[int, ...], size: Any, scale_factor: Any, recompute: bool
) -> tuple[list[int], list[float | None]]:
    """Output sizes, and input steps per output step where a scale was given."""
    if (size is None) == (scale_factor is None):
        raise InvalidValueError(
            "interpolate",
            f"size={size}, scale_factor={scale_factor}",
            "only one of size or scale_factor",
        )
    given = size if scale_factor is None else scale_factor
    values = list(given) if isinstance(given, Sequence | tuple | list) else [given] * len(lengths)
    if len(values) != len(lengths):
        raise InvalidValueError(
            "interpolate", f"{given} for spatial shape {lengths}", "one number each"
        )
    if scale_factor is None:
        if recompute:
            raise InvalidValueError(
                "interpolate", "recompute_scale_factor with size", "scale_factor"
            )
        sizes = [int(v) for v in values]
        scales: list[float | None] = [None] * len(sizes)
    else:
        sizes = [math.floor(n * float(v)) for n, v in zip(lengths, values, strict=True)]
        scales = [None if recompute else 1.0 / float(v) for v in values]
    if any(n < 1 for n in (*sizes, *lengths)):
        raise ShapeError(
            "interpolate",
            f"Input and output sizes should be greater than 0, got {lengths} to {sizes}",
        )
    return sizes, scales


def _resampling(
    n: int, m: int, scale: float | None, cubic: bool, align_corners: bool, antialias: bool
) -> Array:
    """[m, n] whose rows weigh the inputs of each output."""
    step = n / m if scale is None else scale
    if align_corners:
        step = (n - 1) / (m - 1) if m > 1 else 0.0
    if antialias:
        return _antialiased(n, m, step, cubic)
    place = np.arange(m) * step if align_corners else (np.arange(m) + 0.5) * step - 0.5
    if not cubic:
        place = np.maximum(place, 0)
    first = np.floor(place)
    taps = [(-1, _keys(-0.75)), (0, _keys(-0.75)), (1, _keys(-0.75)), (2, _keys(-0.75))]
    if not cubic:
        taps = [(0, _triangle), (1, _triangle)]
    matrix = np.zeros((m, n))
    for offset, weight in taps:
        at = np.clip(first + offset, 0, n - 1).astype(np.int64)
        np.add.at(matrix, (np.arange(m), at), weight(place - first - offset))
    return matrix


def _triangle(x: Array) -> Array:
    result: Array = np.maximum(1 - np.abs(x), 0)
    return result


def _keys(a: float) -> Callable[[Array], Array]:
    """Keys' cubic convolution kernel."""

    def weight(x: Array) -> Array:
        t = np.abs(x)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = (((t - 5) * t + 8) * t - 4) * a
        return np.where(t < 1, near, np.where(t < 2, far, 0))

    return weight


def _antialiased(n: int, m: int, step: float, cubic: bool) -> Array:
    weight = _keys(-0.5) if cubic else _triangle
    wide = max(step, 1.0)
    support = (2.0 if cubic else 1.0) * wide
    centre = step * (np.arange(m) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)[:, None]
    last = np.minimum((centre + support + 0.5).astype(np.int64), n)[:, None]
    place = np.arange(n)
    matrix = np.where(
        (place >= first) & (place < last), weight((place - centre[:, None] + 0.5) / wide), 0
    )
    result: Array = matrix / matrix.sum(1, keepdims=True)
    return result


# -- sampling at given places ---------------------------------------------------------------------


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Places [N, H, W, 2] ([N, D, H, W, 3]) of the affine maps `theta` [N, 2, 3] ([N, 3, 4])."""
    lengths = tuple(size)[2:]
    count = len(lengths)
    if count not in (2, 3) or theta.array.shape[1:] != (count, count + 1):
        raise ShapeError(
            "affine_grid",
            f"theta of shape {theta.array.shape} for size {tuple(size)}",
            "[N, 2, 3] or [N, 3, 4]",
        )
    kind = theta.array.dtype
    axes = []
    for n in lengths:
        line = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
        axes.append(line if align_corners else line * (n - 1) / n)
    planes = np.meshgrid(*axes, indexing="ij")[::-1]
    base = np.stack([*planes, np.ones(lengths)], -1).reshape(1, -1, count + 1).astype(kind)
    places = linalg.matmul(wrap(base), shape.transpose(theta, 1, 2))
    return shape.reshape(places, (theta.array.shape[0], *lengths, count))


def _sampler(input: Tensor, *_: object, **__: object) -> str:
    return f"GridSampler{input.ndim - 2}DBackward0"


@called(_sampler)
@accepts("f")
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """`input` [N, C, H, W] read at `grid` [N, H', W', 2] (x, y in [-1, 1]); volumes likewise."""
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise InvalidValueError("grid_sample", f"mode={mode!r}", "bilinear, nearest or bicubic")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise InvalidValueError(
            "grid_sample", f"padding_mode={padding_mode!r}", "zeros, border, reflection"
        )
    x, g = input.array, grid.array
    count = x.ndim - 2
    if count not in (2, 3) or g.ndim != x.ndim or g.shape[-1] != count or g.shape[0] != x.shape[0]:
        raise ShapeError(
            "grid_sample", f"input {x.shape} and grid {g.shape}", f"grid [N, ..., {count}]"
        )
    if mode == "bicubic" and count != 2:
        raise UnsupportedError("grid_sample", "bicubic interpolation only supports 4D input")
    lengths = x.shape[2:]
    places: list[Any] = []
    for axis, n in enumerate(reversed(lengths)):  # x comes first
        coordinate = shape.reshape(shape.select(grid, -1, axis), (x.shape[0], -1))
        coordinate = _pixels(coordinate, n, bool(align_corners))
        if mode != "bicubic":
            coordinate = _inside(coordinate, n, padding_mode, bool(align_corners))
        places.insert(0, coordinate)
    flat = shape.reshape(input, (*x.shape[:2], -1))
    if mode == "nearest":
        total = _read(flat, [np.rint(p.array) for p in places], lengths)
        if wants(grid):  # whose gradient is zero, not absent
            total = elementwise.add(total, elementwise.mul(places[0], 0)[:, None])
    elif mode == "bilinear":
        total = _weighted(flat, places, lengths, ((0, _linear_taps), (1, _linear_taps)), None)
    else:
        border = None if padding_mode == "zeros" else (padding_mode, bool(align_corners))
        total = _weighted(flat, places, lengths, [(o, _cubic_taps) for o in (-1, 0, 1, 2)], border)
    return shape.reshape(total, (*x.shape[:2], *g.shape[1:-1]))


_SAMPLED = ("bilinear", "nearest", "bicubic")
_PADDED = ("zeros", "border", "reflection")


def grid_sampler(
    input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Tensor:
    """`grid_sample` with its modes as numbers, in the order of its names."""
    for name, value in (("interpolation", interpolation_mode), ("padding", padding_mode)):
        if value not in (0, 1, 2):
            raise ShapeError("grid_sampler", f"{name} mode {value}", "0, 1 or 2")
    mode, padded = _SAMPLED[interpolation_mode], _PADDED[padding_mode]
    return grid_sample(input, grid, mode, padded, align_corners)


grid_sampler_2d = grid_sampler_3d = grid_sampler


def _pixels(place: Tensor, n: int, align_corners: bool) -> Tensor:
    """From [-1, 1] to indices."""
    if align_corners:
        return elementwise.mul(elementwise.add(place, 1), (n - 1) / 2)
    return elementwise.div(elementwise.sub(elementwise.mul(elementwise.add(place, 1), n), 1), 2)


def _inside(place: Tensor, n: int, padding_mode: str, align_corners: bool) -> Tensor:
    if padding_mode == "zeros":
        return place
    if padding_mode == "reflection":
        low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
        if not span:
            return elementwise.mul(place, 0)
        offset = elementwise.abs(elementwise.sub(place, low))
        turns = np.floor(offset.array / span)
        rest = elementwise.sub(offset, wrap((turns * span).astype(offset.array.dtype)))
        odd = wrap(turns % 2 == 1)
        place = indexing.where(
            odd, elementwise.add(elementwise.rsub(rest, span), low), elementwise.add(rest, low)
        )
    return elementwise.clamp(place, 0, n - 1)


def _read(flat: Tensor, index: list[Array], lengths: tuple[int, ...]) -> Tensor:
    """[N, C, P] values of [N, C, positions] at integer places, zero outside."""
    inside = np.ones(index[0].shape, bool)
    position: Any = np.zeros(index[0].shape, np.int64)
    for i, n in zip(index, lengths, strict=True):
        inside &= (i >= 0) & (i < n)
        position = position * n + np.clip(np.nan_to_num(i), 0, n - 1).astype(np.int64)
    channels = flat.array.shape[1]
    where = np.broadcast_to(position[:, None], (position.shape[0], channels, position.shape[1]))
    values = indexing.gather(flat, 2, wrap(where))
    return elementwise.mul(values, wrap(inside[:, None].astype(flat.array.dtype)))


def _linear_taps(fraction: Tensor, offset: int) -> Tensor:
    return fraction if offset else elementwise.rsub(fraction, 1)


def _cubic_taps(fraction: Tensor, offset: int) -> Tensor:
    """Keys' kernel at the distance of tap `offset`, a polynomial of the fraction."""
    a = -0.75
    t = fraction if offset <= 0 else elementwise.rsub(fraction, 1)
    if offset in (-1, 2):
        t = elementwise.add(t, 1)
        return (((t - 5.0) * t + 8.0) * t - 4.0) * a
    return ((t * (a + 2)) - (a + 3)) * t * t + 1


def _weighted(
    flat: Tensor, places: list[Tensor], lengths: tuple[int, ...], taps: Any, border: Any
) -> Tensor:
    first: list[Any] = [np.floor(p.array) for p in places]
    fractions = [elementwise.sub(p, wrap(f)) for p, f in zip(places, first, strict=True)]
    total: Any = None
    for choice in np.ndindex(*(len(taps) for _ in places)):
        index, weight = [], None
        for axis, tap in enumerate(choice):
            offset, weigh = taps[tap]
            index.append(first[axis] + offset)
            if border is not None:
                kept = _inside(wrap(index[-1]), lengths[axis], *border)
                index[-1] = np.rint(kept.array) if border[0] == "border" else np.floor(kept.array)
            part = weigh(fractions[axis], offset)
            weight = part if weight is None else elementwise.mul(weight, part)
        values = elementwise.mul(_read(flat, index, lengths), shape.unsqueeze(weight, 1))  # type: ignore[arg-type]
        total = values if total is None else elementwise.add(total, values)
    result: Tensor = total
    return result
