"""Norms and distances: `vector_norm matrix_norm norm cond normalize dist cdist pdist renorm`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops import elementwise, extremes, indexing, reduction, shape
from tensorlib.ops._common import (
    Array,
    Grads,
    dim_index,
    dims_of,
    expect_tensor,
    named,
    record,
    reducer_dims,
    wrap,
)
from tensorlib.ops._formula import derived
from tensorlib.ops.decomposition import check_square, mm, mT, svdvals
from tensorlib.ops.out import direct, takes_out
from tensorlib.ops.solver import inv_ex

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


# -- of vectors ------------------------------------------------------------------------------------


@takes_out
def vector_norm(
    x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """`sum(|x|**ord) ** (1/ord)` over `dim`; ord 0 counts nonzeros, ±inf gives the extreme."""
    where = "linalg.vector_norm"
    x = x if dtype is None else _widened(where, x, dtype)
    a = x.array
    if a.dtype.kind not in "fcV":
        raise DTypeError(
            where,
            f"Expected a floating point or complex tensor as input. Got {dtypes.of(a.dtype)}",
            hint="use .float()",
        )
    if isinstance(ord, bool) or not isinstance(ord, int | float):
        raise ArgumentError(where, f"ord={ord!r} of type {type(ord).__name__}", "a real number")
    axis = reducer_dims(dim, a.ndim, where)
    if a.size == 0 and (ord < 0 or ord == math.inf):
        reduced = a.shape if axis is None else [a.shape[i] for i in axis]
        if 0 in reduced:
            raise ShapeError(
                where, f"cannot compute the {ord} norm on an empty dimension, shape {a.shape}"
            )
    if ord == 2:
        return _euclidean(x, axis, keepdim)
    return _power_norm(x, float(ord), axis, keepdim)


def _widened(where: str, input: Tensor, dtype: Any) -> Tensor:
    """`input` in the type `dtype` for the norm, which must not lose anything."""
    kind, given = dtypes.numpy_dtype(dtype, where), input.array.dtype
    if kind.kind not in "fcV" or (given.kind == "c") != (kind.kind == "c"):
        raise DTypeError(where, f"dtype={dtype} for an input of {input.dtype}", "one of its kind")
    if dtypes.promote_numpy(given, kind) != kind:
        raise DTypeError(
            where, f"{input.dtype} is not convertible without narrowing to the specified {dtype}"
        )
    return elementwise.cast(input, dtypes.of(kind))


def _single(a: Array) -> Array:
    """Half precision is summed in single."""
    return a.astype(np.float32) if a.dtype.char in "eE" else a


def _euclidean(input: Tensor, axis: Any, keepdim: bool) -> Tensor:
    x = input.array
    if x.dtype.char in "eE" or x.dtype.kind == "c":
        return _power_norm(input, 2.0, axis, keepdim)
    output = np.sqrt((x * x).sum(axis=axis, keepdims=keepdim))

    def backward(grad: Array) -> Grads:
        size, back = output, grad
        if axis is not None and not keepdim:
            size, back = np.expand_dims(output, axis), np.expand_dims(grad, axis)
        scale = back / np.where(size == 0, 1, size)
        return (x * scale,)

    def smooth(grad: Any) -> Grads:
        norm: Any = output  # both are Tensors here
        return (_norm_gradient(*_kept(grad, norm, axis, keepdim), x, 2.0, axis),)

    backward.__qualname__ = "vector_norm.backward"
    return record(output, backward, input, smooth=smooth)


def _kept(grad: Tensor, norm: Tensor, axis: Any, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Both with the reduced dimensions as size 1."""
    if axis is not None and not keepdim:
        for place in sorted(axis):
            grad, norm = shape.unsqueeze(grad, place), shape.unsqueeze(norm, place)
    return grad, norm


