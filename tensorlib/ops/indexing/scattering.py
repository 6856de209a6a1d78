"""`gather`, and its opposites `scatter scatter_add scatter_reduce`; `segment_reduce`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd import tape
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    called,
    dim_index,
    expect_tensor,
    not_for,
    record,
    wrap,
)
from tensorlib.ops.indexing.along import check_range
from tensorlib.ops.indexing.getitem import getitem
from tensorlib.ops.indexing.setitem import erased, put_at
from tensorlib.ops.out import takes_distinct_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _grid(index: Array, axis: int) -> tuple[Any, ...]:
    """The open grid that addresses `out[..., index[...], ...]` for an index smaller than `out`."""
    shape = index.shape
    return tuple(
        index if d == axis else np.arange(n).reshape((n,) + (1,) * (len(shape) - d - 1))
        for d, n in enumerate(shape)
    )


def _grown(values: Any, size: tuple[int, ...]) -> Any:
    """`values` with zeros appended along each dimension up to `size`."""
    if values.shape == size:
        return values
    return np.pad(values, [(0, n - m) for n, m in zip(size, values.shape, strict=True)])


def _checked(
    where: str, index: Tensor, shape: tuple[int, ...], axis: int, source: Any = None
) -> Array:
    """The index as an array of as many dimensions as `shape` (at least one), its entries in range
    and itself no larger than `shape` (for a scatter only, than `source` too) apart from `axis`.
    """
    expect_tensor(where, "index", index)
    i: Array = index.array
    grown = shape or (1,)
    if i.size and i.dtype not in (np.int64, np.int32):
        raise DTypeError(
            where, f"{where}(): Expected dtype int32/int64 for index, got {dtypes.of(i.dtype)}"
        )
    if not i.size:
        i = i.astype(np.int64)
        return i.reshape((0,) * len(grown)) if i.ndim != len(grown) else i
    if not i.ndim and len(grown) == 1:
        i = i.reshape(1)
    if i.ndim != len(grown):
        raise ShapeError(
            where,
            f"Index tensor must have the same number of dimensions as self tensor, shapes "
            f"{i.shape} and {shape}",
        )
    limits = [n if d != axis else None for d, n in enumerate(grown)]
    given = (source.shape or (1,)) if source is not None else (None,) * len(grown)
    if len(given) != len(grown):
        raise ShapeError(
            where,
            f"Index tensor must have the same number of dimensions as src tensor, shapes "
            f"{i.shape} and {given}",
        )
    for n, m, k in zip(i.shape, limits, given, strict=True):
        if (m is not None and n > m) or (k is not None and n > k):
            raise ShapeError(
                where,
                f"Size does not match: expected index {list(i.shape)} to be no larger than self "
                f"{list(shape)} apart from dimension {axis}"
                + ("" if source is None else f" and to be no larger than src {list(source.shape)}"),
            )
    check_range(where, i, grown[axis])
    return i


def _same_dtype(where: str, x: Array, source: Array) -> None:
    if source.dtype != x.dtype:
        raise DTypeError(
            where,
            f"{where}(): Expected self.dtype to be equal to src.dtype, got {dtypes.of(x.dtype)} "
            f"and {dtypes.of(source.dtype)}",
        )


@takes_distinct_out
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """`out[i][j] = input[index[i][j]][j]` for dim 0, and so on."""
    x = input.array
    axis = dim_index(dim, x.ndim, "gather")
    i = _checked("gather", index, x.shape, axis)
    before, after = x.shape, index.array.shape
    whole = before or (1,)
    place = _grid(i, axis)
    if i.size:
        output = np.ascontiguousarray(x.reshape(whole)[place]).reshape(after)
    else:
        output = np.empty(after, x.dtype)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=whole)
        if i.size:
            np.add.at(out, place, grad.reshape(i.shape))
        return (out.reshape(before),)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.shape import reshape

        zeros = wrap(np.zeros_like(grad.array, shape=whole))
        return (reshape(scatter_add(zeros, axis, wrap(i), reshape(grad, i.shape)), before),)

    return record(output, backward, input, smooth=smooth)


@takes_distinct_out
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    """A copy of `input` with `out[index[i][j]][j] = src[i][j]` for dim 0; `src` may be a number;
    `reduce` "add"/"multiply".
    """
    if src is None:
        src = value
    if src is None:
        raise ArgumentError("scatter", "neither src nor value is given", "one of them")
    x = input.array
    number = not hasattr(src, "array")
    if reduce is not None and reduce not in ("add", "multiply"):
        raise ShapeError(
            "scatter", f"reduce argument must be either add or multiply, got {reduce!r}"
        )
    axis = dim_index(dim, x.ndim, "scatter")
    if number:
        i = _checked("scatter", index, x.shape, axis)
        source = np.full(i.shape, dtypes.fitting(src, x.dtype), x.dtype)
    else:
        source = src.array
        _same_dtype("scatter", x, source)
        i = _checked("scatter", index, x.shape, axis, source)
    whole, form, shape = x.shape or (1,), source.shape, x.shape
    output = x.copy("C").reshape(whole)
    place, part = _grid(i, axis), tuple(slice(n) for n in i.shape)
    values = source.reshape(form or (1,))
    if i.size and reduce is None:
        output[place] = values[part]
    elif i.size:
        (np.add if reduce == "add" else np.multiply).at(output, place, values[part])

    def backward(grad: Array) -> Grads:
        if reduce is not None:
            raise DTypeError("scatter", "derivative with reduce= is not implemented")
        if not i.size:
            return (grad,) if number else (grad, np.zeros_like(grad, shape=form))
        wide = grad.reshape(whole)
        rest = erased(wide, place).reshape(shape)
        if number:
            return (rest,)
        return rest, _grown(wide[place], form or (1,)).reshape(form)

    return record(output.reshape(shape), backward, input, *(() if number else (src,)))


@takes_distinct_out
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of `input` with `out[index[i][j]][j] += src[i][j]` for dim 0."""
    x = input.array
    expect_tensor("scatter_add", "src", src)
    source = src.array
    axis = dim_index(dim, x.ndim, "scatter_add")
    _same_dtype("scatter_add", x, source)
    i = _checked("scatter_add", index, x.shape, axis, source)
    whole, form = x.shape or (1,), source.shape
    output = x.copy("C").reshape(whole)
    place, part = _grid(i, axis), tuple(slice(n) for n in i.shape)
    if i.size:
        np.add.at(output, place, source.reshape(form or (1,))[part])

    def backward(grad: Array) -> Grads:
        if not i.size:
            return grad, np.zeros_like(grad, shape=form)
        return grad, _grown(grad.reshape(whole)[place], form or (1,)).reshape(form)

    return record(output.reshape(x.shape), backward, input, src)


