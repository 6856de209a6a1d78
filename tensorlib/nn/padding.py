"""Layers that put a border around their input: two numbers per dimension, the last first."""

from __future__ import annotations

from typing import ClassVar

from tensorlib.nn import functional as F
from tensorlib.nn.module import Module
from tensorlib.nn.sizes import Size, spread
from tensorlib.tensor import Tensor

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _Pad(Module):
    _dims: ClassVar[int]
    _mode: ClassVar[str] = "constant"

    def __init__(self, padding: Size) -> None:
        super().__init__()
        self.padding = spread(padding, 2 * self._dims)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, mode=self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Size, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, mode="constant", value=self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """Border of `value` around (N, C, L)."""

    _dims = 1


class ConstantPad2d(_ConstantPad):
    """Border of `value` around (N, C, H, W)."""

    _dims = 2


class ConstantPad3d(_ConstantPad):
    """Border of `value` around (N, C, D, H, W)."""

    _dims = 3


class ZeroPad1d(_Pad):
    """Border of zeros around (N, C, L)."""

    _dims = 1


class ZeroPad2d(_Pad):
    """Border of zeros around (N, C, H, W)."""

    _dims = 2


class ZeroPad3d(_Pad):
    """Border of zeros around (N, C, D, H, W)."""

    _dims = 3


class ReflectionPad1d(_Pad):
    """Border that mirrors the input, without its edge, around (N, C, L)."""

    _dims, _mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Border that mirrors the input, without its edge, around (N, C, H, W)."""

    _dims, _mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """Border that mirrors the input, without its edge, around (N, C, D, H, W)."""

    _dims, _mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """Border that repeats the edge, around (N, C, L)."""

    _dims, _mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """Border that repeats the edge, around (N, C, H, W)."""

    _dims, _mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """Border that repeats the edge, around (N, C, D, H, W)."""

    _dims, _mode = 3, "replicate"


class _CircularPad(_Pad):
    _mode = "circular"

    def forward(self, input: Tensor) -> Tensor:
        low = self._dims + 1
        if input.dim() not in (low, low + 1):
            raise ValueError(f"expected {low}D or {low + 1}D input (got {input.dim()}D input)")
        return super().forward(input)


class CircularPad1d(_CircularPad):
    """Border from the opposite side, around (N, C, L)."""

    _dims = 1


class CircularPad2d(_CircularPad):
    """Border from the opposite side, around (N, C, H, W)."""

    _dims = 2


class CircularPad3d(_CircularPad):
    """Border from the opposite side, around (N, C, D, H, W)."""

    _dims = 3
