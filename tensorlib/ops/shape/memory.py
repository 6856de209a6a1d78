"""Changing what a tensor is in place: its shape (`t_ squeeze_ resize_ as_strided_`) and its memory
(`set_`); `untyped_storage`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd import tape
from tensorlib.autograd.tape import bump, check_inplace
from tensorlib.device import address, device_of
from tensorlib.errors import ArgumentError, AutogradError, ShapeError, UnsupportedError
from tensorlib.ops._common import shape_of, wrap
from tensorlib.ops.shape import reinterpret, views
from tensorlib.ops.shape.reinterpret import placed, storage_of
from tensorlib.ops.shape.views import numbers
from tensorlib.ops.strides import contiguous_strides, extent, in_order, memory, strided

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _in_place(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The twin of a view that changes the tensor itself: same memory, new shape and history."""
    where = operation.__name__ + "_"

    def twin(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_inplace(self, where)
        memory = storage_of(self)
        with tape.enable_grad():
            result = operation(self, *args, **kwargs)
        if self._base is None and result.array.size < memory.size:
            _extra(self)["memory"] = memory
        self.array = result.array
        if result._node is not None and self._node is not None:
            self._node = result._node
        bump(self)
        if self._base is not None:
            self._seen = self._counter[0]
        return self

    twin.__name__ = where
    twin.__doc__ = f"`{operation.__name__}` of the tensor itself: its shape changes."
    return twin


def _extra(tensor: Tensor) -> dict[str, Any]:
    if tensor._extra is None:
        tensor._extra = {}
    return tensor._extra


squeeze_, unsqueeze_ = _in_place(views.squeeze), _in_place(views.unsqueeze)
t_, transpose_ = _in_place(views.t), _in_place(views.transpose)
swapaxes_, swapdims_ = _in_place(views.swapaxes), _in_place(views.swapdims)
as_strided_ = _in_place(reinterpret.as_strided)


def resize_(self: Tensor, *sizes: Any, size: Any = None, memory_format: Any = None) -> Tensor:
    """Another size in the same memory, row-major; memory that is too small is replaced by larger,
    with the old content and undefined values behind it.
    """
    shape = numbers("resize_", sizes, size)
    return _resize("resize_", self, shape, memory_format)


def resize_as_(self: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """`self.resize_(the_template.size())`."""
    return _resize("resize_as_", self, the_template.array.shape, memory_format)


def _resize(where: str, self: Tensor, shape: tuple[int, ...], memory_format: Any) -> Tensor:
    if self.requires_grad:
        raise AutogradError(where, "cannot resize variables that require grad")
    x = self.array
    if any(n < 0 for n in shape):
        raise ShapeError(where, f"requested resize to {shape}", "no negative size")
    if shape == x.shape and memory_format is None:
        return self
    order = list(range(len(shape) - 1, -1, -1))
    name = str(memory_format).rpartition(".")[2]
    if name.startswith("channels_last"):
        if len(shape) != (5 if name.endswith("3d") else 4):
            raise ShapeError(where, f"size {shape} for {name}", "as many dimensions as it needs")
        order = [1, *range(len(shape) - 1, 1, -1), 0]
    elif name == "preserve_format":
        raise ShapeError(where, f"Unsupported memory format {name}")
    strides = in_order(shape, order, x.itemsize)
    held = storage_of(self)
    offset = address(x) - address(held) if held.size else 0
    have = held.size and extent(held.shape, held.strides) + held.itemsize
    need = 0 if 0 in shape else offset + extent(shape, strides) + x.itemsize
    if need > have:
        if self._base is not None and have:
            raise UnsupportedError(
                where,
                f"a view of {have} bytes of memory would need {need}: memory that other tensors "
                "share does not grow",
                hint="resize a clone()",
            )
        grown = np.empty_like(x, shape=(need // x.itemsize,))
        if have:
            grown.view(np.uint8)[:have] = memory(held).view(np.uint8)
        held, self._base = grown, None
    self.array = strided(held, shape, strides, offset, x.dtype)
    if self._base is None:
        _extra(self)["memory"] = held
    bump(self)
    return self


def set_(
    self: Tensor,
    source: Any = None,
    storage_offset: int = 0,
    size: Any = None,
    stride: Any = None,
) -> Tensor:
    """Take over the memory, size and strides of `source` (a tensor or a storage); without one,
    become empty.
    """
    check_inplace(self, "set_")
    x = self.array
    if source is None:
        array = held = np.empty_like(x, shape=(0,))
    elif not isinstance(source, Storage) and not hasattr(source, "array"):
        raise ArgumentError("set_", f"source is {type(source).__name__}", "a Tensor or a storage")
    elif hasattr(source, "array") and source.array.dtype != x.dtype:
        raise ShapeError(
            "set_",
            f"Could not set tensor of type {dtypes.of(source.array.dtype)} to a tensor of type "
            f"{dtypes.of(x.dtype)}",
        )
    else:
        held = source.held if isinstance(source, Storage) else storage_of(source)
        if size is None and hasattr(source, "array"):
            array = source.array
        else:
            if size is None:
                bytes_held = held.size and extent(held.shape, held.strides) + held.itemsize
                size = (bytes_held // x.itemsize,)
            shape = shape_of("set_", (size,))
            if stride is None:
                stride = [s // x.itemsize for s in contiguous_strides(shape, x.itemsize)]
            shape, steps, offset = placed("set_", held, x, shape, stride, storage_offset)
            bytes_ = tuple(s * x.itemsize for s in steps)
            array = strided(held, shape, bytes_, offset * x.itemsize, x.dtype)
    self.array, self._base = array, None
    _extra(self)["memory"] = held
    bump(self)
    return self


def is_set_to(self: Tensor, tensor: Tensor) -> bool:
    """Whether both are the same part of the same memory."""
    a, b = self.array, tensor.array
    return (
        address(storage_of(self)) == address(storage_of(tensor))
        and address(a) == address(b)
        and a.shape == b.shape
        and a.strides == b.strides
    )


def from_file(
    filename: Any,
    shared: bool | None = None,
    size: int = 0,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """The first `size` elements of a file, mapped into memory; `shared`: changes go to the file,
    which is made large enough.
    """
    kind = dtypes.default_numpy() if dtype is None else dtypes.numpy_dtype(dtype)
    path, needed = os.fspath(filename), size * kind.itemsize
    have = os.path.getsize(path) if os.path.exists(path) else -1
    if have < needed and not shared:
        raise ShapeError("from_file", f"{path} holds {max(have, 0)} bytes", f"{needed} bytes")
    if have < needed:
        with open(path, "ab") as file:
            file.truncate(needed)
    if not size:
        return wrap(np.empty((0,), kind))
    mapped = np.memmap(path, kind, "r+" if shared else "c", shape=(size,))
    return wrap(mapped.view(np.ndarray))


class Storage:
    """The memory a tensor is part of, as `untyped_storage()` and `storage()` give it."""

    def __init__(self, tensor: Tensor, dtype: Any = None) -> None:
        self.held = storage_of(tensor)
        self.device = device_of(self.held)
        self.dtype = dtype
        self._kind = np.dtype(np.uint8) if dtype is None else dtype.numpy

    def nbytes(self) -> int:
        """Bytes of memory."""
        a = self.held
        return int(a.size and extent(a.shape, a.strides) + a.itemsize)

    def size(self) -> int:
        """Number of elements (bytes, if it has no type)."""
        return self.nbytes() // self._kind.itemsize

    __len__ = size

    def element_size(self) -> int:
        """Bytes per element."""
        return self._kind.itemsize

    def data_ptr(self) -> int:
        """Memory address."""
        return address(self.held)

    def _flat(self) -> Any:
        return strided(self.held, (self.size(),), (self._kind.itemsize,), 0, self._kind)

    def tolist(self) -> list[Any]:
        """The elements as Python numbers."""
        return list(self._flat().tolist())

    def __getitem__(self, index: Any) -> Any:
        found = self._flat()[index]
        return found.tolist() if isinstance(index, slice) else found.item()

    def __repr__(self) -> str:
        kind = "untyped" if self.dtype is None else str(self.dtype)
        return f"tensorlib.Storage({kind}, device={self.device}) of size {self.size()}"
