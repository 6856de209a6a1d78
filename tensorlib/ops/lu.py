"""Triangular factorisations with exchanges of rows: `lu lu_factor lu_unpack lu_solve`, `ldl_*`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import return_types
from tensorlib.autograd import tape
from tensorlib.errors import DTypeError, ShapeError, UnsupportedError
from tensorlib.ops import _lapack, elementwise, shape
from tensorlib.ops._common import Array, Grads, expect_tensor, named, record_outputs, wrap
from tensorlib.ops._formula import derived
from tensorlib.ops.decomposition import (
    check_float,
    check_matrix,
    check_square,
    eye_like,
    mH,
    mm,
)
from tensorlib.ops.out import direct, takes_exact_out
from tensorlib.ops.solver import solve_triangular

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_triangular = direct(solve_triangular)


@takes_exact_out
def lu(A: Tensor, *, pivot: bool = True) -> Any:
    """`A = P @ L @ U` with a permutation P, unit lower L and upper U."""
    factors, pivots, _ = _factor("linalg.lu", A, pivot)
    P, L, U = _unpacked(factors, pivots, True, True)
    name = "LinalgLuBackward0"
    return return_types.linalg_lu(P, named(L, name), named(U, name))


@takes_exact_out
def lu_factor(A: Tensor, *, pivot: bool = True) -> Any:
    """L and U in one matrix and the pivots, for `lu_solve`; a singular matrix is an error."""
    factors, pivots, info = _factor("linalg.lu_factor", A, pivot)
    _expect_regular("linalg.lu_factor", info)
    return return_types.linalg_lu_factor(factors, wrap(pivots))


@takes_exact_out
def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """`lu_factor` and, instead of an error, which element of U's diagonal is zero (or 0)."""
    factors, pivots, info = _factor("linalg.lu_factor_ex", A, pivot)
    if check_errors:
        _expect_regular("linalg.lu_factor_ex", info)
    return return_types.linalg_lu_factor_ex(factors, wrap(pivots), wrap(info))


@takes_exact_out
def legacy_lu(A: Tensor, pivot: bool = True, get_infos: bool = False) -> Any:
    """`torch.lu`, the older form of `linalg.lu_factor`."""
    factors, pivots, info = _factor("lu", A, pivot)
    if get_infos:
        return return_types._lu_with_info(factors, wrap(pivots), wrap(info))
    _expect_regular("lu", info)
    return factors, wrap(pivots)


def _expect_regular(where: str, info: Array) -> None:
    wrong = np.flatnonzero(info)
    if wrong.size:
        place = f"(Batch element {wrong[0]}): " if info.ndim else ""
        i = info.flat[wrong[0]]
        raise ShapeError(
            where,
            f"{place}U[{i},{i}] is zero and using it on lu_solve would divide by zero",
            hint="use linalg.lu or linalg.lu_factor_ex to factorise it all the same",
        )


def _factor(where: str, A: Tensor, pivot: bool) -> tuple[Tensor, Array, Array]:
    x = A.array
    check_matrix(where, x)
    if not pivot:
        raise ShapeError(where, "LU without pivoting is not implemented on the CPU", "pivot=True")
    factors, pivots, info = _lapack.lu_factor(x)
    if not tape.needs_grad(A):
        return wrap(factors), pivots, info
    m, n = x.shape[-2:]
    k = min(m, n)
    order = _lapack.permutation_matrix(pivots, m, x.dtype)

    def formula(grad: Tensor, factors: Tensor, _: Tensor) -> Sequence[Tensor]:
        L, U = _triangles(factors)
        left = shape.narrow(shape.tril(grad, -1), -1, 0, k)
        right = shape.narrow(shape.triu(grad), -2, 0, k)
        return (mm(wrap(order), _lu_gradient(left, right, L, U)),)

    return derived(factors, formula, A, name="linalg_lu_factor_ex"), pivots, info


def _lu_gradient(gL: Tensor, gU: Tensor, L: Tensor, U: Tensor) -> Tensor:
    """Of `L @ U`, of any form."""
    m, n = L.array.shape[-2], U.array.shape[-1]
    k = min(m, n)
    L1, U1 = shape.narrow(L, -2, 0, k), shape.narrow(U, -1, 0, k)
    gL1, gU1 = shape.narrow(gL, -2, 0, k), shape.narrow(gU, -1, 0, k)
    below, above = mm(mH(L1), gL1), mm(gU1, mH(U1))
    rest: Tensor | None = None
    if m < n:
        gU2, U2 = shape.narrow(gU, -1, k, n - k), shape.narrow(U, -1, k, n - k)
        below = elementwise.sub(below, mm(gU2, mH(U2)))
        rest = _triangular(mH(L1), gU2, upper=True, unitriangular=True)
    elif m > n:
        gL2, L2 = shape.narrow(gL, -2, k, m - k), shape.narrow(L, -2, k, m - k)
        above = elementwise.sub(above, mm(mH(L2), gL2))
        rest = _triangular(mH(U1), gL2, upper=False, left=False)
    inner = elementwise.add(shape.tril(below, -1), shape.triu(above))
    inner = _triangular(mH(U1), inner, upper=False, left=False)
    inner = _triangular(mH(L1), inner, upper=True, unitriangular=True)
    return inner if rest is None else shape.cat([inner, rest], -1 if m < n else -2)


def _triangles(factors: Tensor) -> tuple[Tensor, Tensor]:
    """L and U from their one matrix."""
    m, n = factors.array.shape[-2:]
    k = min(m, n)
    below = shape.narrow(shape.tril(factors, -1), -1, 0, k)
    one = wrap(eye_like(below.array).astype(below.array.dtype))
    return elementwise.add(below, one), shape.triu(shape.narrow(factors, -2, 0, k))


