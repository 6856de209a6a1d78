"""Compiled bodies of kernels for the CPU: Numba, LLVM vectors, one pool of threads.

| file | what |
|---|---|
| `<family>.py` | overrides: when they apply, and how arguments become addresses and numbers |
| `tasks/<family>.py` | the compiled code, imported when first used |
| `compiler.py` `vector.py` | from Python functions to machine code; vectors |
| `loader.py` | machine code on disk and in memory |
| `pool.py` `memory.py` | threads; memory of results |
| `host.py` | vector width and register block of this CPU |

Importing an override costs nothing: LLVM is loaded when one is first called, Numba when one must be
compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from tensorlib.device import share_threads
from tensorlib.kernels import Unsupported
from tensorlib.kernels.cpu import host
from tensorlib.kernels.cpu.memory import address, empty

__all__ = [
    "NOTHING",
    "Tasks",
    "address",
    "blocks",
    "dense",
    "empty",
    "runtime",
    "scratch",
    "single",
    "worth",
]

NOTHING = 1  # bytes to what is added to a result, where nothing is: no distance of two numbers

_SINGLE = np.dtype(np.float32)
_runtime: Any = None


def runtime() -> Any:
    """The module `pool`. From its first use on, the threads of this process are the pool's and BLAS
    has one: the waiting threads of BLAS would take the cores from the pool's.

    Raises Unsupported where Numba is missing or the CPU or system has no compiled kernels.
    """
    global _runtime
    if _runtime is None:
        if os.name != "posix":
            raise Unsupported(f"compiled kernels need POSIX threads, {os.name} has none")
        try:
            host.blocking()
            found = import_module("tensorlib.kernels.cpu.pool")
        except ImportError as problem:
            raise Unsupported(f"compiled kernels need Numba ({problem})") from problem
        share_threads(found.set_threads)
        _runtime = found
    return _runtime


class Tasks:
    """The compiled tasks of a family: `tasks.name(count, *arguments)` runs `count` blocks."""

    def __init__(self, family: str) -> None:
        self._family = family

    def address(self, name: str) -> int:
        """Address of a task's machine code, for `pool.run`."""
        found: int = runtime().loader.address(self._family, name)
        return found

    def __getattr__(self, name: str) -> Callable[..., None]:
        pool, function = runtime(), self.address(name)
        launch, wanted = pool.launch_address, pool.loader.arguments(self._family, name)

        def run(count: int, *arguments: Any) -> None:
            if len(arguments) != wanted:  # compiled code would read past them
                raise TypeError(f"{name} takes {wanted} arguments, {len(arguments)} given")
            launch(function, count, *arguments)

        setattr(self, name, run)
        return run


def scratch(size: int) -> tuple[int, int]:
    """Address and stride of `size` bytes of memory per worker; see `pool.scratch`."""
    found: tuple[int, int] = runtime().scratch(size)
    return found


def single(*arrays: Any) -> bool:
    """Whether all are NumPy arrays of float32."""
    return all(type(a) is np.ndarray and a.dtype == _SINGLE for a in arrays)


sizes_matter = True  # False only in tests: compiled bodies answer for small arrays too


def worth(size: int, least: int) -> bool:
    """Whether work of `size` is enough for a compiled body, whose call costs a few microseconds
    (and LLVM's import, once).
    """
    return size >= least or not sizes_matter


def dense(array: Any) -> Any:
    """Row-major memory with the same elements: the array itself where it is that."""
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def blocks(size: int, least: int, most: int = 64) -> tuple[int, int]:
    """`(count, length)` that cut `size` items into at most `most` blocks of at least `least`; the
    cut depends on `size` alone, so that sums by blocks do not depend on the number of threads.
    """
    count = max(1, min(most, size // least))
    length = -(-size // count)
    return -(-size // length) if size else 0, length
