"""New tensors: filled, counted, spaced. From data: `interop`; random: `ops.sampling`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import wrap
from tensorlib.device import device_of, move, namespace_of, place_of
from tensorlib.errors import (
    ArgumentError,
    ShapeError,
    UnsupportedError,
)
from tensorlib.interop import as_tensor, asarray, from_numpy, frombuffer, tensor
from tensorlib.ops._common import expect_tensor
from tensorlib.ops.strides import ordered

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["as_tensor", "asarray", "from_numpy", "frombuffer", "tensor"]

Size = tuple[int, ...]


def finish(array: Any, requires_grad: bool, device: Any = None) -> Tensor:
    """A new tensor around `array` on `device` (None: the default device)."""
    where = place_of(device)
    if where is not None:
        array = move(array, where)
    result = wrap(array)
    if requires_grad:
        result.requires_grad_()
    return result


def refuse(where: str, layout: Any, pin_memory: bool = False) -> None:
    """Refuse what tensors here cannot be: another layout, pinned memory."""
    if layout is not None and layout is not dtypes.strided:
        raise UnsupportedError(where, f"layout {layout} is not supported", "tensorlib.strided")
    if pin_memory:
        raise ShapeError(
            where,
            "pin_memory=True requires a CUDA or other accelerator backend; no pinned memory "
            "allocator is available",
        )


def size_of(where: str, sizes: tuple[Any, ...], size: Any = None) -> Size:
    """Sizes given as one sequence, as separate integers, or as the keyword `size`."""
    if size is not None:
        if sizes:
            raise ArgumentError(where, "got multiple values for argument 'size'")
        sizes = (size,)
    elif not sizes:
        raise ArgumentError(where, "no size given", "integers, or a sequence of them")
    if len(sizes) == 1 and not is_index(sizes[0]):
        sizes = sizes[0]
    if not isinstance(sizes, list | tuple) or not all(map(is_index, sizes)):
        raise ArgumentError(where, f"argument 'size' must be tuple of ints, not {sizes!r}")
    found = tuple(n.__index__() for n in sizes)
    if any(n < 0 for n in found):
        raise ShapeError(
            where, f"Trying to create tensor with negative dimension {min(found)}: {list(found)}"
        )
    if math.prod(found) >= 1 << 59:
        raise ShapeError(where, f"Storage size calculation overflowed with sizes={list(found)}")
    return found


def is_index(value: Any) -> bool:
    if type(value) is int:
        return True
    if isinstance(value, bool) or (hasattr(value, "array") and value.array.dtype.kind not in "iub"):
        return False
    return hasattr(value, "__index__") and not getattr(value, "ndim", 0)


def kind_of(dtype: Any, where: str, out: Any = None) -> Any:
    """NumPy's form of the dtype asked for: that of `out`, or the default."""
    if out is not None:
        kind = out.array.dtype
        if dtype is not None and dtypes.numpy_dtype(dtype) != kind:
            raise ShapeError(
                where, f"dtype {dtype} does not match dtype of out parameter ({out.dtype})"
            )
        return kind
    return dtypes.default_numpy() if dtype is None else dtypes.numpy_dtype(dtype, where)


def into(where: str, out: Any, made: Tensor, *, exact: bool = False) -> Tensor:
    """The values of `made` in `out`, which is resized where it has another shape; `exact`: only if
    its dtype is the same.
    """
    from tensorlib.ops.out import _into

    def given(made: Tensor) -> Tensor:
        return made

    given.__name__ = where
    result: Tensor = _into(out, given, exact, (made,), {})
    return result


def _filled(
    where: str, maker: str, sizes: Any, size: Any, out: Any, dtype: Any, device: Any, grad: bool
) -> Tensor:
    shape, kind = size_of(where, sizes, size), kind_of(dtype, where, out)
    array = getattr(namespace_of(device), maker)(shape, kind)
    result = wrap(array)
    if grad:
        result.requires_grad_()
    return result if out is None else into(where, out, result)


