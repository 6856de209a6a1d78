"""Memory for the results of kernels, kept and used again.

A fresh array of many megabytes costs a page fault for each page when it is first written, about as
much as the kernel that writes it. Blocks that no array uses any more wait here for the next array
of their size, so that a training step takes no new memory after the first.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections import defaultdict
from typing import Any

import numpy as np

__all__ = ["address", "empty", "release", "statistics"]

SMALLEST = 1 << 20  # bytes; below, malloc reuses memory well by itself
ALIGNMENT = 64

_free: defaultdict[int, list[Any]] = defaultdict(list)
_lock = threading.RLock()  # a finalizer may run inside
_held = 0  # bytes of all blocks, free and in use
_waiting = 0  # bytes of the free ones
_made = 0  # blocks ever made


class _Block:
    """Memory of one size and its address at a multiple of ALIGNMENT."""

    __slots__ = ("address", "memory", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = np.empty(size + ALIGNMENT, np.uint8)
        self.address = -(-self.memory.ctypes.data // ALIGNMENT) * ALIGNMENT


_lease_types: dict[int, Any] = {}


def _lease_type(size: int) -> Any:
    """A ctypes array of `size` bytes (arrays take it as their memory) that gives its block back."""
    found = _lease_types.get(size)
    if found is None:

        class Lease(ctypes.c_char * size):  # type: ignore[misc]
            block: _Block

            def __del__(self) -> None:
                global _waiting
                block = getattr(self, "block", None)
                if block is not None and _lock is not None:
                    with _lock:
                        _free[block.size].append(block)
                        _waiting += block.size

        found = _lease_types[size] = Lease
    return found


def _rounded(size: int) -> int:
    """The size of the block for `size` bytes: at most an eighth more."""
    step = max(1 << (size.bit_length() - 4), 4096)
    return -(-size // step) * step


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """As `numpy.empty`, row-major, at an address divisible by 64 where it is large."""
    global _held, _waiting, _made
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    room = _rounded(size)
    with _lock:
        waiting = _free[room]
        if waiting:
            block = waiting.pop()
            _waiting -= room
        else:
            if _waiting > _held // 2:  # the sizes have changed: what waits will not be asked for
                release()
            block = _Block(room)
            _held += room
            _made += 1
    lease = _lease_type(room).from_address(block.address)
    lease.block = block
    return np.ndarray(shape, dtype, buffer=lease)


def release() -> None:
    """Give the memory of all blocks that no array uses back to the system."""
    global _held, _waiting
    with _lock:
        _held -= _waiting
        _waiting = 0
        _free.clear()


def statistics() -> dict[str, int]:
    """Bytes held and waiting, and how many blocks were ever made."""
    return {"held_bytes": _held, "waiting_bytes": _waiting, "blocks_made": _made}


_DATA = 16  # offset of the data pointer in an array object, checked below


def _by_offset(array: Any) -> int:
    """Address of an array's first element, ten times faster than `array.ctypes.data`."""
    return ctypes.c_int64.from_address(id(array) + _DATA).value


def _by_attribute(array: Any) -> int:
    return int(array.ctypes.data)


_probe = np.empty(3)
address = _by_offset if _by_offset(_probe) == _probe.ctypes.data else _by_attribute
