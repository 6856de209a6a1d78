"""Orthogonal polynomials at `x` of degree `n`, by their recurrences in the type of `x`.

As in PyTorch a degree is rounded toward zero, negative ones give 0, none has a derivative, and
Chebyshev's on (-1, 1) come from cosines when the degree is high.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.ops._common import Array, wrap
from tensorlib.ops.out import takes_out
from tensorlib.ops.special import real_pair

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Step = Callable[[Array, Array, Array, int], Any]
Fixed = Callable[[Array, Array], list[tuple[Array, Array]]]


def _evaluate(
    name: str, input: Any, n: Any, first: Callable[[Array], Array], step: Step, fixed: Fixed
) -> Tensor:
    """`first(x)` is the polynomial of degree 1, `step(x, p, q, k)` that of degree k from those of
    degrees k-2 and k-1; `fixed` gives values that are known otherwise, the last that holds wins.
    """
    a, b = real_pair(f"special.{name}", input, n, False)
    kind = a.array.dtype
    wide_x, wide_n = np.broadcast_arrays(a.array, b.array)
    x, degree = wide_x.ravel(), wide_n.astype(np.int64).ravel()
    output = np.where(degree == 0, 1, first(x)).astype(kind)
    todo = degree > 1
    for where, values in [*fixed(x, degree), (degree < 0, np.zeros(1, kind))]:
        np.copyto(output, values, where=where, casting="same_kind")
        todo &= ~where
    places = np.flatnonzero(todo)
    x, degree = x[places], degree[places]
    p, q, k = np.ones_like(x), first(x), 2
    while places.size:
        p, q = q, step(x, p, q, k)
        ready = (degree == k) | np.isnan(q)
        if ready.any():
            output[places[ready]] = q[ready]
            x, degree, places, p, q = (v[~ready] for v in (x, degree, places, p, q))
        k += 1
    return wrap(output.reshape(wide_x.shape))


def _fused(a: Array, q: Array, c: Array) -> Array:
    """`a * q - c`; in single precision rounded once, as by PyTorch's fused multiply-add."""
    if a.dtype == np.float32:
        return (a.astype(np.float64) * q - c).astype(np.float32)
    return a * q - c


def _double_step(x: Array, p: Array, q: Array, _: int) -> Array:
    return _fused(x + x, q, p)


def _parity(degree: Array) -> Array:
    """1 for even degrees, -1 for odd ones."""
    return np.where(degree % 2 == 0, 1, -1)


def _at_ends(x: Array, right: Any, left: Any) -> list[tuple[Array, Array]]:
    kind = x.dtype
    return [
        (x == 1, np.broadcast_to(right, x.shape).astype(kind)),
        (x == -1, np.broadcast_to(left, x.shape).astype(kind)),
    ]


def _by_angle(
    x: Array, high: Array, above: Callable[[Array], Array], below: Callable[[Array], Array]
) -> list[tuple[Array, Array]]:
    """A quotient of trigonometric functions of the angle where the degree is high and |x| < 1."""
    inside = high & (np.abs(x) < 1)
    angle = np.arccos(np.where(inside, x, 0))
    return [(inside, above(angle) / below(angle))]


def _chebyshev_t(name: str, input: Any, n: Any, move: Any = None) -> Tensor:
    def fixed(x: Array, d: Array) -> list[tuple[Array, Array]]:
        x, t = x if move is None else move(x), d.astype(x.dtype)
        return [
            *_by_angle(x, d > 6, lambda a: np.cos(t * a), np.ones_like),
            *_at_ends(x, 1, _parity(d)),
        ]

    return _moved(name, input, n, move, lambda x: x, fixed)


def _chebyshev_u(name: str, input: Any, n: Any, move: Any = None) -> Tensor:
    def fixed(x: Array, d: Array) -> list[tuple[Array, Array]]:
        limit, x = (8, x) if move is None else (6, move(x))
        t = (d + 1).astype(x.dtype)
        return [
            *_by_angle(x, d > limit, lambda a: np.sin(t * a), np.sin),
            *_at_ends(x, d + 1, _parity(d) * (d + 1)),
        ]

    return _moved(name, input, n, move, lambda x: x + x, fixed)


def _chebyshev_v(name: str, input: Any, n: Any, move: Any = None) -> Tensor:
    def fixed(x: Array, d: Array) -> list[tuple[Array, Array]]:
        limit, x = (8, x) if move is None else (6, move(x))
        t = (d + 0.5).astype(x.dtype)
        return [
            *_by_angle(x, d > limit, lambda a: np.cos(t * a), lambda a: np.cos(a / 2)),
            *_at_ends(x, 1, _parity(d) * (2 * d + 1)),
        ]

    return _moved(name, input, n, move, lambda x: x + x - 1, fixed)


