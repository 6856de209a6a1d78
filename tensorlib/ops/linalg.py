"""Products of matrices and vectors: `matmul mm bmm mv dot addmm outer linear cross`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import mode
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.kernels import matrix as kernels
from tensorlib.ops import _autocast, elementwise, reduction, shape
from tensorlib.ops._common import (
    Array,
    Grads,
    broadcast_shapes,
    check_dtype,
    conjugate,
    dim_index,
    expect_tensor,
    named,
    promoted,
    record,
    wants,
    wrap,
)
from tensorlib.ops._formula import derived
from tensorlib.ops._products import LARGE, column_sums, product, times
from tensorlib.ops.out import direct, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _mT(a: Any) -> Any:
    return np.swapaxes(a, -1, -2)


def same_dtype(where: str, a: Array, b: Array) -> None:
    """Refuse operands of a product that have different types, or a type without products."""
    if a.dtype != b.dtype:
        raise DTypeError(
            where,
            f"expected m1 and m2 to have the same dtype, but got: {dtypes.of(a.dtype)} != "
            f"{dtypes.of(b.dtype)}",
            hint="convert one with .to(dtype)",
        )
    if a.dtype.kind == "b":
        raise DTypeError(where, "not implemented for bool", "numbers", hint="convert with .int()")


@takes_exact_out
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Matrix product; vectors are taken as row and column, leading dimensions broadcast."""
    expect_tensor("matmul", "other", other)
    if _autocast.active:
        input, other = _autocast.lower(input, other)
    a, b = input.array, other.array
    if a.dtype != b.dtype or a.dtype.kind == "b":
        same_dtype("matmul", a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(
            "matmul",
            f"both arguments to matmul need to be at least 1D, but they are {a.ndim}D and "
            f"{b.ndim}D",
        )
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ShapeError(
            "matmul",
            f"shapes {a.shape} and {b.shape} cannot be multiplied",
            f"the last size of the first, {a.shape[-1]}, equal to the "
            f"{'second-last ' if b.ndim > 1 else ''}size of the second, {inner}",
            hint="transpose one of them with .mT, or check the layer's in_features",
        )
    try:
        output = times(a, b) if a.dtype.char not in "eE" else product(a, b)
    except ValueError:
        raise ShapeError(
            "matmul", f"batch dimensions of {a.shape} and {b.shape} do not broadcast"
        ) from None
    if not mode.grad:
        return wrap(output)
    m, n = a.ndim, b.ndim
    a = a if other._requires_grad or wants(other) else None
    b = b if input._requires_grad or wants(input) else None
    if m == 1 and n == 1:

        def backward_dot(grad: Array) -> Grads:
            left = None if b is None else grad * conjugate(b)
            return left, None if a is None else grad * conjugate(a)

        return record(output, backward_dot, input, other)

    def backward(grad: Array) -> Grads:
        left = right = None
        if m == 1:
            if b is not None:
                left = (grad[..., None, :] @ conjugate(_mT(b)))[..., 0, :]
            if a is not None:
                right = conjugate(a)[:, None] * grad[..., None, :]
        elif n == 1:
            if b is not None:
                left = grad[..., None] * conjugate(b)
            if a is not None:
                right = (conjugate(_mT(a)) @ grad[..., None])[..., 0]
        else:
            if b is not None:
                left = times(grad, conjugate(_mT(b)))
            if a is not None:
                if n == 2 and m > 2:
                    # one product instead of a batch of them that is then summed
                    rows = (math.prod(a.shape[:-1]), a.shape[-1])
                    wide = grad.reshape((rows[0], grad.shape[-1]))
                    right = times(conjugate(a.reshape(rows).T), wide)
                else:
                    right = times(conjugate(_mT(a)), grad)
        return left, right

    return record(output, backward, input, other)


_matmul = direct(matmul)


@takes_exact_out
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Product of two matrices."""
    expect_tensor("mm", "mat2", mat2)
    if input.array.ndim != 2 or mat2.array.ndim != 2:
        raise ShapeError(
            "mm",
            f"shapes {input.array.shape} and {mat2.array.shape}",
            "two matrices",
            hint="use matmul()",
        )
    return _matmul(input, mat2)


@takes_exact_out
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Products of two batches of matrices."""
    expect_tensor("bmm", "mat2", mat2)
    a, b = input.array, mat2.array
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
        raise ShapeError(
            "bmm",
            f"shapes {a.shape} and {b.shape}",
            "two 3D tensors of one batch size",
            hint="use matmul()",
        )
    return named(_matmul(input, mat2), "BmmBackward0")


@takes_exact_out
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Product of a matrix and a vector."""
    expect_tensor("mv", "vec", vec)
    if input.array.ndim != 2 or vec.array.ndim != 1:
        raise ShapeError(
            "mv", f"shapes {input.array.shape} and {vec.array.shape}", "a matrix and a vector"
        )
    return _matmul(input, vec)


@takes_exact_out
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Sum of products of two vectors."""
    expect_tensor("dot", "tensor", tensor)
    a, b = input.array, tensor.array
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError("dot", f"1D tensors expected, but got {a.ndim}D and {b.ndim}D tensors")
    if a.shape != b.shape:
        raise ShapeError(
            "dot", f"inconsistent tensor size, got {a.shape} and {b.shape}", "equal sizes"
        )
    return _matmul(input, tensor)


@takes_exact_out
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """`dot` with the first vector conjugated."""
    expect_tensor("vdot", "other", other)
    return named(direct(dot)(elementwise.conj(input), other), "VdotBackward0")


@takes_out
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Sums of products along `dim`, the first factor conjugated."""
    expect_tensor("linalg.vecdot", "y", y)
    for one in (x.array, y.array):
        check_dtype("linalg.vecdot", one, "fcV", "a floating point or complex tensor")
    if not x.array.ndim or not y.array.ndim:
        dim_index(dim, 0, "linalg.vecdot")
        return elementwise.mul(elementwise.conj(x), y)
    return reduction.sum(elementwise.mul(elementwise.conj(x), y), dim)


@takes_out
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of two vectors' elements."""
    expect_tensor("outer", "vec2", vec2)
    if input.array.ndim != 1 or vec2.array.ndim != 1:
        raise ShapeError(
            "outer", f"shapes {input.array.shape} and {vec2.array.shape}", "two vectors"
        )
    return elementwise.mul(shape.unsqueeze(input, 1), vec2)


ger = outer


# -- a product added to a tensor -------------------------------------------------------------------


@takes_exact_out
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * (mat1 @ mat2)`; with `beta=0` what `input` holds is not looked at."""
    a, b = _operands("addmm", mat1, mat2, 2, 2)
    return _add_product("addmm", input, a, b, beta, alpha)


@takes_exact_out
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * (mat @ vec)`."""
    a, b = _operands("addmv", mat, vec, 2, 1)
    return _add_product("addmv", input, a, b, beta, alpha)


@takes_exact_out
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """`beta * input + alpha * (batch1 @ batch2)` for batches of matrices."""
    a, b = _operands("baddbmm", batch1, batch2, 3, 3)
    return _add_product("baddbmm", input, a, b, beta, alpha)


@takes_exact_out
def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """`beta * input + alpha * sum(batch1 @ batch2)` over the batch."""
    a, b = _operands("addbmm", batch1, batch2, 3, 3)
    n, rows, k = a.array.shape
    if input.array.dtype.char in "eE" and n > 1:  # rounded after each product, as PyTorch's
        for i in range(n):
            input = _add_product(
                "addbmm", input, shape.select(a, 0, i), shape.select(b, 0, i), beta, alpha
            )
            beta = 1
        return input
    wide = shape.reshape(shape.permute(a, 1, 0, 2), (rows, n * k))
    tall = shape.reshape(b, (n * k, b.array.shape[2]))
    return _add_product("addbmm", input, wide, tall, beta, alpha)


@takes_out
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * outer(vec1, vec2)`."""
    for name, one in (("vec1", vec1), ("vec2", vec2)):
        expect_tensor("addr", name, one)
    kind = dtypes.promote_numpy(vec1.array.dtype, vec2.array.dtype)
    kind = dtypes.promote_numpy(input.array.dtype, kind)
    _check_scalars("addr", kind, beta, alpha)
    if kind.kind == "b":
        beta, alpha = bool(beta), bool(alpha)
    if kind.char in "eE":  # scales rounded as the operands are
        beta, alpha = float(kind.type(beta)), float(kind.type(alpha))
    result = direct(outer)(vec1 if alpha == 1 else elementwise.mul(vec1, alpha), vec2)
    _check_input("addr", input, result.array.shape)
    if beta == 0:
        return elementwise.cast(result, dtypes.of(kind))
    total = elementwise.add(input if beta == 1 else elementwise.mul(input, beta), result)
    return named(total, "AddrBackward0")


def _operands(where: str, a: Any, b: Any, ndim_a: int, ndim_b: int) -> tuple[Tensor, Tensor]:
    """Both factors, of the dimensions that the operation takes."""
    expect_tensor(where, "mat1", a)
    expect_tensor(where, "mat2", b)
    x, y = a.array, b.array
    if x.ndim != ndim_a or y.ndim != ndim_b:
        raise ShapeError(
            where,
            f"the factors have shapes {x.shape} and {y.shape}",
            f"{ndim_a}D and {ndim_b}D tensors",
        )
    inner = y.shape[-2] if ndim_b > 1 else y.shape[0]
    if x.shape[-1] != inner or (ndim_a == 3 and x.shape[0] != y.shape[0]):
        raise ShapeError(
            where, f"mat1 and mat2 shapes cannot be multiplied: {x.shape} and {y.shape}"
        )
    return a, b


def _check_scalars(where: str, kind: Any, beta: Any, alpha: Any) -> None:
    for name, value in (("beta", beta), ("alpha", alpha)):
        if kind.kind in "iub" and not isinstance(value, int):
            raise DTypeError(
                where,
                f"For integral input tensors, argument {name} must not be a floating point number, "
                f"got {value}",
            )
        if isinstance(value, bool) and kind.kind != "b":
            raise DTypeError(where, f"Boolean {name} only supported for Boolean results")


def _check_input(where: str, input: Tensor, wanted: tuple[int, ...]) -> None:
    given = input.array.shape
    if len(given) > len(wanted) or any(
        n not in (1, w) for n, w in zip(given[::-1], wanted[::-1], strict=False)
    ):
        raise ShapeError(
            where, f"The expanded size of the input {given} must match the product's {wanted}"
        )


def _add_product(
    where: str, input: Tensor, left: Tensor, right: Tensor, beta: Any, alpha: Any
) -> Tensor:
    expect_tensor(where, "input", input)
    if _autocast.active:
        input, left, right = _autocast.lower(input, left, right)
    c, a, b = input.array, left.array, right.array
    same_dtype(where, a, b)
    same_dtype(where, c, a)
    _check_input(where, input, (*a.shape[:-1], *b.shape[-1:]) if b.ndim > 1 else a.shape[:-1])
    if a.dtype.kind in "iu":
        beta, alpha = int(beta), int(alpha)
    if not isinstance(beta, int | float | complex) or not isinstance(alpha, int | float | complex):
        raise ArgumentError(where, f"beta={beta!r}, alpha={alpha!r}", "two numbers")
    half = a.dtype.char in "eE"  # summed in single, rounded once
    output = times(a.astype(np.float32), b.astype(np.float32)) if half else times(a, b)
    if alpha != 1:
        output = output * alpha
    if beta != 0:
        output = output + (c if beta == 1 else beta * (c.astype(np.float32) if half else c))
    if output.dtype != c.dtype:
        output = output.astype(c.dtype)
    scale, weight = beta.conjugate(), alpha.conjugate()

    def backward(grad: Array) -> Grads:
        back = grad if alpha == 1 else grad * weight
        if b.ndim == 1:
            left = back[:, None] * conjugate(b)
            right = conjugate(a.T) @ back
        else:
            left = times(back, conjugate(_mT(b)))
            right = times(conjugate(_mT(a)), back)
        return grad if beta == 1 else grad * scale, left, right

    backward.__qualname__ = where
    return record(output, backward, input, left, right)


# -- layers ----------------------------------------------------------------------------------------


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Any = None) -> Tensor:
    """`input @ weight.T + bias`: [..., in] and [out, in] to [..., out]."""
    if out is not None:
        return _linear_into(input, weight, bias, out=out)  # type: ignore[call-arg]  # the decorator's
    if _autocast.active:
        input, weight, bias = _autocast.lower(input, weight, bias)
    x, w = input.array, weight.array
    if x.dtype != w.dtype or x.dtype.kind == "b":
        same_dtype("linear", x, w)
    if w.ndim != 2:
        if w.ndim == 1 and bias is None:
            return _matmul(input, weight)
        raise ShapeError("linear", f"weight has shape {w.shape}", "[out_features, in_features]")
    if x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            "linear",
            f"mat1 and mat2 shapes cannot be multiplied: input {x.shape}, weight {w.shape}",
            f"an input whose last size is in_features={w.shape[1]}",
            hint="flatten the input, or set in_features to its last size",
        )
    columns = (-1, x.shape[-1]) if x.size else (math.prod(x.shape[:-1]), x.shape[-1])
    rows_out = (-1, w.shape[0]) if w.shape[0] else (columns[0], 0)
    half = x.dtype.char in "eE"  # summed in single, rounded once
    left, right = (x.astype(np.float32), w.astype(np.float32)) if half else (x, w)
    if x.ndim > 2:
        left = left.reshape(columns)
    added = None
    if bias is not None:
        added = bias.array
        if added.dtype != w.dtype:
            same_dtype("linear", x, added)
    if left.size >= LARGE // (w.shape[0] or 1) and not half and type(left) is np.ndarray:
        fused = None if added is None or added.shape != (w.shape[0],) else added
        output = kernels.matmul(left, right.T, fused)
        added = added if fused is None else None
    else:
        output = left @ right.T
    if x.ndim > 2:
        output = output.reshape((*x.shape[:-1], w.shape[0]))
    if added is not None:
        try:
            output += added
        except ValueError:
            raise ShapeError(
                "linear", f"bias has shape {added.shape}", f"({w.shape[0]},)"
            ) from None
    if half:
        output = output.astype(x.dtype)
    if not mode.grad:
        return wrap(output)
    shape = x.shape
    x = x if weight._requires_grad or wants(weight) else None
    w = w if input._requires_grad or wants(input) else None

    def backward(grad: Array) -> Grads:
        rows = grad.reshape(rows_out) if grad.ndim != 2 else grad
        left = None if w is None else times(rows, conjugate(w)).reshape(shape)
        right = None if x is None else times(rows.T, conjugate(x.reshape(columns)))
        if bias_ndim != 1 or half:  # the engine sums, half precision in single
            return left, right, grad if bias_ndim != 1 else rows
        return left, right, column_sums(rows)

    def backward_plain(grad: Array) -> Grads:
        rows = grad.reshape(rows_out) if grad.ndim != 2 else grad
        left = None if w is None else times(rows, conjugate(w)).reshape(shape)
        return left, None if x is None else times(rows.T, conjugate(x.reshape(columns)))

    if bias is None:
        return record(output, backward_plain, input, weight)
    bias_ndim = bias.array.ndim
    return record(output, backward, input, weight, bias)


