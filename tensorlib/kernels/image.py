"""Images of bytes as numbers for a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import kernel


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batch = rng.integers(0, 256, (2, 9, 7, 3), np.uint8)
    gray = rng.integers(0, 256, (3, 5, 11, 1), np.uint8)
    return [(batch, mean, std), (batch[:, ::2, ::-1], mean, std), (gray, (0.5,), (0.25,))]


@kernel(_samples)
def normalize_bytes(batch: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """uint8 [..., C] as float32 `(x / 255 - mean) / std`, each step rounded."""
    values = batch.astype(np.float32)
    values /= np.float32(255)
    values -= np.asarray(mean, np.float32)
    values /= np.asarray(std, np.float32)
    return values