def _chebyshev_w(name: str, input: Any, n: Any, move: Any = None) -> Tensor:
    def fixed(x: Array, d: Array) -> list[tuple[Array, Array]]:
        limit, x = (8, x) if move is None else (4, move(x))
        t = (d + 0.5).astype(x.dtype)
        return [
            *_by_angle(x, d > limit, lambda a: np.sin(t * a), lambda a: np.sin(a / 2)),
            *_at_ends(x, 2 * d + 1, _parity(d)),
        ]

    return _moved(name, input, n, move, lambda x: x + x + 1, fixed)


def _moved(name: str, input: Any, n: Any, move: Any, first: Any, fixed: Fixed) -> Tensor:
    """A Chebyshev polynomial, of `move(input)` if given."""
    if move is None:
        return _evaluate(name, input, n, first, _double_step, fixed)

    def step(x: Array, p: Array, q: Array, k: int) -> Any:
        return _double_step(move(x), p, q, k)

    return _evaluate(name, input, n, lambda x: first(move(x)), step, fixed)


def _shift(x: Array) -> Array:
    return x + x - 1


@takes_out
def chebyshev_polynomial_t(x: Any, n: Any) -> Tensor:
    """Chebyshev polynomial of the first kind; no gradient."""
    return _chebyshev_t("chebyshev_polynomial_t", x, n)


@takes_out
def chebyshev_polynomial_u(x: Any, n: Any) -> Tensor:
    """Chebyshev polynomial of the second kind; no gradient."""
    return _chebyshev_u("chebyshev_polynomial_u", x, n)


@takes_out
def chebyshev_polynomial_v(x: Any, n: Any) -> Tensor:
    """Chebyshev polynomial of the third kind; no gradient."""
    return _chebyshev_v("chebyshev_polynomial_v", x, n)


@takes_out
def chebyshev_polynomial_w(x: Any, n: Any) -> Tensor:
    """Chebyshev polynomial of the fourth kind; no gradient."""
    return _chebyshev_w("chebyshev_polynomial_w", x, n)


@takes_out
def shifted_chebyshev_polynomial_t(x: Any, n: Any) -> Tensor:
    """`chebyshev_polynomial_t` at `2 * x - 1`."""
    return _chebyshev_t("shifted_chebyshev_polynomial_t", x, n, _shift)


@takes_out
def shifted_chebyshev_polynomial_u(x: Any, n: Any) -> Tensor:
    """`chebyshev_polynomial_u` at `2 * x - 1`."""
    return _chebyshev_u("shifted_chebyshev_polynomial_u", x, n, _shift)


@takes_out
def shifted_chebyshev_polynomial_v(x: Any, n: Any) -> Tensor:
    """`chebyshev_polynomial_v` at `2 * x - 1`."""
    return _chebyshev_v("shifted_chebyshev_polynomial_v", x, n, _shift)


@takes_out
def shifted_chebyshev_polynomial_w(x: Any, n: Any) -> Tensor:
    """`chebyshev_polynomial_w` at `2 * x - 1`."""
    return _chebyshev_w("shifted_chebyshev_polynomial_w", x, n, _shift)


def _hermite(name: str, input: Any, n: Any, first: Any, step: Step) -> Tensor:
    def fixed(x: Array, d: Array) -> list[tuple[Array, Array]]:
        limit = 128 if x.dtype == np.float32 else 512  # beyond it PyTorch gives up
        return [(d > limit, np.full(1, np.nan, x.dtype))]

    return _evaluate(name, input, n, first, step, fixed)


@takes_out
def hermite_polynomial_h(x: Any, n: Any) -> Tensor:
    """Physicist's Hermite polynomial; no gradient."""

    def step(x: Array, p: Array, q: Array, k: int) -> Any:
        return _fused(x + x, q, (2 * k - 2) * p)

    return _hermite("hermite_polynomial_h", x, n, lambda x: x + x, step)


@takes_out
def hermite_polynomial_he(x: Any, n: Any) -> Tensor:
    """Probabilist's Hermite polynomial; no gradient."""

    def step(x: Array, p: Array, q: Array, k: int) -> Any:
        return _fused(x, q, (k - 1) * p)

    return _hermite("hermite_polynomial_he", x, n, lambda x: x, step)


@takes_out
def laguerre_polynomial_l(x: Any, n: Any) -> Tensor:
    """Laguerre polynomial; no gradient."""

    def step(x: Array, p: Array, q: Array, k: int) -> Any:
        return _fused(2 * k - 2 + (1 - x), q, (k - 1) * p) / k

    def fixed(x: Array, d: Array) -> list[tuple[Array, Array]]:
        return [(x == 0, np.ones(1, x.dtype))]

    return _evaluate("laguerre_polynomial_l", x, n, lambda x: 1 - x, step, fixed)


@takes_out
def legendre_polynomial_p(x: Any, n: Any) -> Tensor:
    """Legendre polynomial; no gradient."""

    def step(x: Array, p: Array, q: Array, k: int) -> Any:
        return _fused((2 * k - 1) * x, q, (k - 1) * p) / k

    def fixed(x: Array, d: Array) -> list[tuple[Array, Array]]:
        return _at_ends(x, 1, _parity(d))

    return _evaluate("legendre_polynomial_p", x, n, lambda x: x, step, fixed)
