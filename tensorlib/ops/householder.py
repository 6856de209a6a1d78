"""Householder reflectors: `geqrf householder_product ormqr`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import return_types
from tensorlib.errors import DTypeError, ShapeError, UnsupportedError
from tensorlib.ops import _lapack, elementwise, shape
from tensorlib.ops._common import Array, Grads, expect_tensor, named, record_outputs, wrap
from tensorlib.ops._formula import derived
from tensorlib.ops.decomposition import check_matrix, column, mH, mm
from tensorlib.ops.out import takes_exact_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@takes_exact_out
def geqrf(input: Tensor) -> Any:
    """QR as LAPACK keeps it: R with the reflectors' vectors below it, and their factors `tau`."""
    check_matrix("geqrf", input.array)
    found = _lapack.householder_qr(input.array)

    def geqrf(*_: Any) -> Grads:
        raise UnsupportedError("geqrf", "the derivative for 'geqrf' is not implemented")

    return return_types.geqrf(*record_outputs(found, geqrf, input))


@takes_exact_out
def householder_product(input: Tensor, tau: Tensor) -> Tensor:
    """The first columns of the product of the reflectors `I - tau v v^H` that `geqrf` gives."""
    return _product("linalg.householder_product", input, tau)


@takes_exact_out
def orgqr(input: Tensor, input2: Tensor) -> Tensor:
    """`linalg.householder_product` with `tau` as `input2`."""
    return _product("orgqr", input, input2)


def _product(where: str, input: Tensor, tau: Tensor) -> Tensor:
    _check(where, input, tau)
    m, n = input.array.shape[-2:]
    if n > m:
        raise ShapeError(
            where, f"input has shape {input.array.shape}", "at least as many rows as columns"
        )
    if tau.array.shape[-1] > n:
        raise ShapeError(where, f"tau has {tau.array.shape[-1]} factors", f"at most {n}")
    start = np.broadcast_to(np.eye(m, n, dtype=input.array.dtype), input.array.shape)
    if not tau.array.size:
        return derived(start.copy(), _no_gradient, input, tau, name="linalg_householder_product")
    product = _reflect(input, tau, wrap(start.copy()), True, False)
    return named(product, "LinalgHouseholderProductBackward0")


@takes_exact_out
def ormqr(
    input: Tensor, input2: Tensor, input3: Tensor, left: bool = True, transpose: bool = False
) -> Tensor:
    """`Q @ input3` (or `input3 @ Q`; `transpose` takes Q^H) with Q of the reflectors `input` and
    `tau` in `input2` that `geqrf` gives.
    """
    tau, other = input2, input3
    expect_tensor("ormqr", "input3", other)
    _check("ormqr", input, tau)
    a, c = input.array, other.array
    if c.ndim < 2 or a.ndim != c.ndim or c.shape[:-2] != a.shape[:-2]:
        raise ShapeError(
            "ormqr", f"shapes {a.shape} and {c.shape}", "batches of matrices of one batch size"
        )
    side = c.shape[-2 if left else -1]
    if a.shape[-2] != side or tau.array.shape[-1] > side or tau.array.shape[-1] > a.shape[-1]:
        raise ShapeError(
            "ormqr", f"shapes {a.shape}, {tau.array.shape} and {c.shape} do not fit together"
        )
    if c.dtype != a.dtype:
        raise DTypeError("ormqr", f"other has dtype {other.dtype}, input {input.dtype}")
    return named(_reflect(input, tau, other, left, transpose), "OrmqrBackward0")


def _no_gradient(grad: Tensor, _: Tensor, *inputs: Tensor) -> Sequence[Tensor]:
    return [elementwise.mul(one, 0) for one in inputs]


def _check(where: str, A: Tensor, tau: Tensor) -> None:
    expect_tensor(where, "tau", tau)
    check_matrix(where, A.array)
    if tau.array.dtype != A.array.dtype:
        raise DTypeError(where, f"tau has dtype {tau.dtype}, input {A.dtype}", "equal ones")
    if tau.array.shape[:-1] != A.array.shape[:-2]:
        raise ShapeError(
            where, f"tau has shape {tau.array.shape}", f"batch size {A.array.shape[:-2]}"
        )


def _reflect(A: Tensor, tau: Tensor, C: Tensor, left: bool, adjoint: bool) -> Tensor:
    """One reflector after the other applied to C, the one nearest to it first."""
    count = tau.array.shape[-1]
    one: Array = np.eye(A.array.shape[-2], A.array.shape[-1], dtype=A.array.dtype)
    vectors = elementwise.add(shape.tril(A, -1), wrap(one))
    factors = elementwise.conj(tau) if adjoint else tau
    order = range(count) if left == adjoint else range(count - 1, -1, -1)
    for i in order:
        v = shape.narrow(vectors, -1, i, 1)
        factor = column(shape.narrow(factors, -1, i, 1))
        if left:
            change = mm(v, mm(mH(v), C))
        else:
            change = mm(mm(C, v), mH(v))
        C = elementwise.sub(C, elementwise.mul(factor, change))
    return C
