"""Compiled code on disk and in memory: `address(family, name)` is where a task's machine code lies.

Machine code is kept as object files, one a task, `<cache>/kernels/<cpu>-<versions>/<family>-<hash>/
<name>.o`: the directory names the CPU type with all its features, the versions of Python, Numba and
LLVM, and the sources the task is compiled from, so that nothing in it can be stale. Files are
written under another name and renamed, begin with a digest of their content, and are compiled again
where that is wrong; of many processes that want the same task one compiles it and the others wait.

Loading needs LLVM alone. Numba, whose import costs more than loading all kernels, is imported when
something must be compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from tensorlib.kernels import Unsupported
from tensorlib.kernels.cpu import host

__all__ = [
    "ENTRY",
    "address",
    "arguments",
    "cache_directory",
    "complete",
    "load",
    "prepare",
    "set_complete",
    "size_on_disk",
    "writable_directory",
]

TASKS = "tensorlib.kernels.cpu.tasks"
ENTRY = "tensorlib_entry"  # the one function an object file exports
MAGIC = b"tensorlib kernel 2\n"
LOCK_LIMIT_S = 120.0  # then a process compiles what another one seems to be stuck with

_PLACE = Path(__file__).parent
_addresses: dict[tuple[str, str], int] = {}
_arguments: dict[tuple[str, str], int] = {}  # how many each takes
_engines: list[Any] = []  # machine code lives as long as its engine
_lock = threading.RLock()
_said: set[str] = set()


def _after_fork() -> None:
    """Another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def address(family: str, name: str) -> int:
    """Address of the task `name` of `tasks/<family>.py`: from memory, from disk, or compiled now.

    Raises Unsupported where it is in neither and cannot be compiled.
    """
    found = _addresses.get((family, name))
    if found is None:
        with _lock:
            found = _addresses.get((family, name))
            if found is None:
                content = _object_code(family, name)
                _arguments[family, name] = content[0]
                found = _addresses[family, name] = load(content[1:], name)
    return found


def arguments(family: str, name: str) -> int:
    """How many arguments a task takes, `block` and `worker` not counted."""
    address(family, name)
    return _arguments[family, name]


def load(code: bytes, name: str) -> int:
    """Put object code into memory; the address of its entry."""
    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
    except RuntimeError as problem:
        raise Unsupported(f"the compiled kernel {name} cannot be loaded: {problem}") from problem
    found = int(engine.get_function_address(ENTRY))
    if not found:
        raise Unsupported(f"the compiled kernel {name} has no {ENTRY}")
    _engines.append(engine)
    return found


def _object_code(family: str, name: str) -> bytes:
    """A byte, the number of arguments, and the object code."""
    where = _file(family, name)
    code = _read(where)
    if code is None:
        with _only_process(f"{family}.lock"):
            code = _read(where)
            if code is None:
                _say(f"compiling kernels for this CPU once, into {writable_directory()}")
                code = _compile(family, name)
                _keep(family, name, code)
    return code


def _keep(family: str, name: str, code: bytes) -> None:
    """Put a task's code on disk, unless its sources have been edited since this process began."""
    if _hash_now(family) == family_hash(family):
        _write(_file(family, name), code)


def prepare(family: str, name: str) -> bool:
    """See that a task is on disk; whether it had to be compiled."""
    if _read(_file(family, name)) is not None:
        return False
    _keep(family, name, _compile(family, name))
    return True


def complete(family: str) -> list[str] | None:
    """The names of a family's tasks, where all of them are on disk."""
    listed = _read(_file(family, "", "all"))
    names = None if listed is None else listed.decode().split()
    if names is None or any(_read(_file(family, name)) is None for name in names):
        return None
    return names


def set_complete(family: str, names: list[str]) -> None:
    """Note that these are a family's tasks."""
    _write(_file(family, "", "all"), " ".join(names).encode())


def _compile(family: str, name: str) -> bytes:
    """What `_object_code` gives, made by Numba."""
    try:
        module = import_module(f"{TASKS}.{family}")
    except ImportError as problem:
        raise Unsupported(f"compiled kernels need Numba ({problem})") from problem
    made = getattr(module, name)
    code: bytes = made.compile()
    return bytes([made.arguments]) + code


# -- names -----------------------------------------------------------------------------------------

