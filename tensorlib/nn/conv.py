"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

import tensorlib
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.tensor import Tensor

__all__ = ["Conv1d", "Conv2d"]

Size = int | tuple[int, ...]
_MODES = ("zeros", "reflect", "replicate", "circular")


def spread(value: Size, dims: int) -> tuple[int, ...]:
    """One number for every dimension, or one for each."""
    sizes = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(sizes) != dims:
        raise ValueError(f"expected one number or {dims}, got {value}")
    return sizes


class _ConvNd(Module):
    bias: Parameter | None
    padding: str | tuple[int, ...]

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: str | Size,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if groups <= 0:
            raise ValueError(f"{name}: groups is {groups}; groups must be a positive integer")
        if in_channels % groups:
            raise ValueError(
                f"{name}: in_channels must be divisible by groups, got {in_channels} and {groups}"
            )
        if out_channels % groups:
            raise ValueError(
                f"{name}: out_channels must be divisible by groups, got {out_channels} and {groups}"
            )
        if padding_mode not in _MODES:
            raise ValueError(f"{name}: padding_mode is {padding_mode!r}; expected one of {_MODES}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = spread(kernel_size, dims)
        self.stride = spread(stride, dims)
        self.dilation = spread(dilation, dims)
        self.padding = padding if isinstance(padding, str) else spread(padding, dims)
        self.groups, self.padding_mode = groups, padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{name}: padding is {padding!r}; expected 'same' or 'valid'")
            if padding == "same" and any(step != 1 for step in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(tensorlib.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(tensorlib.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._fans(self.weight)
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def _borders(self) -> list[int]:
        """What `F.pad` puts around the input, last dimension first."""
        borders: list[int] = []
        for i in reversed(range(len(self.kernel_size))):
            if self.padding == "same":
                total = self.dilation[i] * (self.kernel_size[i] - 1)
                borders += [total // 2, total - total // 2]
            elif self.padding == "valid":
                borders += [0, 0]
            else:
                assert not isinstance(self.padding, str)
                borders += [self.padding[i]] * 2
        return borders

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size},"
            f" stride={self.stride}"
        )
        if self.padding != (0,) * len(self.padding):
            text += f", padding={self.padding}"
        if self.dilation != (1,) * len(self.dilation):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class Conv1d(_ConvNd):
    """Cross-correlation over one dimension.

    Shape: (N, in_channels, L) to (N, out_channels, L'), with
    L' = (L + 2·padding - dilation·(kernel_size - 1) - 1) // stride + 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            1, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._borders(), mode=self.padding_mode), 0
        return F.conv1d(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )


class Conv2d(_ConvNd):
    """Cross-correlation over two dimensions.

    Shape: (N, in_channels, H, W) to (N, out_channels, H', W'), with
    H' = (H + 2·padding - dilation·(kernel_size - 1) - 1) // stride + 1, W' likewise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            2, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._borders(), mode=self.padding_mode), 0
        return F.conv2d(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )
