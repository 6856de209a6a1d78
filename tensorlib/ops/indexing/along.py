"""Indices along one dimension (`index_select index_add index_copy index_fill index_reduce`) and
into the flattened tensor (`take put`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DimensionError, DTypeError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    broadcast_shapes,
    called,
    dim_index,
    expect_tensor,
    not_for,
    record,
    wrap,
)
from tensorlib.ops.indexing.getitem import add_rows, getitem
from tensorlib.ops.indexing.setitem import erased
from tensorlib.ops.out import takes_distinct_out
from tensorlib.ops.strides import copied

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class DimensionRuntime(DimensionError, RuntimeError):
    """An index tensor that does not fit (IndexError or RuntimeError in PyTorch, by operation)."""


def check_range(where: str, index: Array, size: int) -> None:
    """Refuse entries outside 0 to size - 1."""
    if index.size and (index.min() < 0 or index.max() >= size):
        bad = index[(index < 0) | (index >= size)].reshape(-1)[0]
        raise DimensionRuntime(
            where,
            f"index {bad} is out of bounds for dimension with size {size}",
            f"0 to {size - 1}",
        )


def _vector(where: str, index: Any, size: int) -> Array:
    """An index of at most one dimension, checked, as a vector."""
    expect_tensor(where, "index", index)
    i: Array = index.array
    if i.dtype not in (np.int64, np.int32):
        raise DTypeError(
            where, f"{where}(): Expected dtype int32/int64 for index, got {dtypes.of(i.dtype)}"
        )
    if i.ndim > 1:
        raise DimensionRuntime(where, f"Index is supposed to be a vector, got shape {i.shape}")
    check_range(where, i, size)
    return i.reshape(-1)


def _same_dtype(where: str, x: Array, source: Array) -> None:
    if x.dtype != source.dtype:
        raise DTypeError(
            where,
            f"{where}(): self ({dtypes.of(x.dtype)}) and source ({dtypes.of(source.dtype)}) must "
            f"have the same scalar type",
        )


@takes_distinct_out
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along `dim` that the integers in `index` name."""
    x = input.array
    axis = dim_index(dim, x.ndim, "index_select")
    shape = x.shape
    source = x if x.ndim else x.reshape(1)
    i = _vector("index_select", index, source.shape[axis])
    if not x.ndim and i.size != 1:
        raise DimensionRuntime(
            "index_select", f"Index to scalar can have only 1 value, got {i.size}"
        )
    output = np.take(source, i, axis)
    if not output.flags.c_contiguous:
        output = output.copy("C")
    whole = source.shape

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(grad, shape=whole)
        add_rows_along(out, axis, i, grad)
        return (out.reshape(shape),)

    def smooth(grad: Any) -> Grads:
        zeros = wrap(np.zeros_like(grad.array, shape=whole))
        from tensorlib.ops.shape import reshape

        added = index_add(
            zeros,
            axis,
            wrap(i),
            reshape(grad, (*grad.shape[:axis], len(i), *grad.shape[axis + 1 :])),
        )
        return (reshape(added, shape),)

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


def _placed(
    where: str, input: Tensor, dim: int, index: Tensor, source: Tensor
) -> tuple[int, Array, Any, Any]:
    """Checked: the axis, the index, and the arrays of `input` and `source`, not 0-dim."""
    x = input.array
    expect_tensor(where, "source", source)
    axis = dim_index(dim, x.ndim, where)
    grown = x.reshape(1) if not x.ndim else x
    i = _vector(where, index, grown.shape[axis])
    values = source.array
    _same_dtype(where, x, values)
    if values.ndim > 1 and x.ndim != values.ndim and values.ndim:
        raise DimensionRuntime(
            where,
            f"source of shape {values.shape} and self of shape {x.shape}",
            "equally many dimensions",
        )
    if not values.ndim:
        if i.size != 1:
            raise DimensionRuntime(
                where, f"When source is scalar, index should have one element (got {i.size})"
            )
        values = values.reshape((1,) * grown.ndim)
    elif not x.ndim and values.ndim == 1:
        pass
    elif values.ndim != x.ndim:
        raise DimensionRuntime(
            where,
            f"source of shape {values.shape} and self of shape {x.shape}",
            "equally many dimensions",
        )
    if i.size != values.shape[axis]:
        raise DimensionRuntime(
            where,
            f"Number of indices ({i.size}) should be equal to source.size(dim) "
            f"({values.shape[axis]})",
        )
    rest = [
        (a, b) for d, (a, b) in enumerate(zip(values.shape, grown.shape, strict=True)) if d != axis
    ]
    if any(a != b for a, b in rest):
        raise ShapeError(
            where,
            f"source of shape {values.shape} must match self of shape {x.shape} apart from "
            f"dimension {axis}",
        )
    return axis, i, grown, values


