"""Bessel and Airy functions; those of PyTorch's older names have derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.ops import elementwise, indexing
from tensorlib.ops._common import Array, wrap
from tensorlib.ops.out import direct, takes_out
from tensorlib.ops.special import in_double, real_input, scipy_special, unary

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


# -- with derivatives ------------------------------------------------------------------------------


@takes_out
def i0(input: Tensor) -> Tensor:
    """Modified Bessel function of the first kind of order 0."""
    return unary(
        "i0", input, scipy_special("i0"), lambda g, _, x: elementwise.mul(g, direct(i1)(x))
    )


@takes_out
def i0e(input: Tensor) -> Tensor:
    """`exp(-|input|) * i0(input)`."""

    def gradient(grad: Tensor, output: Tensor, x: Tensor) -> Tensor:
        change = elementwise.sub(direct(i1e)(x), elementwise.mul(elementwise.sgn(x), output))
        return elementwise.mul(grad, change)

    return unary("special.i0e", input, scipy_special("i0e"), gradient)


def _away_from_zero(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` with tiny numbers replaced by the type's spacing, and where those are."""
    eps = np.finfo(x.array.dtype).eps
    tiny = wrap(np.abs(x.array) <= eps)
    return indexing.masked_fill(x, tiny, float(eps)), tiny


@takes_out
def i1(input: Tensor) -> Tensor:
    """Modified Bessel function of the first kind of order 1."""

    def gradient(grad: Tensor, output: Tensor, x: Tensor) -> Tensor:
        safe, tiny = _away_from_zero(x)
        change = elementwise.sub(
            direct(i0)(safe), elementwise.mul(output, elementwise.reciprocal(safe))
        )
        return elementwise.mul(grad, indexing.masked_fill(change, tiny, 0.5))

    return unary("special.i1", input, scipy_special("i1"), gradient)


@takes_out
def i1e(input: Tensor) -> Tensor:
    """`exp(-|input|) * i1(input)`."""

    def gradient(grad: Tensor, output: Tensor, x: Tensor) -> Tensor:
        safe, tiny = _away_from_zero(x)
        slope = elementwise.add(elementwise.sgn(safe), elementwise.reciprocal(safe))
        change = elementwise.sub(direct(i0e)(safe), elementwise.mul(output, slope))
        return elementwise.mul(grad, indexing.masked_fill(change, tiny, 0.5))

    return unary("special.i1e", input, scipy_special("i1e"), gradient)


# -- without derivatives ---------------------------------------------------------------------------


def _plain(name: str, input: Tensor, compute: Callable[[Any], Any]) -> Tensor:
    x = real_input(f"special.{name}", input, False).array
    return wrap(in_double(compute, x))


@takes_out
def modified_bessel_i0(input: Tensor) -> Tensor:
    """Modified Bessel function of the first kind of order 0; not differentiable, see `i0`."""
    return _plain("modified_bessel_i0", input, scipy_special("i0"))


@takes_out
def modified_bessel_i1(input: Tensor) -> Tensor:
    """Modified Bessel function of the first kind of order 1; not differentiable, see `i1`."""
    return _plain("modified_bessel_i1", input, scipy_special("i1"))


@takes_out
def modified_bessel_k0(input: Tensor) -> Tensor:
    """Modified Bessel function of the second kind of order 0; not differentiable."""
    return _plain("modified_bessel_k0", input, scipy_special("k0"))


@takes_out
def modified_bessel_k1(input: Tensor) -> Tensor:
    """Modified Bessel function of the second kind of order 1; not differentiable."""
    return _plain("modified_bessel_k1", input, scipy_special("k1"))


@takes_out
def scaled_modified_bessel_k0(x: Tensor) -> Tensor:
    """`exp(x) * modified_bessel_k0(x)`; not differentiable."""
    return _plain("scaled_modified_bessel_k0", x, scipy_special("k0e"))


@takes_out
def scaled_modified_bessel_k1(x: Tensor) -> Tensor:
    """`exp(x) * modified_bessel_k1(x)`; not differentiable."""
    return _plain("scaled_modified_bessel_k1", x, scipy_special("k1e"))


@takes_out
def spherical_bessel_j0(x: Tensor) -> Tensor:
    """`sin(x) / x`, 1 at zero; not differentiable."""
    a = real_input("special.spherical_bessel_j0", x, False).array
    found = np.where(a == 0, 1, np.sin(a) / np.where(a == 0, 1, a))
    return wrap(np.where(np.isinf(a), 0, found).astype(a.dtype))


