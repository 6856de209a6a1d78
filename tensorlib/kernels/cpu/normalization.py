"""Compiled batch normalisation: sums per channel in one pass, results in another; images with their
channels innermost are rows, others planes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import normalization as reference
from tensorlib.kernels.cpu import Tasks, address, blocks, dense, empty, single, worth

_rows = Tasks("normalization")
_planes = Tasks("normalization_planes")

LEAST = 1 << 16  # numbers from which on the compiled body is the faster one
PIECE = 1 << 16  # numbers that one block works on, about
TILE = 256  # channels that one block sums
PAST = 1 << 22  # bytes of a result from which on it is written past the caches
LANES = 16  # the widest vector


class Layout:
    """How the flat form of an input is cut into blocks."""

    def __init__(self, flat: Any) -> None:
        self.flat = flat
        self.rows = flat.ndim == 2
        self.channels: int = flat.shape[1]
        self.width = -(-self.channels // LANES) * LANES  # of tables with a column per channel
        if self.rows:
            self.size: int = flat.shape[0]
            self.tiles = -(-self.channels // TILE)
            least = max(LANES, PIECE // min(self.channels, TILE))
            self.cuts, self.length = blocks(self.size, least, max(1, 64 // self.tiles))
            self.pieces, self.piece = blocks(self.size, max(1, PIECE // self.channels))
        else:
            self.size = flat.shape[0] * self.channels
            self.inner: int = flat.shape[2]
            self.cuts, self.length = blocks(self.size, max(1, PIECE // max(self.inner, 1)))
            self.pieces, self.piece = self.cuts, self.length
        whole = (self.channels if self.rows else self.inner) % LANES == 0
        self.past = int(whole and flat.nbytes >= PAST)
        self.count = flat.size // self.channels

    def sums(self, name: str, *arrays: int, tables: tuple[int, ...] = ()) -> Any:
        """[2, C] in float64: what the task `name` sums over `arrays`."""
        if self.rows:
            part = empty((self.cuts, 2, self.width), np.float64)
            cut = (self.size, self.channels, self.length, TILE)
            ends = (address(part), self.width, self.past) if tables else (address(part), self.width)
            run = getattr(_rows, f"row_{name}")
            run(self.cuts * self.tiles, *arrays, *cut, *tables, *ends)
            return part.sum(0)[:, : self.channels]
        part = empty((self.size, 2), np.float64)
        planes = (self.size, self.inner, self.length)
        run = getattr(_planes, f"plane_{name}")
        if tables:
            run(self.cuts, *arrays, *planes, self.channels, *tables, address(part), self.past)
        else:
            run(self.cuts, *arrays, *planes, address(part))
        return part.reshape(-1, self.channels, 2).sum(0).T

    def apply(self, name: str, *arrays: int, tables: tuple[int, ...]) -> None:
        """Run the task `name`, which writes the last of `arrays`."""
        if self.rows:
            run, inner = getattr(_rows, f"row_{name}"), (self.size, self.channels)
            run(self.pieces, *arrays, *inner, self.piece, self.pieces, *tables, self.past)
        else:
            run, inner = getattr(_planes, f"plane_{name}"), (self.size, self.inner)
            cut = (self.piece, self.pieces, self.channels)
            run(self.pieces, *arrays, *inner, *cut, *tables, self.past)


def _all_single(*arrays: Any) -> bool:
    return all(a is None or single(a) for a in arrays)


def _table(array: Any, layout: Layout) -> Any:
    """Numbers per channel as float32, in memory that whole vectors may be read from."""
    made = np.zeros(layout.width, np.float32)
    made[: layout.channels] = array
    return made


def _like(residual: Any, x: Any) -> Any:
    return dense(reference.flat(residual, x))


def _forward(x: Any, weight: Any, bias: Any, eps: float, relu: bool, residual: Any) -> Any:
    """`(output, mean, 1/std)`, None where a sum is not finite."""
    layout = Layout(dense(reference.flat(x, x)))
    sums, squares = layout.sums("moments", address(layout.flat)) / layout.count
    variance = squares - sums * sums
    if not np.isfinite(variance).all():
        return None
    invstd = (1 / np.sqrt(np.maximum(variance, 0) + eps)).astype(np.float32)
    mean = sums.astype(np.float32)
    scale = invstd if weight is None else invstd * weight
    return _applied(layout, x, mean, scale, bias, relu, residual), mean, invstd


def _applied(
    layout: Layout, x: Any, mean: Any, scale: Any, bias: Any, relu: bool, residual: Any
) -> Any:
    """`(x - mean) * scale + bias`, plus the residual, positive parts with `relu`."""
    out = empty(layout.flat.shape)
    tables = [_table(t, layout) for t in (mean, scale, 0 if bias is None else bias)]
    other = None if residual is None else _like(residual, x)
    arrays = (address(layout.flat), 0 if other is None else address(other), address(out))
    layout.apply("apply", *arrays, tables=(*map(address, tables), int(relu)))
    return reference.shaped(out, x.shape)


def _trains(x: Any, weight: Any, bias: Any, eps: float) -> bool:
    return worth(x.size, LEAST) and x.size > 0 and single(x) and _all_single(weight, bias)


@reference.batch_norm_train.override("float32", _trains)
def batch_norm_train(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """Two passes; numbers that are not finite take NumPy's."""
    found = _forward(x, weight, bias, eps, False, None)
    return reference.batch_norm_train.reference(x, weight, bias, eps) if found is None else found


