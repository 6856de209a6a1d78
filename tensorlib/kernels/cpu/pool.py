"""Threads that run the blocks of a task: one pool for all kernels of a process.

Blocks are handed out one by one from a counter, so that a core that is busy with other work takes
fewer; what a block computes never depends on who runs it. Workers look for work for some ten
microseconds after a job, then sleep on a condition variable: nothing spins beside other processes,
and no runtime library (OpenMP) is involved, so that forking is safe: a child starts its own
workers.

The loops are compiled and run without the GIL; worker threads are Python threads that never come
back from theirs. The memory they share is `_control`, an array of 64-bit words whose fields lie in
cache lines of their own.
"""

from __future__ import annotations

import os
import platform
import threading
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tensorlib.kernels.cpu.compiler import Task, _Cache

__all__ = ["launch", "run", "scratch", "set_threads", "threads"]

_I64 = ir.IntType(64)

# fields of the control block, as offsets in bytes
OPEN = 0  # number of the job that workers may enter; 0: none
COUNTER = 64  # next block
ACTIVE = 128  # workers inside
SLEEPING = 192  # workers on the condition variable
JOB = 256  # number, function, arguments, last block, threads
MUTEX = 320  # pthread_mutex_t of the sleepers
CONDITION = 448
OWNER = 576  # pthread_mutex_t of whoever runs a job
SIZE = 704

SPINS = 4000  # looks for work before a worker sleeps; about 20 us
YIELD_AFTER = 2000  # looks at unfinished workers before the caller gives up its time slice


def _atomic(name: str) -> Any:
    """`name` (add or load or store) on the 64-bit word at an address."""

    @intrinsic
    def add(context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], _I64.as_pointer())
            return builder.atomic_rmw("add", at, args[1], "seq_cst")

        return types.int64(types.int64, types.int64), generate

    @intrinsic
    def load(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], _I64.as_pointer())
            return builder.load_atomic(at, "seq_cst", 8)

        return types.int64(types.int64), generate

    @intrinsic
    def store(context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], _I64.as_pointer())
            builder.store_atomic(args[1], at, "seq_cst", 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return {"add": add, "load": load, "store": store}[name]


_add, _load, _store = _atomic("add"), _atomic("load"), _atomic("store")


@intrinsic
def _call(context: Any, function: Any, arguments: Any, block: Any, worker: Any) -> Any:
    """Call the task at address `function`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _pause(context: Any) -> Any:
    """Tell the core that this is a loop that waits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if platform.machine().lower() in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(ir.IntType(32), 1)])
        else:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(
                cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), []
            )
        return context.get_dummy_value()

    return types.void(), generate


def _external(name: str, count: int) -> Any:
    return types.ExternalFunction(name, types.int32(*[types.int64] * count))


_lock, _unlock = _external("pthread_mutex_lock", 1), _external("pthread_mutex_unlock", 1)
_wait, _broadcast = _external("pthread_cond_wait", 2), _external("pthread_cond_broadcast", 1)
_init_mutex, _init_condition = (
    _external("pthread_mutex_init", 2),
    _external("pthread_cond_init", 2),
)
_yield = _external("sched_yield", 0)


def _compiled(function: Any) -> Any:
    """Compile with one signature and the cache of the tasks."""
    made = numba.njit(nogil=True, error_model="numpy")(function)
    made._cache = _Cache(function)
    return made


def _blocks(control: int, function: int, arguments: int, last: int, worker: int) -> None:
    while True:
        block = _add(control + COUNTER, 1)
        if block >= last:
            return
        _call(function, arguments, block, worker)


_blocks = numba.njit(nogil=True)(_blocks)


def _work(control: int, worker: int) -> None:
    """What a worker thread does for ever."""
    seen = 0
    spins = 0
    while True:
        number = _load(control + JOB)
        if number == seen:
            spins += 1
            if spins < SPINS:
                _pause()
                continue
            _lock(control + MUTEX)
            _add(control + SLEEPING, 1)
            while _load(control + JOB) == seen:
                _wait(control + CONDITION, control + MUTEX)
            _add(control + SLEEPING, -1)
            _unlock(control + MUTEX)
            continue
        seen = number
        spins = 0
        _add(control + ACTIVE, 1)
        if _load(control + OPEN) == number and worker < _load(control + JOB + 32):
            function, arguments = _load(control + JOB + 8), _load(control + JOB + 16)
            _blocks(control, function, arguments, _load(control + JOB + 24), worker)
        _add(control + ACTIVE, -1)


