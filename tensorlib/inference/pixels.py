"""Images of bytes as a model's input, recorded as one operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorlib.autograd.tape import wrap
from tensorlib.kernels.image import normalize_bytes

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["from_bytes"]


def from_bytes(input: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, H, W, C] as float32 `(x / 255 - mean) / std` [N, C, H, W], channels last in
    memory.
    """
    values: Tensor = wrap(normalize_bytes(input.array, mean, std).transpose(0, 3, 1, 2))
    return values
