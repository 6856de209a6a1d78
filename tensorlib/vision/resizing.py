"""Resizing and cropping of PIL images, equal to torchvision's bit for bit.

Like `image` and `jpeg` this needs nothing else of the library, so that a decoder process starts
without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Size = int | Sequence[int]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


def prepare(
    image: Image.Image,
    mode: Literal["RGB", "L"],
    resize_size: int | None,
    crop_size: int,
    interpolation: Interpolation,
) -> np.ndarray:
    """The short side to `resize_size`, and the middle square: uint8 [crop_size, crop_size, C]."""
    if image.mode != mode:
        image = image.convert(mode)
    if resize_size is not None:
        image = resize(image, resize_size, interpolation)
    return to_array(center_crop(image, (crop_size, crop_size)))


def resize(
    image: Image.Image, size: Size, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """Resize with PIL: an integer is the short side's new length, a pair (height, width)."""
    if isinstance(size, int):
        short, long = sorted((image.width, image.height))
        other = int(size * long / short)
        width, height = (size, other) if image.width <= image.height else (other, size)
    else:
        height, width = pair(size)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), resample(interpolation))


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle (height, width), with torchvision's rounding and zero padding."""
    height, width = size
    if image.height < height or image.width < width:
        across, down = max(width - image.width, 0), max(height - image.height, 0)
        image = pad(image, (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2))
    top = round((image.height - height) / 2.0)  # Python's rounding to even, as torchvision's
    left = round((image.width - width) / 2.0)
    if image.size == (width, height):
        return image
    return image.crop((left, top, left + width, top + height))


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """An 8-bit image as uint8 [H, W, C]; gray gets one channel."""
    array = np.asarray(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TypeError(
            f"image of dtype {array.dtype} and shape {array.shape}; expected 8-bit [H, W] or "
            "[H, W, C]. Hint: tensorlib.vision.decode converts every mode"
        )
    return array[..., None] if array.ndim == 2 else array


def pad(image: Image.Image, sides: tuple[int, int, int, int]) -> Image.Image:
    """Zeros around: left, top, right, bottom."""
    from PIL import ImageOps

    return ImageOps.expand(image, sides, fill=0)


def resample(name: str) -> Any:
    """PIL's filter of this name."""
    from PIL.Image import Resampling

    try:
        return Resampling[name.upper()]
    except KeyError:
        known = ", ".join(item.name.lower() for item in Resampling)
        raise ValueError(f"interpolation={name!r}; expected one of {known}") from None


def pair(size: Size) -> tuple[int, int]:
    """(height, width)."""
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or min(both) < 1:
        raise ValueError(f"size={size!r}; expected an integer >= 1 or (height, width)")
    return both