def _start(control: int) -> None:
    _init_mutex(control + MUTEX, 0)
    _init_condition(control + CONDITION, 0)
    _init_mutex(control + OWNER, 0)


def _run(control: int, threads: int, function: int, arguments: int, first: int, last: int) -> None:
    """Run blocks `first` to `last` of one task and wait for them."""
    if threads <= 1 or last - first <= 1:
        for block in range(first, last):
            _call(function, arguments, block, 0)
        return
    number = _load(control + JOB) + 1
    _store(control + COUNTER, first)
    _store(control + JOB + 8, function)
    _store(control + JOB + 16, arguments)
    _store(control + JOB + 24, last)
    _store(control + JOB + 32, threads)
    _store(control + OPEN, number)
    _store(control + JOB, number)
    if _load(control + SLEEPING) > 0:
        _lock(control + MUTEX)
        _broadcast(control + CONDITION)
        _unlock(control + MUTEX)
    _blocks(control, function, arguments, last, 0)
    _store(control + OPEN, 0)
    spins = 0
    while _load(control + ACTIVE) > 0:
        spins += 1
        if spins > YIELD_AFTER:
            _yield()
        else:
            _pause()


_run = numba.njit(nogil=True)(_run)


def _one(control: int, threads: int, function: int, arguments: Any, count: int) -> None:
    """`_run` for one caller at a time."""
    if threads > 1:
        _lock(control + OWNER)
    _run(control, threads, function, arguments.ctypes.data, 0, count)
    if threads > 1:
        _unlock(control + OWNER)


def _program(control: int, threads: int, steps: Any) -> None:
    """`_run` each row (function, arguments, first, last) of `steps` in turn."""
    if threads > 1:
        _lock(control + OWNER)
    for i in range(steps.shape[0]):
        _run(control, threads, steps[i, 0], steps[i, 1], steps[i, 2], steps[i, 3])
    if threads > 1:
        _unlock(control + OWNER)


_work, _start, _one, _program = (_compiled(f) for f in (_work, _start, _one, _program))


# -- the pool of this process ----------------------------------------------------------------------

_control = np.zeros(SIZE // 8 + 8, np.int64)
_base = 0  # address of the control block, at a multiple of 64
_started = 0  # threads that exist, the caller included
_threads = 1
_starting = threading.Lock()
_local = threading.local()


def _reset() -> None:
    """Begin anew: at import, and in a forked child, which has no workers."""
    global _control, _base, _started, _starting
    _control = np.zeros(SIZE // 8 + 8, np.int64)
    _base = (_control.ctypes.data + 63) // 64 * 64
    _started = 0
    _starting = threading.Lock()


_reset()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


def set_threads(count: int) -> None:
    """Use `count` threads, the calling one among them."""
    global _threads
    _threads = count


def threads() -> int:
    """Threads that kernels use, the calling one among them."""
    return _threads


def _ready() -> int:
    """The number of threads, once that many exist."""
    global _started
    wanted = _threads
    if _started >= wanted or wanted == 1:
        return wanted
    with _starting:
        if _started == 0:
            _start(_base)
            _started = 1
        for worker in range(_started, wanted):
            thread = threading.Thread(
                target=_work, args=(_base, worker), name=f"tensorlib-{worker}", daemon=True
            )
            thread.start()
            _started = worker + 1
    return wanted


def launch(task: Task, count: int, *arguments: Any) -> None:
    """Run blocks 0 to `count` of `task` with `arguments` (addresses and numbers)."""
    if count > 0:
        _one(_base, _ready(), task.address, np.array(arguments, np.float64), count)


def run(steps: Any) -> None:
    """Run rows (function, arguments, first block, last block) of addresses one after the other."""
    _program(_base, _ready(), steps)


def scratch(size: int) -> tuple[int, int]:
    """Address and stride in bytes of memory for each worker, `size` bytes at least; valid until
    this Python thread asks again.
    """
    stride = (size + 127) // 64 * 64 + 64  # not a multiple of a page: workers avoid the same sets
    held = getattr(_local, "memory", None)
    total = stride * _threads + 64
    if held is None or held.nbytes < total:
        held = _local.memory = np.empty(total, np.uint8)
    return (held.ctypes.data + 63) // 64 * 64, stride
