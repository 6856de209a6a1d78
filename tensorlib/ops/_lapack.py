"""Factorisations of batches of matrices as arrays: NumPy's where it has them, SciPy's LAPACK where
not. SciPy is imported at the first use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib.ops._common import Array


@functools.cache
def lapack(name: str, dtype: Any) -> Any:
    """LAPACK's routine `name` for elements of `dtype`; real names stand for complex ones too."""
    from scipy.linalg import lapack as routines

    if dtype.kind == "c":
        name = {"orgqr": "ungqr", "ormqr": "unmqr"}.get(name, name)
    return getattr(routines, {"f": "s", "d": "d", "F": "c", "D": "z"}[dtype.char] + name)


@functools.cache
def _blas(name: str, dtype: Any) -> Any:
    from scipy.linalg import blas

    return getattr(blas, {"f": "s", "d": "d", "F": "c", "D": "z"}[dtype.char] + name)


def each(
    function: Callable[..., tuple[Any, ...]],
    batch: tuple[int, ...],
    like: tuple[tuple[tuple[int, ...], Any], ...],
    *arrays: Array,
) -> tuple[Array, ...]:
    """`function` on each of a batch: each array's leading dimensions are `batch`; `like` gives the
    shape and dtype of each result for one.
    """
    outputs = tuple(np.empty((*batch, *shape), dtype) for shape, dtype in like)
    for index in np.ndindex(*batch):
        for output, value in zip(outputs, function(*(a[index] for a in arrays)), strict=True):
            output[index] = value
    return outputs


def spread(a: Array, b: Array, kept: int = 2) -> tuple[tuple[int, ...], Array, Array]:
    """The common batch of two arrays whose last `kept` dimensions are their own, and both
    broadcast to it; ValueError if there is none.
    """
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[: b.ndim - kept])
    return (
        batch,
        np.broadcast_to(a, (*batch, *a.shape[-2:])),
        np.broadcast_to(b, (*batch, *b.shape[b.ndim - kept :])),
    )


def lu_factor(x: Array) -> tuple[Array, Array, Array]:
    """L and U in one matrix, pivots (from 1) and the first zero on U's diagonal (or 0)."""
    m, n = x.shape[-2:]
    k = min(m, n)
    pivot = np.dtype(np.int32)

    def one(a: Array) -> tuple[Any, ...]:
        if not a.size:
            return a, np.arange(1, k + 1), 0
        lu, places, info = lapack("getrf", x.dtype)(a)
        return lu, places + 1, info

    forms = (((m, n), x.dtype), ((k,), pivot), ((), pivot))
    found = each(one, x.shape[:-2], forms, x)
    return found[0], found[1], found[2]


def permutation(pivots: Array, size: int) -> Array:
    """Which row of the matrix stands where after the exchanges that LAPACK's pivots describe."""
    rows: Array = np.broadcast_to(np.arange(size), (*pivots.shape[:-1], size)).copy()
    for index in np.ndindex(*pivots.shape[:-1]):
        order = rows[index]
        for i, p in enumerate(pivots[index]):
            order[i], order[p - 1] = order[p - 1], order[i]
    return rows


def permutation_matrix(pivots: Array, size: int, dtype: Any) -> Array:
    """P with `A = P @ L @ U`."""
    rows = permutation(pivots, size)[..., None, :]
    found: Array = (rows == np.arange(size)[:, None]).astype(dtype)
    return found


def cholesky(x: Array) -> tuple[Array, Array]:
    """The lower factor, and the order of the first minor that is not positive (or 0)."""
    if x.dtype.kind in "fcV" and x.size:
        try:
            return np.linalg.cholesky(x), np.zeros(x.shape[:-2], np.int32)
        except np.linalg.LinAlgError:
            pass

    def one(a: Array) -> tuple[Any, ...]:
        if not a.size:
            return a, 0
        return lapack("potrf", x.dtype)(a, lower=1, clean=1)  # type: ignore[no-any-return]

    forms = ((x.shape[-2:], x.dtype), ((), np.dtype(np.int32)))
    found = each(one, x.shape[:-2], forms, x)
    return found[0], found[1]


def solve_triangular(a: Array, b: Array, upper: bool, left: bool, unitriangular: bool) -> Array:
    """X with `a @ X = b` (or `X @ a = b`), by substitution; a zero on the diagonal gives
    infinities.
    """
    batch, a, b = spread(a, b)
    if not b.size:
        return np.zeros(b.shape, b.dtype)
    trsm = _blas("trsm", b.dtype)

    def one(p: Array, q: Array) -> tuple[Any, ...]:
        return (trsm(1, p, q, side=int(not left), lower=int(not upper), diag=int(unitriangular)),)

    return each(one, batch, ((b.shape[-2:], b.dtype),), a, b)[0]


def cholesky_inverse(x: Array, upper: bool) -> tuple[Array, Array]:
    """The inverse of the matrix with this factor, and which diagonal element is zero (or 0)."""

    def one(a: Array) -> tuple[Any, ...]:
        if not a.size:
            return a, 0
        found, info = lapack("potri", x.dtype)(a, lower=int(not upper))
        half = np.triu(found) if upper else np.tril(found)
        return half + np.conj(np.triu(found, 1) if upper else np.tril(found, -1)).T, info

    forms = ((x.shape[-2:], x.dtype), ((), np.dtype(np.int32)))
    found = each(one, x.shape[:-2], forms, x)
    return found[0], found[1]


