"""Helpers around training: `utils.data` feeds samples, `utils.checkpoint` saves memory."""

import importlib
from typing import Any

_LAZY = ("checkpoint", "data", "dlpack")


def __getattr__(name: str) -> Any:
    """Modules are imported when first used."""
    if name in _LAZY:
        return importlib.import_module(f"tensorlib.utils.{name}")
    raise AttributeError(f"module 'tensorlib.utils' has no attribute {name!r}")
