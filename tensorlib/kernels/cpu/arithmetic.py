"""Compiled sums, differences and products: of arrays laid out alike, of an array and a vector along
one of its dims (a bias, a factor per channel), of an array and a number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.kernels import arithmetic
from tensorlib.kernels.cpu import Tasks, address, single, worth
from tensorlib.kernels.cpu.activation import PAST, cut
from tensorlib.kernels.cpu.layout import alike, gapless, like, order

_run = Tasks("arithmetic")
_BLOCK = 1 << 13


def _large(a: Any, out: Any) -> bool:
    return (
        worth(a.size, arithmetic.LARGE)
        and single(a)
        and gapless(a)
        and (out is None or (single(out) and out.strides == a.strides and out.flags.writeable))
        and a.size > 0
    )


def _same(a: Any, b: Any, out: Any = None) -> bool:
    return (
        hasattr(b, "shape") and _large(a, out) and single(b) and a.shape == b.shape and alike(a, b)
    )


def _along(a: Any, b: Any) -> int:
    """The dim of `a` along which `b` is a vector, -1 where it is none."""
    long = [d - b.ndim for d, n in enumerate(b.shape) if n > 1]
    if len(long) != 1 or b.ndim > a.ndim:
        return -1
    (d,) = long
    return d % a.ndim if b.shape[d] == a.shape[d] and b.flags.c_contiguous else -1


def _vector(a: Any, b: Any, out: Any = None) -> bool:
    return hasattr(b, "shape") and _large(a, out) and single(b) and _along(a, b) >= 0


def _number(a: Any, b: Any, out: Any = None) -> bool:
    return type(b) in (int, float) and _large(a, out)


def _register(name: str) -> None:
    kernel = getattr(arithmetic, name)

    def same(a: Any, b: Any, out: Any = None) -> Any:
        y = like(a) if out is None else out
        count, length = cut(a.size)
        past = out is None and y.nbytes >= PAST
        places = address(a), address(b), address(y)
        getattr(_run, f"{name}_same")(count, *places, a.size, length, past)
        return y

    def vector(a: Any, b: Any, out: Any = None) -> Any:
        y = like(a) if out is None else out
        axis, dims = _along(a, b), order(a)
        place = dims.index(axis)
        size = a.shape[axis]
        inner = math.prod(a.shape[d] for d in dims[place + 1 :])
        past = out is None and y.nbytes >= PAST
        places = address(a), address(b), address(y)
        if inner == 1:
            rows = a.size // size
            length = max(1, _BLOCK // size)
            count = -(-rows // length)
            past = past and size % 16 == 0
            getattr(_run, f"{name}_rows")(count, *places, rows, size, length, past)
        else:
            count = a.size // inner
            past = past and inner % 16 == 0
            getattr(_run, f"{name}_planes")(count, *places, size, inner, past)
        return y

    def number(a: Any, b: Any, out: Any = None) -> Any:
        y = like(a) if out is None else out
        count, length = cut(a.size)
        past = out is None and y.nbytes >= PAST
        b = float(np.float32(b))
        factor, term = {"add": (1.0, b), "sub": (1.0, -b), "mul": (b, -0.0)}[name]
        _run.affine(count, address(a), address(y), a.size, length, past, factor, term)
        return y

    for body in (same, vector, number):
        body.__qualname__ = f"{name}_{body.__name__}"
    kernel.override("float32 laid out alike, large", _same)(same)
    kernel.override("float32 and a vector along one dim, large", _vector)(vector)
    kernel.override("float32 and a number, large", _number)(number)


for _name in ("add", "sub", "mul"):
    _register(_name)
