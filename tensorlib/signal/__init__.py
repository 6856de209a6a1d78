"""`torch.signal`'s names."""

from tensorlib.signal import windows

__all__ = ["windows"]
