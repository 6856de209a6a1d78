"""Special functions with derivatives: error, gamma, zeta and entropy functions, `xlogy`, `sinc`.

SciPy computes most of them, in double precision; it is imported at the first use. Formulas of
derivatives follow PyTorch's term by term, so that half precision rounds alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops import elementwise, indexing, reduction, shape
from tensorlib.ops._common import (
    Array,
    broadcast_shapes,
    expect_tensor,
    floating,
    floating_pair,
    named,
    not_for,
    promoted,
    single,
    wrap,
)
from tensorlib.ops._formula import derived, underivable
from tensorlib.ops.out import direct, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)
Compute = Callable[..., Any]

# erf(x) = x P(x^2) / Q(x^2) on [-4, 4] in single precision (the rational minimax form used by Eigen
# and XLA)
_ERF_P = (
    -1.60960333262415e-02,
    -2.95459980854025e-03,
    -7.34990630326855e-04,
    -5.69250639462346e-05,
    -2.10102402082508e-06,
    2.77068142495902e-08,
    -2.72614225801306e-10,
)
_ERF_Q = (
    -1.42647390514189e-02,
    -7.37332916720468e-03,
    -1.68282697438203e-03,
    -2.13374055278905e-04,
    -1.45660718464996e-05,
)


@functools.cache
def scipy_special(name: str) -> Any:
    """SciPy's function of this name."""
    from scipy import special

    return getattr(special, name)


# -- what the families share -----------------------------------------------------------------------


def real_input(where: str, input: Any, half: bool = True) -> Tensor:
    """`input` as a real floating-point tensor; complex ones (halves unless `half`) are refused."""
    expect_tensor(where, "input", input)
    kind = input.array.dtype
    if kind.kind == "c" or (not half and kind.char in "eE"):
        raise not_for(where, input.array, "a real type" if half else "float32 or float64")
    found: Tensor = floating(input)
    return found


def real_pair(where: str, input: Any, other: Any, half: bool = True) -> tuple[Tensor, Tensor]:
    """Two tensors, or one and a number, as real floating-point tensors of one type."""
    a, b = floating_pair(input, other, where)
    a, b = real_input(where, a, half), real_input(where, b, half)
    broadcast_shapes(a.array.shape, b.array.shape)
    return a, b


def in_double(compute: Compute, *arrays: Array) -> Array:
    """`compute` in double precision, rounded to the type of the arrays."""
    kind = arrays[0].dtype
    return np.asarray(compute(*(a.astype(np.float64, copy=False) for a in arrays))).astype(
        kind, copy=False
    )


def unary(
    where: str,
    input: Tensor,
    compute: Compute,
    gradient: Callable[[Tensor, Tensor, Tensor], Tensor],
    half: bool = True,
) -> Tensor:
    """An elementwise function whose gradient is `gradient(grad, output, input)`."""
    input = real_input(where, input, half)
    output = in_double(compute, input.array)
    return derived(
        output, lambda g, y, x: (gradient(g, y, x),), input, name=where.replace(".", "_")
    )


# -- error functions -------------------------------------------------------------------------------


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    out = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out *= x
        out += x.dtype.type(c)
    return out


def erf_array(x: Any) -> Any:
    """erf of an array; within 3 units in the last place in single precision."""
    if x.dtype == np.float32:
        limited = np.clip(x, np.float32(-4), np.float32(4))
        squared = limited * limited
        return limited * _polynomial(squared, _ERF_P) / _polynomial(squared, _ERF_Q)
    if x.dtype.char in "eE":
        return erf_array(x.astype(np.float32)).astype(x.dtype)
    return np.asarray(scipy_special("erf")(x))


@takes_out
def erf(input: Tensor) -> Tensor:
    """Error function."""
    input = real_input("erf", input)

    def formula(grad: Tensor, _: Tensor, x: Tensor) -> Sequence[Tensor]:
        return (elementwise.mul(_gauss(x, _TWO_OVER_SQRT_PI), grad),)

    return derived(erf_array(input.array), formula, input, name="erf")


def _gauss(x: Tensor, scale: float) -> Tensor:
    """`scale * exp(-x^2)`."""
    return elementwise.mul(elementwise.exp(elementwise.neg(elementwise.pow(x, 2))), scale)


@takes_out
def erfc(input: Tensor) -> Tensor:
    """`1 - erf(input)`, exact for large input."""
    return unary(
        "erfc",
        input,
        scipy_special("erfc"),
        lambda g, _, x: elementwise.mul(_gauss(x, -_TWO_OVER_SQRT_PI), g),
    )


