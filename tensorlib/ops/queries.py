"""Questions about a tensor: its size, memory and kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib.autograd.tape import INFERENCE
from tensorlib.device import address
from tensorlib.errors import DimensionError, ShapeError, UnsupportedError
from tensorlib.ops._common import dim_index
from tensorlib.ops.shape.memory import Storage
from tensorlib.ops.shape.rearranging import is_contiguous_in
from tensorlib.ops.shape.reinterpret import storage_of
from tensorlib.ops.strides import contiguous_strides, ordered

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or one of its sizes."""
    return self.shape if dim is None else _one(self.array.shape, dim, "size")


def stride(self: Tensor, dim: int | None = None) -> Any:
    """Steps in elements from one index to the next, per dimension."""
    a = self.array
    item, strides = a.itemsize, a.strides
    if not a.size and not any(strides):  # NumPy's empty arrays have none
        strides = contiguous_strides(a.shape, item)
    steps = tuple(s // item for s in strides)
    return steps if dim is None else _one(steps, dim, "stride")


def _one(values: tuple[int, ...], dim: int, where: str) -> int:
    if not values:
        raise DimensionError(where, f"Dimension specified as {dim} but tensor has no dimensions")
    return values[dim_index(dim, len(values), where)]


def dim(self: Tensor) -> int:
    """Number of dimensions."""
    return int(self.array.ndim)


def numel(self: Tensor) -> int:
    """Number of elements."""
    return int(self.array.size)


def element_size(self: Tensor) -> int:
    """Bytes per element."""
    return int(self.array.itemsize)


def storage_offset(self: Tensor) -> int:
    """Elements between the start of the memory it views and its own first element."""
    if self._base is None and self._extra is None:
        return 0
    return (address(self.array) - address(storage_of(self))) // int(self.array.itemsize)


def data_ptr(self: Tensor) -> int:
    """Memory address of the first element."""
    return address(self.array)


def untyped_storage(self: Tensor) -> Storage:
    """The memory it is part of, as bytes."""
    return Storage(self)


def storage(self: Tensor) -> Storage:
    """The memory it is part of, as elements of its type."""
    return Storage(self, self.dtype)


def dim_order(self: Tensor, *, ambiguity_check: bool = False) -> tuple[int, ...]:
    """The dimensions from the outermost in memory to the innermost."""
    a = self.array
    if ambiguity_check and (0 in a.strides or len(set(a.strides)) < a.ndim):
        raise ShapeError(
            "dim_order", f"strides {self.stride()}: the tensor does not have unique dim order"
        )
    return tuple(reversed(ordered(a.shape, a.strides)))


def is_contiguous(self: Tensor, *, memory_format: Any = None) -> bool:
    """Whether memory is in row-major order (or the format asked for)."""
    return is_contiguous_in(self.array, memory_format)


def is_floating_point(input: Tensor) -> bool:
    """Whether elements are floating-point numbers."""
    return bool(input.dtype.is_floating_point)


def is_complex(input: Tensor) -> bool:
    """Whether elements are complex numbers."""
    return bool(input.dtype.is_complex)


def is_signed(input: Tensor) -> bool:
    """Whether elements can be negative."""
    return bool(input.dtype.is_signed)


def is_inference(input: Tensor) -> bool:
    """Whether it was made in `inference_mode`."""
    return input._counter is INFERENCE


def is_distributed(input: Tensor) -> bool:
    """Always False."""
    return False


def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Always False: memory is not pinned."""
    return False


def is_shared(self: Tensor) -> bool:
    """Always False: memory is not shared between processes."""
    return False


def is_view(self: Tensor) -> bool:
    """Whether it shares the memory of another tensor and follows its history."""
    return self._base is not None


def get_device(input: Tensor) -> int:
    """Index of the GPU, -1 on the CPU."""
    return -1 if input.device.type == "cpu" else input.device.index or 0


def dense_dim(self: Tensor) -> int:
    """Number of dimensions: all are dense."""
    return int(self.array.ndim)


def sparse_dim(self: Tensor) -> int:
    """Always 0: no dimension is sparse."""
    return 0


def itself(input: Tensor) -> Tensor:
    """The tensor: nothing is put off that had to be done now."""
    return input


def share_memory_(self: Tensor) -> Tensor:
    """Refused: tensors are not shared between processes."""
    raise UnsupportedError(
        "share_memory_", "tensors are not shared between processes", "tensorlib.distributed"
    )
