"""Arrays whose memory has no gaps, in any order of dims: elementwise kernels see it as flat."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels.cpu.memory import empty

__all__ = ["alike", "gapless", "like", "matched", "order"]


def order(x: Any) -> list[int]:
    """The dims from the one with the largest stride to the smallest."""
    strides = x.strides
    return sorted(range(x.ndim), key=lambda d: -strides[d])


def gapless(x: Any) -> bool:
    """Whether the elements fill one piece of memory, each once."""
    return bool(x.flags.c_contiguous or x.transpose(order(x)).flags.c_contiguous)


def alike(x: Any, y: Any) -> bool:
    """Whether equal places in two gapless arrays of one shape hold the same element."""
    return bool(x.strides == y.strides or (x.flags.c_contiguous and y.flags.c_contiguous))


def like(x: Any) -> Any:
    """New memory laid out as the gapless array `x`."""
    if x.flags.c_contiguous:
        return empty(x.shape)
    dims = order(x)
    made = empty(tuple(x.shape[d] for d in dims))
    return made.transpose(sorted(range(x.ndim), key=dims.__getitem__))


def matched(y: Any, x: Any) -> Any:
    """`y`, of the shape of `x`, laid out as `x`: itself where it is that."""
    if alike(y, x):
        return y
    made = like(x)
    np.copyto(made, y)
    return made