@takes_out
def erfinv(input: Tensor) -> Tensor:
    """Inverse of `erf`."""

    def gradient(grad: Tensor, output: Tensor, _: Tensor) -> Tensor:
        back = elementwise.exp(elementwise.pow(output, 2))
        return elementwise.mul(elementwise.mul(back, 0.5 * math.sqrt(math.pi)), grad)

    return unary("erfinv", input, scipy_special("erfinv"), gradient)


@takes_out
def erfcx(input: Tensor) -> Tensor:
    """`exp(input^2) * erfc(input)`."""

    def gradient(grad: Tensor, output: Tensor, x: Tensor) -> Tensor:
        change = elementwise.sub(
            elementwise.mul(elementwise.mul(x, 2.0), output), _TWO_OVER_SQRT_PI
        )
        return elementwise.mul(change, grad)

    x = real_input("special.erfcx", input, False)
    if x.array.dtype != np.float32:
        return unary("special.erfcx", x, scipy_special("erfcx"), gradient, False)
    # for negative numbers the square is rounded to single precision, as in PyTorch
    a = x.array
    positive = scipy_special("erfcx")(np.abs(a))
    output = np.where(a < 0, 2 * np.exp(a * a) - positive, positive).astype(np.float32)
    return derived(output, lambda g, y, x: (gradient(g, y, x),), x, name="special_erfcx")


@takes_out
def ndtr(input: Tensor) -> Tensor:
    """Area under the standard normal density up to `input`."""
    x = real_input("special.ndtr", input)
    return elementwise.mul(elementwise.add(direct(erf)(elementwise.div(x, math.sqrt(2))), 1), 0.5)


@takes_out
def ndtri(input: Tensor) -> Tensor:
    """Inverse of `ndtr`."""

    def gradient(grad: Tensor, output: Tensor, _: Tensor) -> Tensor:
        density = elementwise.exp(elementwise.div(elementwise.square(output), 2))
        return elementwise.mul(elementwise.mul(grad, math.sqrt(2 * math.pi)), density)

    return unary("special.ndtri", input, scipy_special("ndtri"), gradient, False)


@takes_out
def log_ndtr(input: Tensor) -> Tensor:
    """Logarithm of `ndtr`."""

    def gradient(grad: Tensor, _: Tensor, x: Tensor) -> Tensor:
        scaled = direct(erfcx)(elementwise.div(x, -math.sqrt(2)))
        return elementwise.div(elementwise.div(grad, scaled), math.sqrt(math.pi / 2))

    return unary("special.log_ndtr", input, scipy_special("log_ndtr"), gradient, False)


# -- gamma functions -------------------------------------------------------------------------------


@takes_out
def lgamma(input: Tensor) -> Tensor:
    """Logarithm of the absolute gamma function."""

    def compute(x: Array) -> Array:
        return np.where(x == -np.inf, np.inf, scipy_special("gammaln")(x))

    return unary("lgamma", input, compute, lambda g, _, x: elementwise.mul(g, direct(digamma)(x)))


@takes_out
def digamma(input: Tensor) -> Tensor:
    """Derivative of `lgamma`."""
    return unary(
        "digamma",
        input,
        scipy_special("psi"),
        lambda g, _, x: elementwise.mul(g, _polygamma(1, x)),
    )


def _trigamma(x: Array) -> Array:
    """By reflection, recurrence to 6 or more, and an asymptotic series."""
    low = x < 0.5
    sine = np.sin(np.where(low, x, 0.5) * x.dtype.type(math.pi))
    total = np.where(low, -x.dtype.type(math.pi**2) / (sine * sine), 0)
    z = np.where(low, 1 - x, x)
    for _ in range(6):
        total = total + 1 / (z * z)
        z = z + 1
    r = 1 / (z * z)
    total = total + (1 + 1 / (2 * z) + r * (1 / 6 - r * (1 / 30 - r * (1 / 42)))) / z
    return np.where(low, -total, total).astype(x.dtype)


def _polygamma(n: int, input: Tensor) -> Tensor:
    if not isinstance(n, int) or isinstance(n, bool):
        raise ArgumentError("polygamma", f"n must be int, not {type(n).__name__}")
    if n < 0:
        raise ShapeError("polygamma", f"n={n}", "polygamma(n, x) does not support negative n")
    if n == 0:
        return direct(digamma)(input)

    def gradient(grad: Tensor, _: Tensor, x: Tensor) -> Tensor:
        return elementwise.mul(grad, _polygamma(n + 1, x))

    if n == 1:
        x = real_input("polygamma", input)
        wide = x.array.astype(np.float32) if x.array.dtype.char in "eE" else x.array
        output = _trigamma(wide).astype(x.array.dtype)
        return derived(output, lambda g, y, x: (gradient(g, y, x),), x, name="polygamma")
    factor = (1.0 if n % 2 else -1.0) * math.gamma(n + 1) if n < 170 else math.inf
    return unary("polygamma", input, lambda x: factor * _zeta(float(n + 1), x), gradient)


