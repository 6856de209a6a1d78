"""Writes torch's zip format without torch."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import Counter, OrderedDict
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorlib.pth import UNTYPED_OF, SaveError, storage_name

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["write"]


def write(obj: object, file: IO[bytes]) -> None:
    """Write `obj` into a binary file."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(obj)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _member(archive, "data.pkl", stream.getvalue())
        _member(archive, "byteorder", sys.byteorder.encode())
        for key, data in enumerate(pickler.storages):
            _member(archive, f"data/{key}", data.view(np.uint8).data if data.size else b"")
        _member(archive, "version", b"3\n")


def _member(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")
    # torch starts every member at a multiple of 64 bytes, so that files can be mapped; from 2 GiB
    # on zipfile itself puts a field of 20 bytes before this one
    head = archive.start_dir + 30 + len(info.filename) + 4 + (20 if len(data) * 1.05 > 2**31 else 0)
    padding = -head % 64
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    archive.writestr(info, data)


class _Name:
    """A global of torch, written by name only."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        raise TypeError(f"{self.module}.{self.name} is only a name")


_NAMES: dict[str, _Name] = {}


def _name(module: str, name: str) -> _Name:
    return _NAMES.setdefault(f"{module}.{name}", _Name(module, name))


class _StorageId:
    def __init__(self, *ident: Any) -> None:
        self.ident = ident


# the pickler in C looks every global up; the one in Python lets a name be written that is not here
class _Pickler(pickle._Pickler):
    """Pickles what `_check` lets through, as torch does: storages aside, names of torch's own."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, protocol=2)
        import tensorlib
        from tensorlib.nn.parameter import Parameter

        self.size, self.device, self.dtype = tensorlib.Size, tensorlib.device, tensorlib.dtype
        self.tensor, self.parameter = tensorlib.Tensor, Parameter
        self.storages: list[np.ndarray] = []
        self.keys: dict[tuple[int, str], int] = {}
        self.dispatch[tensorlib.dtype] = type(self).save_dtype
        self.alive: list[np.ndarray] = []  # ids in `keys` stay unique while these live

    def dump(self, obj: object) -> None:
        self.check(obj, "obj", set())
        super().dump(obj)

    def check(self, value: Any, place: str, seen: set[int]) -> None:
        """Refuse what `load` could not read back, naming its place."""
        kind = type(value)
        if kind in _ATOMS or isinstance(value, self.tensor | self.size | self.device | self.dtype):
            return
        if kind not in _CONTAINERS:
            array = kind is np.ndarray or isinstance(value, np.generic)
            if array and value.dtype.kind in "biufc" and value.dtype.itemsize <= 16:
                return
            what = f"{kind.__module__}.{kind.__qualname__}"
            what += f" of dtype {value.dtype}" if array else ""
            hint = " Hint: save its state_dict()." if hasattr(value, "state_dict") else ""
            raise SaveError(
                f"save: {place} is a {what}; expected tensors, numbers, text and containers of"
                f" these.{hint}"
            )
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, dict):
            for key, item in value.items():
                self.check(key, f"a key of {place}", seen)
                self.check(item, f"{place}[{key!r}]", seen)
            for name, item in getattr(value, "__dict__", {}).items():
                if name != "_metadata":
                    raise SaveError(f"save: {place} has the attribute {name!r}; expected none.")
                self.check(item, f"{place}.{name}", seen)
        else:
            for i, item in enumerate(value):
                self.check(item, f"{place}[{i}]", seen)

    def persistent_id(self, obj: Any) -> Any:
        return obj.ident if isinstance(obj, _StorageId) else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, self.parameter):
            hooks: OrderedDict[str, Any] = OrderedDict()
            rebuild = _name("torch._utils", "_rebuild_parameter")
            return rebuild, (obj.detach(), obj.requires_grad, hooks)
        if isinstance(obj, self.tensor):
            return self.reduce_tensor(obj)
        if isinstance(obj, self.size):
            return _name("torch", "Size"), (tuple(obj),)
        if isinstance(obj, self.device):
            index = () if obj.index is None else (obj.index,)
            return _name("torch", "device"), (obj.type, *index)
        return NotImplemented

    def reduce_tensor(self, tensor: Tensor) -> tuple[Any, tuple[Any, ...]]:
        array = tensor.detach().cpu().array
        key, offset, storage, array = self.storage_of(array)
        steps = tuple(stride // array.itemsize for stride in array.strides)
        location = str(tensor.device)
        hooks: OrderedDict[str, Any] = OrderedDict()
        if array.dtype in UNTYPED_OF:
            kind = _name("torch.storage", "UntypedStorage")
            ident = _StorageId("storage", kind, str(key), location, storage.nbytes)
            args = (ident, offset, tuple(array.shape), steps, tensor.requires_grad, hooks)
            dtype = _name("torch", UNTYPED_OF[array.dtype])
            return _name("torch._utils", "_rebuild_tensor_v3"), (*args, dtype)
        kind = _name("torch", storage_name(array.dtype))
        ident = _StorageId("storage", kind, str(key), location, storage.size)
        args = (ident, offset, tuple(array.shape), steps, tensor.requires_grad, hooks)
        return _name("torch._utils", "_rebuild_tensor_v2"), args

    def storage_of(self, array: np.ndarray) -> tuple[int, int, np.ndarray, np.ndarray]:
        """Number of the storage, the array's offset in it, the storage as a flat array, and the
        array itself, or a copy of it where its view of memory has no place in torch's format.
        """
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        flat = _flat(root, array.dtype)
        if flat is None or not array.size or not _describable(array, flat):
            root = array = array.copy()
            flat = array.reshape(-1)
        first = flat.__array_interface__["data"][0]
        offset = (array.__array_interface__["data"][0] - first) // array.itemsize
        ident = (first, array.dtype.str)
        if ident not in self.keys:
            self.keys[ident] = len(self.storages)
            self.storages.append(flat)
            self.alive.append(root)
        return self.keys[ident], offset, flat, array

    def save_name(self, obj: _Name) -> None:
        self.write(f"c{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]

    def save_dtype(self, obj: Any) -> None:
        self.save(_name("torch", str(obj).rpartition(".")[2]))  # type: ignore[attr-defined]

    dispatch[_Name] = save_name


def _flat(root: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """All memory of `root` as one row of `dtype`; None where it has holes or another type."""
    if root.dtype != dtype and root.nbytes % dtype.itemsize:
        return None
    order = root.transpose(sorted(range(root.ndim), key=lambda dim: -root.strides[dim]))
    if not order.flags.c_contiguous:
        return None
    return order.reshape(-1).view(dtype)


def _describable(array: np.ndarray, flat: np.ndarray) -> bool:
    """Whether offset and strides of `array` are whole items of `flat`, and not negative."""
    distance = array.__array_interface__["data"][0] - flat.__array_interface__["data"][0]
    steps = (distance, *array.strides)
    return all(step >= 0 and step % array.itemsize == 0 for step in steps)


_ATOMS = frozenset((str, bytes, int, float, complex, bool, type(None)))
_CONTAINERS = frozenset((dict, OrderedDict, Counter, list, tuple, set))