def zeros(
    *sizes: Any,
    size: Any = None,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Zeros of the given size."""
    refuse("zeros", layout, pin_memory)
    return _filled("zeros", "zeros", sizes, size, out, dtype, device, requires_grad)


def ones(
    *sizes: Any,
    size: Any = None,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Ones of the given size."""
    refuse("ones", layout, pin_memory)
    return _filled("ones", "ones", sizes, size, out, dtype, device, requires_grad)


def empty(
    *sizes: Any,
    size: Any = None,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uninitialised memory of the given size, in `memory_format`."""
    refuse("empty", layout, pin_memory)
    if memory_format is None:
        return _filled("empty", "empty", sizes, size, out, dtype, device, requires_grad)
    if memory_format is dtypes.preserve_format:
        raise ShapeError("empty", "unsupported memory format Preserve")
    shape, kind = size_of("empty", sizes, size), kind_of(dtype, "empty", out)
    return finish(_laid_out("empty", shape, kind, memory_format), requires_grad, device)


def full(
    size: Any,
    fill_value: Any,
    *,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """`fill_value` everywhere; its Python type decides the dtype."""
    refuse("full", layout, pin_memory)
    if is_index(size):
        raise ArgumentError("full", f"argument 'size' must be tuple of ints, not {size!r}")
    value = number("full", "fill_value", fill_value)
    if dtype is None and out is None:
        kind = dtypes.scalar_numpy(np.dtype(bool), value)
    else:
        kind = kind_of(dtype, "full", out)
    array = namespace_of(device).full(size_of("full", (size,)), dtypes.fitting(value, kind), kind)
    result = finish(array, requires_grad, device)
    return result if out is None else into("full", out, result)


def number(where: str, name: str, value: Any) -> Any:
    """The Python number in a number or 0-dim tensor."""
    if hasattr(value, "array") and not value.array.ndim:
        return value.array.item()
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, bool | int | float | complex):
        raise ArgumentError(
            where, f"argument '{name}' must be Number, not {type(value).__name__} {value!r:.50}"
        )
    return value


def empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Uninitialised memory of the given size and strides (in elements)."""
    refuse("empty_strided", layout, pin_memory)
    shape, steps = size_of("empty_strided", (size,)), tuple(stride)
    if len(shape) != len(steps):
        raise ShapeError(
            "empty_strided",
            f"dimensionality of sizes ({len(shape)}) must match dimensionality of strides "
            f"({len(steps)})",
        )
    if any(step < 0 for step in steps):
        raise ShapeError("empty_strided", f"strides {steps} are negative", "none below 0")
    array = strided(shape, steps, kind_of(dtype, "empty_strided"))
    return finish(array, requires_grad, device)


def strided(shape: Size, steps: Size, kind: Any) -> Any:
    """Uninitialised memory with these strides in elements."""
    extent = (
        1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) if 0 not in shape else 0
    )
    memory = np.empty(extent, kind)
    return np.ndarray(shape, kind, memory, 0, tuple(s * kind.itemsize for s in steps))


def empty_permuted(
    size: Sequence[int],
    physical_layout: Sequence[int],
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Uninitialised memory whose dims lie in memory in the order `physical_layout`."""
    refuse("empty_permuted", layout, pin_memory)
    shape, order = size_of("empty_permuted", (size,)), tuple(physical_layout)
    if len(shape) != len(order):
        raise ShapeError(
            "empty_permuted",
            f"Number of dimensions in size does not match the length of the physical_layout; "
            f"{len(shape)} and {len(order)}",
        )
    if sorted(order) != list(range(len(shape))):
        raise ShapeError("empty_permuted", f"physical_layout {order}: Duplicate dim not allowed")
    array = np.empty([shape[d] for d in order], kind_of(dtype, "empty_permuted"))
    return finish(array.transpose(np.argsort(order)), requires_grad, device)


# -- like another tensor ---------------------------------------------------------------------------


def _laid_out(where: str, shape: Size, kind: Any, memory_format: Any) -> Any:
    """Uninitialised memory in a memory format."""
    rank = {dtypes.channels_last: 4, dtypes.channels_last_3d: 5}.get(memory_format)
    if rank is None:
        if memory_format is not dtypes.contiguous_format:
            raise ArgumentError(
                where, f"memory_format {memory_format!r} given", "a tensorlib.memory_format"
            )
        return np.empty(shape, kind)
    if len(shape) != rank:
        raise ShapeError(where, f"required rank {rank} tensor to use {memory_format}, got {shape}")
    return np.moveaxis(np.empty((shape[0], *shape[2:], shape[1]), kind), -1, 1)


def empty_as(array: Any, kind: Any, memory_format: Any = None, where: str = "empty_like") -> Any:
    """Uninitialised memory of the shape of `array`, its dims in the same order in memory."""
    if memory_format is not None and memory_format is not dtypes.preserve_format:
        return _laid_out(where, array.shape, kind, memory_format)
    if array.flags.c_contiguous or not isinstance(array, np.ndarray):
        return np.empty_like(array, kind)
    order = ordered(array.shape, array.strides)[::-1]
    return np.empty([array.shape[d] for d in order], kind).transpose(np.argsort(order))


def _like(
    where: str, input: Any, dtype: Any, layout: Any, memory_format: Any, pin_memory: bool
) -> Any:
    expect_tensor(where, "input", input)
    refuse(where, layout, pin_memory)
    array = input.array
    kind = array.dtype if dtype is None else dtypes.numpy_dtype(dtype, where)
    return empty_as(array, kind, memory_format, where)


def zeros_like(
    input: Tensor,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Zeros of the size, type, device and memory order of `input`."""
    array = _like("zeros_like", input, dtype, layout, memory_format, pin_memory)
    array.fill(0)
    return finish(array, requires_grad, device or device_of(array))


def ones_like(
    input: Tensor,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Ones of the size, type, device and memory order of `input`."""
    array = _like("ones_like", input, dtype, layout, memory_format, pin_memory)
    array.fill(1)
    return finish(array, requires_grad, device or device_of(array))


def empty_like(
    input: Tensor,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uninitialised memory of the size, type, device and memory order of `input`."""
    array = _like("empty_like", input, dtype, layout, memory_format, pin_memory)
    return finish(array, requires_grad, device or device_of(array))


def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """`fill_value` in the size, type, device and memory order of `input`."""
    array = _like("full_like", input, dtype, layout, memory_format, pin_memory)
    array.fill(dtypes.fitting(number("full_like", "fill_value", fill_value), array.dtype))
    return finish(array, requires_grad, device or device_of(array))
