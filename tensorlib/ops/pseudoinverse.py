"""Systems without one solution: `pinv pinverse matrix_rank lstsq`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import return_types
from tensorlib.autograd import tape
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops import _lapack, elementwise, shape
from tensorlib.ops._common import Array, expect_tensor, wrap
from tensorlib.ops._formula import derived, derived_outputs
from tensorlib.ops.decomposition import (
    _eigh,
    _svd_arrays,
    check_matrix,
    column,
    mH,
    mm,
    plus,
    row,
    svdvals,
)
from tensorlib.ops.out import direct, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _limit(where: str, A: Tensor, largest: Array, atol: Any, rtol: Any) -> Array:
    """Below which singular values count as zero: the larger of `atol` and `rtol` times the
    largest one.
    """
    kind = largest.dtype
    for name, value in (("atol", atol), ("rtol", rtol)):
        if hasattr(value, "array") and value.array.dtype.kind == "c":
            raise DTypeError(where, f"{name} tensor of complex type is not supported")
    if rtol is None:
        given = atol.array if hasattr(atol, "array") else np.asarray(0.0 if atol is None else atol)
        usual = np.finfo(kind).eps * max(A.array.shape[-2:])
        rtol = np.where(given > 0, 0.0, usual)
    absolute = atol.array if hasattr(atol, "array") else np.asarray(0.0 if atol is None else atol)
    relative = rtol.array if hasattr(rtol, "array") else np.asarray(rtol)
    try:
        found: Array = np.maximum(absolute, relative * largest).astype(kind)
    except ValueError:
        raise ShapeError(
            where, f"tolerances of shapes {absolute.shape} and {relative.shape} do not broadcast"
        ) from None
    return found


@takes_exact_out
def pinv(
    input: Tensor,
    rcond: Any = None,
    hermitian: bool = False,
    *,
    atol: Any = None,
    rtol: Any = None,
) -> Tensor:
    """Pseudo-inverse (Moore-Penrose); singular values up to `max(atol, rtol * largest)` count as
    zero (`rcond` is `rtol`'s older name).
    """
    where = "linalg.pinv"
    x = input.array
    check_matrix(where, x)
    if rcond is not None:
        atol, rtol = 0.0, rcond
    if not x.size:
        zeros = np.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)
        return derived(zeros, lambda g, o, A: (elementwise.mul(A, 0),), input, name="linalg_pinv")
    with tape.no_grad():
        if hermitian:
            values, vectors = (t.array for t in _eigh(input, "L"))
            u, vh = vectors, np.conj(np.swapaxes(vectors, -1, -2))
        else:
            u, values, vh = _svd_arrays(x, False)
    sizes = np.abs(values)
    limit = _limit(where, input, sizes.max(-1), atol, rtol)[..., None]
    keep = sizes > limit
    scale = np.where(keep, 1 / np.where(keep, values, 1), 0)
    back, front = np.conj(np.swapaxes(vh, -1, -2)), np.conj(np.swapaxes(u, -1, -2))
    output = ((back * scale[..., None, :]) @ front).astype(x.dtype, copy=False)

    def formula(grad: Tensor, P: Tensor, input: Tensor) -> Sequence[Tensor]:
        return (_pinv_gradient(grad, P, input),)

    return derived(output, formula, input, name="linalg_pinv")


def _pinv_gradient(grad: Tensor, P: Tensor, A: Tensor) -> Tensor:
    """G. Golub and V. Pereyra, The differentiation of pseudo-inverses (1973)."""
    add, sub, neg = elementwise.add, elementwise.sub, elementwise.neg
    m, n = A.array.shape[-2:]
    turned, back = mH(P), mH(grad)
    if m <= n:
        K = mm(back, P)
        inner = mm(K, turned)
        total = sub(neg(mH(mm(P, K))), mm(mm(A, P), inner))
        total = add(total, inner)
        return add(total, mm(mm(turned, P), sub(back, mm(K, A))))
    K = mm(P, back)
    inner = mm(turned, K)
    total = sub(neg(mH(mm(K, P))), mm(inner, mm(P, A)))
    total = add(total, inner)
    return add(total, mm(sub(back, mm(A, K)), mm(P, turned)))


def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """`linalg.pinv` with the tolerance `rcond`."""
    return direct(pinv)(input, rcond)


@takes_out
def matrix_rank(
    input: Tensor,
    tol: Any = None,
    hermitian: bool = False,
    *,
    atol: Any = None,
    rtol: Any = None,
) -> Tensor:
    """Number of singular values above `max(atol, rtol * largest)` (`tol` is `atol`'s older name,
    without a relative part).
    """
    where = "linalg.matrix_rank"
    x = input.array
    check_matrix(where, x)
    if tol is not None:
        atol, rtol = tol, 0.0
    with tape.no_grad():
        values = _eigh(input, "L")[0].array if hermitian else direct(svdvals)(input).array
    if not values.shape[-1]:
        return wrap(np.zeros(x.shape[:-2], np.int64))
    sizes = np.abs(values)
    limit = _limit(where, input, sizes.max(-1), atol, rtol)
    return wrap(np.asarray((sizes > limit[..., None]).sum(-1), np.int64))


@takes_exact_out
def lstsq(
    input: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None
) -> Any:
    """Least-squares solutions of `input @ X = b` by LAPACK's `driver` (gelsy, gels, gelsd or
    gelss), the squared residuals, ranks and singular values where that driver gives them.
    """
    where = "linalg.lstsq"
    expect_tensor(where, "b", b)
    x, y = input.array, b.array
    check_matrix(where, x)
    driver = "gelsy" if driver is None else driver
    if driver not in ("gels", "gelsy", "gelsd", "gelss"):
        raise ShapeError(where, f"driver={driver!r}", "one of gels, gelsy, gelsd, gelss")
    if x.dtype != y.dtype:
        raise DTypeError(where, f"input is {input.dtype}, b is {b.dtype}", "the same dtype")
    vector = y.ndim == 1 or (y.ndim == x.ndim - 1 and y.shape == x.shape[:-1])
    if y.ndim == 0 or y.shape[-1 if vector else -2] != x.shape[-2]:
        raise ShapeError(where, f"shapes {x.shape} and {y.shape}", "as many rows in both")
    columns = y[..., None] if vector else y
    m, n = x.shape[-2:]
    limit = np.finfo(x.dtype).eps * max(m, n) if rcond is None else rcond
    try:
        solution, rank, values = _lapack.lstsq(x, columns, float(limit), driver)
    except ValueError:
        raise ShapeError(where, f"batches of {x.shape} and {y.shape} do not broadcast") from None
    errors = np.zeros(0, x.real.dtype)
    if m > n and driver != "gelsy" and (driver == "gels" or bool((rank == n).all())):
        errors = (np.abs(x @ solution - columns) ** 2).sum(-2)

    def formula(grads: Any, outputs: Any, A: Tensor, B: Tensor) -> Sequence[Tensor]:
        return _lstsq_gradient(grads, outputs[0], A, B, vector)

    result = solution[..., 0] if vector else solution
    X, squares = derived_outputs((result, errors), formula, input, b, name="linalg_lstsq")
    nothing = np.zeros(0, np.int64)
    return return_types.linalg_lstsq(
        X,
        squares,
        wrap(nothing if driver == "gels" else rank),
        wrap(values if driver in ("gelsd", "gelss") else np.zeros(0, values.dtype)),
    )


def _lstsq_gradient(grads: Any, X: Tensor, A: Tensor, B: Tensor, vector: bool) -> Sequence[Tensor]:
    gX, gL = grads
    if vector:
        X, B = column(X), column(B)
        gX = None if gX is None else column(gX)
    gA: Any = None
    gB: Any = None
    if gX is not None:
        P = direct(pinv)(A)
        gA = _pinv_gradient(mm(gX, mH(B)), P, A)
        gB = mm(mH(P), gX)
    if gL is not None and gL.array.size:
        errors = elementwise.mul(elementwise.sub(mm(A, X), B), elementwise.mul(row(gL), 2))
        gA = plus(gA, mm(errors, mH(X)))
        gB = plus(gB, elementwise.neg(errors))
    return gA, shape.squeeze(gB, -1) if vector and gB is not None else gB
