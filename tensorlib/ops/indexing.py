"""Indexing: `x[...]`, `gather scatter index_select index_add masked_fill where nonzero`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DimensionError, DTypeError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    dim_index,
    expect_tensor,
    promoted,
    record,
    record_view,
    scalar_operand,
    wrap,
)

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def parse_index(index: Any, shape: tuple[int, ...]) -> tuple[Any, bool]:
    """NumPy's form of an index, and whether it is basic (gives a view)."""
    items = index if type(index) is tuple else (index,)
    parsed: list[Any] = []
    basic = True
    for item in items:
        if hasattr(item, "array"):
            item = item.array
            if item.dtype.kind not in "iub" or item.dtype == np.uint8:
                if item.dtype == np.uint8:
                    item = item.astype(bool)
                else:
                    raise IndexDTypeError(
                        "index",
                        f"tensors used as indices must be long, int, byte or bool tensors, got "
                        f"{dtypes.of(item.dtype)}",
                    )
            if item.ndim == 0 and item.dtype.kind != "b":
                item = int(item)
            else:
                basic = False
        elif isinstance(item, list | range):
            item = np.asarray([i.array if hasattr(i, "array") else i for i in item])
            if item.size == 0:
                item = item.astype(np.int64)
            basic = False
        elif isinstance(item, (np.ndarray, bool)):
            basic = False
        elif isinstance(item, slice):
            if item.step is not None and int(item.step) <= 0:
                raise NegativeStep(
                    "index", f"step {item.step}: step must be greater than zero", hint="use flip()"
                )
            if any(hasattr(p, "array") for p in (item.start, item.stop, item.step)):
                item = slice(
                    *(
                        int(p) if hasattr(p, "array") else p
                        for p in (item.start, item.stop, item.step)
                    )
                )
        elif item is not None and item is not Ellipsis and not isinstance(item, int | np.integer):
            raise IndexDTypeError(
                "index",
                f"{type(item).__name__} is no index",
                "integers, slices (`:`), ellipsis (`...`), None and long or bool Tensors",
            )
        parsed.append(item)
    if basic and Ellipsis not in parsed:
        parsed.append(Ellipsis)
    return tuple(parsed), basic


class IndexDTypeError(DimensionError, TypeError):
    """Something that cannot be an index."""


class NegativeStep(DimensionError, ValueError):
    """A slice that runs backwards, which PyTorch has not."""


def getitem(input: Tensor, index: Any) -> Tensor:
    """`input[index]`: a view for integers, slices, None and `...`; a copy for index tensors and
    masks.
    """
    x = input.array
    shape = x.shape
    place, basic = parse_index(index, shape)
    try:
        output = x[place]
    except IndexError as error:
        raise DimensionError(
            "index",
            f"{error}, tensor of shape {shape}",
            hint="indices count from 0, or from the end if negative",
        ) from None
    unique = basic or not any(isinstance(p, np.ndarray) and p.dtype.kind != "b" for p in place)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=shape)
        if unique:
            out[place] = grad
        else:
            add_at(out, place, grad)
        return (out,)

    def smooth(grad: Any) -> Grads:
        return (index_backward(grad, place, shape, unique),)

    if basic:
        return record_view(output, backward, input, smooth=smooth)
    return record(output, backward, input, smooth=smooth)


def index_backward(grad: Tensor, place: Any, shape: tuple[int, ...], unique: bool) -> Tensor:
    """The differentiable form of scattering `grad` into zeros."""
    output = np.zeros_like(grad.array, shape=shape)
    if unique:
        output[place] = grad.array
    else:
        add_at(output, place, grad.array)

    def backward(outer: Array) -> Grads:
        return (outer[place],)

    def smooth(outer: Any) -> Grads:
        return (getitem(outer, place),)

    return record(output, backward, grad, smooth=smooth)


def add_at(out: Any, place: Any, values: Any) -> None:
    """`out[place] += values` with repeated indices added up; fast for rows."""
    first = place[0] if isinstance(place, tuple) else place
    rest = place[1:] if isinstance(place, tuple) else ()
    if (
        isinstance(first, np.ndarray)
        and first.dtype.kind in "iu"
        and all(r is Ellipsis for r in rest)
        and out.ndim > 1
    ):
        rows = first.reshape(-1)
        rows = np.where(rows < 0, rows + out.shape[0], rows)
        flat = np.asarray(values).reshape(len(rows), -1) if len(rows) else np.zeros((0, 1))
        add_rows(out.reshape(out.shape[0], -1), rows, flat)
        return
    np.add.at(out, place, values)


