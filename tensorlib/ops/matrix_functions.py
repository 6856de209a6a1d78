"""Functions of square matrices: `det slogdet matrix_power matrix_exp`, and `vander`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes, return_types
from tensorlib.autograd import tape
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops import cumulative, elementwise, indexing, shape
from tensorlib.ops._common import Array, wrap
from tensorlib.ops._formula import derived, derived_outputs
from tensorlib.ops.decomposition import (
    _svd_arrays,
    check_float,
    check_square,
    column,
    mH,
    mm,
    plus,
)
from tensorlib.ops.out import direct, takes_exact_out, takes_out
from tensorlib.ops.solver import _solved, inv

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@takes_exact_out
def det(A: Tensor) -> Tensor:
    """Determinant of square matrices."""
    x = A.array
    check_square("linalg.det", x)
    output = np.asarray(np.linalg.det(x), x.dtype)

    def formula(grad: Tensor, value: Tensor, A: Tensor) -> Sequence[Tensor]:
        if not tape.needs_grad(grad, value, A) and _singular(A.array):
            return (elementwise.mul(wrap(_adjugate(A.array)), column(column(grad))),)
        scale = elementwise.mul(grad, elementwise.conj(value))
        eye = wrap(np.eye(A.array.shape[-1], dtype=A.array.dtype))
        return (_solved("linalg.det", mH(A), elementwise.mul(eye, column(column(scale))), True)[0],)

    return derived(output, formula, A, name="linalg_det")


def _singular(x: Array) -> bool:
    try:
        return not bool(np.isfinite(np.linalg.inv(x)).all())
    except np.linalg.LinAlgError:
        return True


def _adjugate(x: Array) -> Array:
    """The conjugate transpose of adj(A), which also singular matrices have."""
    u, s, vh = _svd_arrays(x, False)
    rest = np.where(np.eye(s.shape[-1], dtype=bool), 1, s[..., None, :]).prod(-1)
    sign = np.conj(np.linalg.det(u) * np.linalg.det(vh))
    found: Array = (sign[..., None, None] * ((u * rest[..., None, :]) @ vh)).astype(x.dtype)
    return found


def _slogdet(where: str, A: Tensor) -> tuple[Tensor, Tensor]:
    x = A.array
    check_square(where, x)
    sign, size = np.linalg.slogdet(x)
    found = (np.asarray(sign, x.dtype), np.asarray(size, x.real.dtype))

    def formula(grads: Any, outputs: Any, A: Tensor) -> Sequence[Tensor]:
        scale = grads[1]
        if A.array.dtype.kind == "c" and grads[0] is not None:
            turn = elementwise.imag(elementwise.mul(elementwise.conj(grads[0]), outputs[0]))
            scale = plus(scale, elementwise.mul(turn, -1j))
        if scale is None:
            return (None,)  # type: ignore[return-value]  # the sign of real numbers is constant
        eye = wrap(np.eye(A.array.shape[-1], dtype=A.array.dtype))
        right = elementwise.mul(eye, column(column(scale)))
        return (_solved(where, mH(A), right, True)[0],)

    sign_, size_ = derived_outputs(found, formula, A, name="linalg_slogdet")
    return sign_, size_


@takes_exact_out
def slogdet(A: Tensor) -> Any:
    """Sign (a complex number of size one, or 0) and logarithm of the absolute determinant."""
    return return_types.linalg_slogdet(*_slogdet("linalg.slogdet", A))


@takes_exact_out
def legacy_slogdet(input: Tensor) -> Any:
    """`linalg.slogdet`."""
    return return_types.slogdet(*_slogdet("slogdet", input))


def logdet(input: Tensor) -> Tensor:
    """Logarithm of the determinant; NaN where it is negative."""
    sign, size = _slogdet("logdet", input)
    if sign.array.dtype.kind == "c":
        return elementwise.add(elementwise.log(sign), size)
    nan = wrap(np.asarray(np.nan, size.array.dtype))
    found: Tensor = indexing.where(wrap(sign.array == -1), nan, size)
    return found


@takes_exact_out
def matrix_power(input: Tensor, n: int) -> Tensor:
    """A square matrix multiplied with itself `n` times; negative powers use the inverse."""
    where = "linalg.matrix_power"
    x = input.array
    if not isinstance(n, int) or isinstance(n, bool):
        raise ArgumentError(where, f"n must be int, not {type(n).__name__}")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(where, f"A must be batches of square matrices, but they are {x.shape}")
    if n < 0:
        return direct(matrix_power)(direct(inv)(input), -n)
    if n == 0:
        eye = np.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape).copy()
        return derived(eye, lambda g, o, A: (elementwise.mul(A, 0),), input, name="matrix_power")
    if n == 1:
        return shape.clone(input)
    result, base = None, input
    while n:
        if n & 1:
            result = base if result is None else mm(result, base)
        n >>= 1
        if n:
            base = mm(base, base)
    assert result is not None
    return result


def matrix_exp(input: Tensor) -> Tensor:
    """Exponential of square matrices (A. Al-Mohy and N. Higham, 2009); its derivative is a block of
    the exponential of a matrix of twice the size (R. Mathias, 1996).
    """
    where = "linalg.matrix_exp"
    x = input.array
    if x.dtype.char not in "eE":
        check_float(where, x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(where, f"A must be batches of square matrices, but they are {x.shape}")
    output = x.copy()
    if x.size:
        from scipy.linalg import expm

        wide = np.float32 if x.dtype.char in "eE" else np.result_type(x.dtype, np.float64)
        output = expm(x.astype(wide)).astype(x.dtype)
    n = x.shape[-1]

    def formula(grad: Tensor, _: Tensor, input: Tensor) -> Sequence[Tensor]:
        turned = mH(input)
        zeros = wrap(np.zeros_like(input.array))
        top = shape.cat([turned, grad], -1)
        block = shape.cat([top, shape.cat([zeros, turned], -1)], -2)
        whole = matrix_exp(block)
        return (shape.narrow(shape.narrow(whole, -2, 0, n), -1, n, n),)

    return derived(output, formula, input, name="linalg_matrix_exp")


@takes_out
def linalg_vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """`torch.linalg.vander`: powers 0 to N-1 of each element, in a new last dimension."""
    where = "linalg.vander"
    if x.array.dtype.kind == "b" or x.array.dtype.char in "eE":
        raise DTypeError(
            where, f"supports floating point, complex, and integer tensors, but got {x.dtype}"
        )
    x = x if x.array.ndim else shape.reshape(x, (1,))
    count = x.array.shape[-1] if N is None else N
    if count <= 1:
        raise ShapeError(where, f"N={count}", "more than 1")
    if x.array.dtype.kind in "iu":
        x = elementwise.cast(x, dtypes.int64)
    ones = wrap(np.ones((*x.array.shape, 1), x.array.dtype))
    rest = shape.expand(column(x), (*x.array.shape, count - 1))
    return shape.cat([ones, cumulative.cumprod(rest, -1)], -1)


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Powers of the elements of a vector as columns, the highest first unless `increasing`."""
    if x.array.ndim != 1:
        raise ShapeError("vander", f"x has {x.array.ndim} dimensions", "a one-dimensional tensor")
    count = x.array.shape[0] if N is None else N
    if count < 0:
        raise ShapeError("vander", f"N={count}", "a non-negative number")
    if x.array.dtype.kind in "iub":
        x = elementwise.cast(x, dtypes.int64)
    ones = wrap(np.ones((x.array.shape[0], min(count, 1)), x.array.dtype))
    rest = shape.expand(column(x), (x.array.shape[0], max(count - 1, 0)))
    powers = shape.cat([ones, cumulative.cumprod(rest, -1)], -1)
    return powers if increasing else shape.flip(powers, (-1,))
