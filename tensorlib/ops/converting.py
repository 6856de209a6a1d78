"""To other types and devices: `to float cpu cuda`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorlib import dtypes
from tensorlib.device import device as device_type
from tensorlib.device import device_of, move
from tensorlib.errors import ArgumentError
from tensorlib.ops._common import Array, Grads, cast, record
from tensorlib.ops.shape.rearranging import clone, contiguous
from tensorlib.ops.strides import is_channels_last

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def to(
    self: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
    other: Tensor | None = None,
) -> Tensor:
    """Another dtype and/or device: `to(dtype)`, `to(device)`, `to(device, dtype)`, `to(other)`;
    itself if nothing changes.
    """
    flags = []
    for value in args if other is None else (*args, other):
        if hasattr(value, "array"):
            dtype, device = value.dtype, value.device
        elif isinstance(value, str | device_type):
            device = value
        elif isinstance(value, bool):
            flags.append(value)
        elif isinstance(value, int):
            device = device_type(value)
        elif isinstance(value, dtypes.memory_format):
            memory_format = value
        elif value is not None:
            dtype = value
    if len(flags) > 2:
        raise ArgumentError("to", f"unexpected arguments {flags[2:]}")
    copy = copy or (len(flags) == 2 and flags[1])
    result = self if dtype is None else cast(self, dtype)
    if device is not None:
        result = moved(result, device if isinstance(device, device_type) else device_type(device))
    result = _in_format(result, memory_format)
    return clone(result) if copy and result is self else result


def _in_format(input: Tensor, memory_format: Any) -> Tensor:
    if memory_format is None or memory_format is dtypes.preserve_format:
        return input
    # strides decide, as in PyTorch: of one channel, an image is contiguous in every format, but
    # what layers make of it follows its strides
    last = memory_format is not dtypes.contiguous_format
    if last is not is_channels_last(input.array):
        return clone(input, memory_format=memory_format)
    return contiguous(input, memory_format)


def moved(input: Tensor, where: device_type) -> Tensor:
    """`input` on a device, itself if it is there."""
    origin = device_of(input.array)
    array = move(input.array, where)
    if array is input.array:
        return input

    def to_copy(grad: Array) -> Grads:
        return (move(grad, origin),)

    return record(array, to_copy, input)


def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """On the CPU."""
    return _in_format(moved(self, device_type("cpu")), memory_format)


def cuda(
    self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None
) -> Tensor:
    """On a GPU."""
    return _in_format(moved(self, device_type("cuda" if device is None else device)), memory_format)


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """`to(other.dtype)`."""
    return cast(self, other.dtype)


def converter(name: str) -> Callable[..., Tensor]:
    """The method that converts to the type of this name."""

    def convert(self: Tensor, memory_format: Any = None) -> Tensor:
        return _in_format(cast(self, getattr(dtypes, name)), memory_format)

    convert.__doc__ = f"As {name}."
    return convert
