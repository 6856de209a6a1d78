"""Transforms of PIL images by torchvision's names, equal to its PIL path bit for bit.

RandomCrop and RandomHorizontalFlip take arrays [H, W] or [H, W, C] too; MixUp takes batches.

Random transforms draw from `tensorlib.utils.data.current_generator()`: inside a `DataLoader` that
is a function of (seed, epoch, sample index), so no number of threads or ranks changes a sample.
The distributions are torchvision's, the drawn numbers are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tensorlib.kernels.image import normalize_bytes
from tensorlib.utils.data.randomness import current_generator
from tensorlib.vision.resizing import (
    Interpolation,
    Size,
    center_crop,
    pad,
    pair,
    prepare,
    resample,
    resize,
    to_array,
)

if TYPE_CHECKING:
    from PIL import Image

    from tensorlib import Tensor


class Compose:
    """Apply transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class Lambda:
    """A function as a transform."""

    def __init__(self, lambd: Callable[[Any], Any]):
        self.lambd = lambd

    def __call__(self, image: Any) -> Any:
        return self.lambd(image)


class Resize:
    """The short side to `size`, the long one to int(size * long / short); or to (height, width)."""

    def __init__(self, size: Size, interpolation: Interpolation = "bilinear"):
        self.size = size
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        return resize(image, self.size, self.interpolation)


class CenterCrop:
    """The middle (height, width) or square; smaller images are padded with zeros."""

    def __init__(self, size: Size):
        self.size = pair(size)

    def __call__(self, image: Image.Image) -> Image.Image:
        return center_crop(image, self.size)


class RandomCrop:
    """A random (height, width) part, after `padding` zeros (one number) on every side."""

    def __init__(self, size: Size, padding: int = 0):
        self.size = pair(size)
        self.padding = padding

    def __call__(self, image: Any) -> Any:
        array = isinstance(image, np.ndarray)
        if self.padding and array:
            sides = ((self.padding,) * 2,) * 2 + ((0, 0),) * (image.ndim - 2)
            image = np.pad(image, sides)
        elif self.padding:
            image = pad(image, (self.padding,) * 4)
        height, width = self.size
        high, wide = image.shape[:2] if array else (image.height, image.width)
        if high < height or wide < width:
            raise ValueError(
                f"RandomCrop: size {self.size} of an image of {high}x{wide} (after padding "
                f"{self.padding}); expected a part that fits. Hint: Resize first, or pad"
            )
        generator = current_generator()
        top = int(generator.integers(0, high - height + 1))
        left = int(generator.integers(0, wide - width + 1))
        if array:
            return image[top : top + height, left : left + width]
        return image.crop((left, top, left + width, top + height))


class RandomHorizontalFlip:
    """Mirror left and right with probability `p`."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"RandomHorizontalFlip: p={p}; expected a probability")
        self.p = p

    def __call__(self, image: Any) -> Any:
        if current_generator().random() >= self.p:
            return image
        if isinstance(image, np.ndarray):
            return image[:, ::-1]
        from PIL.Image import Transpose

        return image.transpose(Transpose.FLIP_LEFT_RIGHT)


class RandomResizedCrop:
    """A random part with `scale` of the area and `ratio` of width to height, resized to `size`.

    As torchvision: ten tries, then the middle with the nearest allowed ratio.
    """

    def __init__(
        self,
        size: Size,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
    ):
        if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(
                f"RandomResizedCrop: scale={scale}, ratio={ratio}; expected 0 < lowest <= highest"
            )
        self.size = pair(size)
        self.scale = scale
        self.ratio = ratio
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top, width, height = self._box(image.width, image.height)
        part = image.crop((left, top, left + width, top + height))
        return resize(part, self.size, self.interpolation)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        generator = current_generator()
        for _ in range(10):
            area = width * height * generator.uniform(*self.scale)
            aspect = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left = int(generator.integers(0, width - w + 1))
                return left, int(generator.integers(0, height - h + 1)), w, h
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = width, height
        if width / height < aspect:
            h = round(width / aspect)
        elif width / height > aspect:
            w = round(height * aspect)
        return (width - w) // 2, (height - h) // 2, w, h


class MixUp:
    """Each sample of a batch mixed with the one before it, labels too (Zhang et al., 2018).

    As torchvision's of `transforms.v2`: one share from Beta(alpha, alpha) for the batch.

    Args:
        alpha: how even the mixture is.
        num_classes: of the labels, which become shares [N, num_classes].
    """

    def __init__(self, *, alpha: float = 1.0, num_classes: int):
        if alpha <= 0 or num_classes < 1:
            raise ValueError(
                f"MixUp: alpha={alpha}, num_classes={num_classes}; expected both above 0"
            )
        self.alpha = alpha
        self.num_classes = num_classes

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Float images [N, ...] and class indices [N], mixed."""
        from tensorlib.nn.functional import one_hot

        share = float(current_generator().beta(self.alpha, self.alpha))
        shares = one_hot(labels, self.num_classes).to(images.dtype)
        return _mixed(images, share), _mixed(shares, share)


