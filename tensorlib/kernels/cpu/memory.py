"""Memory for the results of kernels, kept and used again.

A fresh array of many megabytes costs a page fault for each page when it is first written, about as
much as the kernel that writes it. Large arrays are therefore pieces of blocks that are kept: the
smallest free piece that is large enough is cut to size, and a piece that no array uses any more
joins the free ones beside it. A training step takes no new memory after the first ones.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
from bisect import bisect_left, insort
from typing import Any

import numpy as np

__all__ = ["address", "empty", "release", "statistics"]

SMALLEST = 1 << 20  # bytes; below, malloc reuses memory well by itself
ALIGNMENT = 64
BLOCK = 64 << 20  # bytes asked of the system at least: mapped memory, which costs when written
REST = 1 << 16  # a piece is not cut for less


class _Piece:
    """A part of a block: in use by one array, or free."""

    __slots__ = ("address", "after", "before", "free", "memory", "size")

    def __init__(self, address: int, size: int, memory: Any) -> None:
        self.address = address
        self.size = size
        self.memory = memory  # keeps the block
        self.free = True
        self.before: _Piece | None = None  # the neighbours in the block
        self.after: _Piece | None = None


def _forget(address: int, size: int) -> None:
    """Let the system take the pages inside this memory, whose content nobody wants any more."""
    if sys.platform == "linux":
        begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            advise = ctypes.CDLL(None).madvise
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


class _Store:
    """The blocks of this process."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int, _Piece]] = []  # by size, then address
        self.lock = threading.RLock()  # a finalizer may run inside
        self.held = 0  # bytes of all blocks
        self.waiting = 0  # bytes of the free pieces
        self.made = 0  # blocks ever made

    def take(self, room: int) -> _Piece:
        """A piece of `room` bytes or a little more."""
        with self.lock:
            place = bisect_left(self.free, (room,))
            if place == len(self.free):
                self._grow(room)
                place = bisect_left(self.free, (room,))
            piece = self.free.pop(place)[2]
            piece.free = False
            rest = piece.size - room
            if rest >= REST:
                piece.size = room
                other = _Piece(piece.address + room, rest, piece.memory)
                other.before, other.after = piece, piece.after
                if piece.after is not None:
                    piece.after.before = other
                piece.after = other
                self._add(other)
            self.waiting -= piece.size
            return piece

    def give(self, piece: _Piece) -> None:
        """Take a piece back, and join it with the free ones beside it."""
        with self.lock:
            self.waiting += piece.size
            before, after = piece.before, piece.after
            if after is not None and after.free:
                self._remove(after)
                piece.size += after.size
                piece.after = after.after
                if after.after is not None:
                    after.after.before = piece
            if before is not None and before.free:
                self._remove(before)
                before.size += piece.size
                before.after = piece.after
                if piece.after is not None:
                    piece.after.before = before
                piece = before
            self._add(piece)

    def release(self) -> None:
        """Give what no array uses back to the system."""
        with self.lock:
            for _, _, piece in self.free[:]:
                if piece.before is None and piece.after is None:
                    self._remove(piece)
                    self.held -= piece.size
                    self.waiting -= piece.size
                else:
                    _forget(piece.address, piece.size)

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self.lock = threading.RLock()

    def _add(self, piece: _Piece) -> None:
        piece.free = True
        insort(self.free, (piece.size, piece.address, piece))

    def _remove(self, piece: _Piece) -> None:
        del self.free[bisect_left(self.free, (piece.size, piece.address))]

    def _grow(self, room: int) -> None:
        """Ask the system for a block."""
        if self.waiting > self.held // 2:  # what waits is too small for what is wanted now
            self.release()
        size = max(room, BLOCK, self.held // 4 // ALIGNMENT * ALIGNMENT)
        try:
            memory = np.empty(size + ALIGNMENT, np.uint8)
        except MemoryError:
            self.release()
            size = room
            memory = np.empty(size + ALIGNMENT, np.uint8)
        address = -(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.held += size
        self.waiting += size
        self.made += 1
        self._add(_Piece(address, size, memory))


_store = _Store()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_store.after_fork)

_lease_types: dict[int, Any] = {}


def _lease_type(size: int) -> Any:
    """A ctypes array of `size` bytes (arrays take it as their memory) that gives its piece back."""
    found = _lease_types.get(size)
    if found is None:

        class Lease(ctypes.c_char * size):  # type: ignore[misc]
            piece: _Piece

            # The store as a default: the names of this module are gone when the last arrays are
            def __del__(self, store: _Store = _store) -> None:
                piece = getattr(self, "piece", None)
                if piece is not None:
                    store.give(piece)

        found = _lease_types[size] = Lease
    return found


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """As `numpy.empty`, row-major, at an address divisible by 64 where it is large."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    # Arrays of the same power of two would otherwise begin at the same place in the cache's sets
    piece = _store.take((size + 2 * ALIGNMENT + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)
    step = 1 << (size.bit_length() - 4)  # few types: the length matters to nobody but NumPy's check
    lease = _lease_type(-(-size // step) * step).from_address(piece.address)
    lease.piece = piece
    return np.ndarray(shape, dtype, buffer=lease)


def release() -> None:
    """Give all memory that no array uses back to the system."""
    _store.release()


def statistics() -> dict[str, int]:
    """Bytes of all blocks and of their free pieces, and how many blocks were ever made."""
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
