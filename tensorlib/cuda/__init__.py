"""GPUs, as scripts ask for them: `cuda.is_available()`, `cuda.device_count()`.

Arrays on a GPU are CuPy's, streams and memory its own. Random numbers are drawn on the CPU and
moved, so that they do not depend on the device.
"""

from __future__ import annotations

from typing import Any

from tensorlib.cuda import amp
from tensorlib.device import cupy_module, place_of
from tensorlib.device import device as device_type
from tensorlib.errors import ArgumentError, DeviceError

__all__ = [
    "amp",
    "current_device",
    "device_count",
    "empty_cache",
    "get_device_name",
    "get_rng_state_all",
    "is_available",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "memory_allocated",
    "memory_reserved",
    "set_device",
    "set_rng_state_all",
    "synchronize",
]


def is_available() -> bool:
    """Whether CuPy is installed and finds a GPU."""
    return device_count() > 0


def device_count() -> int:
    """The number of GPUs; 0 without CuPy or a driver."""
    try:
        return int(cupy_module("cuda.device_count").cuda.runtime.getDeviceCount())
    except Exception:  # CuPy's own error where there is no driver
        return 0


def _number(device: Any, where: str) -> int:
    found = place_of(device)
    if found is None or found.index is None:
        return current_device()
    if found.type != "cuda":
        raise DeviceError(where, f"device {found}", "a CUDA device")
    return found.index


def current_device() -> int:
    """Index of the GPU that new tensors go to."""
    return int(cupy_module("cuda.current_device").cuda.runtime.getDevice())


def set_device(device: device_type | str | int) -> None:
    """Let "cuda" mean this GPU."""
    cupy_module("cuda.set_device").cuda.Device(_number(device, "cuda.set_device")).use()


def get_device_name(device: device_type | str | int | None = None) -> str:
    """The GPU's name."""
    number = _number(device, "cuda.get_device_name")
    name = cupy_module("cuda.get_device_name").cuda.runtime.getDeviceProperties(number)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def synchronize(device: device_type | str | int | None = None) -> None:
    """Wait until the GPU has done what it was given."""
    cupy_module("cuda.synchronize").cuda.Device(_number(device, "cuda.synchronize")).synchronize()


def empty_cache() -> None:
    """Give memory that CuPy keeps for later back to the driver; nothing without a GPU."""
    if is_available():
        cupy_module("cuda.empty_cache").get_default_memory_pool().free_all_blocks()


def memory_allocated(device: device_type | str | int | None = None) -> int:
    """Bytes that tensors hold on the GPU; 0 without one."""
    return int(_pool(device).used_bytes()) if is_available() else 0


def memory_reserved(device: device_type | str | int | None = None) -> int:
    """Bytes that CuPy holds for tensors, free ones included; 0 without a GPU."""
    return int(_pool(device).total_bytes()) if is_available() else 0


def max_memory_allocated(device: device_type | str | int | None = None) -> int:
    """`memory_reserved`: CuPy keeps no peak, and never held more at once."""
    return memory_reserved(device)


def _pool(device: Any) -> Any:
    cupy = cupy_module("cuda.memory_allocated")
    with cupy.cuda.Device(_number(device, "cuda.memory_allocated")):
        return cupy.get_default_memory_pool()


def manual_seed(seed: int) -> None:
    """Nothing to seed: numbers for a GPU come from the CPU's stream, which this leaves alone."""
    int(seed)


manual_seed_all = manual_seed


def get_rng_state_all() -> list[Any]:
    """Empty: GPUs have no stream of their own."""
    return []


def set_rng_state_all(new_states: list[Any]) -> None:
    """Take what `get_rng_state_all` gave."""
    if len(new_states):
        raise ArgumentError(
            "cuda.set_rng_state_all",
            f"{len(new_states)} states given",
            "none: numbers for a GPU come from the CPU's stream",
            hint="use tensorlib.set_rng_state",
        )
