"""Memory for the results of kernels, kept and used again.

A fresh array of many megabytes costs a page fault for each page when it is first written, about as
much as the kernel that writes it. Blocks that no array uses any more wait here for the next array
of their size, so that a training step takes no new memory after the first.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections import defaultdict
from typing import Any

import numpy as np

__all__ = ["address", "empty", "release", "statistics"]

SMALLEST = 1 << 20  # bytes; below, malloc reuses memory well by itself
ALIGNMENT = 64


class _Store:
    """The blocks of this process."""

    def __init__(self) -> None:
        self.free: defaultdict[int, list[_Block]] = defaultdict(list)
        self.lock = threading.RLock()  # a finalizer may run inside
        self.held = 0  # bytes of all blocks, free and in use
        self.waiting = 0  # bytes of the free ones
        self.made = 0  # blocks ever made

    def take(self, room: int) -> _Block:
        """A block of `room` bytes."""
        with self.lock:
            found = self.free[room]
            if found:
                self.waiting -= room
                return found.pop()
            if self.waiting > self.held // 2:  # the sizes have changed: what waits is of no use
                self.release()
            self.held += room
            self.made += 1
        try:
            return _Block(room)
        except MemoryError:
            self.release()  # what waits may be what is missing
        try:
            return _Block(room)
        except MemoryError:
            self.held -= room
            raise

    def give(self, block: _Block) -> None:
        """Take a block back."""
        with self.lock:
            self.free[block.size].append(block)
            self.waiting += block.size

    def release(self) -> None:
        """Give the free blocks back to the system."""
        with self.lock:
            self.held -= self.waiting
            self.waiting = 0
            self.free.clear()

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self.lock = threading.RLock()


class _Block:
    """Memory of one size and its address at a multiple of ALIGNMENT."""

    __slots__ = ("address", "memory", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = np.empty(size + ALIGNMENT, np.uint8)
        self.address = -(-self.memory.ctypes.data // ALIGNMENT) * ALIGNMENT


_store = _Store()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_store.after_fork)

_lease_types: dict[int, Any] = {}


def _lease_type(size: int) -> Any:
    """A ctypes array of `size` bytes (arrays take it as their memory) that gives its block back."""
    found = _lease_types.get(size)
    if found is None:

        class Lease(ctypes.c_char * size):  # type: ignore[misc]
            block: _Block

            # The store as a default: the names of this module are gone when the last arrays are
            def __del__(self, store: _Store = _store) -> None:
                block = getattr(self, "block", None)
                if block is not None:
                    store.give(block)

        found = _lease_types[size] = Lease
    return found


def _rounded(size: int) -> int:
    """The size of the block for `size` bytes: at most an eighth more."""
    step = max(1 << (size.bit_length() - 4), 4096)
    return -(-size // step) * step


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """As `numpy.empty`, row-major, at an address divisible by 64 where it is large."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    room = _rounded(size)
    block = _store.take(room)
    lease = _lease_type(room).from_address(block.address)
    lease.block = block
    return np.ndarray(shape, dtype, buffer=lease)


def release() -> None:
    """Give the memory of all blocks that no array uses back to the system."""
    _store.release()


def statistics() -> dict[str, int]:
    """Bytes held and waiting, and how many blocks were ever made."""
    return {
        "held_bytes": _store.held,
        "waiting_bytes": _store.waiting,
        "blocks_made": _store.made,
    }


_DATA = 16  # offset of the data pointer in an array object, checked below


def _by_offset(array: Any) -> int:
    """Address of an array's first element, ten times faster than `array.ctypes.data`."""
    return ctypes.c_int64.from_address(id(array) + _DATA).value


def _by_attribute(array: Any) -> int:
    return int(array.ctypes.data)


_probe = np.empty(3)
address = _by_offset if _by_offset(_probe) == _probe.ctypes.data else _by_attribute
