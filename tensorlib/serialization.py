"""torch's `.pth`/`.pt` files, read and written without torch; safetensors; whole-file saves."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tensorlib.pth import LoadError, SaveError, UnsafePickleError, numpy_type
from tensorlib.pth.reader import MapLocation, read
from tensorlib.pth.writer import write

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = [
    "LoadError",
    "SaveError",
    "UnsafePickleError",
    "load",
    "load_safetensors",
    "save",
    "save_safetensors",
]

PathLike = str | os.PathLike[str]


class NoFolderError(FileNotFoundError, RuntimeError):
    """The folder to save in does not exist (RuntimeError in PyTorch)."""


def load(
    f: PathLike | IO[bytes],
    map_location: MapLocation = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
) -> Any:
    """Read an object saved by `torch.save` or by `save`, without torch and without running code.

    Args:
        f: a path, or a binary file that can seek.
        map_location: where the tensors go: a device, a dict from saved to wanted device, or a
            function of (storage, saved device) that gives the storage itself (the CPU), its
            `cuda(i)`, or None. None keeps each tensor's own device.
        weights_only: with False too only what cannot run code is read: tensors, numbers, text,
            NumPy arrays and containers of these. Anything else is refused by name.
        mmap: makes no difference: storages are read straight into their memory.

    Tensors that shared a storage share memory again; strides and offsets are kept.

    Raises:
        LoadError: damaged or truncated file, wrong checksum, another format, device not here.
        UnsafePickleError: the file names something outside the allow-list; the name is given.
        FileNotFoundError, IsADirectoryError: as `open`.
    """
    if isinstance(f, str | os.PathLike):
        where = f"load {os.fspath(f)}"
        if os.path.isdir(f):
            raise IsADirectoryError(f"{where}: is a directory; expected a .pth or .pt file.")
        try:
            file = open(f, "rb")  # noqa: SIM115 (closed by the with below)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{where}: no such file; expected a file written by torch.save or save."
                f" Hint: the current directory is {os.getcwd()}."
            ) from None
        with file:
            return read(file, where, map_location)
    return read(f, "load", map_location)


def save(obj: object, f: PathLike | IO[bytes]) -> None:
    """Write `obj` in torch's zip format; `torch.load(f, weights_only=True)` and `load` read it
    (what holds NumPy values only with `weights_only=False`).

    Args:
        obj: tensors, numbers, text, bytes, None, NumPy arrays and numbers, and dicts, lists,
            tuples, sets of these, such as the state_dict() of a module or an optimizer.
        f: a path, written whole or not at all (temporary file, fsync, rename), or a binary file.

    Tensors that are views of one array share one storage, as in torch. The bytes depend only on
    `obj`. Raises SaveError for any other kind of object, naming its place in `obj`.
    """
    if not isinstance(f, str | os.PathLike):
        write(obj, f)
        return
    with _whole_file(f) as file:
        write(obj, file)


@contextlib.contextmanager
def _whole_file(path: PathLike) -> Iterator[IO[bytes]]:
    """A file that appears under `path` complete and on disk, or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileNotFoundError:
        raise NoFolderError(
            f"save {path}: the folder {path.parent} does not exist. Hint: make it first."
        ) from None
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- safetensors -----------------------------------------------------------------------------


def save_safetensors(
    tensors: Mapping[str, Any], f: PathLike, metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors (or arrays) as safetensors, whole or not at all.

    Views are written in full: the format has no shared storages.
    """
    from safetensors.numpy import save as to_bytes

    arrays = {}
    for name, value in tensors.items():
        array = np.asarray(value.detach().cpu().array if hasattr(value, "detach") else value)
        if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
            raise SaveError(
                f"save_safetensors: {name!r} is a {type(value).__name__}; expected a tensor."
            )
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    data = to_bytes(arrays, metadata)
    with _whole_file(f) as file:
        file.write(data)


def load_safetensors(f: PathLike, device: Any = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file: names to tensors on `device`.

    Raises LoadError for a damaged file.
    """
    from safetensors import SafetensorError, deserialize

    from tensorlib.tensor import Tensor

    path = Path(f)
    if not path.is_file():
        raise FileNotFoundError(f"load_safetensors {path}: no such file.")
    try:
        members = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]  # untyped library
    except SafetensorError as error:
        raise LoadError(
            f"load_safetensors {path}: {error}; the file is damaged or is no safetensors file."
        ) from error
    tensors = {}
    for name, member in members:
        code = _SAFETENSORS.get(member["dtype"])
        if code is None:
            raise LoadError(
                f"load_safetensors {path}: {name!r} has dtype {member['dtype']}; expected one of"
                f" {', '.join(_SAFETENSORS)}."
            )
        data = np.frombuffer(bytearray(member["data"]), numpy_type(code))
        tensor = Tensor._wrap(data.reshape(member["shape"]))
        tensors[name] = tensor if str(device) == "cpu" else tensor.to(device)
    return tensors


_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?",
    "C64": "<c8",
}  # fmt: skip