def add_rows(out: Any, rows: Array, values: Array) -> None:
    """`out[rows[i]] += values[i]` in the order of i, by sorting rows into segments."""
    if not len(rows) or not out.size:
        return
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    out[ordered[starts]] += np.add.reduceat(values[order], starts, axis=0)


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """`input[index] = value`, in place, recorded."""
    from tensorlib.autograd import tape

    x = input.array
    tape.check_inplace(input, "setitem")
    place, basic = parse_index(index, x.shape)
    target = value.array if hasattr(value, "array") else value
    given = value if hasattr(value, "array") else None
    recording = tape.needs_grad(input) or (given is not None and tape.needs_grad(given))
    described = [tape._describe(input)] + ([tape._describe(given)] if given is not None else [])
    try:
        if isinstance(target, np.ndarray) and target.dtype.kind == "f" and x.dtype.kind in "iu":
            target = target.astype(x.dtype)
        x[place] = target
    except IndexError as error:
        raise DimensionError("setitem", f"{error}, tensor of shape {x.shape}") from None
    except (ValueError, TypeError) as error:
        shape = getattr(target, "shape", ())
        raise ShapeError(
            "setitem",
            f"value of shape {tuple(shape)} cannot be broadcast to {x[place].shape}: {error}",
        ) from None
    tape.bump(input)
    if recording and x.dtype.kind in "fc":

        def setitem(grad: Array) -> Grads:
            rest = _erased(grad, place)
            return (rest, grad[place]) if given is not None else (rest,)

        tape.rebase(input, setitem, described, "CopySlices" if basic else "IndexPutBackward0")


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along `dim` that the integers in `index` name."""
    x = input.array
    expect_tensor("index_select", "index", index)
    i = index.array
    axis = dim_index(dim, x.ndim, "index_select")
    if i.dtype.kind not in "iu":
        raise DTypeError(
            "index_select", f"Expected dtype int32 or int64 for index, got {dtypes.of(i.dtype)}"
        )
    if i.ndim > 1:
        raise DimensionError("index_select", f"Index is supposed to be a vector, shape {i.shape}")
    source = x if x.ndim else x.reshape(1)
    _check_range("index_select", i, source.shape[axis])
    i = i.reshape(-1)
    output = np.take(source, i, axis)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=source.shape)
        add_rows_along(out, axis, i, grad)
        return (out.reshape(x.shape),)

    def smooth(grad: Any) -> Grads:
        zeros = wrap(np.zeros_like(grad.array, shape=source.shape))
        return (index_add(zeros, axis, wrap(i), grad),)

    return record(output if x.ndim else output.reshape(()), backward, input, smooth=smooth)


def add_rows_along(out: Any, axis: int, index: Array, values: Any) -> None:
    """`out[..., index, ...] += values` along `axis`, repeated indices added up."""
    if axis == 0 and out.flags.c_contiguous:
        add_rows(
            out.reshape(out.shape[0], -1),
            index,
            values.reshape(len(index), -1) if len(index) else values,
        )
        return
    np.add.at(out, (slice(None),) * axis + (index,), values)  # type: ignore[arg-type]  # NumPy's stubs are wider


def _check_range(where: str, index: Array, size: int) -> None:
    if index.size and (index.min() < 0 or index.max() >= size):
        bad = index[(index < 0) | (index >= size)].reshape(-1)[0]
        raise DimensionRuntime(
            where,
            f"index {bad} is out of bounds for dimension with size {size}",
            f"0 to {size - 1}",
        )


class DimensionRuntime(DimensionError, RuntimeError):
    """An index tensor with an entry out of range (IndexError or RuntimeError in PyTorch, by
    operation).
    """


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """A copy of `input` with `alpha * source` added to the slices named by `index`."""
    from tensorlib.ops.elementwise import mul

    x, i = input.array, index.array
    axis = dim_index(dim, x.ndim, "index_add")
    if source.array.dtype != x.dtype:
        raise DTypeError(
            "index_add",
            f"self ({dtypes.of(x.dtype)}) and source ({dtypes.of(source.array.dtype)})",
            "equal dtypes",
        )
    if x.ndim:
        _check_range("index_add", i, x.shape[axis])
        if source.array.ndim != x.ndim or source.array.shape[axis] != i.size:
            raise ShapeError(
                "index_add",
                f"source shape {source.array.shape}, index of {i.size}, self {x.shape}",
                "sizes that match",
            )
    if alpha != 1:
        source = mul(source, alpha)
    i = i.reshape(-1)
    output = x.copy()
    if x.ndim:
        np.add.at(output, (slice(None),) * axis + (i,), source.array)
    else:
        output += source.array.sum()

    def backward(grad: Array) -> Grads:
        return grad, np.take(grad, i, axis) if grad.ndim else grad

    return record(output, backward, input, source)


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of `input` with the slices named by `index` replaced by those of `source`."""
    x, i = input.array, index.array
    axis = dim_index(dim, x.ndim, "index_copy")
    _check_range("index_copy", i, x.shape[axis] if x.ndim else 1)
    place = (slice(None),) * axis + (i.reshape(-1),)
    output = x.copy()
    output[place] = source.array

    def backward(grad: Array) -> Grads:
        return _erased(grad, place), grad[place]

    return record(output, backward, input, source)


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of `input` with the slices named by `index` filled with `value`."""
    x, i = input.array, index.array
    axis = dim_index(dim, x.ndim, "index_fill")
    _check_range("index_fill", i, x.shape[axis] if x.ndim else 1)
    mask = np.zeros(x.shape, bool)
    mask[(slice(None),) * axis + (i.reshape(-1),)] = True
    return masked_fill(input, wrap(mask), value)


def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of `input` with `input[indices] = values` (or `+=` with `accumulate`)."""
    place, _ = parse_index(tuple(indices), input.array.shape)
    if input.array.dtype != values.array.dtype:
        raise DTypeError(
            "index_put",
            f"Index put requires the source and destination dtypes match, got "
            f"{dtypes.of(input.array.dtype)} for "
            f"the destination and {dtypes.of(values.array.dtype)} for the source",
        )
    output = input.array.copy()
    try:
        if accumulate:
            np.add.at(output, place, values.array)
        else:
            output[place] = values.array
    except IndexError as error:
        raise DimensionError("index_put", f"{error}, tensor of shape {output.shape}") from None
    except ValueError as error:
        raise ShapeError("index_put", f"shape mismatch: {error}") from None

    def backward(grad: Array) -> Grads:
        if accumulate:
            return grad, grad[place]
        return _erased(grad, place), grad[place]

    return record(output, backward, input, values)


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor."""
    from tensorlib.ops.shape import reshape

    _check_range(
        "take",
        np.where(index.array < 0, index.array + input.array.size, index.array),
        input.array.size,
    )
    return (
        getitem(reshape(input, (-1,)), (index if index.array.ndim else reshape(index, (1,)),))
        if index.array.ndim
        else reshape(getitem(reshape(input, (-1,)), int(index.array)), ())
    )


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with broadcasting; over the flattened tensor without `dim`."""
    from tensorlib.ops._common import broadcast_shapes
    from tensorlib.ops.shape import expand, reshape

    if dim is None:
        return gather(reshape(input, (-1,)), 0, reshape(indices, (-1,)))
    axis = dim_index(dim, input.array.ndim, "take_along_dim")
    a, b = list(input.array.shape), list(indices.array.shape)
    a[axis] = b[axis] = 1
    common = broadcast_shapes(a, b)
    wide = [*common[:axis], input.array.shape[axis], *common[axis + 1 :]]
    places = [*common[:axis], indices.array.shape[axis], *common[axis + 1 :]]
    return gather(expand(input, wide), axis, expand(indices, places))


