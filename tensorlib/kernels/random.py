"""Normal numbers from uniform ones, rounded as PyTorch's x86 code rounds.

PyTorch computes float32 normals eight at a time with the single-precision polynomials of Cephes
(Moshier, 1992) in fused multiply-adds. Each is repeated here as a float64 product and sum rounded
once, so that the numbers agree bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib.device import Array

__all__ = ["box_muller", "fused"]

_f32 = np.float32
_BLOCK = 16  # numbers made together: eight radii with eight angles
_PAIRS = 16384  # at a time: the work arrays stay in the cache
_TWO_PI = _f32(2 * math.pi)


def _exact(*values: float) -> tuple[float, ...]:
    return tuple(float(_f32(v)) for v in values)


_LOG = _exact(
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_SIN = _exact(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = _exact(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_LN2_LOW, _LN2_HIGH = _f32(-2.12194440e-4), _f32(0.693359375)
_FOUR_OVER_PI = _f32(4 / math.pi)
_QUARTER_PI = sum(_exact(0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8))
_SQRT_HALF_BITS = 0x3F3504F3


def fused(x: Array, factor: float, term: float) -> Array:
    """`x * factor + term` with one rounding; float32 or float64, one dimension."""
    out = np.empty_like(x)
    body = _fused32 if x.dtype == np.float32 else _fused64
    for i in range(0, len(x), _PAIRS):
        out[i : i + _PAIRS] = body(x[i : i + _PAIRS], np.float64(factor), np.float64(term))
    return out


def _fused32(x: Array, factor: Any, term: Any) -> Array:
    product = x * factor  # exact in float64
    total = product + term
    # halfway between two float32, after one rounding already: only the lost part decides
    tie = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    if tie.any():
        at = np.nonzero(tie)
        lost = _lost(product[at], term, total[at])
        beyond = np.nextafter(total[at], np.copysign(np.inf, lost))
        total[at] = np.where(lost == 0, total[at], beyond)
    return total  # type: ignore[no-any-return]  # NumPy's stubs


def _lost(a: Any, b: Any, total: Any) -> Any:
    """What rounding took from `total = a + b` (Knuth's TwoSum)."""
    part = total - a
    rest = total - part
    np.subtract(a, rest, rest)
    np.subtract(b, part, part)
    rest += part
    return rest


def _fused64(x: Array, factor: Any, term: Any) -> Array:
    """Boldo and Melquiond, 2008: add the error terms rounded to odd, then round once."""
    product = x * factor
    split = 134217729.0  # 2**27 + 1: Dekker's halves
    scaled = factor * split
    factor_high = scaled - (scaled - factor)
    factor_low = factor - factor_high
    scaled = x * split
    high = scaled - (scaled - x)
    low = x - high
    product_lost = high * factor_high
    product_lost -= product
    high *= factor_low
    product_lost += high
    product_lost += low * factor_high
    low *= factor_low
    product_lost += low
    small = product_lost + term
    small_lost = _lost(product_lost, term, small)
    total = product + small
    rest = _lost(product, small, total)
    odd = rest + small_lost
    lost = _lost(rest, small_lost, odd)
    at = np.nonzero((lost != 0) & ((odd.view(np.int64) & 1) == 0))
    odd[at] = np.nextafter(odd[at], np.copysign(np.inf, lost[at]))
    total += odd
    return total  # type: ignore[no-any-return]  # NumPy's stubs


def box_muller(unit: Array, mean: float = 0.0, std: float = 1.0) -> Array:
    """Normal numbers from as many uniform ones in [0, 1), whose number is a multiple of 16.

    In each block of 16 the first eight give radii and the last eight angles. float32 or float64.
    """
    out = np.empty_like(unit)
    half = np.dtype((np.void, unit.itemsize * _BLOCK // 2))
    source, target = unit.view(half).reshape(-1, 2), out.view(half).reshape(-1, 2)
    step = _PAIRS * 2 // _BLOCK
    scaled = (mean, std) != (0, 1)
    pair = _pair32 if unit.dtype == np.float32 else _pair64
    for i in range(0, len(source), step):
        part = slice(i, i + step)
        radius, angle = (source[part, k].copy().view(unit.dtype) for k in (0, 1))
        for k, normal in enumerate(pair(radius, angle)):
            if scaled:
                normal = fused(normal, float(unit.dtype.type(std)), float(unit.dtype.type(mean)))
            else:
                normal += 0  # as PyTorch's + mean: no negative zero
            target[part, k] = normal.view(half)
    return out


def _pair64(radius: Array, angle: Array) -> tuple[Array, Array]:
    length = np.sqrt(-2 * np.log(1 - radius))
    turn = 2 * math.pi * angle
    return length * np.cos(turn), length * np.sin(turn)


def _pair32(radius: Array, angle: Array) -> tuple[Array, Array]:
    wide, work = np.empty(radius.size), np.empty(radius.size)
    length = _log(_f32(1) - radius, wide, work)
    length *= _f32(-2)
    np.sqrt(length, length)
    angle *= _TWO_PI
    sine, cosine = _sincos(angle, wide, work)
    sine *= length
    cosine *= length
    return cosine, sine


# Below, `wide` and `work` are float64 scratch; products of two float32 are exact in them.


def _polynomial(wide: Array, coefficients: Sequence[float], work: Array) -> Array:
    """Horner's scheme in fused multiply-adds of float32."""
    value = np.empty(wide.shape, np.float32)
    np.multiply(wide, coefficients[0], work)
    for coefficient in coefficients[1:-1]:
        work += coefficient
        np.copyto(value, work, casting="same_kind")
        np.copyto(work, value)
        work *= wide
    work += coefficients[-1]
    np.copyto(value, work, casting="same_kind")
    return value


def _log(x: Array, wide: Array, work: Array) -> Array:
    """Logarithm of positive float32; uses `x` up."""
    bits = x.view(np.int32)
    exponent = bits - _SQRT_HALF_BITS
    exponent >>= 23
    bits -= exponent << 23  # the mantissa between sqrt(1/2) and sqrt(2)
    x -= _f32(1)
    scale = exponent.astype(np.float32)
    square = x * x
    np.copyto(wide, x)
    value = _polynomial(wide, _LOG, work)
    value *= x
    np.copyto(work, value)
    np.copyto(wide, square)
    work *= wide
    np.copyto(wide, scale * _LN2_LOW)
    work += wide
    np.copyto(value, work, casting="same_kind")
    square *= _f32(0.5)
    value -= square
    value += x
    scale *= _LN2_HIGH
    value += scale
    return value


def _sincos(x: Array, wide: Array, work: Array) -> tuple[Array, Array]:
    """Sine and cosine of float32 from 0 to 2 pi."""
    octant = (x * _FOUR_OVER_PI).astype(np.int32)
    octant += 1
    octant &= -2
    np.copyto(work, octant)
    work *= _QUARTER_PI  # exact, and so is the difference
    np.copyto(wide, x)
    wide -= work
    rest = wide.astype(np.float32)
    square = rest * rest
    np.copyto(wide, square)
    cosine = _polynomial(wide, _COS, work)
    cosine *= square
    np.copyto(work, cosine)
    work *= wide
    wide *= 0.5
    work -= wide
    np.copyto(cosine, work, casting="same_kind")
    cosine += _f32(1)
    np.copyto(wide, square)
    sine = _polynomial(wide, _SIN, work)
    sine *= square
    np.copyto(work, sine)
    np.copyto(wide, rest)
    work *= wide
    work += wide
    np.copyto(sine, work, casting="same_kind")
    swap = (octant & 2) != 0
    found = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    for value in found:
        bits = value.view(np.int32)
        bits ^= (octant & 4) << 29  # the sign
        octant += 2
    return found