# -- reductions ------------------------------------------------------------------------------------


_REDUCERS: dict[str, tuple[Any, float]] = {
    "sum": (np.add, 0),
    "mean": (np.add, 0),
    "prod": (np.multiply, 1),
    "amax": (np.maximum, -np.inf),
    "amin": (np.minimum, np.inf),
}


@takes_distinct_out
@called("ScatterReduceBackward0")
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """A copy of `input` with `src` reduced into it: "sum", "prod", "mean", "amax" or "amin"."""
    if reduce not in _REDUCERS:
        raise ShapeError(
            "scatter_reduce", f"reduce argument must be one of {', '.join(_REDUCERS)}, got {reduce}"
        )
    expect_tensor("scatter_reduce", "src", src)
    x, source = input.array, src.array
    axis = dim_index(dim, x.ndim, "scatter_reduce")
    _same_dtype("scatter_reduce", x, source)
    i = _checked("scatter_reduce", index, x.shape, axis, source)
    if not x.ndim or not source.ndim:
        from tensorlib.ops.shape import reshape, reshaped

        whole = reshape(input, x.shape or (1,))
        flat = reshape(src, source.shape or (1,))
        found = scatter_reduce(whole, 0, wrap(i), flat, reduce, include_self=include_self)
        return reshaped(found, x.shape)
    part = tuple(slice(n) for n in i.shape)
    return reduced_at(input, src, _grid(i, axis), part, reduce, include_self)