def _power_norm(input: Tensor, p: float, axis: Any, keepdim: bool) -> Tensor:
    x = input.array
    real = x.real.dtype
    size = np.abs(_single(x))
    output: Any
    if abs(p) == math.inf:
        output = (np.max if p > 0 else np.min)(size, axis=axis, keepdims=keepdim)
    elif p == 0:
        output = (size != 0).sum(axis=axis, keepdims=keepdim)
    elif p == 1:
        output = size.sum(axis=axis, keepdims=keepdim)
    elif p == 2:
        output = np.sqrt((size * size).sum(axis=axis, keepdims=keepdim))
    else:
        output = (size**p).sum(axis=axis, keepdims=keepdim) ** (1.0 / p)

    def formula(grad: Tensor, norm: Tensor, x: Tensor) -> Sequence[Any]:
        if p == 0:
            return (None,)
        return (_norm_gradient(*_kept(grad, norm, axis, keepdim), x, p, axis),)

    return derived(np.asarray(output, real), formula, input, name="linalg_vector_norm")


def _norm_gradient(grad: Tensor, norm: Tensor, x: Tensor, p: float, axis: Any) -> Tensor:
    """The gradient of a norm kept as dimensions of size 1; zero where the norm is."""
    mul, div, pow = elementwise.mul, elementwise.div, elementwise.pow
    if p == 1:
        return mul(elementwise.sgn(x), grad)
    if abs(p) == math.inf:
        size = np.abs(_single(x.array))
        most = (np.max if p > 0 else np.min)(size, axis=axis, keepdims=True)
        mask = (size == most) | (np.isnan(size) & np.isnan(most))
        count = mask.sum(axis=axis, keepdims=True).astype(norm.array.dtype)
        share = div(grad, wrap(count)) if axis is not None or x.array.ndim else grad
        return mul(elementwise.sgn(x), mul(share, wrap(mask.astype(norm.array.dtype))))
    zero = wrap(norm.array == 0)
    if p == 2:
        return mul(grad, indexing.masked_fill(div(x, norm), zero, 0))
    if p < 1:
        scaled = mul(
            elementwise.sgn(x),
            indexing.masked_fill(pow(elementwise.abs(x), p - 1), wrap(x.array == 0), 0),
        )
        return mul(mul(scaled, grad), pow(norm, 1 - p))
    scale = indexing.masked_fill(div(grad, pow(norm, p - 1)), zero, 0)
    if p < 2:
        return mul(mul(elementwise.sgn(x), pow(elementwise.abs(x), p - 1)), scale)
    return mul(mul(x, pow(elementwise.abs(x), p - 2)), scale)


# -- of matrices -----------------------------------------------------------------------------------


