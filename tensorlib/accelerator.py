"""The GPU, whichever kind there is, by torch.accelerator's names."""

from __future__ import annotations

from tensorlib import cuda
from tensorlib.device import device

__all__ = ["current_accelerator", "device_count", "is_available", "synchronize"]


def is_available() -> bool:
    """Whether there is a GPU."""
    return cuda.is_available()


def current_accelerator(check_available: bool = False) -> device | None:
    """`device("cuda")`, or None where there is none."""
    return device("cuda") if is_available() else None


def device_count() -> int:
    """Number of GPUs."""
    return cuda.device_count()


def synchronize(device: device | str | int | None = None) -> None:
    """Wait until the GPU has done what it was given."""
    cuda.synchronize(device)
