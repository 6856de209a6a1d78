"""Randomised factorisations of low rank (N. Halko, P. Martinsson, J. Tropp, Finding structure with
randomness, 2009): `svd_lowrank pca_lowrank`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib.errors import InvalidValueError
from tensorlib.ops import elementwise, reduction, shape
from tensorlib.ops.decomposition import mH, mm, qr, svd
from tensorlib.ops.out import direct
from tensorlib.ops.sampling import randn

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _product(A: Tensor, M: Tensor | None, X: Tensor) -> Tensor:
    """`(A - M) @ X`."""
    found = mm(A, X)
    return found if M is None else elementwise.sub(found, mm(M, X))


def _basis(A: Tensor, q: int, niter: int, M: Tensor | None) -> Tensor:
    """Orthonormal columns that nearly span those of `A - M` (algorithm 4.4)."""
    drawn = randn(A.array.shape[-1], q, dtype=A.dtype)
    Q: Tensor = direct(qr)(_product(A, M, drawn)).Q
    turned = None if M is None else mH(M)
    for _ in range(niter):
        Q = direct(qr)(_product(mH(A), turned, Q)).Q
        Q = direct(qr)(_product(A, M, Q)).Q
    return Q


def svd_lowrank(
    A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and V with `A - M` close to `U @ diag(S) @ V.mH` for `q` slightly above the rank
    (algorithm 5.1); draws from the default generator.
    """
    q, niter = 6 if q is None else q, 2 if niter is None else niter
    if M is not None:
        M = shape.expand(M, A.array.shape)
    wide = A.array.shape[-2] < A.array.shape[-1]
    if wide:
        A, M = mH(A), None if M is None else mH(M)
    Q = _basis(A, q, niter, M)
    small: Any = direct(svd)(_product_from_left(Q, A, M), full_matrices=False)
    U, V = mm(Q, small.U), mH(small.Vh)
    return (V, small.S, U) if wide else (U, small.S, V)


def _product_from_left(Q: Tensor, A: Tensor, M: Tensor | None) -> Tensor:
    found = mm(mH(Q), A)
    return found if M is None else elementwise.sub(found, mm(mH(Q), M))


def pca_lowrank(
    A: Tensor, q: int | None = None, center: bool = True, niter: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """`svd_lowrank` of the rows less their mean: V's columns are the principal directions."""
    m, n = A.array.shape[-2:]
    if q is None:
        q = min(6, m, n)
    elif not 0 <= q <= min(m, n):
        raise InvalidValueError("pca_lowrank", f"q={q}", f"0 to min(m, n)={min(m, n)}")
    if niter < 0:
        raise InvalidValueError("pca_lowrank", f"niter={niter}", "a non-negative integer")
    if center:
        A = elementwise.sub(A, reduction.mean(A, (-2,), True))
    return svd_lowrank(A, q, niter)
