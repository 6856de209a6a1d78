"""EfficientNet-Lite (Liu, 2020): EfficientNet (Tan and Le, 2019) without squeeze-and-excitation,
with ReLU6, and with a stem and head that do not grow.

Parameters have the names of the package `efficientnet_lite_pytorch`, so that its files load. Sizes
are those of TensorFlow's `efficientnet_lite_builder`; "same" padding is TensorFlow's, which pads
the bottom and right more than the top and left where the sum is odd.
"""

from __future__ import annotations

import math
from typing import Any

import tensorlib
from tensorlib import nn
from tensorlib.nn import functional as F
from tensorlib.tensor import Tensor

__all__ = [
    "EfficientNetLite",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
]

# repeats, kernel, stride, expansion, outputs of each stage, before scaling
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


class _Conv(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) rows and columns."""

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (
            _pads(size, kernel, stride)
            for size, kernel, stride in zip(
                x.shape[-2:], self.kernel_size, self.stride, strict=True
            )
        )
        padding = top, left
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)


def _pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConvBlock(nn.Module):
    """1x1 up, depthwise, 1x1 down; in training the result of a sample is dropped with probability
    `drop_connect` where the input is added to it (stochastic depth, Huang et al., 2016).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int,
        drop_connect: float,
    ) -> None:  # fmt: skip
        super().__init__()
        width = inputs * expansion
        self._expand_conv = None
        if expansion != 1:
            self._expand_conv = _Conv(inputs, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = _Conv(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = _Conv(width, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self._swish = nn.ReLU6()
        self.residual = stride == 1 and inputs == outputs
        self.drop_connect = drop_connect

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        if self._expand_conv is not None:
            x = self._swish(self._bn0(self._expand_conv(x)))
        x = self._swish(self._bn1(self._depthwise_conv(x)))
        out: Tensor = self._bn2(self._project_conv(x))
        if not self.residual:
            return out
        if self.training and self.drop_connect:
            keep = 1 - self.drop_connect
            kept = (keep + tensorlib.rand(x.shape[0], 1, 1, 1, device=x.device)).floor()
            out = out / keep * kept.to(x.dtype)
        return out + inputs


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite.

    Args:
        width: factor of the channels, rounded to multiples of 8; not of the stem and head.
        depth: factor of the blocks of a stage, rounded up; not of the first and last.
        num_classes: outputs.
        dropout: before the last layer.
        drop_connect: of the last block; it grows in proportion to a block's place.

    Shape: (N, 3, H, W) to (N, num_classes). Any size works; `lite0` to `lite4` were made for sides
    of 224, 240, 260, 280 and 300.
    """

    def __init__(
        self,
        width: float,
        depth: float,
        num_classes: int = 1000,
        dropout: float = 0.2,
        drop_connect: float = 0.2,
    ) -> None:
        super().__init__()
        self._conv_stem = _Conv(3, _STEM, 3, 2, bias=False)
        self._bn0 = _norm(_STEM)
        plan: list[tuple[int, int, int, int, int]] = []
        inputs = _STEM
        for place, (repeats, kernel, stride, expansion, outputs) in enumerate(_STAGES):
            outputs = _rounded(outputs * width)
            if 0 < place < len(_STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            for n in range(repeats):
                plan.append((inputs, outputs, kernel, 1 if n else stride, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(
            MBConvBlock(*sizes, drop_connect * n / len(plan)) for n, sizes in enumerate(plan)
        )
        self._conv_head = _Conv(inputs, _HEAD, 1, bias=False)
        self._bn1 = _norm(_HEAD)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(_HEAD, num_classes)
        self._swish = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self._swish(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = self._swish(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(self._dropout(self._avg_pooling(x).flatten(1)))
        return logits


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and nine tenths of it."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def efficientnet_lite0(**options: Any) -> EfficientNetLite:
    """4.7 million parameters, for 224x224. Options as EfficientNetLite's."""
    return EfficientNetLite(1.0, 1.0, **options)


def efficientnet_lite1(**options: Any) -> EfficientNetLite:
    """5.4 million parameters, for 240x240. Options as EfficientNetLite's."""
    return EfficientNetLite(1.0, 1.1, **options)


def efficientnet_lite2(**options: Any) -> EfficientNetLite:
    """6.1 million parameters, for 260x260. Options as EfficientNetLite's."""
    return EfficientNetLite(1.1, 1.2, **{"dropout": 0.3, **options})


def efficientnet_lite3(**options: Any) -> EfficientNetLite:
    """8.2 million parameters, for 280x280. Options as EfficientNetLite's."""
    return EfficientNetLite(1.2, 1.4, **{"dropout": 0.3, **options})


def efficientnet_lite4(**options: Any) -> EfficientNetLite:
    """13.0 million parameters, for 300x300. Options as EfficientNetLite's."""
    return EfficientNetLite(1.4, 1.8, **{"dropout": 0.3, **options})
