"""Threads that run the blocks of a task: one pool for all kernels of a process.

Blocks are handed out one by one from a counter, so that a core that is busy with other work takes
fewer; what a block computes never depends on who runs it. Workers look for work for some hundred
microseconds after a job, then sleep on a condition variable: nothing spins beside other processes,
and no runtime library (OpenMP) is involved, so that forking is safe: a child starts its own
workers.

The loops are compiled (`tasks/threads.py`) and called as C functions, which gives up the GIL;
worker threads are Python threads that come back when the pool is stopped: for fewer threads, and
before the interpreter ends.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import struct
import threading
import time
from typing import Any

import numpy as np

from tensorlib.kernels.cpu import host, loader

__all__ = ["launch", "launch_address", "run", "scratch", "set_threads", "threads"]

SIZE = 1024  # bytes of the block of words and mutexes that the threads share
PATIENCE_S = 200e-6  # how long a worker looks for work: Python between layers takes less
STOP_LIMIT_S = 60.0  # at most as long as one task


def _function(name: str, count: int) -> Any:
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)
    return kind(loader.address("threads", name))


_start, _stop, _spin = _function("start", 2), _function("stop", 1), _function("spin", 1)
_work = _function("work", 2)
_program = _function("program", 4)
_one = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_char_p,  # the arguments, packed as float64 numbers
    ctypes.c_int64,
)(loader.address("threads", "one"))

_pack = [struct.Struct(f"{count}d").pack for count in range(64)]

_controls: list[Any] = []  # control blocks ever used: another thread may still look at an old one
_base = 0  # address of the control block, at a multiple of 64
_started = 1  # threads that exist, the caller included
_threads = 1
_workers: list[threading.Thread] = []
_changing = threading.Lock()
_local = threading.local()
_ended = False  # the interpreter ends: callers work alone


def _reset() -> None:
    """Begin with no workers: at import, when stopped, and in a forked child."""
    global _base, _started
    memory = np.zeros(SIZE // 8 + 8, np.int64)
    _controls.append(memory)
    base = (memory.ctypes.data + 63) // 64 * 64
    _start(base, _patience)
    _workers.clear()
    _started = 1
    _base = base


def _measured_patience() -> int:
    """How many looks for work PATIENCE_S are; a pause takes 40 to 140 cycles, by CPU."""
    best = 1.0
    for _ in range(3):
        before = time.perf_counter()
        _spin(1000)
        best = min(best, time.perf_counter() - before)
    return max(100, int(1000 * PATIENCE_S / best))


_patience = _measured_patience()
_reset()


def _after_fork() -> None:
    global _changing
    _changing = threading.Lock()
    _reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _stop_workers() -> None:
    """Send the workers home and wait for them. Called with `_changing` held."""
    if _workers:
        _stop(_base)
        for worker in _workers:
            worker.join(STOP_LIMIT_S)
        _reset()


@atexit.register
def _end() -> None:
    """No thread may be inside compiled code when the interpreter takes it apart."""
    global _ended
    with _changing:
        _ended = True
        _stop_workers()


def set_threads(count: int) -> None:
    """Use `count` threads, the calling one among them."""
    global _threads
    with _changing:
        _threads = count
        if count < _started:
            _stop_workers()


def threads() -> int:
    """Threads that kernels use, the calling one among them."""
    return _threads


def _ready() -> int:
    """The number of threads, once that many exist."""
    global _started
    with _changing:
        while not _ended and _started < _threads:
            worker = threading.Thread(
                target=_work, args=(_base, _started), name=f"tensorlib-{_started}", daemon=True
            )
            worker.start()
            _workers.append(worker)
            _started += 1
        return min(_started, _threads)


def launch_address(function: int, count: int, *arguments: Any) -> None:
    """Run blocks 0 to `count` of the task at an address with `arguments` (addresses, numbers)."""
    if count > 0:
        base = _base  # first: what follows may change it, and then the old block still serves
        ready = _threads if _started >= _threads else _ready()
        if _one(base, ready, function, _pack[len(arguments)](*arguments), count):
            raise RuntimeError("a block of a compiled kernel raised an exception")


def launch(task: Any, count: int, *arguments: Any) -> None:
    """`launch_address` for a Task."""
    launch_address(task.address, count, *arguments)


def run(steps: Any) -> None:
    """Run rows (function, arguments, first block, last block) of addresses one after the other."""
    base = _base
    ready = _threads if _started >= _threads else _ready()
    if _program(base, ready, steps.ctypes.data, len(steps)):
        raise RuntimeError("a block of a compiled kernel raised an exception")


def scratch(size: int) -> tuple[int, int]:
    """Address and stride in bytes of memory for each worker, `size` bytes at least; valid until
    this Python thread asks again.
    """
    stride = (size + 127) // 64 * 64 + 64  # not a multiple of a page: workers avoid the same sets
    held = getattr(_local, "memory", None)
    # More than needed now, for a thread that sets a larger number before this one launches; memory
    # that nobody touches costs nothing.
    total = stride * max(_threads, 2 * host.cores()) + 64
    if held is None or held.nbytes < total:
        held = _local.memory = np.empty(total, np.uint8)
    return (held.ctypes.data + 63) // 64 * 64, stride