@takes_exact_out
def _linear_into(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(input, weight, bias)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input1 @ weight[k] @ input2` for each k, plus `bias`."""
    from tensorlib.ops.contraction import einsum  # made of the products here

    a, b, w = input1.array, input2.array, weight.array
    for one in (b, w):
        if one.dtype != a.dtype:
            same_dtype("bilinear", a, one)
    if a.shape[:-1] != b.shape[:-1] or a.ndim != b.ndim:
        raise ShapeError("bilinear", f"input batch dimensions do not match: {a.shape}, {b.shape}")
    if w.ndim != 3 or a.shape[-1:] != w.shape[1:2] or b.shape[-1:] != w.shape[2:]:
        raise ShapeError("bilinear", f"inputs {a.shape}, {b.shape} do not match weight {w.shape}")
    if bias is not None and bias.array.shape != w.shape[:1]:
        raise ShapeError("bilinear", f"bias has shape {bias.array.shape}", f"{w.shape[:1]}")
    result = einsum("...i,kij,...j->...k", input1, weight, input2)
    return result if bias is None else elementwise.add(result, bias)


@takes_out
def linalg_cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """`torch.linalg.cross`: cross product of vectors of size 3 along `dim`; the rest broadcasts."""
    expect_tensor("linalg.cross", "other", other)
    a, b = input.array, other.array
    if a.ndim != b.ndim:
        raise ShapeError(
            "linalg.cross", f"inputs must have the same number of dimensions, {a.ndim} and {b.ndim}"
        )
    axis = dim_index(dim, a.ndim, "linalg.cross")
    if a.ndim == 0 or a.shape[axis] != 3 or b.shape[axis] != 3:
        raise ShapeError(
            "linalg.cross",
            f"inputs dimension {dim} must have length 3. Got {a.shape} and {b.shape}",
        )
    if a.dtype.kind == "b" and b.dtype.kind == "b":
        raise DTypeError("linalg.cross", "not implemented for bool", "numbers")
    input, other = promoted(input, other)
    a, b = input.array, other.array
    broadcast_shapes(a.shape, b.shape)
    ahead = np.roll(a, -1, axis) * np.roll(b, -2, axis)
    output = ahead - np.roll(a, -2, axis) * np.roll(b, -1, axis)

    def formula(grad: Tensor, _: Tensor, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        again = direct(linalg_cross)
        return (
            again(elementwise.conj(y), grad, dim=axis),
            again(grad, elementwise.conj(x), dim=axis),
        )

    return derived(output, formula, input, other, name="linalg_cross")


@takes_out
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """Cross product along `dim`, by default the first dimension of size 3 (see `linalg.cross`)."""
    if dim is None:
        sizes = input.array.shape
        if 3 not in sizes:
            raise ShapeError("cross", f"no dimension of size 3 in input, shape {sizes}")
        dim = sizes.index(3)
    return direct(linalg_cross)(input, other, dim=dim)


def trace(input: Tensor) -> Tensor:
    """Sum of the diagonal of a matrix."""
    if input.array.ndim != 2:
        raise ShapeError("trace", f"expected a matrix, but got tensor with dim {input.array.ndim}")
    if input.array.dtype.kind == "b":
        raise DTypeError("trace", "not implemented for bool", "numbers", hint="convert with .int()")
    return named(reduction.sum(shape.diagonal(input)), "TraceBackward0")
