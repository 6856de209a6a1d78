"""Factorisations of matrices: `cholesky qr svd eigh eig lu ldl geqrf householder_product`.

Derivatives follow M. Giles, Collected matrix derivative results (2008), and for complex matrices
PyTorch's conventions; those of vectors that are unique up to a phase are refused where they would
depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes, return_types
from tensorlib.autograd import tape
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops import _lapack, elementwise, indexing, shape
from tensorlib.ops._common import Array, wrap
from tensorlib.ops._formula import derived, derived_outputs
from tensorlib.ops.linalg import matmul
from tensorlib.ops.out import direct, takes_exact_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

mm = direct(matmul)


class LinAlgError(ShapeError):
    """A matrix without the property the operation needs, such as being invertible."""


# -- what matrix operations share ------------------------------------------------------------------


def check_matrix(where: str, x: Array) -> None:
    """Refuse what is no batch of matrices of single or double precision."""
    if x.ndim < 2:
        raise ShapeError(
            where, f"The input tensor A must have at least 2 dimensions, shape {x.shape}"
        )
    check_float(where, x)


def check_float(where: str, x: Array) -> None:
    """Refuse other types than single and double precision, real or complex."""
    if x.dtype.char not in "fdFD":
        raise DTypeError(
            where,
            "Expected a floating point or complex tensor as input (low precision dtypes are not "
            f"supported). Got {dtypes.of(x.dtype)}",
            hint="use .float() or .double()",
        )


def check_square(where: str, x: Array) -> None:
    """As `check_matrix`, and both sizes equal."""
    check_matrix(where, x)
    if x.shape[-1] != x.shape[-2]:
        raise ShapeError(
            where,
            f"A must be batches of square matrices, but they are {x.shape[-2]} by {x.shape[-1]} "
            "matrices",
        )


def mT(x: Tensor) -> Tensor:
    """The last two dimensions exchanged."""
    return shape.transpose(x, -2, -1)


def mH(x: Tensor) -> Tensor:
    """The last two dimensions exchanged, conjugated."""
    return elementwise.conj(mT(x))


def diag_of(x: Tensor) -> Tensor:
    """The diagonals of matrices."""
    return shape.diagonal(x, 0, -2, -1)


def row(x: Tensor) -> Tensor:
    """Vectors as matrices of one row."""
    return shape.unsqueeze(x, -2)


def column(x: Tensor) -> Tensor:
    """Vectors as matrices of one column."""
    return shape.unsqueeze(x, -1)


def eye_like(x: Array) -> Array:
    """Which elements of matrices lie on the diagonal."""
    return np.eye(x.shape[-2], x.shape[-1], dtype=bool)


def without_diagonal(x: Tensor) -> Tensor:
    """Matrices with zeros on their diagonal."""
    return indexing.masked_fill(x, wrap(eye_like(x.array)), 0)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of what there is."""
    if a is None or b is None:
        return b if a is None else a
    return elementwise.add(a, b)


def _gaps(values: Tensor) -> Tensor:
    """Differences of all pairs, one on the diagonal."""
    gaps = elementwise.sub(row(values), column(values))
    return indexing.masked_fill(gaps, wrap(eye_like(gaps.array)), 1)


def _phase_free(where: str, turn: Any, opposite: Any) -> None:
    """Refuse a gradient that depends on the phase of the vectors (imaginary parts that do not
    cancel).
    """
    given, wanted = (np.diagonal(x, 0, -2, -1).imag if np.ndim(x) else x for x in (turn, opposite))
    if not np.allclose(given, -wanted, 1e-2, 1e-2):
        raise ShapeError(
            where,
            "vectors in the complex case are specified up to multiplication by e^{i phi}; the loss "
            "depends on this phase term, so its gradient is ill-defined",
        )


# -- Cholesky --------------------------------------------------------------------------------------


@takes_exact_out
def cholesky(input: Tensor, *, upper: bool = False) -> Tensor:
    """Lower (or upper) triangular factor of positive definite matrices."""
    factor, info = _cholesky("linalg.cholesky", input, upper)
    _expect_definite("linalg.cholesky", info)
    return factor