def _unpacked(factors: Tensor, pivots: Array, data: bool, order: bool) -> tuple[Tensor, ...]:
    nothing = wrap(np.zeros(0, factors.array.dtype))
    L, U = _triangles(factors) if data else (nothing, nothing)
    P = nothing
    if order:
        size = factors.array.shape[-2]
        P = wrap(_lapack.permutation_matrix(pivots, size, factors.array.dtype))
    return P, L, U


@takes_exact_out
def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> Any:
    """P, L and U from what `lu_factor` gives."""
    check = LU_pivots.array
    if unpack_pivots and check.dtype != np.int32:
        raise DTypeError(
            "lu_unpack", f"LU_pivots has dtype {LU_pivots.dtype}", "a contiguous int32 tensor"
        )
    return return_types.lu_unpack(*_unpacked(LU_data, check, unpack_data, unpack_pivots))


@takes_exact_out
def lu_solve(
    LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False
) -> Tensor:
    """X with `A @ X = B` (`left=False`: `X @ A = B`; `adjoint`: A^H) from `lu_factor` of A."""
    where = "linalg.lu_solve"
    expect_tensor(where, "B", B)
    check_square(where, LU.array)
    check_float(where, B.array)
    if pivots.array.dtype != np.int32:
        raise DTypeError(where, f"pivots has dtype {pivots.dtype}", "int32")
    _expect_fitting(where, LU.array, pivots.array, B.array, left)
    if not tape.needs_grad(LU, B):
        return wrap(_lapack.lu_solve(LU.array, pivots.array, B.array, left, adjoint))
    if not left:
        return mH(direct(lu_solve)(LU, pivots, mH(B), adjoint=not adjoint))
    P, L, U = _unpacked(LU, pivots.array, True, True)
    if adjoint:
        inner = _triangular(mH(U), B, upper=False)
        found = mm(P, _triangular(mH(L), inner, upper=True, unitriangular=True))
    else:
        inner = _triangular(L, mm(mH(P), B), upper=False, unitriangular=True)
        found = _triangular(U, inner, upper=True)
    return named(found, "LinalgLuSolveBackward0")


def _expect_fitting(where: str, a: Array, pivots: Array, b: Array, left: bool) -> None:
    if a.dtype != b.dtype:
        raise DTypeError(where, f"the factors are {a.dtype}, B is {b.dtype}", "equal dtypes")
    if b.ndim < 2 or pivots.ndim < 1 or pivots.shape != a.shape[:-1]:
        raise ShapeError(
            where, f"factors {a.shape}, pivots {pivots.shape} and B {b.shape} do not fit together"
        )
    if a.shape[-1] != b.shape[-2 if left else -1]:
        raise ShapeError(where, f"Incompatible shapes of A and B: {a.shape} and {b.shape}")
    try:
        np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(where, f"batches of {a.shape} and {b.shape} do not broadcast") from None


@takes_exact_out
def legacy_lu_solve(input: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """`torch.lu_solve`, the older form of `linalg.lu_solve`."""
    return direct(lu_solve)(LU_data, LU_pivots, input)


# -- symmetric matrices ----------------------------------------------------------------------------


@takes_exact_out
def ldl_factor(input: Tensor, *, hermitian: bool = False) -> Any:
    """L and D (blocks of size 1 and 2) of a symmetric or Hermitian matrix and the pivots (J. Bunch
    and L. Kaufman, 1977).
    """
    factors, pivots, info = _ldl("linalg.ldl_factor", input, hermitian)
    _expect_factored("linalg.ldl_factor", info)
    return return_types.linalg_ldl_factor(factors, pivots)


@takes_exact_out
def ldl_factor_ex(input: Tensor, *, hermitian: bool = False, check_errors: bool = False) -> Any:
    """`ldl_factor` and, instead of an error, which block of D is singular (or 0)."""
    factors, pivots, info = _ldl("linalg.ldl_factor_ex", input, hermitian)
    if check_errors:
        _expect_factored("linalg.ldl_factor_ex", info)
    return return_types.linalg_ldl_factor_ex(factors, pivots, info)


def _expect_factored(where: str, info: Tensor) -> None:
    if info.array.any():
        raise ShapeError(where, f"D is exactly singular, info {info.array.tolist()}")


def _ldl(where: str, A: Tensor, hermitian: bool) -> tuple[Tensor, ...]:
    check_square(where, A.array)

    def ldl_factor(*_: Any) -> Grads:
        raise UnsupportedError(where, "the derivative for 'ldl_factor' is not implemented")

    found = _lapack.ldl_factor(A.array, hermitian)
    return record_outputs(found, ldl_factor, A)


@takes_exact_out
def ldl_solve(LD: Tensor, pivots: Tensor, B: Tensor, *, hermitian: bool = False) -> Tensor:
    """X with `A @ X = B` from `ldl_factor` of A."""
    where = "linalg.ldl_solve"
    expect_tensor(where, "B", B)
    check_square(where, LD.array)
    if pivots.array.dtype.kind not in "iu":
        raise DTypeError(where, f"pivots has dtype {pivots.dtype}", "an integer type")
    _expect_fitting(where, LD.array, pivots.array, B.array, True)

    def ldl_solve(*_: Any) -> Grads:
        raise UnsupportedError(where, "the derivative for 'ldl_solve' is not implemented")

    found = _lapack.ldl_solve(LD.array, pivots.array, B.array, hermitian)
    return record_outputs((found,), ldl_solve, LD, B)[0]


__all__ = [
    "ldl_factor",
    "ldl_factor_ex",
    "ldl_solve",
    "legacy_lu",
    "legacy_lu_solve",
    "lu",
    "lu_factor",
    "lu_factor_ex",
    "lu_solve",
    "lu_unpack",
]