@takes_out
def polygamma(n: int, input: Tensor) -> Tensor:
    """n-th derivative of `digamma`."""
    return _polygamma(n, input)


def polygamma_of(input: Tensor, n: int) -> Tensor:
    """n-th derivative of `digamma`."""
    return _polygamma(n, input)


polygamma_of.__name__ = "polygamma"


@takes_out
def mvlgamma(input: Tensor, p: int) -> Tensor:
    """Logarithm of the multivariate gamma function of dimension `p`."""
    if input.array.dtype.kind == "b":
        raise DTypeError("mvlgamma", "The input tensor may not be a boolean tensor")
    x = real_input("mvlgamma", input)
    if p < 1:
        raise ShapeError("mvlgamma", f"p={p}", "p has to be greater than or equal to 1")
    steps = np.arange(-p / 2 + 0.5, 0.5, 0.5, dtype=x.array.dtype)
    arguments = elementwise.add(shape.unsqueeze(x, -1), wrap(steps))
    constant = p * (p - 1) * math.log(math.pi) / 4
    total = elementwise.add(reduction.sum(direct(lgamma)(arguments), -1), constant)
    return named(total, "MvlgammaBackward0")


def _expect_not_integer(where: str, *tensors: Any) -> None:
    for one in tensors:
        if one.array.dtype.kind in "iub":
            raise DTypeError(where, f"not implemented for {one.dtype}", "floating point")


def _gamma_share(where: str, input: Tensor, other: Tensor, lower: bool) -> Tensor:
    expect_tensor(where, "input", input)
    expect_tensor(where, "other", other)
    _expect_not_integer(where, input, other)
    a, b = real_pair(where, input, other)
    name = "gammainc" if lower else "gammaincc"

    def compute(a: Array, x: Array) -> Array:
        found = scipy_special(name)(a, x)
        found = np.where(np.isnan(a) & (x == 0), 0 if lower else 1, found)
        found = np.where(np.isnan(a) & (x == np.inf), 1 if lower else 0, found)
        return np.where((a == np.inf) & np.isnan(x), 0 if lower else 1, found)

    def formula(grad: Tensor, _: Tensor, a: Tensor, x: Tensor) -> Sequence[Tensor]:
        power = elementwise.sub(elementwise.mul(elementwise.sub(a, 1), elementwise.log(x)), x)
        density = elementwise.exp(elementwise.sub(power, direct(lgamma)(a)))
        return grad, elementwise.mul(grad if lower else elementwise.neg(grad), density)

    output = in_double(compute, a.array, b.array)
    return derived(output, formula, _constant(a, f"{where}: input"), b, name=where)


def _constant(input: Tensor, name: str) -> Tensor:
    """`input`, through which no gradient may come: asking for one is refused as in PyTorch."""
    return underivable(input.array, input, name=name) if input.requires_grad else input


@takes_out
def igamma(input: Tensor, other: Tensor) -> Tensor:
    """Regularised lower incomplete gamma function of order `input` at `other`."""
    return _gamma_share("igamma", input, other, True)


@takes_out
def igammac(input: Tensor, other: Tensor) -> Tensor:
    """Regularised upper incomplete gamma function of order `input` at `other`."""
    return _gamma_share("igammac", input, other, False)


def _zeta(x: Any, q: Array) -> Array:
    found = scipy_special("zeta")(x, q)
    found = np.where((x < 1) | np.isnan(x), np.nan, found)
    found = np.where(np.isnan(x) & (q <= 0) & (q == np.floor(q)), np.inf, found)
    return np.where((q == np.inf) & (x > 1), np.nan, found)


@takes_out
def zeta(input: Any, other: Any) -> Tensor:
    """Hurwitz zeta function: the sum of `(k + other)**-input` over k = 0, 1, ..."""
    a, b = real_pair("special.zeta", input, other, False)

    def formula(grad: Tensor, _: Tensor, x: Tensor, q: Tensor) -> Sequence[Tensor]:
        change = elementwise.mul(elementwise.neg(x), direct(zeta)(elementwise.add(x, 1.0), q))
        return grad, elementwise.mul(grad, change)

    output = in_double(_zeta, a.array, b.array)
    return derived(output, formula, _constant(a, "zeta"), b, name="special_zeta")