# PyTorch's sums for arguments beyond 5 (Airy's: below -2.09) miss the leading term of a denominator
# (Cephes' polynomials have it implied), which shows in the seventh digit near that bound. The same
# is done here to exact values: their parts follow from both kinds of the function.

_DENOMINATOR_0 = (
    6.43178256118178023184e01,
    8.56430025976980587198e02,
    3.88240183605401609683e03,
    7.24046774195652478189e03,
    5.93072701187316984827e03,
    2.06209331660327847417e03,
    2.42005740240291393179e02,
)
_DENOMINATOR_1 = (
    7.42373277035675149943e01,
    1.05644886038262816351e03,
    4.98641058337653607651e03,
    9.56231892404756170795e03,
    7.99704160447350683650e03,
    2.82619278517639096600e03,
    3.36093607810698293419e02,
)
_AIRY_F = (
    1.33560420706553243746e01,
    3.26825032795224613948e01,
    2.67367040941499554804e01,
    9.18707402907259625840e00,
    1.47529146771666414581e00,
    1.15687173795188044134e-01,
    4.40291641615211203805e-03,
    7.54720348287414296618e-05,
    4.51850092970580378464e-07,
)
_AIRY_G = (
    9.30892908077441974853e00,
    1.98352928718312140417e01,
    1.55646628932864612953e01,
    5.47686069422975497931e00,
    9.54293611618961883998e-01,
    8.64580826352392193095e-02,
    4.12656523824222607191e-03,
    1.01259085116509135510e-04,
    1.17166733214413521882e-06,
    4.91834570062930015649e-09,
)


def _excess(z: Array, denominator: tuple[float, ...]) -> Array:
    """By which factor a quotient grows when its denominator loses the leading term."""
    rest = np.polyval(denominator, z)
    found: Array = z ** len(denominator) / rest
    return found


def _oscillating(x: Array, first: str, second: str, phase: float, parts: Any) -> tuple[Any, Any]:
    """Both kinds of an order for x >= 0, changed as described above beyond 5."""
    j, y = scipy_special(first)(x), scipy_special(second)(x)
    far = np.where(x > 5, x, 6)
    sine, cosine = np.sin(far - phase), np.cos(far - phase)
    change = (y * cosine - j * sine) * _excess(25 / (far * far), parts)
    change = np.where((x > 5) & np.isfinite(x), change, 0)
    return j - sine * change, y + cosine * change


@takes_out
def bessel_j0(input: Tensor) -> Tensor:
    """Bessel function of the first kind of order 0; not differentiable."""
    return _plain("bessel_j0", input, lambda x: _order(0, np.abs(x))[0])


@takes_out
def bessel_j1(input: Tensor) -> Tensor:
    """Bessel function of the first kind of order 1; not differentiable."""
    return _plain("bessel_j1", input, lambda x: np.sign(x) * _order(1, np.abs(x))[0])


@takes_out
def bessel_y0(input: Tensor) -> Tensor:
    """Bessel function of the second kind of order 0; not differentiable."""
    return _plain("bessel_y0", input, lambda x: _order(0, x)[1])


@takes_out
def bessel_y1(input: Tensor) -> Tensor:
    """Bessel function of the second kind of order 1; not differentiable."""
    return _plain("bessel_y1", input, lambda x: _order(1, x)[1])


def _order(n: int, x: Array) -> tuple[Any, Any]:
    if n == 0:
        return _oscillating(x, "j0", "y0", math.pi / 4, _DENOMINATOR_0)
    return _oscillating(x, "j1", "y1", 3 * math.pi / 4, _DENOMINATOR_1)


@takes_out
def airy_ai(x: Tensor) -> Tensor:
    """Airy function Ai; not differentiable."""
    return _plain("airy_ai", x, _airy)


def _airy(x: Array) -> Array:
    ai, _, bi, _ = scipy_special("airy")(x)
    low = (x < -2.09) & np.isfinite(x)
    far = np.where(low, -x, 3)
    angle = 2 * far * np.sqrt(far) / 3
    z = 1 / (angle * angle)
    sine, cosine = np.sin(angle + math.pi / 4), np.cos(angle + math.pi / 4)
    scale = np.sqrt(np.sqrt(far)) * math.sqrt(math.pi)
    f = (ai * sine + bi * cosine) * scale
    g = (bi * sine - ai * cosine) * scale
    f, g = f + (f - 1) * _excess(z, _AIRY_F), g + g * _excess(z, _AIRY_G)
    found = np.where(low, (sine * f - cosine * g) / scale, ai)
    return np.where(np.isinf(x), np.nan, np.where(x > 103.892, 0, found))