@takes_distinct_out
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """A copy of `input` with `alpha * source` added to the slices named by `index`."""
    from tensorlib.ops.elementwise import mul

    axis, i, x, _ = _placed("index_add", input, dim, index, source)
    if isinstance(alpha, float) and x.dtype.kind in "iub":
        raise DTypeError(
            "index_add", f"For integral input tensors, argument alpha {alpha} must not be floating"
        )
    if alpha != 1:
        source = mul(source, alpha)
    shape, values = input.array.shape, source.array
    place = (slice(None),) * axis + (i,)
    output = x.copy("C")
    np.add.at(output, place, values if values.ndim else values.reshape((1,) * x.ndim))  # type: ignore[arg-type]
    form = values.shape

    def backward(grad: Array) -> Grads:
        taken = np.take(grad.reshape(output_shape), i, axis)
        return grad, taken.reshape(form)

    output_shape = x.shape
    return record(output.reshape(shape), backward, input, source)


@takes_distinct_out
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of `input` with the slices named by `index` replaced by those of `source`."""
    axis, i, x, values = _placed("index_copy", input, dim, index, source)
    shape, form, whole = input.array.shape, source.array.shape, x.shape
    place = (slice(None),) * axis + (i,)
    output = x.copy("C")
    output[place] = values

    def backward(grad: Array) -> Grads:
        wide = grad.reshape(whole)
        return erased(wide, place).reshape(shape), np.take(wide, i, axis).reshape(form)

    return record(output.reshape(shape), backward, input, source)


@takes_distinct_out
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of `input` with the slices named by `index` filled with `value`."""
    x = input.array
    axis = dim_index(dim, x.ndim, "index_fill")
    grown = x.shape or (1,)
    expect_tensor("index_fill", "index", index)
    i = index.array
    if i.dtype not in (np.int64, np.int32):
        raise DimensionRuntime(
            "index_fill", f"index_fill_(): Expected dtype int64 for index, got {index.dtype}"
        )
    size = grown[axis]
    i = _vector("index_fill", wrap(np.where(i < 0, i + size, i)), size)
    place = (slice(None),) * axis + (i,)
    once: Any = (slice(None),) * axis + (np.unique(i),)
    shape, output = x.shape, copied(x)
    is_tensor = hasattr(value, "array")
    if is_tensor and value.array.ndim:
        raise ShapeError(
            "index_fill",
            "index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{value.array.ndim} dimension(s).",
        )
    number = value.array.astype(x.dtype) if is_tensor else dtypes.fitting(value, x.dtype)
    if output.ndim:
        output[place] = number
    elif i.size:
        output[...] = number

    def backward(grad: Array) -> Grads:
        wide = grad.reshape(grown)
        rest = erased(wide, place).reshape(shape)
        if not is_tensor:
            return (rest,)
        return rest, wide[once].sum()  # an index given twice counts once

    return record(output, backward, input, *((value,) if is_tensor else ()))


def copied_as(array: Any, like: Any) -> Any:
    """`array` in the memory order of `like`."""
    output = copied(like)
    output[...] = array
    return output


@takes_distinct_out
@called("IndexReduceBackward0")
def index_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """A copy of `input` with the slices of `source` reduced into those named by `index`: "prod",
    "mean", "amax" or "amin".
    """
    from tensorlib.ops.indexing.scattering import reduced_at

    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ShapeError(
            "index_reduce",
            f"index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got "
            f"{reduce}.",
        )
    if input.array.dtype.kind in "bc":
        raise not_for("index_reduce", input.array, "real numbers")
    axis, i, x, _ = _placed("index_reduce", input, dim, index, source)
    if not input.array.ndim or not source.array.ndim:
        from tensorlib.ops.shape import reshape, reshaped

        grown = reshape(input, x.shape)
        found = index_reduce(
            grown, axis, wrap(i), reshape(source, (1,) * x.ndim), reduce, include_self=include_self
        )
        return reshaped(found, input.array.shape)
    place = (slice(None),) * axis + (i,)
    return reduced_at(input, source, place, (...,), reduce, include_self)


