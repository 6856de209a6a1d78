"""Reads torch's zip format, and the one before it, without running code of the file."""

from __future__ import annotations

import io
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tensorlib.pth import DTYPES, STORAGES, UNTYPED, LoadError, UnsafePickleError, numpy_type
from tensorlib.pth.legacy import MAGIC, Legacy
from tensorlib.pth.unpickler import BadPickle, Call, RefusedPickle, unpickle

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["MapLocation", "read"]

MapLocation = Any  # None | str | tensorlib.device | dict[str, str] | a function


def read(file: IO[bytes], where: str, map_location: MapLocation) -> Any:
    """The object in the file; `where` begins every message."""
    try:
        with _opened(file, where) as archive:
            if isinstance(archive, Legacy):
                sizes = _Sizes(archive, None)
                unpickle(archive.pickled, sizes.names(archive.pickled), sizes.storage)
                archive.find({key: s.data.itemsize for (key, _), s in sizes.loaded.items()})
            storages = _Storages(archive, map_location)
            pickled = archive.read("data.pkl")
            return unpickle(pickled, storages.names(pickled), storages.storage)
    except RefusedPickle as error:
        raise UnsafePickleError(
            f"{where}: {error}; expected tensors, numbers, text and containers of these."
            " Hint: save a state_dict() instead of whole objects; do not use files from"
            " strangers."
        ) from None
    except BadPickle as error:
        raise LoadError(f"{where}: {error}; expected a file written by torch.save.") from error


def _opened(file: IO[bytes], where: str) -> _Archive | Legacy:
    file.seek(0)
    legacy = file.read(len(MAGIC)) == MAGIC
    return Legacy(file, where) if legacy else _Archive(file, where)