def _erased(grad: Any, place: Any) -> Any:
    """`grad` with zeros at `place`."""
    if isinstance(grad, np.ndarray):
        rest = grad.copy()
        rest[place] = 0
        return rest
    kept = np.ones(grad.shape, bool)
    kept[place] = False
    return grad * kept


def _grown(values: Any, size: tuple[int, ...]) -> Any:
    """`values` with zeros appended along each dimension up to `size`."""
    if values.shape == size:
        return values
    return np.pad(values, [(0, n - m) for n, m in zip(size, values.shape, strict=True)])


# -- gather and scatter ----------------------------------------------------------------------------


def _grid(index: Array, axis: int) -> tuple[Any, ...]:
    """The open grid that addresses `out[..., index[...], ...]` for an index smaller than `out`."""
    grid: list[Any] = list(np.ogrid[tuple(slice(n) for n in index.shape)]) if index.ndim else []
    if grid:
        grid[axis] = index
    return tuple(grid)


def _check_index(
    where: str, index: Tensor, shape: tuple[int, ...], axis: int, all_dims: bool
) -> Array:
    expect_tensor(where, "index", index)
    i = index.array
    if i.dtype.kind not in "iu":
        raise DTypeError(where, f"Expected dtype int32/int64 for index, got {dtypes.of(i.dtype)}")
    if i.ndim != len(shape) and i.size:
        if {i.ndim, len(shape)} <= {0, 1}:
            return i.reshape((1,) * len(shape)) if len(shape) else i.reshape(())  # type: ignore[no-any-return]  # NumPy's stubs are wider
        raise ShapeError(
            where,
            f"Index tensor of shape {i.shape} and self of shape {shape}",
            "the same number of dimensions",
        )
    if i.size:
        for d, n in enumerate(i.shape):
            if d != axis and n > shape[d] and all_dims:
                raise ShapeError(
                    where,
                    f"Size does not match at dimension {d} expected index {i.shape} to be no "
                    f"larger than self {shape} apart from dimension {axis}",
                )
        _check_range(where, i, shape[axis] if shape else 1)
    return i  # type: ignore[no-any-return]  # NumPy's stubs are wider


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """`out[i][j] = input[index[i][j]][j]` for dim 0, and so on."""
    x = input.array
    axis = dim_index(dim, x.ndim, "gather")
    i = _check_index("gather", index, x.shape, axis, True)
    if not x.ndim:
        return _scalar_gather(input, index)
    place = _grid(i, axis) if i.size else None
    output = np.empty(i.shape, x.dtype) if place is None else x[place]
    output = output.reshape(index.array.shape)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(x)
        if place is not None:
            np.add.at(out, place, grad.reshape(i.shape))
        return (out,)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.shape import reshape

        zeros = wrap(np.zeros_like(grad.array, shape=x.shape))
        return (scatter_add(zeros, axis, wrap(i), reshape(grad, i.shape)),)

    return record(output, backward, input, smooth=smooth)


