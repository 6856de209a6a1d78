"""The loops of the pool's threads; `kernels/cpu/pool.py` says what they are for.

How a job passes from the caller to the workers, all words being read and written in one order that
all threads agree on:

* The caller writes the job's fields, then `OPEN` and `JOB`, both the job's number. A worker that
  sees a new number adds itself to `ACTIVE`, and only then looks whether `OPEN` still has that
  number. The caller, out of blocks, writes 0 to `OPEN` and waits until `ACTIVE` is 0. So a worker
  either sees the closed door or is waited for; nobody takes blocks of a later job by mistake, and
  the fields change only while nobody reads them.
* A worker about to sleep adds itself to `SLEEPING` under the mutex and then looks at `JOB` once
  more; the caller writes `JOB` and then looks at `SLEEPING`. One of them sees the other.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tensorlib.kernels.cpu.compiler import entry_point, inner

# The control block: offsets in bytes of its words, those written by different threads 64 apart;
# `pool.SIZE` bytes in all.
OPEN = 0  # number of the job that workers may enter; 0: none
COUNTER = 64  # next block
ACTIVE = 128  # workers inside
SLEEPING = 192  # workers on the condition variable
JOB = 256  # number of the latest job
FUNCTION, ARGUMENTS, LAST, THREADS = JOB + 8, JOB + 16, JOB + 24, JOB + 32
MUTEX = 320  # pthread_mutex_t of the sleepers; 64 bytes hold it on Linux and macOS, 128 are left
CONDITION = 448
OWNER = 576  # pthread_mutex_t of whoever runs a job
FAILED = 704  # 1: a block raised
SPINS = 768  # looks for work before a worker sleeps

QUIT = -1  # as a job's number: workers go home
YIELD_AFTER = 2000  # looks at unfinished workers before the caller gives up its time slice

_I64 = ir.IntType(64)
_WORD = types.int64


@intrinsic
def _add(context: Any, address: Any, value: Any) -> Any:
    """Add to the word at an address; its value before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", at, args[1], "seq_cst")

    return _WORD(_WORD, _WORD), generate


@intrinsic
def _load(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.load_atomic(at, "seq_cst", 8)

    return _WORD(_WORD), generate


@intrinsic
def _store(context: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], _I64.as_pointer())
        builder.store_atomic(args[1], at, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(_WORD, _WORD), generate


@intrinsic
def _call(context: Any, function: Any, arguments: Any, block: Any, worker: Any) -> Any:
    """Call the task at address `function`; 0 unless it raised."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64, _I64, _I64])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return _WORD(*[_WORD] * 4), generate


@intrinsic
def _read(context: Any, address: Any) -> Any:
    """An ordinary word."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()))

    return _WORD(_WORD), generate


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
    return types.ExternalFunction(name, types.int32(*[_WORD] * count))


_lock, _unlock = _external("pthread_mutex_lock", 1), _external("pthread_mutex_unlock", 1)
_wait, _broadcast = _external("pthread_cond_wait", 2), _external("pthread_cond_broadcast", 1)
_init_mutex = _external("pthread_mutex_init", 2)
_init_condition = _external("pthread_cond_init", 2)
_yield = _external("sched_yield", 0)


@inner
def _blocks(control, function, arguments, last, worker):
    while True:
        block = _add(control + COUNTER, 1)
        if block >= last:
            return
        if _call(function, arguments, block, worker) != 0:
            _store(control + FAILED, 1)


@inner
def _wake(control):
    _lock(control + MUTEX)
    _broadcast(control + CONDITION)
    _unlock(control + MUTEX)


@inner
def _leave(control, threads):
    """Let the next caller in, and raise if a block did."""
    failed = _load(control + FAILED)
    _store(control + FAILED, 0)
    if threads > 1:
        _unlock(control + OWNER)
    if failed != 0:
        raise RuntimeError


@inner
def _run(control, threads, function, arguments, first, last):
    """Run blocks `first` to `last` of one task and wait for them."""
    number = _load(control + JOB) + 1
    if threads <= 1 or last - first <= 1 or number <= 0:  # the last: no workers any more
        for block in range(first, last):
            if _call(function, arguments, block, 0) != 0:
                _store(control + FAILED, 1)
        return
    _store(control + COUNTER, first)
    _store(control + FUNCTION, function)
    _store(control + ARGUMENTS, arguments)
    _store(control + LAST, last)
    _store(control + THREADS, threads)
    _store(control + OPEN, number)
    _store(control + JOB, number)
    if _load(control + SLEEPING) > 0:
        _wake(control)
    _blocks(control, function, arguments, last, 0)
    _store(control + OPEN, 0)
    spins = 0
    while _load(control + ACTIVE) > 0:
        spins += 1
        if spins > YIELD_AFTER:
            _yield()
        else:
            _pause()


@entry_point
def start(control, spins):
    """Prepare a control block of zeros."""
    _store(control + SPINS, spins)
    _init_mutex(control + MUTEX, 0)
    _init_condition(control + CONDITION, 0)
    _init_mutex(control + OWNER, 0)


@entry_point
def stop(control):
    """Send the workers home, after the job that runs."""
    _lock(control + OWNER)
    _store(control + JOB, QUIT)
    _wake(control)
    _unlock(control + OWNER)


@entry_point
def spin(count):
    """What `count` looks for work cost."""
    for _ in range(count):
        _pause()


@entry_point
def work(control, worker):
    """What a worker thread does until it is sent home."""
    seen = 0
    spins = 0
    patience = _load(control + SPINS)
    while True:
        number = _load(control + JOB)
        if number == QUIT:
            return
        if number == seen:
            spins += 1
            if spins < patience:
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
        if _load(control + OPEN) == number and worker < _load(control + THREADS):
            function, arguments = _load(control + FUNCTION), _load(control + ARGUMENTS)
            _blocks(control, function, arguments, _load(control + LAST), worker)
        _add(control + ACTIVE, -1)


@entry_point
def one(control, threads, function, arguments, count):
    """Run one task, for one caller at a time."""
    if threads > 1:
        _lock(control + OWNER)
    _run(control, threads, function, arguments, 0, count)
    _leave(control, threads)


@entry_point
def program(control, threads, steps, count):
    """Run `count` rows (function, arguments, first block, last block) at `steps` in turn."""
    if threads > 1:
        _lock(control + OWNER)
    for at in range(steps, steps + 32 * count, 32):
        _run(control, threads, _read(at), _read(at + 8), _read(at + 16), _read(at + 24))
    _leave(control, threads)


@entry_point
def nothing(arguments, block, worker):
    """A task that does nothing, to measure what running one costs."""