class _Archive:
    """The zip of a saved object: members by name under their common folder, checksums verified."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        self.file, self.where = file, where
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(64)
        if not self.size:
            raise LoadError(f"{where}: the file is empty; expected a file written by torch.save.")
        if not head.startswith(b"PK\x03\x04"):
            raise LoadError(f"{where}: {_foreign(head)}")
        try:
            self.zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise LoadError(
                f"{where}: the zip cannot be read ({error}; {self.size} bytes); the file is"
                " truncated or damaged. Hint: copy or download it again and compare its sha256."
            ) from error
        self.members: dict[str, zipfile.ZipInfo] = {}
        self._check(self.zip.infolist())

    def _check(self, infos: list[zipfile.ZipInfo]) -> None:
        where = self.where
        roots = {info.filename.partition("/")[0] for info in infos}
        root = next(iter(roots), "")
        for info in infos:
            name = info.filename.partition("/")[2]
            if name in self.members:
                raise LoadError(f"{where}: the zip holds {info.filename!r} twice; expected once.")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise LoadError(
                    f"{where}: member {info.filename!r} is compressed ({info.compress_size} ->"
                    f" {info.file_size} bytes); torch.save stores members as they are."
                )
            self.members[name] = info
        declared = sum(info.file_size for info in infos)
        if declared > self.size:
            raise LoadError(
                f"{where}: the members declare {declared} bytes but the file has {self.size};"
                " the file is damaged or hostile."
            )
        if "constants.pkl" in self.members or any(n.startswith("code/") for n in self.members):
            raise LoadError(
                f"{where}: this is a TorchScript archive (a program); expected tensors saved by"
                " torch.save. Hint: torch.save(torch.jit.load(path).state_dict(), new_path)."
            )
        if len(roots) != 1 or "data.pkl" not in self.members:
            raise LoadError(
                f"{where}: the zip has no {root or 'archive'}/data.pkl under one folder (it holds"
                f" {', '.join(sorted(info.filename for info in infos)[:4]) or 'nothing'}); expected"
                " a file written by torch.save."
            )

    def read(self, name: str) -> bytes:
        return self.read_into(name).tobytes()

    def read_into(self, name: str) -> np.ndarray:
        """The member as uint8, read straight into its own memory."""
        info = self.members.get(name)
        if info is None:
            raise LoadError(f"{self.where}: the zip has no member {name!r}; the file is damaged.")
        data = np.empty(info.file_size, np.uint8)
        self.file.seek(info.header_offset)
        header = self.file.read(30)
        if len(header) == 30 and header.startswith(b"PK\x03\x04"):
            skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            self.file.seek(skip, os.SEEK_CUR)
            if _fill(self.file, data) and zlib.crc32(data.data) == info.CRC:
                return data
        raise LoadError(
            f"{self.where}: member {info.filename!r} ({info.file_size} bytes) does not have its"
            f" checksum {info.CRC:08x}; the file is damaged. Hint: copy or download it again."
        )

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.zip.close()


def _fill(file: IO[bytes], data: np.ndarray) -> bool:
    view = data.data
    while len(view):
        if isinstance(file, io.BufferedIOBase | io.RawIOBase):
            got = file.readinto(view) or 0
        else:
            chunk = file.read(len(view))
            got = len(chunk)
            view[:got] = chunk
        if not got:
            return False
        view = view[got:]
    return True


def _foreign(head: bytes) -> str:
    """What a file that is no zip seems to be."""
    if len(head) > 8 and head[8:9] == b"{":
        return "this looks like a safetensors file. Hint: use load_safetensors."
    if head[:1] == b"\x80":
        return "this is a bare pickle; expected torch's zip format. Hint: write it with save."
    if head.lstrip()[:1] == b"<":
        return "this is an HTML or XML page, not weights. Hint: the download answered with a page."
    return f"this is no zip (it starts with {head[:8]!r}); expected a file written by torch.save."


class _Storage:
    __slots__ = ("data", "location")

    def __init__(self, data: np.ndarray, location: str) -> None:
        self.data, self.location = data, location


class _Storages:
    """The storages of one archive and the functions its pickle may call."""

    def __init__(self, archive: _Archive | Legacy, map_location: MapLocation) -> None:
        self.archive, self.where, self.map_location = archive, archive.where, map_location
        self.loaded: dict[tuple[str, str], _Storage] = {}
        order = archive.read("byteorder") if "byteorder" in archive.members else b"little"
        if order not in (b"little", b"big"):
            raise LoadError(f"{self.where}: byteorder is {order[:20]!r}; expected little or big.")
        self.swap = order.decode() != sys.byteorder

    def names(self, pickled: bytes) -> dict[str, Any]:
        """The allow-list: everything the file may name beside plain containers."""
        import tensorlib

        names: dict[str, Any] = {f"torch.{name}": _StorageType(name) for name in STORAGES}
        names["torch.storage.UntypedStorage"] = _StorageType("UntypedStorage")
        for name in DTYPES:
            if name != "bfloat16" or b"bfloat16" in pickled:  # a library is loaded for it
                names[f"torch.{name}"] = getattr(tensorlib, name)
        functions: dict[str, Callable[..., Any]] = {
            "torch.Size": lambda sizes: tensorlib.Size(_ints("size", sizes)),
            "torch.device": _device,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.tensor_v3,
            "torch._utils._rebuild_parameter": _parameter,
        }
        names.update({name: Call(name, function) for name, function in functions.items()})
        return names

    def storage(self, ident: Any) -> _Storage:
        if isinstance(ident, tuple) and len(ident) == 6 and ident[5] is None:
            ident = ident[:5]  # the legacy format says whether it is a view of another storage
        if not isinstance(ident, tuple) or len(ident) != 5 or ident[0] != "storage":
            raise RefusedPickle("refuses a persistent id that is no storage")
        _, kind, key, location, numel = ident
        if not isinstance(kind, _StorageType) or not isinstance(key, str):
            raise BadPickle("a storage has no type or no key")
        if not isinstance(location, str) or type(numel) is not int or numel < 0:
            raise BadPickle(f"storage {key!r} has no location or no length")
        if (key, kind.name) not in self.loaded:
            self.loaded[key, kind.name] = _Storage(self.read(kind.name, key, numel), location)
        return self.loaded[key, kind.name]

    def read(self, kind: str, key: str, numel: int) -> np.ndarray:
        dtype = _item(kind, key)
        data = self.archive.read_into(f"data/{key}")
        if data.nbytes != numel * dtype.itemsize:
            raise LoadError(
                f"{self.where}: storage {key!r} has {data.nbytes} bytes; expected"
                f" {numel * dtype.itemsize} ({numel} items of {kind}). The file is damaged."
            )
        if self.swap and dtype.itemsize > 1:
            data.view(f"u{dtype.itemsize}" if dtype.kind != "c" else dtype).byteswap(inplace=True)
        return data.view(dtype)

    def tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        metadata: Any = None,
    ) -> Tensor:
        if not isinstance(storage, _Storage):
            raise BadPickle("a tensor has no storage")
        if hooks or metadata:
            raise RefusedPickle("refuses a tensor with hooks or conjugate and negative bits")
        array = self.strided(storage.data, offset, _ints("size", size), _ints("stride", stride))
        return self.place(array, storage.location, bool(requires_grad))

    def tensor_v3(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> Tensor:
        name = str(dtype).rpartition(".")[2]
        if not isinstance(storage, _Storage) or name not in UNTYPED:
            raise RefusedPickle(f"refuses a tensor of dtype {name}")
        data = storage.data
        width = np.dtype(UNTYPED[name])
        if data.nbytes % width.itemsize:
            raise BadPickle(f"a storage of {data.nbytes} bytes does not hold whole {name}")
        typed = data.view(width)
        typed = typed.byteswap() if self.swap else typed
        view = _Storage(typed, storage.location)
        return self.tensor(view, offset, size, stride, requires_grad, hooks, metadata)

    def strided(
        self, data: np.ndarray, offset: Any, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> np.ndarray:
        """The view of the storage, which must lie inside it."""
        if type(offset) is not int or len(size) != len(stride) or min((offset, *size, *stride)) < 0:
            raise BadPickle(f"a tensor has offset {offset}, size {size}, stride {stride}")
        if math.prod(size) * data.itemsize >= 2**63:
            raise BadPickle(f"a tensor has the size {size}")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= data.size:
            raise LoadError(
                f"{self.where}: a tensor of size {size}, stride {stride}, offset {offset} reaches"
                f" item {last} of a storage of {data.size}; the file is damaged or hostile."
            )
        if not math.prod(size):
            return np.empty(size, data.dtype)
        strides = tuple(step * data.itemsize for step in stride)
        return np.ndarray(size, data.dtype, data.view(np.uint8), offset * data.itemsize, strides)

    def place(self, array: np.ndarray, saved: str, requires_grad: bool) -> Tensor:
        from tensorlib.tensor import Tensor

        wanted = self.map_location
        if isinstance(wanted, dict):
            wanted = wanted.get(saved, saved)
        elif callable(wanted):
            found = wanted(_Place(), saved)
            wanted = found.device if isinstance(found, _Place) else found
        target = saved if wanted is None else str(wanted)
        tensor = Tensor._wrap(array)
        if target != "cpu":
            try:
                tensor = tensor.to(target)
            except Exception as error:
                raise LoadError(
                    f"{self.where}: a tensor belongs on {target!r}, which is not here ({error})."
                    " Hint: load(path, map_location='cpu')."
                ) from error
        if requires_grad and array.dtype.kind not in "fcV":
            raise BadPickle(f"a tensor of {array.dtype} requires grad")
        return tensor.requires_grad_() if requires_grad else tensor


class _Sizes(_Storages):
    """As `_Storages`, with zeros instead of the bytes, which nobody can find yet."""

    def read(self, kind: str, key: str, numel: int) -> np.ndarray:
        dtype = _item(kind, key)
        if numel * dtype.itemsize > self.archive.size:
            raise LoadError(
                f"{self.where}: storage {key!r:.40} has {numel} items of {dtype.itemsize} bytes,"
                f" the file {self.archive.size} bytes; it is truncated or damaged."
            )
        return np.zeros(numel, dtype)

    def place(self, array: np.ndarray, saved: str, requires_grad: bool) -> Tensor:
        from tensorlib.tensor import Tensor

        return Tensor._wrap(array)


class _Place:
    """What a function given as `map_location` sees of a storage."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def cpu(self) -> _Place:
        """On the CPU."""
        return _Place()

    def cuda(self, index: Any = None) -> _Place:
        """On a GPU."""
        return _Place("cuda" if index is None else f"cuda:{index}")