def _trains_relu(x: Any, weight: Any, bias: Any, eps: float, residual: Any) -> bool:
    return _trains(x, weight, bias, eps) and _all_single(residual)


@reference.batch_norm_relu_train.override("float32", _trains_relu)
def batch_norm_relu_train(x: Any, weight: Any, bias: Any, eps: float, residual: Any) -> Any:
    """As `batch_norm_train`, with the rest in its second pass."""
    found = _forward(x, weight, bias, eps, True, residual)
    if found is None:
        return reference.batch_norm_relu_train.reference(x, weight, bias, eps, residual)
    return found


def _backward(
    grad: Any, x: Any, output: Any, mean: Any, invstd: Any, weight: Any, bias: Any
) -> tuple[Any, Any, Any, Any]:
    """Gradients for input, weight, bias, and the masked gradient.

    With `output` the gradient counts where that is positive; otherwise, with `bias`, where the
    normalised values are.
    """
    layout = Layout(dense(reference.flat(x, x)))
    back = dense(reference.flat(grad, x))
    scale = invstd if weight is None else invstd * weight
    kept = [_table(t, layout) for t in (mean, scale, 0 if bias is None else bias)]
    tables = [address(kept[0]), address(kept[1]), 0 if bias is None else address(kept[2])]
    masked = seen = None
    if output is not None:
        seen = dense(reference.flat(output, x))
        masked = empty(layout.flat.shape)
        tables[2] = 0
    arrays = [address(back), address(layout.flat)]
    masks = [0, 0] if masked is None else [address(seen), address(masked)]
    sums, products = layout.sums("grad_sums", *arrays, *masks, tables=tuple(tables))
    factors = np.zeros((3, layout.width), np.float32)
    inverse = invstd.astype(np.float64)
    first = inverse if weight is None else inverse * weight
    factors[0, : layout.channels] = first
    factors[1, : layout.channels] = -first * inverse * inverse * products / layout.count
    factors[2, : layout.channels] = -first * sums / layout.count
    out = empty(layout.flat.shape)
    if masked is not None:
        arrays[0] = address(masked)
    ends = (*tables, address(factors), layout.width)
    layout.apply("grad_apply", *arrays, address(out), tables=ends)
    kind = np.float32
    return (
        reference.shaped(out, x.shape),
        (products * inverse).astype(kind),
        sums.astype(kind),
        None if masked is None else reference.shaped(masked, x.shape),
    )


def _trains_back(grad: Any, x: Any, mean: Any, invstd: Any, weight: Any) -> bool:
    big = worth(x.size, LEAST) and x.size > 0
    return big and single(grad, x, mean, invstd) and _all_single(weight)


@reference.batch_norm_train_grad.override("float32", _trains_back)
def batch_norm_train_grad(grad: Any, x: Any, mean: Any, invstd: Any, weight: Any) -> Any:
    """Two passes."""
    return _backward(grad, x, None, mean, invstd, weight, None)[:3]


def _trains_relu_back(
    grad: Any, x: Any, output: Any, mean: Any, invstd: Any, weight: Any, bias: Any, residual: bool
) -> bool:
    return _trains_back(grad, x, mean, invstd, weight) and single(output) and _all_single(bias)


@reference.batch_norm_relu_train_grad.override("float32", _trains_relu_back)
def batch_norm_relu_train_grad(
    grad: Any, x: Any, output: Any, mean: Any, invstd: Any, weight: Any, bias: Any, residual: bool
) -> Any:
    """Two passes. Without a residual the sign of the output is computed again from `x`: that is
    read anyway.
    """
    if residual:
        return _backward(grad, x, output, mean, invstd, weight, None)
    shift = np.zeros_like(mean) if bias is None else bias
    return _backward(grad, x, None, mean, invstd, weight, shift)


def _scales(x: Any, scale: Any, shift: Any, relu: bool = False, residual: Any = None) -> bool:
    return worth(x.size, LEAST) and x.size > 0 and single(x, scale, shift) and _all_single(residual)


@reference.scale_shift.override("float32", _scales)
def scale_shift(x: Any, scale: Any, shift: Any, relu: bool = False, residual: Any = None) -> Any:
    """One pass."""
    return _applied(Layout(dense(reference.flat(x, x))), x, 0, scale, shift, relu, residual)