_IMPORT = re.compile(
    r"^\s*(?:from|import)\s+tensorlib\.kernels\.cpu([\w.]*)(?:\s+import\s+(\(?[^\n]*))?", re.M
)


@cache
def family_hash(family: str) -> str:
    """A hash of all sources that decide about the code of `tasks/<family>.py`."""
    return _hash_now(family)


def _hash_now(family: str) -> str:
    found: set[Path] = set()
    _add_sources(_PLACE / "tasks" / f"{family}.py", found)
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _add_sources(path: Path, found: set[Path]) -> None:
    """Add `path` and the files of this package that it imports."""
    if path in found or not path.is_file():
        return
    found.add(path)
    for module, names in _IMPORT.findall(path.read_text(encoding="utf-8")):
        parts = [part for part in module.split(".") if part]
        base = _PLACE.joinpath(*parts)
        if base.is_dir():
            listed = [name.split(" as ")[0].strip() for name in names.strip("() \t").split(",")]
            some = [base / f"{name}.py" for name in listed if name]
            for one in some or sorted(base.glob("*.py")):
                _add_sources(one, found)
        else:
            _add_sources(base.with_suffix(".py"), found)


def _file(family: str, name: str, kind: str = "o") -> str:
    return f"{family}-{family_hash(family)}/{name}.{kind}"


@cache
def versions() -> str:
    """A hash of the versions of what compiles."""
    try:
        spec = find_spec("numba")
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise Unsupported("compiled kernels need Numba, which is not installed")
    version = Path(spec.submodule_search_locations[0]) / "_version.py"  # importing takes a second
    text = version.read_text(encoding="utf-8") if version.is_file() else ""
    parts = (text, sys.version, llvmlite.__version__, np.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


@cache
def cache_directory() -> Path:
    """Where compiled code of this CPU type and these versions is kept: below `$TENSORLIB_CACHE`, or
    the user's cache directory.
    """
    base = os.environ.get("TENSORLIB_CACHE")
    if not base:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        base = os.path.join(home, "tensorlib")
    return Path(base).absolute() / "kernels" / f"{host.name()}-{versions()}"


@cache
def writable_directory() -> Path:
    """`cache_directory()`, or a directory of the user's own where that cannot be written."""
    place = cache_directory()
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as problem:
        other = _temporary() or Path(tempfile.mkdtemp(prefix="tensorlib-"))
        _say(f"{place} cannot be written ({problem.strerror}); compiled kernels go to {other}")
        return other
    return place


def _temporary() -> Path | None:
    """A directory in the system's temporary one that nobody else can have put code into."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    root = Path(tempfile.gettempdir()) / f"tensorlib-{user}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
            return None
        place = root / cache_directory().name
        place.mkdir(exist_ok=True)
    except OSError:
        return None
    return place


def size_on_disk() -> int:
    """Bytes of compiled code in `cache_directory()`."""
    return sum(path.stat().st_size for path in cache_directory().rglob("*.o"))


# -- files -----------------------------------------------------------------------------------------


def _read(where: str) -> bytes | None:
    """The object code in a file of the cache, None where there is none that is whole."""
    place = cache_directory()
    code = _content(place / where)
    if code is None and writable_directory() != place:
        code = _content(writable_directory() / where)
    return code


def _content(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[len(MAGIC) : len(MAGIC) + 32], content[len(MAGIC) + 32 :]
    if content.startswith(MAGIC) and hashlib.sha256(code).digest() == digest:
        return code
    _say(f"the compiled kernel {path} is damaged and is compiled again")
    return None


def _write(where: str, code: bytes) -> None:
    """Put a file into the cache, whole or not at all; a full disk costs only the next start."""
    path = writable_directory() / where
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + hashlib.sha256(code).digest() + code)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as problem:
        _say(f"{path} cannot be written ({problem.strerror})")


@contextlib.contextmanager
def _only_process(name: str) -> Iterator[None]:
    """Let one process at a time compile a family; the lock goes with its process."""
    try:
        import fcntl

        file = open(writable_directory() / name, "wb")  # noqa: SIM115
    except (ImportError, OSError):
        yield
        return
    with file:
        limit = time.monotonic() + LOCK_LIMIT_S
        while time.monotonic() < limit:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:  # a file system without locks
                break
        yield


def _say(text: str) -> None:
    """One line on stderr, once per process."""
    if text not in _said:
        _said.add(text)
        sys.stderr.write(f"tensorlib: {text}\n")
