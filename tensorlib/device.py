"""Devices: what `device("cuda:0")` means, which array module an array belongs to, copies between
them, thread count.

CuPy is imported only here, and only when a CUDA device is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from tensorlib.errors import AbsentDeviceError, ArgumentError, DeviceError, InvalidValueError

Array = np.ndarray[Any, np.dtype[Any]]


class device:
    """Where a tensor lives: `device("cpu")`, `device("cuda")`, `device("cuda:1")`, `device("cuda",
    1)`.
    """

    __module__ = "tensorlib"
    __slots__ = ("index", "type")

    def __init__(self, type: str | int | device, index: int | None = None) -> None:
        if isinstance(type, device):
            self.type: str = type.type
            self.index: int | None = type.index
            return
        if isinstance(type, int):
            index = type
            type = "cuda"
        if not isinstance(type, str):
            raise ArgumentError(
                "device", f"{type!r} is not a device", "a string such as 'cpu' or 'cuda:0'"
            )
        match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", type)
        if match is None:
            raise DeviceError(
                "device", f"unknown device {type!r}", "'cpu', 'cuda' or 'cuda:<index>'"
            )
        if match[2] is not None:
            if index is not None:
                raise DeviceError("device", f"{type!r} already has an index, {index} given as well")
            index = int(match[2])
        self.type, self.index = match[1], index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        tail = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{tail})"

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.type, self.index)

    def __enter__(self) -> device:
        _entered.append(_default_device)
        set_default_device(self)
        return self

    def __exit__(self, *_: object) -> None:
        set_default_device(_entered.pop())


_CPU = device("cpu")
_default_device: device | None = None
_entered: list[device | None] = []


def set_default_device(device: Any) -> None:
    """Where new tensors are made that ask for no device; None: the CPU. Also `with device(...):`
    does so, until its end.
    """
    global _default_device
    wanted = None if device is None else _device(device)
    _default_device = None if wanted == _CPU else wanted


def get_default_device() -> device:
    """Where new tensors are made that ask for no device."""
    return _default_device or _CPU


def place_of(where: Any) -> device | None:
    """The device asked for, by name or itself; None: no other than the CPU."""
    if where is None:
        return _default_device
    return where if type(where) is device else device(where)


_device = device


def cupy_module(where: str) -> Any:
    """CuPy, or DeviceError where it is not installed."""
    try:
        import cupy
    except ImportError as error:
        raise AbsentDeviceError(
            where,
            f"device 'cuda' needs CuPy, which is not installed ({error})",
            "CuPy and an NVIDIA driver",
            hint="pip install cupy-cuda12x, or use device='cpu'",
        ) from error
    return cupy


def array_namespace(*arrays: Any) -> Any:
    """The module (numpy or cupy) whose functions make arrays like the given ones."""
    for array in arrays:
        if type(array) is not np.ndarray and not isinstance(
            array, np.ndarray | np.generic | int | float
        ):
            if type(array).__module__.partition(".")[0] == "cupy":
                return cupy_module("array_namespace")
            space = getattr(array, "__array_namespace__", None)
            if space is not None:
                return space()
            raise ArgumentError(
                "array_namespace", f"{type(array).__name__} is no array", "a NumPy or CuPy array"
            )
    return np


def namespace_of(where: device | str | int | None) -> Any:
    """The array module for a device; an absent GPU is an error here, not later."""
    kind = place_of(where)
    if kind is None or kind.type == "cpu":
        return np
    cupy = cupy_module(f"device {kind}")
    count = int(cupy.cuda.runtime.getDeviceCount())
    if (kind.index or 0) >= count:
        raise AbsentDeviceError(
            f"device {kind}", f"this machine has {count} CUDA device(s)", "an index below that"
        )
    return cupy


def device_of(array: Any) -> device:
    """The device an array lives on."""
    if isinstance(array, np.ndarray):
        return _CPU
    held = getattr(array, "device", None)
    number = getattr(held, "id", None)
    return _CPU if number is None else device("cuda", int(number))


def on(where: device) -> AbstractContextManager[Any]:
    """Make `where` current for allocations inside the `with` block."""
    if where.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[Any] = cupy_module("device").cuda.Device(where.index or 0)
    return context


def move(array: Any, where: device) -> Any:
    """The array on `where`, itself if it is there already."""
    current = device_of(array)
    if current.type == where.type and (where.index is None or where.index == current.index):
        return array
    space = namespace_of(where)
    if where.type == "cpu":
        return cupy_module("move").asnumpy(array)
    with on(where):
        return space.asarray(array)


def to_host(array: Any) -> Array:
    """A NumPy array with the same values; no copy when it is one already."""
    result: Array = move(array, _CPU)
    return result


def address(array: Any) -> int:
    """Memory address of the first element, for finding a view inside its base."""
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    return int(array.data.ptr)


_threads: int | None = None  # what set_num_threads was told
_kernel_threads: Callable[[int], None] | None = None  # sets the threads of compiled kernels


def set_num_threads(count: int) -> None:
    """Use `count` CPU threads in this process, for matrix products and kernels alike."""
    global _threads
    if not isinstance(count, int) or isinstance(count, bool):
        raise ArgumentError("set_num_threads", f"{count!r} is not an integer", "a positive integer")
    if count < 1:
        raise InvalidValueError("set_num_threads", f"{count} given", "a positive integer")
    _threads = count
    if _kernel_threads is None:
        _limit_blas(count)
    else:
        _kernel_threads(count)


def get_num_threads() -> int:
    """The number of CPU threads used for matrix products and kernels."""
    if _threads is not None:
        return _threads
    import threadpoolctl

    counts = [
        pool["num_threads"]
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]
    return max(counts) if counts else _default_threads()


def _default_threads() -> int:
    """What BLAS would use, where it does not tell (Apple's Accelerate)."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def share_threads(set_kernel_threads: Callable[[int], None]) -> None:
    """Give the threads to compiled kernels, whose number the function sets, and leave BLAS one: its
    waiting threads would compete with theirs.
    """
    global _threads, _kernel_threads
    _threads = get_num_threads()
    _kernel_threads = set_kernel_threads
    set_kernel_threads(_threads)
    _limit_blas(1)


def _limit_blas(count: int) -> None:
    import threadpoolctl

    threadpoolctl.threadpool_limits(count, user_api="blas")  # not other libraries' OpenMP