# -- products with logarithms ----------------------------------------------------------------------


def _log_product(
    where: str, input: Any, other: Any, log: Callable[[Any], Any], shift: float
) -> Tensor:
    a, b = real_pair(where, input, other)
    x, y = (t.array.astype(np.float32) if t.array.dtype.char in "eE" else t.array for t in (a, b))
    output = np.where(np.isnan(y), np.nan, np.where(x == 0, 0, x * log(np.where(x == 0, 1, y))))

    def formula(grad: Tensor, _: Tensor, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        moved = elementwise.add(y, shift) if shift else y
        logs = elementwise.log1p(y) if shift else elementwise.log(y)
        nothing = wrap((x.array == 0) & (moved.array <= 0))
        return (
            elementwise.mul(grad, indexing.masked_fill(logs, nothing, 0)),
            elementwise.div(elementwise.mul(grad, x), moved),
        )

    return derived(output.astype(a.array.dtype), formula, a, b, name=where.replace(".", "_"))


@takes_out
def xlogy(input: Any, other: Any) -> Tensor:
    """`input * log(other)`, 0 where `input` is 0."""
    return _log_product("xlogy", input, other, np.log, 0)


@takes_out
def xlog1py(input: Any, other: Any) -> Tensor:
    """`input * log1p(other)`, 0 where `input` is 0."""
    return _log_product("special.xlog1py", input, other, np.log1p, 1)


@takes_out
def entr(input: Tensor) -> Tensor:
    """Entropy `-input * log(input)`: 0 at zero, -inf for negative numbers."""

    def gradient(grad: Tensor, _: Tensor, x: Tensor) -> Tensor:
        change = elementwise.sub(elementwise.neg(elementwise.log(x)), 1)
        return elementwise.mul(grad, change)

    return unary("special.entr", input, scipy_special("entr"), gradient)


# -- sinc and sums of exponentials -----------------------------------------------------------------


@takes_out
def sinc(input: Tensor) -> Tensor:
    """`sin(pi x) / (pi x)`, 1 at zero."""
    expect_tensor("sinc", "input", input)
    input = floating(input)
    x = single(input).array
    angle = x * x.dtype.type(math.pi)
    output = np.where(x == 0, 1, np.sin(angle) / np.where(x == 0, 1, angle))

    def formula(grad: Tensor, _: Tensor, x: Tensor) -> Sequence[Tensor]:
        mul = elementwise.mul
        angle, square = mul(x, math.pi), mul(mul(x, x), math.pi)
        rise = elementwise.sub(mul(angle, elementwise.cos(angle)), elementwise.sin(angle))
        change = mul(grad, elementwise.conj(elementwise.div(rise, square)))
        return (indexing.masked_fill(change, wrap(square.array == 0), 0),)

    return derived(output.astype(input.array.dtype), formula, input, name="sinc")


def _log_sum(where: str, input: Tensor, other: Tensor, compute: Any, power: Any) -> Tensor:
    input, other = promoted(input, other)
    if input.array.dtype.kind in "iub":
        raise not_for(where, input.array, "floating point")
    broadcast_shapes(input.array.shape, other.array.shape)
    x, y = single(input).array, single(other).array
    output = compute(x, y)

    def formula(grad: Tensor, _: Tensor, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        share = [elementwise.add(power(elementwise.sub(q, p)), 1) for p, q in ((x, y), (y, x))]
        return [elementwise.div(grad, elementwise.conj(s)) for s in share]

    return derived(output.astype(input.array.dtype), formula, input, other, name=where)


def _log_add(x: Array, y: Array) -> Array:
    if x.dtype.kind != "c":
        return np.asarray(np.logaddexp(x, y))
    swap = x.real < y.real
    high, low = np.where(swap, y, x), np.where(swap, x, y)
    same = np.isinf(high.real) & (high == low)
    return np.where(same, high, high + np.log1p(np.exp(low - high)))


@takes_out
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """`log(exp(input) + exp(other))`."""
    expect_tensor("logaddexp", "input", input)
    expect_tensor("logaddexp", "other", other)
    return _log_sum("logaddexp", input, other, _log_add, elementwise.exp)


@takes_out
def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """`log2(2**input + 2**other)`."""
    expect_tensor("logaddexp2", "input", input)
    expect_tensor("logaddexp2", "other", other)
    if "c" in (input.array.dtype.kind, other.array.dtype.kind):
        raise not_for("logaddexp2", input.array, "a real type")
    return _log_sum("logaddexp2", input, other, np.logaddexp2, elementwise.exp2)