@takes_exact_out
def cholesky_ex(input: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """`cholesky` and, instead of an error, the order of the first minor that is not positive."""
    factor, info = _cholesky("linalg.cholesky_ex", input, upper)
    if check_errors:
        _expect_definite("linalg.cholesky_ex", info)
    return return_types.linalg_cholesky_ex(factor, wrap(info))


@takes_exact_out
def legacy_cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """`torch.cholesky`, the older form of `linalg.cholesky`."""
    factor, info = _cholesky("cholesky", input, upper)
    _expect_definite("cholesky", info)
    return factor


def _expect_definite(where: str, info: Array) -> None:
    wrong = np.flatnonzero(info)
    if wrong.size:
        place = f"(Batch element {wrong[0]}): " if info.ndim else ""
        raise LinAlgError(
            where,
            f"{place}The factorization could not be completed because the input is not "
            f"positive-definite (the leading minor of order {info.flat[wrong[0]]} is not "
            "positive-definite)",
        )


def _cholesky(where: str, A: Tensor, upper: bool) -> tuple[Tensor, Array]:
    from tensorlib.ops.solver import solve_triangular  # made of the factors here

    check_square(where, A.array)
    output, info = _lapack.cholesky(np.swapaxes(A.array, -1, -2).conj() if upper else A.array)

    def formula(grad: Tensor, lower: Tensor, _: Tensor) -> Sequence[Tensor]:
        phi = shape.tril(mm(mH(lower), grad))
        phi = elementwise.mul(elementwise.add(phi, mH(shape.tril(phi, -1))), 0.5)
        solve = direct(solve_triangular)
        inner = solve(mH(lower), phi, upper=True)
        return (solve(lower, inner, upper=False, left=False),)

    factor = derived(output, formula, A, name="linalg_cholesky_ex")
    return (mH(factor) if upper else factor), info


# -- QR --------------------------------------------------------------------------------------------


@takes_exact_out
def qr(A: Tensor, mode: str = "reduced") -> Any:
    """Q with orthonormal columns and upper triangular R, `A = Q @ R`; Q is empty in mode "r"."""
    where = "linalg.qr"
    check_matrix(where, A.array)
    if mode not in ("reduced", "complete", "r"):
        raise ShapeError(where, f"mode={mode!r}", "'reduced', 'complete' or 'r'")
    x = A.array
    numpy_mode: Any = mode
    made: Any = np.linalg.qr(x, numpy_mode)
    if mode == "r":
        found = (np.zeros((0,), x.dtype), made.astype(x.dtype, copy=False))
    else:
        q, r = made
        found = (q.astype(x.dtype, copy=False), r.astype(x.dtype, copy=False))

    def formula(grads: Any, outputs: Any, _: Tensor) -> Sequence[Any]:
        if mode == "r":
            raise ShapeError(
                where,
                "the derivative depends on Q, which is not computed with mode='r'",
                hint="use mode='reduced' or 'complete'",
            )
        if mode == "complete" and x.shape[-2] > x.shape[-1]:
            raise ShapeError(
                where,
                "the decomposition is not differentiable when mode='complete' and nrows > ncols, "
                f"shape {x.shape}",
                hint="use mode='reduced'",
            )
        return (_qr_gradient(*grads, *outputs),)

    return return_types.linalg_qr(*derived_outputs(found, formula, A, name="linalg_qr"))


def _qr_gradient(gQ: Tensor | None, gR: Tensor | None, Q: Tensor, R: Tensor) -> Tensor:
    from tensorlib.ops.solver import solve_triangular

    solve = direct(solve_triangular)
    m, n = Q.array.shape[-2], R.array.shape[-1]
    left = None if gR is None else mm(gR, mH(R))
    right = None if gQ is None else elementwise.neg(mm(mH(Q), gQ))
    inner = plus(left, right)
    assert inner is not None  # one of the gradients is there
    if m >= n:
        upper = shape.triu(inner)
        turned = elementwise.add(upper, mH(upper))
        half = elementwise.mul(elementwise.real(diag_of(turned)), 0.5)
        turned = elementwise.sub(turned, shape.diag_embed(half))
        total = plus(mm(Q, turned), gQ)
        assert total is not None
        return solve(mH(R), total, upper=False, left=False)
    lower = shape.tril(_skew(elementwise.neg(inner)))
    lower = elementwise.sub(lower, shape.diag_embed(elementwise.mul(diag_of(lower), 0.5)))
    square = solve(mH(shape.narrow(R, -1, 0, m)), lower, upper=False, left=False)
    zeros = wrap(np.zeros((*R.array.shape[:-2], m, n - m), R.array.dtype))
    total = plus(shape.cat([square, zeros], -1), gR)
    assert total is not None
    return mm(Q, total)


@takes_exact_out
def legacy_qr(input: Tensor, some: bool = True) -> Any:
    """`torch.qr`, the older form of `linalg.qr`."""
    return return_types.qr(*direct(qr)(input, "reduced" if some else "complete"))


# -- singular values -------------------------------------------------------------------------------


@takes_exact_out
def svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    """`A = U @ diag(S) @ Vh` with S descending."""
    if driver is not None:
        raise ShapeError(
            "linalg.svd", f"driver={driver!r}: only supported on CUDA inputs with cuSOLVER", "None"
        )
    return return_types.linalg_svd(*_svd(A, full_matrices))


def _svd_arrays(x: Array, full: bool) -> tuple[Array, Array, Array]:
    check_matrix("linalg.svd", x)
    if not np.isfinite(x).all():
        raise LinAlgError(
            "linalg.svd",
            "The algorithm failed to converge because the input matrix contained non-finite values",
        )
    try:
        u, s, vh = np.linalg.svd(x, full_matrices=full)
    except np.linalg.LinAlgError:
        raise LinAlgError("linalg.svd", "The algorithm failed to converge") from None
    return u, s, vh


def _svd(A: Tensor, full: bool) -> tuple[Tensor, ...]:
    found = _svd_arrays(A.array, full)

    def formula(grads: Any, outputs: Any, _: Tensor) -> Sequence[Tensor]:
        k = found[1].shape[-1]
        gU, gS, gVh = grads
        U, S, Vh = outputs
        if full:
            U, Vh = shape.narrow(U, -1, 0, k), shape.narrow(Vh, -2, 0, k)
            gU = None if gU is None else shape.narrow(gU, -1, 0, k)
            gVh = None if gVh is None else shape.narrow(gVh, -2, 0, k)
        return (_svd_gradient(gU, gS, gVh, U, S, Vh),)

    return derived_outputs(found, formula, A, name="linalg_svd")


def _skew(x: Tensor) -> Tensor:
    return elementwise.sub(x, mH(x))


def _svd_gradient(gU: Any, gS: Any, gVh: Any, U: Tensor, S: Tensor, Vh: Tensor) -> Tensor:
    m, n, k = U.array.shape[-2], Vh.array.shape[-1], S.array.shape[-1]
    mul, sub, div = elementwise.mul, elementwise.sub, elementwise.div
    if gU is None and gVh is None:
        if m >= n:
            return mm(U, mul(column(gS), Vh))
        return mm(mul(U, row(gS)), Vh)
    left = None if gU is None else _skew(mm(mH(U), gU))
    right = None if gVh is None else _skew(mm(Vh, mH(gVh)))
    total = plus(
        None if left is None else mul(left, row(S)),
        None if right is None else mul(column(S), right),
    )
    assert total is not None
    if U.array.dtype.kind == "c":
        turns: list[Any] = [0.0 if x is None else x.array for x in (left, right)]
        _phase_free("linalg.svd", turns[0], turns[1])
    total = div(total, _gaps(mul(S, S)))
    if U.array.dtype.kind == "c" and left is not None:
        total = elementwise.add(total, shape.diag_embed(div(diag_of(left), mul(S, 2))))
    if gS is not None:
        total = elementwise.add(total, shape.diag_embed(gS))
    rows, columns = total, None
    if gU is not None and m > k:
        outside = div(gU, row(S))
        rows = elementwise.add(mm(U, total), sub(outside, mm(U, mm(mH(U), outside))))
        columns = mm(rows, Vh)
    else:
        columns = mm(mm(U, total), Vh)
    if gVh is not None and n > k:
        outside = div(gVh, column(S))
        beside = sub(outside, mm(mm(outside, mH(Vh)), Vh))
        columns = elementwise.add(columns, mm(U, beside))
    return columns


@takes_exact_out
def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """Singular values, descending."""
    if driver is not None:
        raise ShapeError("linalg.svdvals", f"driver={driver!r}: only supported on CUDA", "None")
    if tape.needs_grad(A):
        return _svd(A, False)[1]
    x = A.array
    check_matrix("linalg.svd", x)
    if not np.isfinite(x).all():
        _svd_arrays(x, False)
    return wrap(np.linalg.svd(x, compute_uv=False))


@takes_exact_out
def legacy_svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> Any:
    """`torch.svd`, the older form of `linalg.svd`: V itself is returned."""
    if not compute_uv:
        m, n = input.array.shape[-2:] if input.array.ndim > 1 else (0, 0)
        batch, kind = input.array.shape[:-2], input.array.dtype
        values = direct(svdvals)(input)
        zeros = [wrap(np.zeros((*batch, size, size), kind)) for size in (m, n)]
        return return_types.svd(zeros[0], values, zeros[1])
    u, s, vh = _svd(input, not some)
    return return_types.svd(u, s, mH(vh))


# -- eigenvalues -----------------------------------------------------------------------------------


@takes_exact_out
def eigh(input: Tensor, UPLO: str = "L") -> Any:
    """Eigenvalues (ascending) and eigenvectors of symmetric or Hermitian matrices; only the lower
    ("L") or upper ("U") triangle is read.
    """
    return return_types.linalg_eigh(*_eigh(input, UPLO))


def _eigh(A: Tensor, UPLO: str) -> tuple[Tensor, ...]:
    x = A.array
    check_square("linalg.eigh", x)
    if not isinstance(UPLO, str) or UPLO.upper() not in ("L", "U"):
        raise ShapeError("linalg.eigh", f"UPLO={UPLO!r}", "'L' or 'U'")
    side: Any = UPLO.upper()
    try:
        values, vectors = np.linalg.eigh(x, side)
    except np.linalg.LinAlgError:
        raise LinAlgError("linalg.eigh", "The algorithm failed to converge") from None

    def formula(grads: Any, outputs: Any, _: Tensor) -> Sequence[Tensor]:
        return (_eig_gradient("linalg.eigh", grads, outputs, True),)

    found = (values, vectors.astype(x.dtype, copy=False))
    return derived_outputs(found, formula, A, name="linalg_eigh")


def _eig_gradient(where: str, grads: Any, outputs: Any, hermitian: bool) -> Tensor:
    (gL, gV), (L, V) = grads, outputs
    mul, div = elementwise.mul, elementwise.div
    if gV is None:
        if hermitian:
            return _symmetric(mm(mul(V, row(gL)), mH(V)))
        return _solve(mH(V), mul(column(gL), mH(V)))
    turn = mm(mH(V), gV)
    if V.array.dtype.kind == "c":
        _phase_free(where, turn.array, 0.0)
    if hermitian:
        inner = div(turn, _gaps(L))
    else:
        real = elementwise.real(diag_of(turn))
        change = elementwise.sub(turn, mul(mm(mH(V), V), row(real)))
        inner = div(change, elementwise.conj(_gaps(L)))
    inner = without_diagonal(inner)
    if gL is not None:
        inner = elementwise.add(inner, shape.diag_embed(gL))
    if hermitian:
        return _symmetric(mm(mm(V, inner), mH(V)))
    return _solve(mH(V), mm(inner, mH(V)))


def _symmetric(x: Tensor) -> Tensor:
    return elementwise.mul(elementwise.add(x, mH(x)), 0.5)


def _solve(A: Tensor, B: Tensor) -> Tensor:
    from tensorlib.ops.solver import solve

    found: Tensor = direct(solve)(A, B)
    return found


@takes_exact_out
def eigvalsh(input: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of symmetric or Hermitian matrices, ascending."""
    return _eigh(input, UPLO)[0]


@takes_exact_out
def eig(input: Tensor) -> Any:
    """Complex eigenvalues and eigenvectors (of length one) of square matrices."""
    return return_types.linalg_eig(*_eig(input))


def _eig(A: Tensor) -> tuple[Tensor, ...]:
    x = A.array
    check_square("linalg.eig", x)
    if not np.isfinite(x).all():
        raise ShapeError("linalg.eig", "input tensor should not contain infs or NaNs")
    kind: Any = np.result_type(x.dtype, np.complex64)
    values, vectors = np.linalg.eig(x)
    found = (values.astype(kind, copy=False), vectors.astype(kind, copy=False))

    def formula(grads: Any, outputs: Any, _: Tensor) -> Sequence[Tensor]:
        return (_eig_gradient("linalg.eig", grads, outputs, False),)

    return derived_outputs(found, formula, A, name="linalg_eig")


@takes_exact_out
def eigvals(input: Tensor) -> Tensor:
    """Complex eigenvalues of square matrices."""
    return _eig(input)[0]
