"""Images: decoding, transforms, data sets and models."""

from . import datasets, models, transforms
from .image import Decoded, ImageError, decode

__all__ = ["Decoded", "ImageError", "datasets", "decode", "models", "transforms"]
