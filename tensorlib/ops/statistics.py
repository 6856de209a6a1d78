"""Quantiles, histograms and counts."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes, return_types
from tensorlib.errors import ArgumentError, ShapeError
from tensorlib.ops import elementwise
from tensorlib.ops._common import Array, check_dtype, dim_index, expect_tensor, wrap
from tensorlib.ops._formula import underivable
from tensorlib.ops.out import takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class InvalidStatistic(ShapeError):
    """Arguments of a statistic that PyTorch refuses with RuntimeError."""


@takes_exact_out
def quantile(
    input: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """The `q`-th quantiles (float or tensor in [0, 1]); NaN where there is one."""
    return _quantile("quantile", input, q, dim, keepdim, interpolation)


@takes_exact_out
def nanquantile(
    input: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """The `q`-th quantiles (float or tensor in [0, 1]) of what is not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation)


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(
    where: str, input: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str
) -> Tensor:
    from tensorlib.ops.indexing import gather, masked_fill
    from tensorlib.ops.shape import movedim, reshape, squeeze
    from tensorlib.ops.sorting import sort

    points = _points(where, input, q, interpolation)
    chances = q if hasattr(q, "array") else wrap(points)
    ndim = input.array.ndim
    axis = 0 if dim is None else dim_index(dim, ndim, where)
    x = reshape(input, (-1,)) if dim is None or not ndim else movedim(input, axis, -1)
    ordered = sort(x, -1).values
    values = ordered.array
    size = values.shape[-1]
    nans = np.isnan(values).sum(-1, keepdims=True)
    last = size - 1 if where == "quantile" else np.maximum(size - nans - 1, 0)
    spread = wrap(np.broadcast_to(last, nans.shape).astype(values.dtype))
    place = elementwise.mul(reshape(chances, (-1,)), spread)
    if where == "quantile":
        place = masked_fill(place, wrap(nans > 0), size - 1)
    ranks = place.array
    if interpolation in ("lower", "higher", "nearest"):
        rounded = {"lower": np.floor, "higher": np.ceil, "nearest": np.rint}[interpolation]
        ranks = rounded(ranks)
    low = ranks.astype(np.int64)
    result = gather(ordered, -1, wrap(low))
    if interpolation in ("linear", "midpoint"):
        above = gather(ordered, -1, wrap(np.ceil(ranks).astype(np.int64)))
        weight = elementwise.sub(place, wrap(low.astype(values.dtype)))
        if interpolation == "midpoint":
            weight = wrap(np.full_like(ranks, 0.5))
        result = elementwise.lerp(result, above, weight)
    result = movedim(result, -1, 0)  # [Q, rest]
    if keepdim:
        rest = list(input.array.shape)
        for i in range(ndim) if dim is None else ([axis] if ndim else []):
            rest[i] = 1
        result = reshape(result, (-1, *rest))
    return squeeze(result, 0) if points.ndim == 0 else result


def _points(where: str, input: Tensor, q: Any, interpolation: str) -> Any:
    """`q` as an array of the input's type, after PyTorch's checks."""
    x = input.array
    if interpolation not in _INTERPOLATIONS:
        raise InvalidStatistic(
            where, f"interpolation={interpolation!r}", f"one of {', '.join(_INTERPOLATIONS)}"
        )
    if not x.size:
        raise InvalidStatistic(where, f"no elements in shape {x.shape}", "at least one")
    if x.dtype.char not in "fd":
        raise InvalidStatistic(where, f"{dtypes.of(x.dtype)} given", "float32 or float64")
    if hasattr(q, "array"):
        if q.array.ndim > 1:
            raise InvalidStatistic(where, f"q of {q.array.ndim} dimensions", "a number or 1-d")
        if q.array.dtype != x.dtype:
            raise InvalidStatistic(where, f"q of {q.dtype}", f"{dtypes.of(x.dtype)} as the input")
        points = q.array
    elif isinstance(q, int | float):
        points = np.asarray(q, x.dtype)
    else:
        raise ArgumentError(where, f"q is {type(q).__name__}", "a float or a Tensor")
    if not ((points >= 0) & (points <= 1)).all():
        raise InvalidStatistic(where, f"q={points.tolist()}", "values in the range [0, 1]")
    return points


