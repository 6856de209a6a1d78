"""Products and decompositions: `matmul mm bmm addmm einsum linear`, norms, `inv solve cholesky qr
svd eigh`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops import elementwise, reduction, shape
from tensorlib.ops._common import (
    Array,
    Grads,
    dim_index,
    expect_tensor,
    record,
    reducer_dims,
    wrap,
)

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _mT(a: Any) -> Any:
    return np.swapaxes(a, -1, -2)


def _same_dtype(where: str, a: Array, b: Array) -> None:
    if a.dtype != b.dtype:
        raise DTypeError(
            where,
            f"expected m1 and m2 to have the same dtype, but got: {dtypes.of(a.dtype)} != "
            f"{dtypes.of(b.dtype)}",
            hint="convert one with .to(dtype)",
        )


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Matrix product; vectors are taken as row and column, leading dimensions broadcast."""
    expect_tensor("matmul", "other", other)
    a, b = input.array, other.array
    _same_dtype("matmul", a, b)
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
        output = a @ b
    except ValueError:
        raise ShapeError(
            "matmul", f"batch dimensions of {a.shape} and {b.shape} do not broadcast"
        ) from None
    want_a, want_b = input._requires_grad, other._requires_grad
    if a.ndim == 1 and b.ndim == 1:

        def backward_dot(grad: Array) -> Grads:
            return grad * np.conj(b), grad * np.conj(a)

        return record(output, backward_dot, input, other)

    def backward(grad: Array) -> Grads:
        left = right = None
        if a.ndim == 1:
            if want_a:
                left = (grad[..., None, :] @ np.conj(_mT(b)))[..., 0, :]
            if want_b:
                right = np.conj(a)[:, None] * grad[..., None, :]
        elif b.ndim == 1:
            if want_a:
                left = grad[..., None] * np.conj(b)
            if want_b:
                right = (np.conj(_mT(a)) @ grad[..., None])[..., 0]
        else:
            if want_a:
                left = grad @ np.conj(_mT(b))
            if want_b:
                if (
                    b.ndim == 2 and a.ndim > 2
                ):  # one product instead of a batch of them that is then summed
                    right = np.conj(a.reshape((-1, a.shape[-1])).T) @ grad.reshape(
                        (-1, grad.shape[-1])
                    )
                else:
                    right = np.conj(_mT(a)) @ grad
        return left, right

    return record(output, backward, input, other)


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
    return matmul(input, mat2)


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
    return matmul(input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Product of a matrix and a vector."""
    if input.array.ndim != 2 or vec.array.ndim != 1:
        raise ShapeError(
            "mv", f"shapes {input.array.shape} and {vec.array.shape}", "a matrix and a vector"
        )
    return matmul(input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Sum of products of two vectors."""
    a, b = input.array, tensor.array
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError("dot", f"1D tensors expected, but got {a.ndim}D and {b.ndim}D tensors")
    if a.shape != b.shape:
        raise ShapeError(
            "dot", f"inconsistent tensor size, got {a.shape} and {b.shape}", "equal sizes"
        )
    return matmul(input, tensor)


inner_vectors = dot


def vdot(input: Tensor, other: Tensor) -> Tensor:
    """`dot` with the first vector conjugated."""
    return dot(elementwise.conj(input), other)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimensions."""
    if not input.array.ndim or not other.array.ndim:
        return elementwise.mul(input, other)
    return tensordot(input, other, ([-1], [-1]))


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of two vectors' elements."""
    if input.array.ndim != 1 or vec2.array.ndim != 1:
        raise ShapeError(
            "outer", f"shapes {input.array.shape} and {vec2.array.shape}", "two vectors"
        )
    return elementwise.mul(shape.unsqueeze(input, 1), vec2)


ger = outer


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * (mat1 @ mat2)`."""
    return _add_product(input, mm(mat1, mat2), beta, alpha)


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * (mat @ vec)`."""
    return _add_product(input, mv(mat, vec), beta, alpha)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * outer(vec1, vec2)`."""
    return _add_product(input, outer(vec1, vec2), beta, alpha)


def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """`beta * input + alpha * (batch1 @ batch2)` for batches of matrices."""
    return _add_product(input, bmm(batch1, batch2), beta, alpha)


def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """`beta * input + alpha * sum(batch1 @ batch2)` over the batch."""
    return _add_product(input, reduction.sum(bmm(batch1, batch2), 0), beta, alpha)


def _add_product(input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    if alpha != 1:
        product = elementwise.mul(product, alpha)
    if beta == 0:
        return product
    result = elementwise.add(product, input if beta == 1 else elementwise.mul(input, beta))
    if result.array.shape != product.array.shape:
        raise ShapeError(
            "addmm",
            f"input of shape {input.array.shape} does not broadcast to the product's shape "
            f"{product.array.shape}",
        )
    return result


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input @ weight.T + bias`: [..., in] and [out, in] to [..., out]."""
    x, w = input.array, weight.array
    _same_dtype("linear", x, w)
    if w.ndim != 2:
        if w.ndim == 1 and bias is None:
            return matmul(input, weight)
        raise ShapeError("linear", f"weight has shape {w.shape}", "[out_features, in_features]")
    if x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            "linear",
            f"mat1 and mat2 shapes cannot be multiplied: input {x.shape}, weight {w.shape}",
            f"an input whose last size is in_features={w.shape[1]}",
            hint="flatten the input, or set in_features to its last size",
        )
    want_x, want_w = input._requires_grad, weight._requires_grad
    columns = (-1, x.shape[-1])
    output = (
        x @ w.T if x.ndim <= 2 else (x.reshape(columns) @ w.T).reshape((*x.shape[:-1], w.shape[0]))
    )
    if bias is not None:
        if bias.array.shape != (w.shape[0],):
            raise ShapeError("linear", f"bias has shape {bias.array.shape}", f"({w.shape[0]},)")
        _same_dtype("linear", output, bias.array)
        output += bias.array

    def backward(grad: Array) -> Grads:
        rows = grad.reshape((-1, grad.shape[-1])) if grad.ndim != 2 else grad
        left = (rows @ w).reshape(x.shape) if want_x else None
        right = rows.T @ x.reshape(columns) if want_w else None
        return left, right, rows.sum(0)

    def backward_plain(grad: Array) -> Grads:
        rows = grad.reshape((-1, grad.shape[-1])) if grad.ndim != 2 else grad
        left = (rows @ w).reshape(x.shape) if want_x else None
        return left, rows.T @ x.reshape(columns) if want_w else None

    if bias is None:
        return record(output, backward_plain, input, weight)
    return record(output, backward, input, weight, bias)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input1 @ weight[k] @ input2` for each k, plus `bias`."""
    result = einsum("...i,kij,...j->...k", input1, weight, input2)
    return result if bias is None else elementwise.add(result, bias)


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sum of products over the last `dims` of `a` and first of `b`, or over given pairs of
    dimensions.
    """
    if isinstance(dims, int):
        left, right = list(range(a.array.ndim - dims, a.array.ndim)), list(range(dims))
    else:
        left = [dim_index(d, a.array.ndim, "tensordot") for d in dims[0]]
        right = [dim_index(d, b.array.ndim, "tensordot") for d in dims[1]]
    for i, j in zip(left, right, strict=True):
        if a.array.shape[i] != b.array.shape[j]:
            raise ShapeError(
                "tensordot",
                f"contracted dimensions differ: {a.array.shape} at {i}, {b.array.shape} at {j}",
            )
    rest_a = [i for i in range(a.array.ndim) if i not in left]
    rest_b = [j for j in range(b.array.ndim) if j not in right]
    size = math.prod(a.array.shape[i] for i in left)
    x = shape.reshape(
        shape.permute(a, rest_a + left), (math.prod(a.array.shape[i] for i in rest_a), size)
    )
    y = shape.reshape(
        shape.permute(b, right + rest_b), (size, math.prod(b.array.shape[j] for j in rest_b))
    )
    return shape.reshape(
        matmul(x, y), [a.array.shape[i] for i in rest_a] + [b.array.shape[j] for j in rest_b]
    )


def einsum(equation: str, *operands: Any) -> Tensor:
    """Sums of products in Einstein's notation: `einsum("bij,bjk->bik", a, b)`."""
    tensors = (
        list(operands[0])
        if len(operands) == 1 and isinstance(operands[0], list | tuple)
        else list(operands)
    )
    inputs, output = _parse_einsum(equation, tensors)
    current, labels = _einsum_single(tensors[0], inputs[0])
    for position in range(1, len(tensors)):
        later = set().union(output, *inputs[position + 1 :])
        other, others = _einsum_single(tensors[position], inputs[position])
        current, labels = _einsum_pair(current, labels, other, others, later)
    drop = [i for i, c in enumerate(labels) if c not in output]
    if drop:
        current = reduction.sum(current, drop)
        labels = [c for c in labels if c in output]
    return shape.permute(current, [labels.index(c) for c in output]) if labels else current


def _parse_einsum(equation: str, tensors: list[Any]) -> tuple[list[list[str]], list[str]]:
    """Labels per operand and of the result; an ellipsis becomes private labels."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise ShapeError(
            "einsum", f"{equation!r} names {len(terms)} operands, {len(tensors)} given"
        )
    widths = []
    for term, x in zip(terms, tensors, strict=True):
        expect_tensor("einsum", "operands", x)
        letters = term.replace("...", "")
        if not all(c.isalpha() for c in letters):
            raise ShapeError(
                "einsum", f"invalid subscript in {equation!r}", "letters, ',', '->' and '...'"
            )
        extra = x.array.ndim - len(letters)
        if extra < 0 or (extra and "..." not in term):
            raise ShapeError(
                "einsum",
                f"{term!r} has {len(letters)} labels for a tensor of shape {x.array.shape}",
            )
        widths.append(extra)
    wide = max(widths, default=0)

    def labels(term: str, extra: int) -> list[str]:
        dots = [f".{i}" for i in range(wide - extra, wide)]
        before, mark, after = term.partition("...")
        return [*before, *(dots if mark else []), *after]

    inputs = [labels(t, e) for t, e in zip(terms, widths, strict=True)]
    if arrow:
        result = labels(right, wide)
    else:
        flat = [c for part in inputs for c in part]
        result = sorted({c for c in flat if c.startswith(".")}) + sorted(
            c for c in set(flat) if flat.count(c) == 1 and not c.startswith(".")
        )
    sizes: dict[str, int] = {}
    for part, x in zip(inputs, tensors, strict=True):
        for c, n in zip(part, x.array.shape, strict=True):
            if sizes.setdefault(c, n) not in (n, 1) and n != 1:
                raise ShapeError(
                    "einsum", f"label {c!r} has sizes {sizes[c]} and {n} in {equation!r}"
                )
            sizes[c] = max(sizes[c], n) if n else 0
    for c in result:
        if c not in sizes or result.count(c) > 1:
            raise ShapeError(
                "einsum", f"output label {c!r} of {equation!r}", "a label of an input, once"
            )
    return inputs, result


def _einsum_single(x: Tensor, labels: list[str]) -> tuple[Tensor, list[str]]:
    """Take diagonals of repeated labels."""
    labels = list(labels)
    for c in list(dict.fromkeys(labels)):
        while labels.count(c) > 1:
            i = labels.index(c)
            j = labels.index(c, i + 1)
            x = shape.diagonal(x, 0, i, j)
            del labels[j], labels[i]
            labels.append(c)
    return x, labels


def _einsum_pair(
    a: Tensor, la: list[str], b: Tensor, lb: list[str], later: set[str]
) -> tuple[Tensor, list[str]]:
    """Contract two operands into one by a batched matrix product."""
    for operand in (0, 1):  # labels that only one has and nobody needs are summed first
        x, own, other = ((a, la, lb), (b, lb, la))[operand]
        drop = [i for i, c in enumerate(own) if c not in other and c not in later]
        if drop:
            x, own = reduction.sum(x, drop), [c for c in own if c in other or c in later]
        if operand == 0:
            a, la = x, own
        else:
            b, lb = x, own
    size_a, size_b = (
        dict(zip(la, a.array.shape, strict=True)),
        dict(zip(lb, b.array.shape, strict=True)),
    )
    both = [c for c in la if c in lb]
    batch = [c for c in both if c in later]
    summed = [c for c in both if c not in later]
    only_a, only_b = [c for c in la if c not in lb], [c for c in lb if c not in la]
    for c in summed:  # a broadcast size 1 in a summed label
        if size_a[c] != size_b[c]:
            n = max(size_a[c], size_b[c])
            a = shape.expand(a, [n if k == c else -1 for k in la])
            b = shape.expand(b, [n if k == c else -1 for k in lb])
            size_a[c] = size_b[c] = n
    x = shape.permute(a, [la.index(c) for c in batch + only_a + summed])
    y = shape.permute(b, [lb.index(c) for c in batch + summed + only_b])
    k = math.prod(size_a[c] for c in summed)
    x = shape.reshape(x, [size_a[c] for c in batch] + [math.prod(size_a[c] for c in only_a), k])
    y = shape.reshape(y, [size_b[c] for c in batch] + [k, math.prod(size_b[c] for c in only_b)])
    z = matmul(x, y)
    lead = list(z.array.shape[: len(batch)])
    z = shape.reshape(z, lead + [size_a[c] for c in only_a] + [size_b[c] for c in only_b])
    return z, batch + only_a + only_b


def kron(input: Tensor, other: Tensor) -> Tensor:
    """Kronecker product."""
    n = max(input.array.ndim, other.array.ndim)
    a = shape.reshape(input, (1,) * (n - input.array.ndim) + input.array.shape)
    b = shape.reshape(other, (1,) * (n - other.array.ndim) + other.array.shape)
    wide = elementwise.mul(
        shape.reshape(a, [s for d in a.array.shape for s in (d, 1)]),
        shape.reshape(b, [s for d in b.array.shape for s in (1, d)]),
    )
    return shape.reshape(wide, [p * q for p, q in zip(a.array.shape, b.array.shape, strict=True)])


def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """Cross product of vectors of size 3 along `dim`."""
    from tensorlib.ops.shape import roll

    axis = dim_index(dim, input.array.ndim, "cross")
    if input.array.shape[axis] != 3 or other.array.shape[axis] != 3:
        raise ShapeError(
            "cross",
            f"inputs dimension {dim} must have length 3. Got {input.array.shape} and "
            f"{other.array.shape}",
        )
    ahead = elementwise.mul(roll(input, -1, axis), roll(other, -2, axis))
    behind = elementwise.mul(roll(input, -2, axis), roll(other, -1, axis))
    return elementwise.sub(ahead, behind)


def trace(input: Tensor) -> Tensor:
    """Sum of the diagonal of a matrix."""
    if input.array.ndim != 2:
        raise ShapeError("trace", f"expected a matrix, but got tensor with dim {input.array.ndim}")
    return reduction.sum(shape.diagonal(input))


# -- norms -----------------------------------------------------------------------------------------


def vector_norm(
    input: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """`sum(|x|**ord) ** (1/ord)` over `dim`; ord 0 counts nonzeros, ±inf gives the extreme."""
    x = elementwise.cast(input, dtype) if dtype is not None else input
    if x.array.dtype.kind not in "fc":
        raise DTypeError(
            "vector_norm",
            f"not implemented for {dtypes.of(x.array.dtype)}",
            "floating point",
            hint="use .float()",
        )
    axis = reducer_dims(dim, x.array.ndim, "vector_norm")
    if ord == 2 and x.array.dtype.kind == "f":
        return _euclidean(x, axis, keepdim)
    size = elementwise.abs(x)
    if ord == math.inf or ord == -math.inf:
        return (reduction.amax if ord > 0 else reduction.amin)(size, axis or (), keepdim)
    if ord == 0:
        count = (x.array != 0).sum(axis=axis, keepdims=keepdim).astype(size.array.dtype)
        return record(count, lambda grad: (None,), x)
    if ord == 1:
        return reduction.sum(size, axis, keepdim)
    return elementwise.pow(reduction.sum(elementwise.pow(size, ord), axis, keepdim), 1.0 / ord)


def _euclidean(input: Tensor, axis: Any, keepdim: bool) -> Tensor:
    x = input.array
    output = np.sqrt((x * x).sum(axis=axis, keepdims=keepdim))

    def backward(grad: Array) -> Grads:
        size, back = output, grad
        if axis is not None and not keepdim:
            size, back = np.expand_dims(output, axis), np.expand_dims(grad, axis)
        scale = back / np.where(size == 0, 1, size)
        return (x * scale,)

    backward.__qualname__ = "vector_norm.backward"
    return record(output, backward, input)


def norm(
    input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """`torch.norm`: a vector norm over `dim` ("fro" is 2), or the nuclear norm with "nuc"."""
    if p == "nuc":
        return matrix_norm(input, "nuc", dim if dim is not None else (-2, -1), keepdim)
    return vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


def matrix_norm(
    input: Tensor,
    ord: Any = "fro",
    dim: Any = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """Norm of matrices: "fro", "nuc", ±1, ±2, ±inf."""
    x = elementwise.cast(input, dtype) if dtype is not None else input
    a, b = (dim_index(d, x.array.ndim, "matrix_norm") for d in dim)
    if ord == "fro":
        return vector_norm(x, 2, (a, b), keepdim)
    if ord in ("nuc", 2, -2):
        s = svdvals(shape.movedim(x, (a, b), (-2, -1)))
        result = (
            reduction.sum(s, -1)
            if ord == "nuc"
            else (reduction.amax if ord == 2 else reduction.amin)(s, -1)
        )
        if keepdim:
            for d in sorted((a, b)):
                result = shape.unsqueeze(result, d)
        return result
    if ord in (1, -1, math.inf, -math.inf):
        inner_dim, outer_dim = (a, b) if abs(ord) == 1 else (b, a)
        sums = reduction.sum(elementwise.abs(x), inner_dim, True)
        result = (reduction.amax if ord > 0 else reduction.amin)(sums, outer_dim, True)
        return result if keepdim else shape.squeeze(result, (a, b))
    raise ShapeError("matrix_norm", f"ord={ord!r}", "'fro', 'nuc', 1, -1, 2, -2, inf or -inf")


def linalg_norm(
    input: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """`torch.linalg.norm`: vector norm over one dim or all, matrix norm over two."""
    if ord is None:
        return vector_norm(input, 2, dim, keepdim, dtype=dtype)
    if dim is None:
        if isinstance(ord, str) or input.array.ndim == 2:
            if input.array.ndim != 2:
                raise ShapeError(
                    "linalg.norm", f"ord={ord!r} needs a matrix, shape {input.array.shape}"
                )
            return matrix_norm(input, ord, (0, 1), keepdim, dtype=dtype)
        if input.array.ndim != 1:
            raise ShapeError(
                "linalg.norm",
                f"input must be 1D or 2D when dim is None and ord is not, shape "
                f"{input.array.shape}",
            )
        return vector_norm(input, ord, None, keepdim, dtype=dtype)
    if isinstance(dim, tuple | list) and len(dim) == 2:
        return matrix_norm(input, ord, dim, keepdim, dtype=dtype)
    return vector_norm(input, ord, dim, keepdim, dtype=dtype)


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    """`input` divided by its norm along `dim` (at least `eps`)."""
    return elementwise.div(input, elementwise.clamp(vector_norm(input, p, dim, True), min=eps))


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """Norm of the difference."""
    return vector_norm(elementwise.sub(input, other), p)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """Distances between all rows of `x1` and all rows of `x2`."""
    return vector_norm(elementwise.sub(shape.unsqueeze(x1, -2), shape.unsqueeze(x2, -3)), p, -1)


# -- decompositions --------------------------------------------------------------------------------


def _square(where: str, x: Array) -> None:
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(where, f"A must be batches of square matrices, but they are {x.shape}")
    if x.dtype.kind not in "fc":
        raise DTypeError(
            where, f"Expected a floating point or complex tensor as input. Got {dtypes.of(x.dtype)}"
        )


class LinAlgError(ShapeError):
    """A matrix without the property the operation needs, such as being invertible."""


def inv(A: Tensor) -> Tensor:
    """Inverse of square matrices."""
    x = A.array
    _square("linalg.inv", x)
    try:
        output = np.linalg.inv(x)
    except np.linalg.LinAlgError:
        raise LinAlgError(
            "linalg.inv", f"the matrix of shape {x.shape} is singular and cannot be inverted"
        ) from None

    def backward(grad: Array) -> Grads:
        t = np.conj(_mT(output))
        return (-(t @ grad @ t),)

    return record(output, backward, A)


def det(A: Tensor) -> Tensor:
    """Determinant of square matrices."""
    x = A.array
    _square("linalg.det", x)
    output = np.linalg.det(x)

    def backward(grad: Array) -> Grads:
        return ((grad * output)[..., None, None] * _mT(_safe_inv(x)),)

    def smooth(grad: Any) -> Grads:
        return ((grad * output)[..., None, None] * shape.transpose(inv(x), -1, -2),)

    return record(np.asarray(output, x.dtype), backward, A, smooth=smooth)


def _safe_inv(x: Array) -> Array:
    try:
        return np.linalg.inv(x)
    except np.linalg.LinAlgError:
        raise LinAlgError("linalg.det", "no gradient at a singular matrix") from None


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and logarithm of the absolute determinant."""
    x = A.array
    _square("linalg.slogdet", x)
    sign, logabs = np.linalg.slogdet(x)

    def slogdet(grad: Array) -> Grads:
        return (grad[..., None, None] * _mT(_safe_inv(x)),)

    def smooth(grad: Any) -> Grads:
        return (grad[..., None, None] * shape.transpose(inv(x), -1, -2),)

    return wrap(sign.astype(x.dtype)), record(
        np.asarray(logabs, x.dtype), slogdet, A, smooth=smooth
    )


def logdet(A: Tensor) -> Tensor:
    """Logarithm of the determinant; NaN where it is negative."""
    sign, value = slogdet(A)
    return elementwise.add(
        value, wrap(np.where(sign.array < 0, np.nan, 0).astype(value.array.dtype))
    )


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with `A @ X = B` (or `X @ A = B` with `left=False`)."""
    a, b = A.array, B.array
    _square("linalg.solve", a)
    _same_dtype("linalg.solve", a, b)
    if not left:
        return shape.transpose(
            solve(shape.transpose(A, -1, -2), shape.transpose(B, -1, -2)), -1, -2
        )
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    if (b.shape[-1] if vector else b.shape[-2]) != a.shape[-1]:
        raise ShapeError("linalg.solve", f"incompatible shapes for A {a.shape} and B {b.shape}")
    try:
        output = np.linalg.solve(a, b[..., None])[..., 0] if vector else np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        raise LinAlgError("linalg.solve", f"A of shape {a.shape} is singular") from None

    def backward(grad: Array) -> Grads:
        columns = grad[..., None] if vector else grad
        right = np.linalg.solve(np.conj(_mT(a)), columns)
        left_grad = -right @ np.conj(_mT(output[..., None] if vector else output))
        return left_grad, right[..., 0] if vector else right

    return record(output, backward, A, B)


def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """Lower (or upper) triangular factor of positive definite matrices."""
    x = A.array
    _square("linalg.cholesky", x)
    try:
        output = np.linalg.cholesky(x)
    except np.linalg.LinAlgError:
        raise LinAlgError(
            "linalg.cholesky", f"the matrix of shape {x.shape} is not positive-definite"
        ) from None

    def backward(grad: Array) -> Grads:
        lower = np.conj(_mT(output))
        phi = np.tril(lower @ grad)
        n = np.arange(x.shape[-1])
        phi[..., n, n] *= 0.5
        inner = np.linalg.solve(lower, phi)
        full = np.conj(_mT(np.linalg.solve(lower, np.conj(_mT(inner)))))
        return ((full + np.conj(_mT(full))) / 2,)

    result = record(output, backward, A)
    return shape.transpose(result, -1, -2) if upper else result


def qr(A: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """Q with orthonormal columns and upper triangular R, `A = Q @ R`."""
    from tensorlib.autograd import tape

    if mode not in ("reduced", "complete", "r"):
        raise ShapeError("linalg.qr", f"mode={mode!r}", "'reduced', 'complete' or 'r'")
    x = A.array
    numpy_mode: Any = mode
    found = np.linalg.qr(x, numpy_mode)
    if mode == "r":
        return wrap(np.zeros((0,), x.dtype)), wrap(found)
    q, r = found
    if mode == "complete" and x.shape[-2] != x.shape[-1] and tape.needs_grad(A):
        raise LinAlgError(
            "linalg.qr",
            "the gradient with mode='complete' of a non-square matrix does not exist",
            "mode='reduced'",
        )

    def qr(grad_q: Array | None, grad_r: Array | None) -> Grads:
        gq = np.zeros_like(q) if grad_q is None else grad_q
        gr = np.zeros_like(r) if grad_r is None else grad_r
        if x.shape[-2] < x.shape[-1]:
            raise LinAlgError(
                "linalg.qr", f"the gradient for a wide matrix {x.shape} is not supported"
            )
        m = r @ _mT(gr) - _mT(gq) @ q
        m = np.tril(m) + _mT(np.tril(m, -1))
        return (_mT(np.linalg.solve(r, _mT(gq + q @ m))),)

    first, second = tape.record_outputs((q, r), qr, A)
    return first, second


def svd(A: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """`A = U @ diag(S) @ Vh` with S descending."""
    from tensorlib.autograd import tape

    x = A.array
    u, s, vh = np.linalg.svd(x, full_matrices=full_matrices)
    k = s.shape[-1]

    def svd(gu: Array | None, gs: Array | None, gv: Array | None) -> Grads:
        U, V = u[..., :k], _mT(vh[..., :k, :])
        gap = s[..., None, :] ** 2 - s[..., :, None] ** 2
        f = np.where(np.eye(k, dtype=bool), 0, 1 / np.where(gap == 0, np.inf, gap))
        inner = np.zeros_like(f) if gs is None else gs[..., None] * np.eye(k, dtype=x.dtype)
        total = inner
        if gu is not None:
            ut = _mT(U) @ gu[..., :k]
            total = total + (f * (ut - _mT(ut))) * s[..., None, :]
        if gv is not None:
            vt = _mT(V) @ _mT(gv[..., :k, :])
            total = total + s[..., :, None] * (f * (vt - _mT(vt)))
        out = U @ total @ _mT(V)
        if gu is not None and x.shape[-2] > k:
            g = gu[..., :k] / s[..., None, :]
            out = out + (g - U @ (_mT(U) @ g)) @ _mT(V)
        if gv is not None and x.shape[-1] > k:
            g = gv[..., :k, :] / s[..., :, None]
            out = out + U @ (g - (g @ V) @ _mT(V))
        return (out,)

    a, b, c = tape.record_outputs((u, s, vh), svd, A)
    return a, b, c


def svdvals(A: Tensor) -> Tensor:
    """Singular values, descending."""
    return svd(A, full_matrices=False)[1]


def eigh(A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors of symmetric matrices."""
    from tensorlib.autograd import tape

    x = A.array
    _square("linalg.eigh", x)
    side: Any = UPLO
    w, v = np.linalg.eigh(x, side)

    def eigh(gw: Array | None, gv: Array | None) -> Grads:
        n = x.shape[-1]
        inner = np.zeros_like(x) if gw is None else gw[..., None] * np.eye(n, dtype=x.dtype)
        if gv is not None:
            gap = w[..., None, :] - w[..., :, None]
            f = np.where(gap == 0, 0, 1 / np.where(gap == 0, 1, gap))
            inner = inner + f * (np.conj(_mT(v)) @ gv)
        return (v @ inner @ np.conj(_mT(v)),)

    first, second = tape.record_outputs((w, v), eigh, A)
    return first, second


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of symmetric matrices, ascending."""
    return eigh(A, UPLO)[0]


def matrix_power(input: Tensor, n: int) -> Tensor:
    """A square matrix multiplied with itself `n` times; negative powers use the inverse."""
    _square("matrix_power", input.array)
    if n < 0:
        return matrix_power(inv(input), -n)
    result = wrap(
        np.broadcast_to(
            np.eye(input.array.shape[-1], dtype=input.array.dtype), input.array.shape
        ).copy()
    )
    base = input
    while n:
        if n & 1:
            result = matmul(result, base)
        n >>= 1
        if n:
            base = matmul(base, base)
    return result


def matrix_exp(A: Tensor) -> Tensor:
    """Exponential of square matrices, by scaling, a Taylor series, and squaring."""
    _square("matrix_exp", A.array)
    size = float(np.abs(A.array).sum(-1).max()) if A.array.size else 0.0
    squarings = max(0, math.ceil(math.log2(size / 0.5))) if size > 0.5 else 0
    x = elementwise.div(A, 2.0**squarings)
    identity = wrap(
        np.broadcast_to(np.eye(A.array.shape[-1], dtype=A.array.dtype), A.array.shape).copy()
    )
    total = term = identity
    for k in range(1, 19):
        term = elementwise.div(matmul(term, x), k)
        total = elementwise.add(total, term)
    for _ in range(squarings):
        total = matmul(total, total)
    return total


def pinv(A: Tensor, *, rcond: float | None = None) -> Tensor:
    """Pseudo-inverse (Moore-Penrose)."""
    u, s, vh = svd(A, full_matrices=False)
    limit = (
        rcond if rcond is not None else max(A.array.shape[-2:]) * np.finfo(A.array.dtype).eps
    ) * s.array.max(-1, keepdims=True, initial=0)
    keep = s.array > limit
    safe = elementwise.mul(
        elementwise.reciprocal(elementwise.add(s, wrap((~keep).astype(s.array.dtype)))),
        wrap(keep.astype(s.array.dtype)),
    )
    return matmul(
        elementwise.mul(shape.transpose(vh, -1, -2), shape.unsqueeze(safe, -2)),
        shape.transpose(u, -1, -2),
    )


def matrix_rank(A: Tensor, *, tol: float | None = None) -> Tensor:
    """Number of singular values above the tolerance."""
    return wrap(np.asarray(np.linalg.matrix_rank(A.array, tol), np.int64))


def lstsq(A: Tensor, B: Tensor) -> Tensor:
    """The least-squares solution of `A @ X = B`."""
    return matmul(pinv(A), B)


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """Product of several matrices."""
    if len(tensors) < 2:
        raise ArgumentError("multi_dot", f"{len(tensors)} tensors given", "at least two")
    result = tensors[0]
    for x in tensors[1:]:
        result = matmul(result, x)
    return result
