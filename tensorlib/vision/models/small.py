"""Small models that train in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tensorlib import nn

__all__ = ["mlp", "small_cnn"]


def small_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int | tuple[int, int] = 28,
    width: int = 16,
    hidden: int = 128,
) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and pooling, and one hidden layer.

    Shape: (N, in_channels, *image_size) to (N, num_classes). `width` channels after the first
    convolution, twice as many after the second. Sides of the image are at least 4.
    """
    height, breadth = (image_size,) * 2 if isinstance(image_size, int) else image_size
    if min(height, breadth) < 4:
        raise ValueError(
            f"small_cnn: image_size is {image_size}; expected at least 4 (it is halved twice)"
        )
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (breadth // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def mlp(
    in_features: int = 784, hidden: Sequence[int] = (128,), num_classes: int = 10
) -> nn.Sequential:
    """Linear layers with ReLU between; everything after the batch dimension is one vector.

    Shape: (N, ...) with `in_features` values each, to (N, num_classes).
    """
    sizes = [in_features, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
