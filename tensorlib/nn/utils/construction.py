"""Modules without first values, or laid out anew."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from tensorlib.nn.conv import Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d
from tensorlib.nn.module import Module
from tensorlib.ops.draws import unspecified

__all__ = [
    "convert_conv2d_weight_memory_format",
    "convert_conv3d_weight_memory_format",
    "skip_init",
]

M = TypeVar("M", bound=Module)


def skip_init(module_cls: type[M], *args: Any, **kwargs: Any) -> M:
    """A module whose first values are unspecified; it draws nothing from the random stream."""
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise RuntimeError(f"skip_init: expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError(
            f"skip_init: Module must support a 'device' arg to skip initialization;"
            f" {module_cls.__name__} does not"
        )
    with unspecified():
        return module_cls(*args, **kwargs)


def convert_conv2d_weight_memory_format(module: M, memory_format: Any) -> M:
    """Lay out the weights of all 2-d convolutions in `module`; returns it."""
    return _laid_out(module, memory_format, (Conv2d, ConvTranspose2d))


def convert_conv3d_weight_memory_format(module: M, memory_format: Any) -> M:
    """Lay out the weights of all 3-d convolutions in `module`; returns it."""
    return _laid_out(module, memory_format, (Conv3d, ConvTranspose3d))


def _laid_out(module: M, memory_format: Any, kinds: tuple[type[Module], ...]) -> M:
    for each in module.modules():
        if isinstance(each, kinds):
            weight = each.weight
            weight.data = weight.detach().contiguous(memory_format=memory_format)
    return module
