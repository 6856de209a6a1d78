"""Tensors to and from other libraries without copies, through DLPack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.device import namespace_of
from tensorlib.errors import ShapeError, TensorlibError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["from_dlpack", "to_dlpack"]


class _Capsule:
    """A bare capsule in the form NumPy reads."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor over the memory of another library's tensor, or of a DLPack capsule.

    `copy=True` always copies. RuntimeError for objects without DLPack; BufferError for elements
    that have no NumPy type.
    """
    if type(ext_tensor).__name__ == "PyCapsule":
        ext_tensor = _Capsule(ext_tensor)
    if not hasattr(ext_tensor, "__dlpack__"):
        raise ShapeError(
            "from_dlpack",
            f"{type(ext_tensor).__name__} has no __dlpack__",
            "a tensor of a library that speaks DLPack, or a capsule",
        )
    kind, _ = ext_tensor.__dlpack_device__()
    if int(kind) != 1:
        array = namespace_of("cuda").from_dlpack(ext_tensor)
    else:
        array = _writable(np.from_dlpack(ext_tensor), ext_tensor)
    result = wrap(array.copy() if copy else array)
    return result if device is None else result.to(device)


def _writable(array: Any, owner: Any) -> Any:
    """NumPy takes old capsules, which do not say, for read-only."""
    if array.flags.writeable or not isinstance(owner, _Capsule):
        return array
    memory = array.__array_interface__ | {"data": (array.ctypes.data, False)}
    holder = type("Memory", (), {"__array_interface__": memory, "owner": array})()
    return np.asarray(holder)


def to_dlpack(tensor: Tensor) -> Any:
    """A DLPack capsule of the tensor's memory."""
    return tensor.__dlpack__()


def exported(
    self: Tensor,
    *,
    stream: Any = -1,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[Any, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A DLPack capsule of this tensor's memory, for `from_dlpack` of another library."""
    if self.requires_grad:
        raise ExportError(
            "__dlpack__",
            "Can't export tensors that require gradient",
            hint="use tensor.detach()",
        )
    if stream not in (-1, None):
        raise AssertionError(f"__dlpack__: stream {stream!r}; None expected on the CPU.")
    return self.array.__dlpack__(max_version=max_version, dl_device=dl_device, copy=copy)


def exported_device(self: Tensor) -> tuple[Any, int]:
    """Kind and number of the device in DLPack's terms."""
    found: tuple[Any, int] = self.array.__dlpack_device__()
    return found


class ExportError(TensorlibError, BufferError):
    """A tensor whose history other libraries would not see."""