def reduced_at(
    input: Tensor, src: Tensor, place: Any, part: Any, reduce: str, include_self: bool
) -> Tensor:
    """A copy of `input` with `src[part]` reduced into `input[place]`."""
    x, source = input.array, src.array
    if x.dtype.kind == "c" and reduce in ("amax", "amin"):
        raise not_for(reduce, x, "real numbers")
    if x.dtype.kind == "b" and reduce == "mean":
        raise not_for("mean", x, "numbers")
    function, start = _REDUCERS[reduce]
    output = x.copy("C")
    values = source[part]
    if values.size and x.size:
        if not include_self:
            output[place] = _limit(start, x.dtype)
        function.at(output, place, values)
        if reduce == "mean":
            count = np.full(x.shape, include_self, np.int64)
            np.add.at(count, place, 1)
            count = np.maximum(count, 1)
            whole = x.dtype.kind in "iub"
            output = (output // count if whole else output / count).astype(x.dtype)

    def backward(grad: Array) -> Grads:
        with tape.no_grad():
            given = wrap(grad), wrap(x), wrap(source), wrap(output)
            own, back = _reduction_backward(*given, place, part, reduce, include_self)
        return own.array, back.array

    def smooth(grad: Any) -> Grads:
        return _reduction_backward(grad, x, source, output, place, part, reduce, include_self)

    return record(output, backward, input, src, smooth=smooth)


def _limit(start: float, kind: Any) -> Any:
    if kind.kind == "b":
        return start > 0
    if np.isinf(start) and kind.kind in "iu":
        return np.iinfo(kind).min if start < 0 else np.iinfo(kind).max
    return start


def _added(into: Tensor, place: Any, values: Any) -> Tensor:
    return put_at(into, place, values, True) if values.array.size else into


def _reduction_backward(
    grad: Any,
    x: Any,
    source: Any,
    output: Any,
    place: Any,
    part: Any,
    reduce: str,
    include_self: bool,
) -> tuple[Any, Any]:
    """PyTorch's formulas, on Tensors."""
    from tensorlib.ops.elementwise import mul
    from tensorlib.ops.indexing.masks import masked_fill, where

    used = getitem(source, part) if part else source
    if not used.array.size:
        return grad, wrap(np.zeros_like(source.array))
    ones = wrap(np.ones_like(used.array))
    blank = wrap(np.zeros_like(x.array))

    if reduce == "sum":
        own, back = grad, getitem(grad, place)
    elif reduce == "mean":
        count = _added(wrap(np.ones_like(x.array)) if include_self else blank, place, ones)
        count = wrap(np.where(count.array == 0, 1, count.array).astype(x.array.dtype))
        own = grad / count
        back = getitem(own, place)
    elif reduce == "prod":
        plain = masked_fill(x, wrap(x.array == 0), 1)
        own = grad * reduced_at(plain, source, place, part, reduce, include_self) / plain
        zero = used.array == 0
        count = _added(blank, place, wrap(zero.astype(x.array.dtype))).array[place]
        single = wrap(zero & (count == 1))
        others = reduced_at(x, masked_fill(used, single, 1), place, (...,), reduce, include_self)
        back = where(
            single,
            getitem(grad * others, place),
            getitem(grad * output, place) / masked_fill(used, wrap(zero), 1),
        )
    else:
        mine = wrap((x.array == output.array).astype(x.array.dtype))
        hits = wrap((used.array == output.array[place]).astype(x.array.dtype))
        share = grad / _added(mine, place, hits)
        own, back = mul(share, mine), mul(getitem(share, place), hits)
    if not include_self:
        own = put_at(own, place, wrap(np.zeros((), x.array.dtype)), False)
    if back.array.shape != source.array.shape:
        from tensorlib.ops.padding import pad_constant

        pairs = zip(source.array.shape, back.array.shape, strict=True)
        back = pad_constant(back, [(0, n - m) for n, m in pairs], 0.0)
    return own, back


_SEGMENT = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin", "prod": "prod"}


def segment_reduce(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: Any = None,
) -> Tensor:
    """Segments of `data` along `axis`, of the given lengths or between the given offsets, each
    reduced: "sum", "mean", "max", "min" or "prod", from `initial`.
    """
    where, x = "segment_reduce", data.array
    if reduce not in _SEGMENT:
        raise ShapeError(where, f"unsupported reduction {reduce!r}", f"one of {list(_SEGMENT)}")
    if indices is not None:
        raise ShapeError(where, "indices based reduction is not supported yet")
    if x.dtype.kind not in "fV":
        raise DTypeError(where, f"not implemented for {dtypes.of(x.dtype)}", "floating point")
    place = dim_index(axis, x.ndim, where)
    if lengths is None and offsets is None:
        raise ShapeError(where, "Either lengths or offsets must be defined.")
    if offsets is not None:
        sizes = np.diff(offsets.array, axis=-1)
    else:
        assert lengths is not None
        sizes = lengths.array
    if sizes.ndim != place + 1 or sizes.shape[:-1] != x.shape[:place]:
        raise ShapeError(
            where, f"lengths of shape {sizes.shape} for data of shape {x.shape}, axis {place}"
        )
    if not unsafe and ((sizes < 0).any() or (sizes.sum(-1) != x.shape[place]).any()):
        raise ShapeError(
            where,
            f"Expected all rows of lengths along axis to sum to data.size(lengths.dim()-1) "
            f"= {x.shape[place]}: {sizes.tolist()}",
            "non-negative lengths" if (sizes < 0).any() else "",
        )
    outer, count = x.shape[:place], sizes.shape[-1]
    rows = sizes.reshape(-1, count)
    ids = np.stack([np.repeat(np.arange(count), row) for row in rows]).reshape(*outer, -1)
    grid = (*np.ogrid[tuple(slice(n) for n in (*outer, ids.shape[-1]))][:-1], ids)
    shape = (*outer, count, *x.shape[place + 1 :])
    function, start = _REDUCERS[_SEGMENT[reduce]]
    output = np.full(shape, start if initial is None else initial, x.dtype)
    function.at(output, grid, x)
    spread = sizes.reshape(*sizes.shape, *(1,) * (x.ndim - place - 1))
    if reduce == "mean":
        output = output / np.maximum(spread, 1).astype(x.dtype)
        if initial is None:
            output = np.where(spread == 0, np.nan, output).astype(x.dtype)

    def backward(grad: Array) -> Grads:
        if reduce == "sum":
            return (grad[grid],)
        if reduce == "mean":
            return ((grad / np.maximum(spread, 1).astype(grad.dtype))[grid],)
        if reduce == "prod":
            back = (grad * output)[grid] / x
            odd = (x == 0) | np.isnan(x)
            for at in zip(*np.nonzero(odd), strict=True):
                rest = x.copy()
                rest[at] = 1
                alone = np.full(shape, 1 if initial is None else initial, x.dtype)
                np.multiply.at(alone, grid, rest)
                back[at] = (grad * alone)[grid][at]
            return (back,)
        hits = ((x == output[grid]) | np.isnan(x)).astype(grad.dtype)
        ties = np.zeros_like(output)
        np.add.at(ties, grid, hits)
        return ((grad / np.maximum(ties, 1))[grid] * hits,)

    return record(output, backward, data)