def lu_solve(lu: Array, pivots: Array, b: Array, left: bool, adjoint: bool) -> Array:
    """X with `A @ X = b` from the factors of A."""
    if not left:
        turned = lu_solve(lu, pivots, np.conj(np.swapaxes(b, -1, -2)), True, not adjoint)
        return np.conj(np.swapaxes(turned, -1, -2))
    batch, lu, b = spread(lu, b)
    pivots = np.broadcast_to(pivots, (*batch, pivots.shape[-1]))
    if not b.size:
        return np.zeros(b.shape, b.dtype)
    getrs = lapack("getrs", b.dtype)

    def one(p: Array, places: Array, q: Array) -> tuple[Any, ...]:
        return (getrs(p, places - 1, q, trans=2 if adjoint else 0)[0],)

    return each(one, batch, ((b.shape[-2:], b.dtype),), lu, pivots, b)[0]


def inverse(x: Array) -> tuple[Array, Array]:
    """The inverse, and which element of U's diagonal is zero (or 0)."""
    try:
        return np.linalg.inv(x), np.zeros(x.shape[:-2], np.int32)
    except np.linalg.LinAlgError:
        return _solve_singular(x, np.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape))


def solve(a: Array, b: Array) -> tuple[Array, Array]:
    """X with `a @ X = b`, and which element of U's diagonal is zero (or 0)."""
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return np.linalg.solve(a, b), np.zeros(batch, np.int32)
    except np.linalg.LinAlgError:
        return _solve_singular(a, b)


def _solve_singular(a: Array, b: Array) -> tuple[Array, Array]:
    """As `solve`, with infinities where a pivot is zero."""
    _, a, b = spread(a, b)
    lu, pivots, info = lu_factor(a)
    rows = np.take_along_axis(b, permutation(pivots, a.shape[-1])[..., None], -2)
    inner = solve_triangular(lu, rows, False, True, True)
    return solve_triangular(lu, inner, True, True, False), info


def ldl_factor(x: Array, hermitian: bool) -> tuple[Array, Array, Array]:
    """L and D in the lower triangle, pivots and info of Bunch and Kaufman's factorisation."""
    n = x.shape[-1]
    pivot = np.dtype(np.int32)
    name = "hetrf" if hermitian and x.dtype.kind == "c" else "sytrf"

    def one(a: Array) -> tuple[Any, ...]:
        if not a.size:
            return a, np.zeros(0), 0
        size, _ = lapack(name + "_lwork", x.dtype)(n, lower=1)
        ld, places, info = lapack(name, x.dtype)(a, lower=1, lwork=int(size.real))
        return np.tril(ld), places, info

    forms = (((n, n), x.dtype), ((n,), pivot), ((), pivot))
    found = each(one, x.shape[:-2], forms, x)
    return found[0], found[1], found[2]


def ldl_solve(ld: Array, pivots: Array, b: Array, hermitian: bool) -> Array:
    """X with `A @ X = b` from `ldl_factor` of A."""
    batch, ld, b = spread(ld, b)
    pivots = np.broadcast_to(pivots, (*batch, pivots.shape[-1]))
    if not b.size:
        return np.zeros(b.shape, b.dtype)
    sytrs = lapack("hetrs" if hermitian and b.dtype.kind == "c" else "sytrs", b.dtype)

    def one(p: Array, places: Array, q: Array) -> tuple[Any, ...]:
        return (sytrs(p, places, q, lower=1)[0],)

    return each(one, batch, ((b.shape[-2:], b.dtype),), ld, pivots, b)[0]


def lstsq(a: Array, b: Array, rcond: float, driver: str) -> tuple[Array, Array, Array]:
    """Least-squares solutions, ranks and singular values (zeros where the driver has none)."""
    m, n = a.shape[-2:]
    k, columns = min(m, n), b.shape[-1]
    real = np.zeros(0, a.dtype).real.dtype
    forms = (((n, columns), a.dtype), ((), np.dtype(np.int64)), ((k,), real))

    def one(p: Array, q: Array) -> tuple[Any, ...]:
        if not a.size or not columns:
            return np.zeros((n, columns)), 0, np.zeros(k)
        rows = np.zeros((max(m, n), columns), a.dtype)
        rows[:m] = q
        name = driver + "_lwork"
        if driver == "gels":
            size, _ = lapack(name, a.dtype)(m, n, columns)
            found = lapack("gels", a.dtype)(p, rows, lwork=int(size.real))
            return found[1][:n], k, np.zeros(k)
        if driver == "gelsy":
            size, _ = lapack(name, a.dtype)(m, n, columns, rcond)
            start = np.zeros((n, 1), np.int32)
            found = lapack("gelsy", a.dtype)(p, rows, start, rcond, int(size.real))
            return found[1][:n], found[3], np.zeros(k)
        work = lapack(name, a.dtype)(m, n, columns, rcond)
        if driver == "gelsd":
            sizes = [math.ceil(s.real) for s in work[:-1]]
            x, s, rank, _ = lapack("gelsd", a.dtype)(p, rows, *sizes, rcond)[:4]
        else:
            _, x, s, rank, *_ = lapack("gelss", a.dtype)(p, rows, rcond, int(work[0].real))
        return x[:n], rank, s

    batch, a, b = spread(a, b)
    found = each(one, batch, forms, a, b)
    return found[0], found[1], found[2]


def householder_qr(x: Array) -> tuple[Array, Array]:
    """R above the diagonal and the reflectors' vectors below it, and their factors tau."""
    if not x.size:
        return x.copy(), np.zeros((*x.shape[:-2], min(x.shape[-2:])), x.dtype)
    raw, tau = np.linalg.qr(x, "raw")
    return np.swapaxes(raw, -1, -2), tau.astype(x.dtype, copy=False)
