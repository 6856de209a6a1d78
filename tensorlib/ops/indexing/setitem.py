"""`x[...] = y` and `index_put`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd import tape
from tensorlib.errors import ArgumentError, DimensionError, DTypeError, ShapeError
from tensorlib.ops._common import Array, Grads, astype, called, expect_tensor, record
from tensorlib.ops.indexing.getitem import (
    index_array,
    joined,
    out_of_range,
    parse_index,
    stages,
    taken,
    viewed,
)
from tensorlib.ops.strides import copied, partly_overlap

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """`input[index] = value`, in place, recorded."""
    place, basic = parse_index(index)
    if not basic and any(type(item) is int for item in place):
        first, place = stages(place)
        input = viewed(input, first)
    if basic and input._base is not None and index is not Ellipsis:
        input, place = viewed(input, place), (Ellipsis,)  # the part has a history of its own
    x = input.array
    if not basic:
        place = joined(place, x.ndim)
    tape.check_inplace(input, "setitem")
    given = value if hasattr(value, "array") else None
    if given is not None:
        given = _fitting(x, given, place, basic)
        target = given.array
    elif isinstance(value, bool | int | float | complex | np.integer):
        target = dtypes.fitting(value, x.dtype)
    else:
        raise ArgumentError(
            "setitem",
            f"can't assign a {type(value).__name__} to a tensor of {dtypes.of(x.dtype)}",
            "a Tensor or a number",
        )
    recording = x.dtype.kind in "fcV" and (
        tape.needs_grad(input) or (given is not None and tape.needs_grad(given))
    )
    described = []
    if recording:
        tape.check_view(input, "setitem")
        described = [tape._describe(input)] + ([tape._describe(given)] if given is not None else [])
    try:
        if given is not None and basic and _overlap(x[place], target):
            raise ShapeError(
                "setitem",
                "unsupported operation: some elements of the input tensor and the written-to "
                "tensor refer to a single memory location",
                hint="clone() the tensor before performing the operation",
            )
        x[place] = target
    except IndexError as error:
        raise out_of_range(error, x.shape, place) from None
    except (ValueError, TypeError):
        raise ShapeError(
            "setitem",
            f"shape mismatch: value tensor of shape {list(np.shape(target))} cannot be broadcast "
            f"to indexing result of shape {list(x[place].shape)}",
        ) from None
    tape.bump(input)
    if recording:

        def setitem(grad: Array) -> Grads:
            rest = erased(grad, place)
            return (rest, grad[place]) if given is not None else (rest,)

        tape.rebase(input, setitem, described, "CopySlices" if basic else "IndexPutBackward0")


def _overlap(part: Any, target: Any) -> bool:
    """Whether PyTorch refuses the copy: it looks at memory after the value was expanded."""
    if part.size == target.size:  # the same memory, whatever dims of size 1 there are
        part, target = part.squeeze(), target.squeeze()
    elif part.shape != target.shape:
        target = np.broadcast_to(target, part.shape)
    return partly_overlap(part, target)


def _fitting(x: Any, value: Tensor, place: tuple[Any, ...], basic: bool) -> Tensor:
    """A value to assign, in the type of `x` and without leading dimensions of size 1."""
    given = value.array
    if given.dtype != x.dtype:
        mask = len(place) == 1 and np.ndim(place[0]) and place[0].dtype.kind == "b"
        if not basic and not (mask and given.ndim == 0):
            raise DTypeError(
                "setitem",
                f"Index put requires the source and destination dtypes match, got "
                f"{dtypes.of(x.dtype)} for the destination and {dtypes.of(given.dtype)} for the "
                f"source.",
            )
        value = astype(value, x.dtype)
    shape = given.shape
    if shape and shape[0] == 1:
        from tensorlib.ops.shape import reshape

        while shape and shape[0] == 1:
            shape = shape[1:]
        value = reshape(value, shape)
    return value


@called("IndexPutBackward0")
def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of `input` with `input[indices] = values` (or `+=` with `accumulate`)."""
    expect_tensor("index_put", "values", values)
    if not isinstance(indices, tuple | list):
        raise ArgumentError(
            "index_put",
            f"argument 'indices' must be tuple of Tensors, not {type(indices).__name__}",
        )
    for i in indices:
        expect_tensor("index_put", "indices", i)
    place: Any = tuple(map(index_array, indices))
    place = tuple(np.asarray(i) if type(i) is int else i for i in place)
    if input.array.dtype != values.array.dtype:
        raise DTypeError(
            "index_put",
            f"Index put requires the source and destination dtypes match, got "
            f"{dtypes.of(input.array.dtype)} for the destination and "
            f"{dtypes.of(values.array.dtype)} for the source.",
        )
    shape = _indexed_shape(input.array.shape, place)
    given = values.array.shape
    if len(given) > len(shape) or any(
        n not in (1, m) for n, m in zip(given[::-1], shape[::-1], strict=False)
    ):  # also because NumPy's add.at crashes on such values
        raise ShapeError(
            "index_put",
            f"shape mismatch: value tensor of shape {list(given)} cannot be broadcast to indexing "
            f"result of shape {list(shape)}",
        )
    return put_at(input, place, values, accumulate)


def _indexed_shape(shape: tuple[int, ...], place: Any) -> tuple[int, ...]:
    """The shape of what index arrays for the first dimensions select."""
    used = 0
    for i in place:
        own = shape[used : used + taken(i)]
        if i.dtype.kind == "b" and i.shape != own:
            raise DimensionError(
                "index_put",
                f"The shape of the mask {list(i.shape)} at index {used} does not match the shape "
                f"of the indexed tensor {list(shape)}",
            )
        if used >= len(shape):
            raise DimensionError("index_put", f"too many indices for tensor of shape {shape}")
        if own == (0,) and i.size and i.dtype.kind != "b":
            raise DimensionError("index_put", "index is out of bounds for dimension with size 0")
        used += taken(i)
    forms = [(np.count_nonzero(i),) if i.dtype.kind == "b" else i.shape for i in place]
    try:
        return (*np.broadcast_shapes(*forms), *shape[used:])
    except ValueError as error:
        raise out_of_range(error, shape, place) from None


def put_at(input: Tensor, place: Any, values: Tensor, accumulate: bool) -> Tensor:
    """`index_put` with NumPy's form of the indices."""
    output = copied(input.array)
    try:
        if accumulate:
            np.add.at(output, place, values.array)
        else:
            output[place] = values.array
    except (IndexError, ValueError) as error:
        raise out_of_range(error, output.shape, place) from None

    def backward(grad: Array) -> Grads:
        if accumulate:
            return grad, grad[place]
        return erased(grad, place), grad[place]

    return record(output, backward, input, values)


def erased(grad: Any, place: Any) -> Any:
    """`grad` with zeros at `place`."""
    if isinstance(grad, np.ndarray):
        rest = grad.copy()
        rest[place] = 0
        return rest
    kept = np.ones(grad.shape, bool)
    kept[place] = False
    return grad * kept