def _mixed(batch: Tensor, share: float) -> Tensor:
    mixed: Tensor = batch * share + batch.roll(1, 0) * (1 - share)
    return mixed


class Grayscale:
    """Gray, with 1 or 3 equal channels."""

    def __init__(self, num_output_channels: Literal[1, 3] = 1):
        if num_output_channels not in (1, 3):
            raise ValueError(
                f"Grayscale: num_output_channels={num_output_channels}; expected 1 or 3"
            )
        self.num_output_channels = num_output_channels

    def __call__(self, image: Image.Image) -> Image.Image:
        gray = image.convert("L")
        return gray if self.num_output_channels == 1 else gray.convert("RGB")


class PILToTensor:
    """A uint8 Tensor [C, H, W]."""

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        from tensorlib import Tensor

        return Tensor._wrap(np.ascontiguousarray(to_array(image).transpose(2, 0, 1)))


class ToTensor:
    """A float32 Tensor [C, H, W] in 0..1."""

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        from tensorlib import Tensor

        values = to_array(image).transpose(2, 0, 1).astype(np.float32, order="C")
        return Tensor._wrap(values / np.float32(255))


class Normalize:
    """(x - mean) / std per channel of a float Tensor [..., C, H, W]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if len(mean) != len(std) or any(value == 0 for value in std):
            raise ValueError(
                f"Normalize: mean={list(mean)}, std={list(std)}; expected equally many, no std 0"
            )
        self.mean = mean
        self.std = std

    def __call__(self, tensor: Tensor) -> Tensor:
        array = tensor.array
        if array.dtype.kind != "f":
            raise TypeError(
                f"Normalize: a Tensor of {tensor.dtype}; expected floats. Hint: ToTensor first"
            )
        mean = np.asarray(self.mean, array.dtype).reshape(-1, 1, 1)
        std = np.asarray(self.std, array.dtype).reshape(-1, 1, 1)
        return type(tensor)._wrap((array - mean) / std)


@dataclass(frozen=True)
class ImageClassification:
    """The preprocessing that belongs to a model's weights (torchvision's preset of this name).

    In two steps, so that workers hand on bytes: `to_uint8` is bit for bit torchvision's resize and
    centre crop on PIL images, `normalize` turns a batch of them into the model's input.

    Args:
        crop_size: side of the square the model sees.
        resize_size: the short side before the crop; None crops without resizing.
        mode: "RGB", or "L" for gray models (mean and std then have one number).
    """

    crop_size: int
    resize_size: int | None = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    mode: Literal["RGB", "L"] = "RGB"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))  # a checkpoint gives lists
        object.__setattr__(self, "std", tuple(self.std))
        channels = {"RGB": 3, "L": 1}.get(self.mode)
        if channels is None:
            raise ValueError(f"ImageClassification: mode={self.mode!r}; expected 'RGB' or 'L'")
        if len(self.mean) != channels or len(self.std) != channels or 0 in self.std:
            raise ValueError(
                f"ImageClassification: mean={self.mean}, std={self.std} with mode={self.mode!r}; "
                f"expected {channels} numbers each, no std 0"
            )
        if self.crop_size < 1 or (self.resize_size is not None and self.resize_size < 1):
            raise ValueError(
                f"ImageClassification: crop_size={self.crop_size}, "
                f"resize_size={self.resize_size}; expected at least 1"
            )
        resample(self.interpolation)

    def to_uint8(self, image: Image.Image) -> np.ndarray:
        """A PIL image to a uint8 array [crop_size, crop_size, C]."""
        return prepare(image, self.mode, self.resize_size, self.crop_size, self.interpolation)

    def normalize(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C] or gray [N, H, W] to float32 [N, C, H, W], channels-last in memory."""
        if batch.dtype != np.uint8 or batch.ndim not in (3, 4):
            raise TypeError(
                f"ImageClassification.normalize: {batch.dtype} of shape {batch.shape}; "
                "expected uint8 [N, H, W, C]"
            )
        if batch.ndim == 3:
            batch = batch[..., None]
        if batch.shape[-1] != len(self.mean):
            raise ValueError(
                f"ImageClassification.normalize: {batch.shape[-1]} channels; "
                f"expected {len(self.mean)}"
            )
        values: np.ndarray = normalize_bytes(batch, self.mean, self.std)
        return values.transpose(0, 3, 1, 2)

    def __call__(self, image: Image.Image) -> Tensor:
        """Both steps for one image: a float32 Tensor [C, H, W], as torchvision's preset gives."""
        from tensorlib import Tensor

        return Tensor._wrap(self.normalize(self.to_uint8(image)[None])[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain values that a checkpoint can carry."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageClassification:
        """The preset that `to_dict` described."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown or "crop_size" not in values:
            raise ValueError(
                f"ImageClassification.from_dict: keys {sorted(values)}; "
                f"expected crop_size and any of {sorted(cls.__dataclass_fields__)}"
            )
        return cls(**values)
