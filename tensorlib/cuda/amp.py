"""Old names of `tensorlib.amp`'s classes for "cuda"."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from tensorlib import amp

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd"]

custom_fwd = functools.partial(amp.custom_fwd, device_type="cuda")
custom_bwd = functools.partial(amp.custom_bwd, device_type="cuda")


def _old(name: str) -> None:
    warnings.warn(
        f"`torch.cuda.amp.{name}(args...)` is deprecated. "
        f"Please use `torch.amp.{name}('cuda', args...)` instead.",
        FutureWarning,
        stacklevel=3,
    )


class GradScaler(amp.GradScaler):
    """`tensorlib.amp.GradScaler("cuda", ...)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _old("GradScaler")
        super().__init__("cuda", *args, **kwargs)


class autocast(amp.autocast):
    """`tensorlib.amp.autocast("cuda", ...)`."""

    def __init__(
        self, enabled: bool = True, dtype: Any = None, cache_enabled: bool | None = True
    ) -> None:
        _old("autocast")
        super().__init__("cuda", dtype, enabled, cache_enabled)
