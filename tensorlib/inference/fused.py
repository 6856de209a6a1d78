"""What passes put in place of several operations, as functions of tensors. They are what a compiled
step computes, and run where no compiled one applies.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.inference.pixels import from_bytes
from tensorlib.nn import functional as F
from tensorlib.ops._attended import attended_projections

__all__ = ["attended_rows", "convolution", "filled", "finish", "product"]


def attended_rows(
    parts: Any, heads: int, mask: Any, keep: Any, causal: bool, length_first: bool
) -> Any:
    """Attention of projections to [N, L, E]."""
    return attended_projections(parts, heads, mask, keep, causal, length_first).transpose(0, 1)


def convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    residual: Any = None,
    low: float | None = None,
    high: float | None = None,
    around: Any = None,
    levels: Any = None,
) -> Any:
    """A convolution, plus `residual`, limited to [low, high]; `around` is as `F.pad` takes it,
    `levels` are mean and standard deviation of an input of bytes.
    """
    if levels is not None:
        input = from_bytes(input, *levels)
    if around is not None:
        input = F.pad(input, around)
    apply = (F.conv1d, F.conv2d, F.conv3d)[input.array.ndim - 3]
    return finish(
        apply(input, weight, bias, stride, padding, dilation, groups), residual, low, high
    )


def product(
    input: Any,
    weight: Any,
    bias: Any,
    residual: Any = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """`linear`, plus `residual`, limited to [low, high]."""
    return finish(F.linear(input, weight, bias), residual, low, high)


def finish(result: Any, residual: Any, low: float | None, high: float | None) -> Any:
    """`result` plus `residual`, limited to [low, high], in its own memory."""
    array = result.array
    if residual is not None:
        array += residual.array
    if low is not None:
        np.maximum(array, array.dtype.type(low), out=array)
    if high is not None:
        np.minimum(array, array.dtype.type(high), out=array)
    return wrap(array)


def filled(shape: tuple[int, ...], dtype: Any, number: float) -> Any:
    """A tensor of equal numbers."""
    return wrap(np.full(shape, number, dtype))