# -- counts ----------------------------------------------------------------------------------------


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each integer occurs, or the sum of its weights."""
    x = input.array
    check_dtype("bincount", x, "iu", "integers")
    if minlength < 0:
        raise InvalidStatistic("bincount", f"minlength={minlength}", "at least 0")
    if x.ndim != 1 or (x < 0).any():
        raise InvalidStatistic("bincount", f"shape {x.shape}", "1-d non-negative integers")
    if weights is None:
        return wrap(np.bincount(x, minlength=minlength).astype(np.int64, copy=False))
    w = weights.array
    if w.shape != x.shape:
        raise InvalidStatistic("bincount", f"weights of shape {w.shape}", f"{x.shape}")
    found = np.bincount(x, w, minlength)
    found = found.astype(np.float32) if w.dtype.char == "f" else found
    return underivable(found, weights, name="bincount")


@takes_out
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts of elements in `bins` equal bins between `min` and `max` (the data's range if both are
    equal).
    """
    x = input.array
    check_dtype("histc", x, "f", "floating point")
    if bins <= 0:
        raise InvalidStatistic("histc", f"bins={bins}", "over 0")
    if min > max:
        raise InvalidStatistic("histc", f"min={min}, max={max}", "max larger than min")
    low, high = _range("histc", x, (min, max))
    flat = x.reshape(-1)
    inside = flat[(flat >= low) & (flat <= high)]
    places = ((inside - low) * x.dtype.type(bins) / (high - low)).astype(np.int64)
    counts = np.bincount(np.minimum(places, bins - 1), minlength=bins)
    return wrap(counts.astype(x.dtype))


