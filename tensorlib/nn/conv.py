"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import tensorlib
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.sizes import Size, spread
from tensorlib.tensor import Tensor

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
]

_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """What convolutions and transposed ones share; `_prepare` makes the parameters."""

    _dims: ClassVar[int]
    _function: ClassVar[str]
    bias: Parameter | None
    padding: str | tuple[int, ...]
    output_padding: tuple[int, ...]

    def _prepare(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: str | Size,
        output_padding: Size,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
        transposed: bool,
    ) -> None:
        name = type(self).__name__
        if groups <= 0:
            raise ValueError(f"{name}: groups is {groups}; groups must be a positive integer")
        for what, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(
                    f"{name}: {what} must be divisible by groups, got {channels} and {groups}"
                )
        if padding_mode not in _MODES:
            raise ValueError(f"{name}: padding_mode is {padding_mode!r}; expected one of {_MODES}")
        dims = self._dims
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = spread(kernel_size, dims)
        self.stride, self.dilation = spread(stride, dims), spread(dilation, dims)
        self.padding = padding if isinstance(padding, str) else spread(padding, dims)
        self.output_padding = spread(output_padding, dims)
        self.groups, self.padding_mode, self.transposed = groups, padding_mode, transposed
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{name}: padding is {padding!r}; expected 'same' or 'valid'")
            if padding == "same" and any(step != 1 for step in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        self.weight = Parameter(tensorlib.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(tensorlib.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        zeros = (0,) * self._dims
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size},"
            f" stride={self.stride}"
        )
        if self.padding != (0,) * len(self.padding):
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._dims:
            text += f", dilation={self.dilation}"
        if self.output_padding != zeros:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(_ConvNd):
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
        super().__init__()
        self._prepare(
            in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias,
            padding_mode, device, dtype, transposed=False,
        )  # fmt: skip

    def _borders(self) -> list[int]:
        """What `F.pad` puts around the input, last dimension first."""
        borders: list[int] = []
        for i in reversed(range(self._dims)):
            if self.padding == "same":
                total = self.dilation[i] * (self.kernel_size[i] - 1)
                borders += [total // 2, total - total // 2]
            elif isinstance(self.padding, str):
                borders += [0, 0]
            else:
                borders += [self.padding[i]] * 2
        return borders

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """This layer's convolution with other parameters."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._borders(), mode=self.padding_mode), 0
        result: Tensor = getattr(F, self._function)(
            input, weight, bias, self.stride, padding, self.dilation, self.groups
        )
        return result


class Conv1d(_Conv):
    """Cross-correlation over one dimension.

    Shape: (N, in_channels, L) to (N, out_channels, L'), with
    L' = (L + 2·padding - dilation·(kernel_size - 1) - 1) // stride + 1.
    """

    _dims, _function = 1, "conv1d"


class Conv2d(_Conv):
    """Cross-correlation over two dimensions.

    Shape: (N, in_channels, H, W) to (N, out_channels, H', W'), with
    H' = (H + 2·padding - dilation·(kernel_size - 1) - 1) // stride + 1, W' likewise.
    """

    _dims, _function = 2, "conv2d"


class Conv3d(_Conv):
    """Cross-correlation over three dimensions, (N, in_channels, D, H, W). Sizes as Conv2d's."""

    _dims, _function = 3, "conv3d"


class _ConvTransposeNd(_ConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f'Only "zeros" padding mode is supported for {type(self).__name__}, got'
                f" {padding_mode!r}"
            )
        super().__init__()
        self._prepare(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation,
            groups, bias, padding_mode, device, dtype, transposed=True,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """`output_size` chooses among the sizes that would give this input."""
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        result: Tensor = getattr(F, self._function)(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            extra,
            self.groups,
            self.dilation,
        )
        return result

    def _extra(self, input: Tensor, output_size: Any) -> tuple[int, ...]:
        wanted = tuple(output_size)[-self._dims :]
        extra = []
        for i, size in enumerate(tuple(input.shape)[-self._dims :]):
            assert not isinstance(self.padding, str)
            reach = self.dilation[i] * (self.kernel_size[i] - 1) + 1
            least = (size - 1) * self.stride[i] - 2 * self.padding[i] + reach
            if not least <= wanted[i] < least + self.stride[i]:
                raise ValueError(
                    f"{type(self).__name__}: requested an output size of {wanted}, but dimension"
                    f" {i} must be from {least} to {least + self.stride[i] - 1}"
                )
            extra.append(wanted[i] - least)
        return tuple(extra)


class ConvTranspose1d(_ConvTransposeNd):
    """The gradient of Conv1d with respect to its input, as a layer.

    Shape: (N, in_channels, L) to (N, out_channels, L'), with
    L' = (L - 1)·stride - 2·padding + dilation·(kernel_size - 1) + output_padding + 1.
    """

    _dims, _function = 1, "conv_transpose1d"


class ConvTranspose2d(_ConvTransposeNd):
    """The gradient of Conv2d with respect to its input, as a layer. Sizes as ConvTranspose1d's."""

    _dims, _function = 2, "conv_transpose2d"


class ConvTranspose3d(_ConvTransposeNd):
    """The gradient of Conv3d with respect to its input, as a layer. Sizes as ConvTranspose1d's."""

    _dims, _function = 3, "conv_transpose3d"