class _StorageType:
    """A storage class or dtype named by a file; only its name matters."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


def _item(kind: str, key: str) -> np.dtype[Any]:
    """The type of the items of a storage."""
    code = "u1" if kind == "UntypedStorage" else STORAGES.get(kind)
    if code is None:
        raise BadPickle(f"storage {key!r} has the type {kind}, which is no storage")
    return numpy_type(code)


def _ints(what: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(value) is int for value in values):
        raise BadPickle(f"a tensor's {what} is not a tuple of integers")
    if len(values) > 64:
        raise BadPickle(f"a tensor has {len(values)} dimensions; NumPy has at most 64")
    return tuple(values)


def _device(*args: Any) -> Any:
    import tensorlib

    if not all(isinstance(arg, str | int) for arg in args):
        raise BadPickle("a device needs a name")
    try:
        return tensorlib.device(*args)
    except RuntimeError as error:
        raise BadPickle(f"it names a device that does not exist ({error})") from error


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Tensor:
    from tensorlib.nn.parameter import Parameter
    from tensorlib.tensor import Tensor

    if not isinstance(data, Tensor) or hooks:
        raise RefusedPickle("refuses a parameter with hooks or without a tensor")
    if requires_grad and data.array.dtype.kind not in "fcV":
        raise BadPickle(f"a parameter of {data.dtype} requires grad")
    return Parameter(data, bool(requires_grad))