# -- flat ------------------------------------------------------------------------------------------


def _flat_index(where: str, index: Any, size: int) -> Array:
    expect_tensor(where, "index", index)
    i = index.array
    if i.dtype != np.int64:
        raise DTypeError(
            where, f"{where}(): Expected a long tensor for index, but got {dtypes.of(i.dtype)}"
        )
    if i.size and not size:
        raise DimensionError(where, f"{where}(): tried to {where} from an empty tensor")
    if i.size and (i.min() < -size or i.max() >= size):
        bad = i[(i < -size) | (i >= size)].reshape(-1)[0]
        raise DimensionRuntime(
            where, f"out of range: tried to access index {bad} on a tensor of {size} elements"
        )
    found: Array = np.where(i < 0, i + size, i)
    return found


@takes_distinct_out
@called("TakeBackward0")
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor."""
    from tensorlib.ops.shape import reshape, reshaped

    i = _flat_index("take", index, input.array.size)
    found = getitem(reshape(input, (-1,)), wrap(i if i.ndim else i.reshape(1)))
    return found if i.ndim else reshaped(found, ())


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of `input` with `source` at places of the flattened tensor (added there with
    `accumulate`).
    """
    x = input.array
    expect_tensor("put", "source", source)
    values = source.array
    i = _flat_index("put", index, x.size).reshape(-1)
    if x.dtype != values.dtype:
        raise DTypeError(
            "put",
            f"put_(): self and source expected to have the same dtype, but got self.dtype = "
            f"{dtypes.of(x.dtype)} and source.dtype = {dtypes.of(values.dtype)}",
        )
    if values.size != i.size:
        raise ShapeError(
            "put",
            f"put_(): Expected source and index to have the same number of elements, but got "
            f"source.numel() = {values.size}, index.numel() = {i.size}",
        )
    flat = x.reshape(-1).copy()
    if accumulate:
        np.add.at(flat, i, values.reshape(-1))
    else:
        flat[i] = values.reshape(-1)
    output = copied_as(flat.reshape(x.shape), x)
    shape, form = x.shape, values.shape

    def backward(grad: Array) -> Grads:
        wide = grad.reshape(-1)
        taken = wide[i].reshape(form)
        return (grad if accumulate else erased(wide, i).reshape(shape)), taken

    return record(output, backward, input, source)


@takes_distinct_out
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with broadcasting; over the flattened tensor without `dim`."""
    from tensorlib.ops.indexing.scattering import gather
    from tensorlib.ops.shape import expand, reshape

    expect_tensor("take_along_dim", "indices", indices)
    if indices.array.dtype != np.int64:
        raise DTypeError(
            "take_along_dim",
            f"torch.take_along_dim(): dtype of indices should be Long but got {indices.dtype}",
        )
    if dim is None:
        return gather(reshape(input, (-1,)), 0, reshape(indices, (-1,)))
    if input.array.ndim != indices.array.ndim:
        raise ShapeError(
            "take_along_dim",
            f"input and indices should have the same number of dimensions, but got "
            f"{input.array.ndim} dimensions for input, and {indices.array.ndim} dimensions for "
            f"indices",
        )
    axis = dim_index(dim, input.array.ndim, "take_along_dim")
    a, b = list(input.array.shape), list(indices.array.shape)
    a[axis] = b[axis] = 1
    common = broadcast_shapes(a, b)
    wide = [*common[:axis], input.array.shape[axis], *common[axis + 1 :]]
    places = [*common[:axis], indices.array.shape[axis], *common[axis + 1 :]]
    i = indices.array
    if i.size and i.min() < 0:
        indices = wrap(np.where(i < 0, i + input.array.shape[axis], i))
    return gather(expand(input, wide), axis, expand(indices, places))
