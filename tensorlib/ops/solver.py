"""Systems of equations and what comes from them: `inv solve det lstsq pinv matrix_exp ...`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import return_types
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops import _lapack, elementwise, shape
from tensorlib.ops._common import Array, expect_tensor, wrap
from tensorlib.ops._formula import derived
from tensorlib.ops.decomposition import (
    LinAlgError,
    check_matrix,
    check_square,
    column,
    mH,
    mm,
    mT,
)
from tensorlib.ops.out import direct, takes_exact_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _expect_invertible(where: str, info: Array, what: str) -> None:
    wrong = np.flatnonzero(info)
    if wrong.size:
        place = f"(Batch element {wrong[0]}): " if info.ndim else ""
        raise LinAlgError(
            where,
            f"{place}The diagonal element {info.flat[wrong[0]]} is zero, {what} because the input "
            "matrix is singular",
        )


# -- inverse ---------------------------------------------------------------------------------------


@takes_exact_out
def inv(A: Tensor) -> Tensor:
    """Inverse of square matrices."""
    inverse, info = _inverse("linalg.inv", A)
    _expect_invertible("linalg.inv", info, "the inversion could not be completed")
    return inverse


@takes_exact_out
def inv_ex(A: Tensor, *, check_errors: bool = False) -> Any:
    """`inv` and, instead of an error, which pivot is zero (or 0)."""
    inverse, info = _inverse("linalg.inv_ex", A)
    if check_errors:
        _expect_invertible("linalg.inv_ex", info, "the inversion could not be completed")
    return return_types.linalg_inv_ex(inverse, wrap(info))


def _inverse(where: str, A: Tensor) -> tuple[Tensor, Array]:
    x = A.array
    check_square(where, x)
    output, info = _lapack.inverse(x)

    def formula(grad: Tensor, inverse: Tensor, _: Tensor) -> Sequence[Tensor]:
        turned = mH(inverse)
        return (elementwise.neg(mm(mm(turned, grad), turned)),)

    return derived(output, formula, A, name="linalg_inv_ex"), info


@takes_exact_out
def inverse(input: Tensor) -> Tensor:
    """`linalg.inv`."""
    return direct(inv)(input)


# -- equations -------------------------------------------------------------------------------------


@takes_exact_out
def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with `A @ X = B` (or `X @ A = B` with `left=False`)."""
    result, info = _solved("linalg.solve", A, B, left)
    if info.any():
        raise LinAlgError("linalg.solve", "The solver failed because the input matrix is singular")
    return result


@takes_exact_out
def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> Any:
    """`solve` and, instead of an error, which pivot is zero (or 0)."""
    result, info = _solved("linalg.solve_ex", A, B, left)
    if check_errors and info.any():
        raise LinAlgError(
            "linalg.solve_ex", "The solver failed because the input matrix is singular"
        )
    return return_types.linalg_solve_ex(result, wrap(info))


def _solved(where: str, A: Tensor, B: Tensor, left: bool) -> tuple[Tensor, Array]:
    expect_tensor(where, "B", B)
    a, b = A.array, B.array
    check_square(where, a)
    if a.dtype != b.dtype:
        raise DTypeError(where, f"A is {A.dtype}, B is {B.dtype}", "the same dtype")
    if b.ndim == 0:
        raise ShapeError(where, "The input tensor B must have at least 1 dimension")
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    columns = b[..., None] if vector else b
    if columns.shape[-2 if left else -1] != a.shape[-1]:
        raise ShapeError(
            where,
            f"Incompatible shapes of A {a.shape} and B {b.shape} for the equation "
            f"{'AX' if left else 'XA'} = B",
        )
    try:
        np.broadcast_shapes(a.shape[:-2], columns.shape[:-2])
    except ValueError:
        raise ShapeError(where, f"batches of {a.shape} and {b.shape} do not broadcast") from None
    if left:
        output, info = _lapack.solve(a, columns)
    else:
        output, info = _lapack.solve(np.swapaxes(a, -1, -2), np.swapaxes(columns, -1, -2))
        output = np.swapaxes(output, -1, -2)

    def formula(grad: Tensor, X: Tensor, A: Tensor, _: Tensor) -> Sequence[Tensor]:
        back, found = (column(grad), column(X)) if vector else (grad, X)
        right = _solved(where, mH(A), back, left)[0]
        change = mm(right, mH(found)) if left else mm(mH(found), right)
        return elementwise.neg(change), shape.squeeze(right, -1) if vector else right

    result = output[..., 0] if vector else output
    return derived(result, formula, A, B, name="linalg_solve_ex"), info


