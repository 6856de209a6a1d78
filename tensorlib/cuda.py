"""GPUs, as scripts ask for them: `cuda.is_available()`, `cuda.device_count()`.

Arrays on a GPU are CuPy's, streams and memory its own. Random numbers are drawn on the CPU and
moved, so that they do not depend on the device.
"""

from __future__ import annotations

from typing import Any

from tensorlib.device import cupy_module, place_of
from tensorlib.device import device as device_type
from tensorlib.errors import DeviceError

__all__ = [
    "current_device",
    "device_count",
    "empty_cache",
    "get_device_name",
    "is_available",
    "manual_seed",
    "manual_seed_all",
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


def manual_seed(seed: int) -> None:
    """Nothing to seed: numbers for a GPU come from the CPU's stream, which this leaves alone."""
    int(seed)


manual_seed_all = manual_seed
