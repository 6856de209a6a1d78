"""Residual networks (He et al., 2016) with torchvision's module names, so that its files load.

The 3x3 convolution of a bottleneck carries the stride, as in torchvision ("v1.5").
"""

from __future__ import annotations

from typing import Any

from tensorlib import nn
from tensorlib.nn import init
from tensorlib.nn.fusion import norm_relu
from tensorlib.tensor import Tensor

__all__ = ["ResNet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu(self.bn1, self.relu, self.conv1(x))
        out = self.conv2(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return norm_relu(self.bn2, self.relu, out, shortcut)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up around an identity."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv(planes, planes * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu(self.bn1, self.relu, self.conv1(x))
        out = norm_relu(self.bn2, self.relu, self.conv2(out))
        out = self.conv3(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return norm_relu(self.bn3, self.relu, out, shortcut)


class ResNet(nn.Module):
    """A residual network of four stages.

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks in each stage.
        num_classes: outputs.
        zero_init_residual: start each block as the identity (Goyal et al., 2017).

    Shape: (N, 3, H, W) to (N, num_classes); the weights expect H = W = 224.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.inplanes = 64
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._stage(block, 64, layers[0])
        self.layer2 = self._stage(block, 128, layers[1], stride=2)
        self.layer3 = self._stage(block, 256, layers[2], stride=2)
        self.layer4 = self._stage(block, 512, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                    assert last.weight is not None
                    init.zeros_(last.weight)

    def _stage(
        self, block: type[BasicBlock | Bottleneck], planes: int, count: int, stride: int = 1
    ) -> nn.Sequential:
        outputs = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != outputs:
            downsample = nn.Sequential(
                _conv(self.inplanes, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )
        blocks = [block(self.inplanes, planes, stride, downsample)]
        blocks += [block(outputs, planes) for _ in range(count - 1)]
        self.inplanes = outputs
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_relu(self.bn1, self.relu, self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet18(**options: Any) -> ResNet:
    """18 layers, 11.7 million parameters. Options as ResNet's."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet34(**options: Any) -> ResNet:
    """34 layers, 21.8 million parameters. Options as ResNet's."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **options)


def resnet50(**options: Any) -> ResNet:
    """50 layers, 25.6 million parameters. Options as ResNet's."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


def resnet101(**options: Any) -> ResNet:
    """101 layers, 44.5 million parameters. Options as ResNet's."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


def resnet152(**options: Any) -> ResNet:
    """152 layers, 60.2 million parameters. Options as ResNet's."""
    return ResNet(Bottleneck, (3, 8, 36, 3), **options)