def _scalar_gather(input: Tensor, index: Tensor) -> Tensor:
    from tensorlib.ops.shape import expand, reshape

    flat = reshape(input, (1,))
    return reshape(expand(flat, index.array.size), index.array.shape)


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
    from tensorlib.ops.elementwise import cast

    if src is None:
        src = value
    if src is None:
        raise ArgumentError("scatter", "neither src nor value is given", "one of them")
    if reduce is not None:
        if reduce not in ("add", "multiply"):
            raise ShapeError(
                "scatter", f"reduce argument must be either add or multiply, got {reduce!r}"
            )
        filled = (
            src
            if hasattr(src, "array")
            else wrap(np.full(index.array.shape, src, input.array.dtype))
        )
        return scatter_reduce(input, dim, index, filled, "sum" if reduce == "add" else "prod")
    x = input.array
    axis = dim_index(dim, x.ndim, "scatter")
    i = _check_index("scatter", index, x.shape, axis, False)
    if not hasattr(src, "array"):
        src = cast(wrap(np.asarray(src)), dtypes.of(x.dtype))
    elif src.array.dtype != x.dtype:
        raise DTypeError(
            "scatter",
            f"Expected self.dtype to be equal to src.dtype, got {dtypes.of(x.dtype)} and "
            f"{dtypes.of(src.array.dtype)}",
        )
    source = src.array
    output = x.copy()
    shape = source.shape
    if i.size:
        place, part = _grid(i, axis), tuple(slice(n) for n in i.shape)
        output[place] = source[part] if source.ndim else source

    def backward(grad: Array) -> Grads:
        if not i.size:
            return grad, np.zeros_like(grad, shape=shape)
        back = _grown(grad[place], shape) if shape else grad[place].sum()
        return _erased(grad, place), back

    return record(output, backward, input, src)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of `input` with `out[index[i][j]][j] += src[i][j]` for dim 0."""
    x = input.array
    axis = dim_index(dim, x.ndim, "scatter_add")
    i = _check_index("scatter_add", index, x.shape, axis, False)
    source = src.array
    if source.dtype != x.dtype:
        raise DTypeError(
            "scatter_add",
            f"Expected self.dtype to be equal to src.dtype, got {dtypes.of(x.dtype)} and "
            f"{dtypes.of(source.dtype)}",
        )
    output = x.copy()
    shape = source.shape
    place, part = _grid(i, axis), tuple(slice(n) for n in i.shape)
    if i.size:
        np.add.at(output, place, source[part])

    def backward(grad: Array) -> Grads:
        back = np.zeros_like(grad, shape=shape)
        if i.size:
            back[part] = grad[place]
        return grad, back

    def smooth(grad: Any) -> Grads:
        if i.shape != shape:
            raise DTypeError(
                "scatter_add", "second derivatives with an index smaller than src are not supported"
            )
        return grad, gather(grad, axis, wrap(i))

    return record(output, backward, input, src, smooth=smooth)


_REDUCERS = {
    "sum": (np.add, 0),
    "mean": (np.add, 0),
    "prod": (np.multiply, 1),
    "amax": (np.maximum, -np.inf),
    "amin": (np.minimum, np.inf),
}


def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """A copy of `input` with `src` reduced into it: "sum", "prod", "mean", "amax" or "amin"."""
    if reduce not in _REDUCERS:
        raise ShapeError("scatter_reduce", f"reduce={reduce!r}", f"one of {', '.join(_REDUCERS)}")
    x, source = input.array, src.array
    axis = dim_index(dim, x.ndim, "scatter_reduce")
    i = _check_index("scatter_reduce", index, x.shape, axis, False)
    if source.dtype != x.dtype:
        raise DTypeError(
            "scatter_reduce",
            f"Expected self.dtype to be equal to src.dtype, got {dtypes.of(x.dtype)} and "
            f"{dtypes.of(source.dtype)}",
        )
    function, start = _REDUCERS[reduce]
    place, part = _grid(i, axis), tuple(slice(n) for n in i.shape)
    output = x.copy()
    count = np.full(x.shape, 1 if include_self else 0, np.int64)
    if i.size:
        np.add.at(count, place, 1)
        if not include_self:
            limit = start
            if np.isinf(start) and x.dtype.kind in "iu":
                limit = np.iinfo(x.dtype).min if start < 0 else np.iinfo(x.dtype).max
            output[place] = limit
        function.at(output, place, source[part])
    touched = count > (1 if include_self else 0)
    if reduce == "mean":
        divisor = np.maximum(count, 1)
        output = output // divisor if x.dtype.kind in "iu" else (output / divisor).astype(x.dtype)

    def backward(grad: Array) -> Grads:
        kept = np.ones(x.shape, bool) if include_self else ~touched
        if not i.size:
            return grad * kept, np.zeros_like(source)
        if reduce in ("sum", "mean"):
            scaled = grad / np.maximum(count, 1) if reduce == "mean" else grad
            return scaled * kept, _grown(scaled[place], source.shape)
        if reduce == "prod":
            own = grad * kept * np.where(kept & touched, output / x, 1)
            return own, _grown((grad * output)[place] / source[part], source.shape)
        own_ties = ((x == output) & kept).astype(grad.dtype)
        hits = (source[part] == output[place]).astype(grad.dtype)
        ties = own_ties.copy()
        np.add.at(ties, place, hits)
        share = grad / np.maximum(ties, 1)
        return share * own_ties, _grown(share[place] * hits, source.shape)

    return record(output, backward, input, src)


# -- masks -----------------------------------------------------------------------------------------


def _mask(where: str, mask: Any) -> Array:
    expect_tensor(where, "mask", mask)
    if mask.array.dtype.kind != "b":
        raise DTypeError(
            where,
            f"expected BoolTensor for mask, got {dtypes.of(mask.array.dtype)}",
            hint="use mask.bool()",
        )
    array: Array = mask.array
    return array


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`value` where `mask` is true, `input` elsewhere."""
    m = _mask("masked_fill", mask)
    x = input.array
    if hasattr(value, "array"):
        if value.array.ndim:
            raise ShapeError(
                "masked_fill", f"value has shape {value.array.shape}", "a number or a 0-dim tensor"
            )
        fill = value.array
    else:
        if isinstance(value, float) and x.dtype.kind in "iu" and value != int(value):
            raise DTypeError(
                "masked_fill",
                f"value {value} cannot be converted to {dtypes.of(x.dtype)} without overflow",
            )
        fill = np.asarray(value, x.dtype)
    try:
        output = np.where(m, fill.astype(x.dtype), x)
    except ValueError:
        raise ShapeError(
            "masked_fill", f"mask of shape {m.shape} does not broadcast with input {x.shape}"
        ) from None

    def backward(grad: Array) -> Grads:
        return (np.where(m, 0, grad),)

    if hasattr(value, "array"):

        def backward_value(grad: Array) -> Grads:
            return np.where(m, 0, grad), np.where(m, grad, 0).sum()

        return record(output, backward_value, input, value)
    return record(output, backward, input)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask` is true, in one dimension."""
    from tensorlib.ops.shape import broadcast_tensors

    _mask("masked_select", mask)
    input, mask = broadcast_tensors(input, mask)
    return getitem(input, mask)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Elements where `mask` is true replaced by those of `source` in order."""
    m = np.broadcast_to(_mask("masked_scatter", mask), input.array.shape)
    count = int(m.sum())
    if source.array.size < count:
        raise ShapeError(
            "masked_scatter",
            f"source has {source.array.size} elements, mask selects {count}",
            "at least as many",
        )
    output = input.array.copy()
    shape = source.array.shape
    output[m] = source.array.reshape(-1)[:count]

    def backward(grad: Array) -> Grads:
        back = np.zeros_like(grad, shape=(int(np.prod(shape)),))
        back[:count] = grad[m]
        return np.where(m, 0, grad), back.reshape(shape)

    return record(output, backward, input, source)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """`input` where `condition` is true, `other` elsewhere; with the condition alone,
    `nonzero(as_tuple=True)`.
    """
    expect_tensor("where", "condition", condition)
    if input is None and other is None:
        return nonzero(condition, as_tuple=True)
    c = condition.array
    if c.dtype.kind != "b":
        if c.dtype != np.uint8:
            raise DTypeError(
                "where",
                f"expected condition to be a boolean tensor, but got {dtypes.of(c.dtype)}",
                hint="use .bool()",
            )
        c = c.astype(bool)
    a, b = _where_pair(input, other)
    x, y = a.array, b.array
    try:
        output = np.where(c, x, y)
    except ValueError:
        raise ShapeError(
            "where", f"shapes {c.shape}, {x.shape} and {y.shape} do not broadcast"
        ) from None

    def backward(grad: Array) -> Grads:
        return np.where(c, grad, 0), np.where(c, 0, grad)

    return record(output, backward, a, b)


def _where_pair(input: Any, other: Any) -> tuple[Any, Any]:
    if hasattr(input, "array") and hasattr(other, "array"):
        return promoted(input, other)
    if hasattr(input, "array"):
        input = scalar_operand(input, other, "where")
        return input, wrap(np.asarray(other, input.array.dtype))
    if hasattr(other, "array"):
        other = scalar_operand(other, input, "where")
        return wrap(np.asarray(input, other.array.dtype)), other
    kind = dtypes.scalar_numpy(dtypes.scalar_numpy(np.dtype(bool), input), other)
    return wrap(np.asarray(input, kind)), wrap(np.asarray(other, kind))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Indices of the nonzero elements: one row each; `as_tuple`: one tensor per dimension."""
    x = input.array
    found = np.nonzero(x if x.ndim else x.reshape(1))
    if as_tuple:
        return tuple(wrap(f.astype(np.int64)) for f in found)
    if not x.ndim:
        return wrap(np.zeros((len(found[0]), 0), np.int64))
    return wrap(np.stack(found, 1).astype(np.int64))


def argwhere(input: Tensor) -> Tensor:
    """`nonzero(input)`."""
    result: Tensor = nonzero(input)
    return result


def searchsorted(
    sorted_sequence: Tensor, input: Any, *, right: bool = False, out_int32: bool = False
) -> Tensor:
    """Where elements would be inserted to keep the last dimension sorted."""
    a = sorted_sequence.array
    v = input.array if hasattr(input, "array") else np.asarray(input)
    side: Any = "right" if right else "left"
    if a.ndim == 1:
        result = np.searchsorted(a, v, side)
    else:
        rows, wanted = a.reshape(-1, a.shape[-1]), v.reshape(-1, v.shape[-1])
        if len(rows) != len(wanted):
            raise ShapeError(
                "searchsorted", f"boundaries {a.shape} and input {v.shape}", "equal leading sizes"
            )
        result = np.stack(
            [np.searchsorted(r, w, side) for r, w in zip(rows, wanted, strict=True)]
        ).reshape(v.shape)
    return wrap(np.asarray(result, np.int32 if out_int32 else np.int64))


def bucketize(
    input: Any, boundaries: Tensor, *, right: bool = False, out_int32: bool = False
) -> Tensor:
    """The bucket of each element between sorted `boundaries`."""
    return searchsorted(boundaries, input, right=right, out_int32=out_int32)


def tril_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Row and column indices of the lower triangle, [2, N]."""
    return wrap(np.stack(np.tril_indices(row, offset, col)))


def triu_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Row and column indices of the upper triangle, [2, N]."""
    return wrap(np.stack(np.triu_indices(row, offset, col)))
