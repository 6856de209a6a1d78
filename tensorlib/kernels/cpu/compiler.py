"""From Python functions to machine code: `task` and `inner`, and the compiled code kept on disk.

A *task* is a function `(block, worker, *arguments)` that does one block of a kernel's work; it
reads its arguments by their annotations: `ptr` (an address) and `i64` become integers, `f32` a
float32. `launch` runs all blocks of a task on the threads of `pool`. All compiled code has one
signature, so that nothing is compiled again for another layout or a read-only array.

Compiled code is kept in a directory named after the CPU, the sources of this package and the
versions of Numba, LLVM and NumPy; nothing in it can be stale, and processes that write at the same
time write the same. Numba itself does not notice when a function called by a cached one changes,
hence the hash over all sources.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NewType

import llvmlite
import numba
import numpy as np
from numba.core import types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from tensorlib.kernels import Unsupported
from tensorlib.kernels.cpu import host

__all__ = [
    "Task",
    "cache_directory",
    "f32",
    "i64",
    "inner",
    "ptr",
    "task",
    "vectorised",
    "vectorised_task",
]

ptr = NewType("ptr", int)
i64 = NewType("i64", int)
f32 = NewType("f32", float)

# No flag that assumes away NaN or infinity; sums keep their order unless a function asks.
FLAGS = {"contract", "nsz"}


def inner(function: Callable[..., Any]) -> Any:
    """A function for tasks to call: compiled into them."""
    return numba.njit(nogil=True, error_model="numpy", fastmath=FLAGS, inline="never")(function)


def vectorised(function: Callable[..., Any]) -> Any:
    """As `inner`, where sums may be taken in another (fixed) order, so that loops with them become
    vector code.
    """
    return numba.njit(nogil=True, error_model="numpy", fastmath={*FLAGS, "reassoc"})(function)


@intrinsic
def _argument(context: Any, address: Any, place: Any) -> Any:
    """The float64 number `place` of the arguments at `address`."""
    from llvmlite import ir

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.add(args[0], builder.mul(args[1], ir.Constant(ir.IntType(64), 8)))
        return builder.load(builder.inttoptr(at, ir.DoubleType().as_pointer()))

    return types.float64(types.int64, types.int64), generate


_READ = {
    "ptr": "int(_argument(_at, {}))",
    "i64": "int(_argument(_at, {}))",
    "f32": "_f32(_argument(_at, {}))",
}


class Task:
    """A compiled block function; `address` is made when it is first asked for."""

    def __init__(self, function: Callable[..., Any], reassociate: bool) -> None:
        self.function = function
        self.name = function.__name__
        self.reassociate = reassociate
        self._address = 0

    @property
    def address(self) -> int:
        """Address of the machine code, compiled or loaded from the cache when first wanted."""
        if not self._address:
            try:
                self._address = self._compile()
            except NumbaError as problem:
                raise Unsupported(
                    f"the kernel {self.name} does not compile: {problem}"
                ) from problem
        return self._address

    def _compile(self) -> int:
        function = self.function
        names = function.__code__.co_varnames[2 : function.__code__.co_argcount]
        kinds = [function.__annotations__[name] for name in names]  # strings: annotations are late
        reads = ", ".join(_READ[kind].format(i) for i, kind in enumerate(kinds))
        source = f"def {self.name}(_at, block, worker):\n    _body(block, worker, {reads})\n"
        body = (vectorised if self.reassociate else inner)(function)
        scope: dict[str, Any] = {"_body": body, "_argument": _argument, "_f32": np.float32}
        scope["__name__"] = function.__module__
        exec(compile(source, function.__code__.co_filename, "exec"), scope)
        entry = scope[self.name]
        entry.__qualname__ = f"{function.__module__}.{self.name}"
        signature = types.void(types.int64, types.int64, types.int64)
        made = CFunc(
            entry,
            (signature.args, signature.return_type),
            locals={},
            options={"nopython": True, "error_model": "numpy"},
        )
        made._cache = _Cache(entry)
        made.compile()
        return int(made.address)


def task(function: Callable[..., Any]) -> Task:
    """Make `function(block, worker, *arguments)` a Task."""
    return Task(function, False)


def vectorised_task(function: Callable[..., Any]) -> Task:
    """As `task`, with `vectorised`'s freedom in sums."""
    return Task(function, True)


# -- cache -----------------------------------------------------------------------------------------


@cache
def _sources() -> str:
    """A hash of all that decides about compiled code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    digest.update(repr(versions).encode())
    return digest.hexdigest()[:16]


@cache
def cache_directory() -> Path:
    """Where compiled code is kept: below `$TENSORLIB_CACHE`, or the user's cache directory, or a
    temporary one of the user's own where that cannot be written.
    """
    base = os.environ.get("TENSORLIB_CACHE")
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        base = os.path.join(home, "tensorlib")
    place = Path(base) / "kernels" / f"{host.name()}-{_sources()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as problem:
        user = getattr(os, "getuid", lambda: 0)()
        other = Path(tempfile.gettempdir()) / f"tensorlib-{user}" / place.name
        other.mkdir(parents=True, exist_ok=True, mode=0o700)
        _say(
            f"{place} cannot be written ({problem.strerror}); compiled kernels are kept in {other}"
        )
        return other
    return place


class _Locator(_CacheLocator):
    def __init__(self, function: Any) -> None:
        self._py_file = function.__code__.co_filename

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return _sources()

    def get_disambiguator(self) -> str:
        return ""

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        return cls(function)


class _Impl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    _impl_class = _Impl

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The compiled code, or None (and a line) where there is none; a damaged file is none."""
        try:
            found = super().load_overload(signature, context)
        except Exception as problem:  # whatever unpickling half a file raises
            _say(
                f"the compiled {self._py_func.__name__} in {self.cache_path} is damaged ({problem})"
            )
            found = None
        if found is None:
            _compiling()
        return found


_began = 0.0


def _compiling() -> None:
    """Say once per process that kernels are being compiled."""
    global _began
    if not _began:
        _began = time.monotonic()
        _say(f"compiling kernels for this CPU once, into {cache_directory()}")


def _say(text: str) -> None:
    sys.stderr.write(f"tensorlib: {text}\n")
