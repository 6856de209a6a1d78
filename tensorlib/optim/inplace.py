"""Arithmetic of optimizers: PyTorch's in-place operations on arrays, rounded where it rounds.

`work` is overwritten; its dtype is the one computed in: float32 for float16, else the operands'
own. Python scalars never widen, and an operation of several terms rounds to the operands' dtype
once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["add_", "addcdiv_", "addcmul_", "div_", "lerp_", "mul_", "real_view", "shift_"]

Array = Any
Number = Any


def mul_(x: Array, value: Number, work: Array) -> None:
    """x *= value, a number."""
    np.multiply(x, value, x, dtype=work.dtype)


def div_(x: Array, value: Number, work: Array) -> None:
    """x /= value, a number."""
    np.divide(x, value, x, dtype=work.dtype)


def shift_(x: Array, value: Number) -> None:
    """x += value, a number, which torch's addition rounds to the dtype of x."""
    np.add(x, value, x)


def add_(x: Array, y: Array, alpha: Number, work: Array, out: Array | None = None) -> None:
    """x += alpha · y, or out = x + alpha · y; alpha is rounded to the dtype of x."""
    np.multiply(y, x.dtype.type(alpha), work, dtype=work.dtype)
    if x.size < 32 and x.dtype.char in "eE":  # torch's loop for what fills no vector rounds twice
        work[...] = work.astype(x.dtype)
    np.add(x, work, x if out is None else out)


def addcmul_(x: Array, a: Array, b: Array, value: Number, work: Array) -> None:
    """x += value · a · b."""
    np.multiply(a, value, work, dtype=work.dtype)
    np.multiply(work, b, work)
    np.add(x, work, x)


def addcdiv_(x: Array, a: Array, b: Array, value: Number, work: Array) -> None:
    """x += value · a / b."""
    np.multiply(a, value, work, dtype=work.dtype)
    np.divide(work, b, work)
    np.add(x, work, x)


def lerp_(x: Array, end: Array, weight: Number, work: Array) -> None:
    """x += weight · (end - x), computed from the nearer end."""
    np.subtract(end, x, work, dtype=work.dtype)
    if weight < 0.5:
        np.multiply(work, weight, work)
        np.add(x, work, x)
    else:
        np.multiply(work, work.dtype.type(weight) - 1, work)
        np.add(end, work, x)


def real_view(array: Array) -> Array:
    """A complex array as pairs of real numbers in the same memory; any other as it is."""
    if array.dtype.kind != "c":
        return array
    real = array.real.dtype
    if array.flags.c_contiguous:
        return array.reshape(*array.shape, 1).view(real)
    return np.lib.stride_tricks.as_strided(
        array.real, (*array.shape, 2), (*array.strides, real.itemsize)
    )