@takes_exact_out
def solve_triangular(
    input: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """X with `input @ X = B` (or `X @ input = B`) for a triangular input, of which only
    that triangle is read (`unitriangular`: with ones on its diagonal).
    """
    where = "linalg.solve_triangular"
    expect_tensor(where, "B", B)
    a, b = input.array, B.array
    check_square(where, a)
    if a.dtype != b.dtype:
        raise DTypeError(where, f"A is {input.dtype}, B is {B.dtype}", "the same dtype")
    if b.ndim < 2 or b.shape[-2 if left else -1] != a.shape[-1]:
        raise ShapeError(where, f"Incompatible shapes of input {a.shape} and B {b.shape}")
    try:
        output = _lapack.solve_triangular(a, b, upper, left, unitriangular)
    except ValueError:
        raise ShapeError(where, f"batches of {a.shape} and {b.shape} do not broadcast") from None

    def formula(grad: Tensor, X: Tensor, input: Tensor, _: Tensor) -> Sequence[Tensor]:
        right = direct(solve_triangular)(
            mH(input), grad, upper=not upper, left=left, unitriangular=unitriangular
        )
        change = elementwise.neg(mm(right, mH(X)) if left else mm(mH(X), right))
        if upper:
            return shape.triu(change, int(unitriangular)), right
        return shape.tril(change, -int(unitriangular)), right

    return derived(output, formula, input, B, name="linalg_solve_triangular")


@takes_exact_out
def triangular_solve(
    input: Tensor,
    A: Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> Any:
    """`torch.triangular_solve`, the older form of `linalg.solve_triangular`: the solution and a
    copy of A.
    """
    expect_tensor("triangular_solve", "A", A)
    turned = mT(A) if transpose and A.array.ndim > 1 else A
    found = direct(solve_triangular)(
        turned, input, upper=upper != transpose, unitriangular=unitriangular
    )
    batch = found.array.shape[:-2]
    copy = shape.clone(shape.expand(A, (*batch, *A.array.shape[-2:])))
    return return_types.triangular_solve(found, copy)


@takes_exact_out
def cholesky_solve(input: Tensor, input2: Tensor, upper: bool = False) -> Tensor:
    """X with `L @ L.mH @ X = input` for L in `input2` (`upper`: `L.mH @ L @ X = input`)."""
    where = "cholesky_solve"
    expect_tensor(where, "input2", input2)
    b, a = input.array, input2.array
    check_square(where, a)
    check_matrix(where, b)
    if a.dtype != b.dtype:
        raise DTypeError(where, f"b is {input.dtype}, A is {input2.dtype}", "the same dtype")
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(where, f"Incompatible matrix sizes: A {a.shape}, b {b.shape}")
    turned = np.conj(np.swapaxes(a, -1, -2))
    lower, above = (turned, a) if upper else (a, turned)
    inner = _lapack.solve_triangular(lower, b, False, True, False)
    output = _lapack.solve_triangular(above, inner, True, True, False)

    def formula(grad: Tensor, X: Tensor, _: Tensor, input2: Tensor) -> Sequence[Tensor]:
        right = direct(cholesky_solve)(grad, input2, upper)
        common = mm(right, mH(X))
        common = elementwise.add(common, mH(common))
        change = mm(input2, common) if upper else mm(common, input2)
        return right, elementwise.neg(change)

    return derived(output, formula, input, input2, name=where)


@takes_exact_out
def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    """Inverse of `input @ input.mH` (`upper`: of `input.mH @ input`)."""
    where = "cholesky_inverse"
    a = input.array
    check_square(where, a)
    output, info = _lapack.cholesky_inverse(a, upper)
    _expect_invertible(where, info, "the inversion could not be completed")

    def formula(grad: Tensor, inverse: Tensor, input: Tensor) -> Sequence[Tensor]:
        common = mm(mm(inverse, elementwise.add(grad, mH(grad))), inverse)
        return (elementwise.neg(mm(input, common) if upper else mm(common, input)),)

    return derived(output, formula, input, name=where)


@takes_exact_out
def tensorinv(input: Tensor, ind: int = 2) -> Tensor:
    """Inverse of the linear map from the last dimensions of input to its first `ind`."""
    where = "linalg.tensorinv"
    if not isinstance(ind, int) or ind <= 0:
        raise ShapeError(where, f"Expected a strictly positive integer for 'ind', but got {ind}")
    sizes = input.array.shape
    rows, columns = math.prod(sizes[:ind]), math.prod(sizes[ind:])
    if rows != columns:
        raise ShapeError(
            where, f"prod(input.shape[ind:]) is {columns}", f"prod(input.shape[:ind]), {rows}"
        )
    inverse = direct(inv)(shape.reshape(input, (rows, columns)))
    return shape.reshape(inverse, (*sizes[ind:], *sizes[:ind]))


@takes_exact_out
def tensorsolve(input: Tensor, other: Tensor, dims: Any = None) -> Tensor:
    """X with `tensordot(input, X, X.ndim) = other`; `dims` of input are moved to its end first."""
    where = "linalg.tensorsolve"
    expect_tensor(where, "other", other)
    if dims is not None:
        given = list(dims)
        input = shape.movedim(input, given, list(range(-len(given), 0)))
    a, b = input.array, other.array
    wanted = a.shape[b.ndim :]
    count = math.prod(wanted)
    if count != math.prod(a.shape[: b.ndim]) or count != b.size:
        raise ShapeError(where, f"shapes {a.shape} and {b.shape} do not make square equations")
    matrix, vector = shape.reshape(input, (count, count)), shape.reshape(other, (count,))
    return shape.reshape(direct(solve)(matrix, vector), wanted)