def _range(where: str, x: Array, limits: Any) -> tuple[Any, Any]:
    """The outer edges: those given, or the data's; one apart where they are equal."""
    kind = x.dtype.type
    low, high = (kind(v) for v in limits)
    if low == high and x.size:
        low, high = kind(x.min()), kind(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidStatistic(where, f"range of [{low}, {high}] is not finite")
    if low == high:
        low, high = low - kind(1), high + kind(1)
    return low, high


@takes_exact_out
def histogram(
    input: Tensor,
    bins: Any,
    *,
    range: Any = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> Any:
    """`(hist, bin_edges)` over `bins` equal bins of `range` (the data's), or between the edges
    `bins` (a 1-d tensor). float32 or float64.
    """
    expect_tensor("histogram", "input", input)
    x = input.array.reshape(-1, 1)
    hist, edges = _histogram("histogram", x, [bins], range, weight, density)
    given: list[Any] = [t for t in (input, bins, weight) if hasattr(t, "array")]
    return return_types.histogram(
        *(underivable(part, *given, name="histogram") for part in (hist, edges[0]))
    )


def histogramdd(
    input: Tensor,
    bins: Any,
    *,
    range: Any = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> Any:
    """`(hist, bin_edges)` of points [..., N] in N dimensions; `bins` is a number, N numbers, or N
    1-d tensors of edges.
    """
    x = input.array
    if x.ndim < 2:
        raise InvalidStatistic("histogramdd", f"shape {x.shape}", "at least 2 dimensions")
    x = x.reshape(-1, x.shape[-1])
    parts = [bins] * x.shape[1] if isinstance(bins, int) else list(bins)
    if len(parts) != x.shape[1]:
        raise InvalidStatistic("histogramdd", f"{len(parts)} bins", f"{x.shape[1]}")
    hist, edges = _histogram("histogramdd", x, parts, range, weight, density)
    given: list[Any] = [t for t in (input, weight, *parts) if hasattr(t, "array")]
    limits = tuple(underivable(edge, *given, name="histogramdd") for edge in edges)
    return return_types.histogramdd(underivable(hist, *given, name="histogramdd"), limits)


def _histogram(
    where: str, x: Array, bins: list[Any], limits: Any, weight: Any, density: bool
) -> tuple[Any, list[Any]]:
    if x.dtype.char not in "fd":
        check_dtype(where, x, "", "float32 or float64")
    if limits is not None and len(limits) != 2 * len(bins):
        raise InvalidStatistic(where, f"range of {len(limits)} numbers", f"{2 * len(bins)}")
    edges, places = [], []
    keep = np.ones(len(x), bool)
    for d, part in enumerate(bins):
        column = x[:, d]
        if hasattr(part, "array"):
            edge = _given_edges(where, part.array, x.dtype)
            place = np.searchsorted(edge, column, "right") - 1
        else:
            given = None if limits is None else limits[2 * d : 2 * d + 2]
            edge = _even_edges(where, part, column, given)
            width = (edge[-1] - edge[0]) or 1
            place = np.nan_to_num((column - edge[0]) / width * (len(edge) - 1)).astype(np.int64)
            # the division may land one off; the edges decide
            place = np.clip(place, 0, len(edge) - 2)
            place = place - (column < edge[place])
            place = place + (column >= edge[np.minimum(place + 1, len(edge) - 1)])
        count = len(edge) - 1
        keep &= (column >= edge[0]) & (column <= edge[-1])
        places.append(np.clip(place, 0, count - 1))
        edges.append(edge)
    shape = tuple(len(e) - 1 for e in edges)
    flat = np.ravel_multi_index([p[keep] for p in places], shape)
    weights = None
    if weight is not None:
        weights = weight.array.reshape(-1)
        if weight.array.dtype != x.dtype or len(weights) != len(x):
            raise InvalidStatistic(
                where,
                f"weight of shape {weight.array.shape} and {weight.dtype}",
                f"one {dtypes.of(x.dtype)} for each of {len(x)} points",
            )
        weights = weights[keep]
    hist = np.bincount(flat, weights, math.prod(shape)).astype(x.dtype).reshape(shape)
    if density:
        volume = np.ones((), x.dtype)
        for d, edge in enumerate(edges):
            volume = volume * np.diff(edge).reshape((-1,) + (1,) * (len(edges) - 1 - d))
        hist = hist / hist.sum() / volume
    return hist, edges


def _given_edges(where: str, edge: Array, dtype: Any) -> Array:
    if edge.ndim != 1 or not len(edge):
        raise InvalidStatistic(where, f"edges of shape {edge.shape}", "1-d, not empty")
    if edge.dtype != dtype:
        raise InvalidStatistic(where, f"edges of {dtypes.of(edge.dtype)}", f"{dtypes.of(dtype)}")
    return edge.copy()


def _even_edges(where: str, count: Any, column: Array, limits: Any) -> Any:
    if count <= 0:
        raise InvalidStatistic(where, f"bins={count}", "over 0")
    if limits is None:
        low, high = (column.min(), column.max()) if column.size else (0.0, 1.0)
    else:
        low, high = limits
        if low > high:
            raise InvalidStatistic(where, f"range ({low}, {high})", "min not above max")
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidStatistic(where, f"range of [{low}, {high}] is not finite")
    if low == high:
        low, high = low - 0.5, high + 0.5
    from tensorlib import linspace

    kind = dtypes.of(column.dtype)
    return linspace(float(low), float(high), count + 1, dtype=kind).array


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of `r` elements of a 1-d tensor, one per row."""
    x = input.array
    if x.ndim != 1:
        raise InvalidStatistic("combinations", f"shape {x.shape}", "a 1-d vector")
    if r < 0:
        raise InvalidStatistic("combinations", f"r={r}", "at least 0")
    if r == 0:
        return wrap(np.empty(0, x.dtype))
    draw = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = np.array(list(draw(range(len(x)), r)), np.int64).reshape(-1, r)
    return input[wrap(places)]