@takes_out
def matrix_norm(
    input: Tensor,
    ord: Any = "fro",
    dim: Any = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """Norm of matrices: "fro", "nuc", ±1, ±2, ±inf."""
    where = "linalg.matrix_norm"
    if not isinstance(dim, list | tuple) or len(dim) != 2:
        raise ShapeError(where, f"dim={dim!r}", "a tuple of two dimensions")
    if input.array.ndim < 2:
        raise ShapeError(where, f"A has {input.array.ndim} dimensions", "at least 2 dimensions")
    if input.array.dtype.kind not in "fcV":
        raise DTypeError(where, f"Expected a floating point or complex tensor, got {input.dtype}")
    a, b = dims_of(dim, input.array.ndim, where)
    if ord == "fro":
        return direct(vector_norm)(input, 2, (a, b), keepdim, dtype=dtype)
    if isinstance(ord, str) and ord != "nuc":
        raise ShapeError(where, f"Order {ord!r} not supported", "'fro', 'nuc' or a number")
    if ord != "nuc" and abs(ord) not in (1, 2, math.inf):
        raise ShapeError(where, f"Order {ord!r} not supported", "±1, ±2 or ±inf")
    x = input if dtype is None else _widened(where, input, dtype)
    if ord in ("nuc", 2, -2):
        s = direct(svdvals)(shape.movedim(x, (a, b), (-2, -1)))
        if ord == "nuc":
            result = reduction.sum(s, -1)
        else:
            result = (extremes.amax if ord > 0 else extremes.amin)(s, -1)
        if keepdim:
            for d in sorted((a, b)):
                result = shape.unsqueeze(result, d)
        return result
    first, last = (a, b) if abs(ord) == 1 else (b, a)
    sums = direct(vector_norm)(x, 1, first, True)
    result = (extremes.amax if ord > 0 else extremes.amin)(sums, last, True)
    return result if keepdim else shape.squeeze(result, (a, b))


@takes_out
def linalg_norm(
    input: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """`torch.linalg.norm`: of a vector over one dim or all, of a matrix over two."""
    where = "linalg.norm"
    if dim is not None:
        dim = (dim,) if isinstance(dim, int) else tuple(dim)
        if len(dim) not in (1, 2):
            raise ShapeError(where, f"dim={dim}", "one or two dimensions")
    elif ord is not None and input.array.ndim not in (1, 2):
        raise ShapeError(
            where, f"shape {input.array.shape} with ord={ord!r}", "a vector or matrix, or dim="
        )
    matrix = len(dim) == 2 if dim is not None else input.array.ndim == 2
    if isinstance(ord, str) and not matrix:
        raise ShapeError(where, f"ord={ord!r} for shape {input.array.shape}, dim={dim}", "a matrix")
    if ord is not None and matrix:
        return direct(matrix_norm)(
            input, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype
        )
    return direct(vector_norm)(input, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def norm(
    input: Tensor,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    out: Any = None,
    dtype: Any = None,
) -> Tensor:
    """`torch.norm`: a vector norm over `dim` ("fro" is 2), or the nuclear norm with "nuc"."""
    if isinstance(p, str) and p not in ("fro", "nuc"):
        raise ShapeError("norm", f"p={p!r}", "'fro', 'nuc' or a number")
    dims = (dim,) if isinstance(dim, int) else dim
    if p == "nuc":
        dims = (-2, -1) if dims is None and input.array.ndim == 2 else dims
        if dims is None or len(dims) != 2:
            raise ShapeError("norm", f"p='nuc' for shape {input.array.shape}, dim={dim}", "2 dims")
        return matrix_norm(input, "nuc", dims, keepdim, dtype=dtype, out=out)  # type: ignore[call-arg]
    order = 2.0 if p in ("fro", None) else p
    return vector_norm(input, order, dims, keepdim, dtype=dtype, out=out)  # type: ignore[call-arg]


def frobenius_norm(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """Square root of the sum of squares over `dim`."""
    return direct(vector_norm)(input, 2, dim, keepdim)


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """Norm over all dimensions but `dim` (-1: over all), kept as size 1."""
    if dim == -1:
        return direct(vector_norm)(v, pow)
    axis = dim_index(dim, v.array.ndim, "norm_except_dim")
    return direct(vector_norm)(v, pow, [i for i in range(v.array.ndim) if i != axis], True)


def nuclear_norm(input: Tensor, dim: Any = (-2, -1), keepdim: bool = False) -> Tensor:
    """Sum of the singular values of matrices."""
    return direct(matrix_norm)(input, "nuc", dim, keepdim)


@takes_out
def cond(input: Tensor, p: Any = None) -> Tensor:
    """Condition number: the norm times that of its inverse; infinite for singular matrices."""
    where = "linalg.cond"
    if input.array.ndim < 2:
        raise ShapeError(where, f"A has {input.array.ndim} dimensions", "at least 2 dimensions")
    if p is None or p in (2, -2):
        s = direct(svdvals)(input)
        if not s.array.shape[-1]:
            return wrap(np.zeros(s.array.shape[:-1], s.array.dtype))
        first, last = shape.select(s, -1, 0), shape.select(s, -1, -1)
        return elementwise.div(last, first) if p == -2 else elementwise.div(first, last)
    if isinstance(p, str) and p not in ("fro", "nuc"):
        raise ShapeError(where, f"p={p!r}", "'fro', 'nuc', ±1, ±2 or ±inf")
    check_square(where, input.array)
    if not input.array.size:
        return wrap(np.zeros(input.array.shape[:-2], input.array.real.dtype))
    inverse, info = direct(inv_ex)(input)
    of = direct(matrix_norm)
    result = elementwise.mul(of(input, p), of(inverse, p))
    return indexing.masked_fill(result, wrap(info.array != 0), math.inf)


# -- scaled to a norm ------------------------------------------------------------------------------


@takes_out
def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    """`input` divided by its norm along `dim` (at least `eps`)."""
    size = direct(vector_norm)(input, p, dim, True)
    return elementwise.div(input, elementwise.clamp(size, min=eps))


@takes_out
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """`input` with each slice along `dim` scaled down to the norm `maxnorm` where it is larger."""
    x = input.array
    if x.dtype.kind not in "fcV":
        raise DTypeError("renorm", f"not implemented for {input.dtype}", "floating point")
    if isinstance(p, complex) or not p > 0:
        raise ShapeError("renorm", f"p={p}", "a positive number")
    if isinstance(maxnorm, complex) or maxnorm < 0:
        raise ShapeError("renorm", f"maxnorm={maxnorm}", "a number of at least 0")
    if x.ndim < 2:
        raise ShapeError("renorm", f"input has {x.ndim} dimensions", "at least 2 dimensions")
    axis = dim_index(dim, x.ndim, "renorm")
    rest = tuple(i for i in range(x.ndim) if i != axis)
    half = x.dtype.char in "eE"
    wide = elementwise.cast(input, dtypes.float32) if half else input
    size = direct(vector_norm)(wide, p, rest, True)
    scale = elementwise.rdiv(elementwise.add(size, 1e-7), maxnorm)
    one = wrap(np.ones((), size.array.dtype))
    factor = indexing.where(wrap(size.array > maxnorm), scale, one)
    if half:
        factor = elementwise.cast(factor, input.dtype)
    return named(elementwise.mul(input, factor), "RenormBackward0")


# -- distances -------------------------------------------------------------------------------------


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """Norm of the difference."""
    distance = direct(vector_norm)(elementwise.sub(input, other), p)
    return named(distance, "DistBackward0")


_MODES = (("", "_if_necessary"), ("", ""), ("donot_", ""))


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """Distances between all rows of `x1` and all rows of `x2`; by `compute_mode` euclidean ones
    come from a matrix product ("if_necessary": for more than 25 rows).
    """
    modes = [f"{how}use_mm_for_euclid_dist{when}" for how, when in _MODES]
    if compute_mode not in modes:
        raise ShapeError("cdist", f"compute_mode={compute_mode!r}", f"one of {', '.join(modes)}")
    expect_tensor("cdist", "x2", x2)
    a, b = x1.array, x2.array
    for name, x in (("X1", a), ("X2", b)):
        if x.dtype.char not in "fd":
            raise DTypeError("cdist", f"{name} has dtype {dtypes.of(x.dtype)}", "floating point")
        if x.ndim < 2:
            raise ShapeError("cdist", f"{name} has {x.ndim} dimensions", "at least 2D tensors")
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(
            "cdist", f"X1 and X2 must have the same number of columns: {a.shape}, {b.shape}"
        )
    if p < 0:
        raise ShapeError("cdist", f"p={p}", "a non-negative number")
    if a.dtype != b.dtype:
        common = dtypes.of(dtypes.promote_numpy(a.dtype, b.dtype))
        x1, x2 = elementwise.cast(x1, common), elementwise.cast(x2, common)
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError("cdist", f"batches of {a.shape} and {b.shape} do not broadcast") from None
    if not a.shape[-1] or not math.prod((*batch, a.shape[-2], b.shape[-2])):
        zero = elementwise.mul(reduction.sum(x1), 0)
        return shape.clone(shape.expand(zero, (*batch, a.shape[-2], b.shape[-2])))
    many = a.shape[-2] > 25 or b.shape[-2] > 25
    if p == 2 and (compute_mode == modes[1] or (compute_mode == modes[0] and many)):
        return _euclidean_by_product(x1, x2)
    return _distances(shape.unsqueeze(x1, -2), shape.unsqueeze(x2, -3), float(p), "cdist")


def _euclidean_by_product(x1: Tensor, x2: Tensor) -> Tensor:
    a, b = (reduction.sum(elementwise.mul(x, x), -1, True) for x in (x1, x2))
    squares = elementwise.add(a, elementwise.sub(mT(b), elementwise.mul(mm(x1, mT(x2)), 2)))
    output = np.sqrt(np.maximum(squares.array, 0))

    def formula(grad: Tensor, d: Tensor, x1: Tensor, x2: Tensor) -> Sequence[Tensor]:
        ratio = indexing.masked_fill(elementwise.div(grad, d), wrap(d.array == 0), 0)
        turned = mT(ratio)
        return (
            elementwise.sub(elementwise.mul(x1, reduction.sum(ratio, -1, True)), mm(ratio, x2)),
            elementwise.sub(elementwise.mul(x2, reduction.sum(turned, -1, True)), mm(turned, x1)),
        )

    return derived(output, formula, x1, x2, name="cdist")


def _distances(x1: Tensor, x2: Tensor, p: float, name: str) -> Tensor:
    """Norms over the last dimension of the differences; all largest ones of p=inf get the whole
    gradient.
    """
    difference = _single(x1.array) - _single(x2.array)
    size = np.abs(difference)
    if p == 0:
        output = (size != 0).sum(-1)
    elif p == 1:
        output = size.sum(-1)
    elif p == 2:
        output = np.sqrt((difference * difference).sum(-1))
    elif p == math.inf:
        output = size.max(-1)
    else:
        output = (size**p).sum(-1) ** (1.0 / p)

    def formula(grad: Tensor, d: Tensor, x1: Tensor, x2: Tensor) -> Sequence[Tensor]:
        mul, pow = elementwise.mul, elementwise.pow
        g, d = shape.unsqueeze(grad, -1), shape.unsqueeze(d, -1)
        difference = elementwise.sub(x1, x2)
        size = elementwise.abs(difference)
        if p == 0:
            change = mul(difference, 0)
        elif p == 1:
            change = mul(elementwise.sgn(difference), g)
        elif p == math.inf:
            largest = wrap((size.array == d.array).astype(d.array.dtype))
            change = mul(mul(elementwise.sgn(difference), largest), g)
        else:
            scale = elementwise.div(g, pow(d, p - 1))
            if p < 2:
                change = mul(mul(elementwise.sgn(difference), pow(size, p - 1)), scale)
            else:
                change = mul(mul(difference, pow(size, p - 2)) if p != 2 else difference, scale)
            away = (d.array == 0) | ((size.array == 0) if p < 1 else False)
            change = indexing.masked_fill(change, wrap(np.broadcast_to(away, size.array.shape)), 0)
        return change, elementwise.neg(change)

    return derived(np.asarray(output, x1.array.dtype), formula, x1, x2, name=name)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Distances between all pairs of rows of a matrix, the first row's first."""
    x = input.array
    if x.ndim != 2:
        raise ShapeError("pdist", f"input has {x.ndim} dimensions", "a matrix")
    if x.dtype.char not in "fd":
        raise DTypeError("pdist", f"not implemented for {input.dtype}", "float32 or float64")
    if p < 0:
        raise ShapeError("pdist", f"p={p}", "a non-negative number")
    left, right = np.triu_indices(x.shape[0], 1)
    if not x.shape[1]:
        return wrap(np.zeros(len(left), x.dtype))
    a, b = (indexing.index_select(input, 0, wrap(i)) for i in (left, right))
    return _distances(a, b, float(p), "pdist")
