"""`torch.masked`'s operations on tensors: elements where `mask` is False are left out.

A reduction gets them as its identity (0 for a sum, -inf for a maximum); where all elements of a
slice are left out the result is that identity, or NaN if there is none. `mask` broadcasts to the
input; None keeps everything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DimensionError, InvalidValueError, UnsupportedError
from tensorlib.ops import (
    activation,
    cumulative,
    elementwise,
    extremes,
    indexing,
    reduction,
    shape,
    sorting,
)
from tensorlib.ops import norm as norms
from tensorlib.ops import special as special
from tensorlib.ops._common import cast, dims_of, expect_tensor, wrap
from tensorlib.ops.out import direct

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = [
    "amax",
    "amin",
    "argmax",
    "argmin",
    "cumprod",
    "cumsum",
    "log_softmax",
    "logaddexp",
    "logsumexp",
    "mean",
    "median",
    "norm",
    "normalize",
    "prod",
    "softmax",
    "softmin",
    "std",
    "sum",
    "var",
]


def _dims(where: str, input: Any, dim: Any) -> tuple[int, ...]:
    """The dimensions in ascending order; None and () mean all."""
    expect_tensor(where, "input", input)
    ndim = input.array.ndim
    if dim is None or dim == ():
        return tuple(range(ndim))
    found = tuple(sorted(dims_of(dim, ndim, where)))
    return found if ndim else ()


def _mask(where: str, input: Tensor, mask: Any) -> Tensor:
    """`mask` as booleans of the shape of `input`."""
    expect_tensor(where, "mask", mask)
    kept = mask.array.astype(bool)
    if kept.ndim > input.array.ndim:
        raise DimensionError(
            where, f"mask has {kept.ndim} dimensions", f"at most the input's {input.array.ndim}"
        )
    return shape.expand(wrap(kept), input.array.shape)


def _filled(where: str, input: Tensor, mask: Any, value: float) -> Tensor:
    """`input` with `value` where it is left out; ±inf is the limit of an integer type."""
    if mask is None:
        return input
    kind = input.array.dtype
    if math.isinf(value) and kind.kind in "iu":
        limits = np.iinfo(kind)
        value = int(limits.max if value > 0 else limits.min)
    elif math.isinf(value) and kind.kind == "b":
        raise UnsupportedError(where, f"no identity on {input.dtype} input")
    elif math.isinf(value) and kind.kind == "c" and where != "masked.logsumexp":
        raise ArgumentError(where, f"no identity on {input.dtype} input", "numbers with an order")
    other = wrap(np.asarray(value, kind))
    found: Tensor = indexing.where(_mask(where, input, mask), input, other)
    return found


def _sum_type(input: Tensor, dtype: Any) -> Any:
    """The type of a sum or product: int64 for integers."""
    if dtype is not None:
        return dtype
    return dtypes.int64 if input.array.dtype.kind in "iub" else input.dtype


# -- sums ------------------------------------------------------------------------------------------


def sum(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Sum of the elements kept, 0 where there are none."""
    dims, kind = _dims("masked.sum", input, dim), _sum_type(input, dtype)
    filled = _filled("masked.sum", input, mask, 0)
    return direct(reduction.sum)(filled, dims, bool(keepdim), dtype=kind)


def prod(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Product of the elements kept, 1 where there are none."""
    result = cast(_filled("masked.prod", input, mask, 1), _sum_type(input, dtype))
    for d in reversed(_dims("masked.prod", input, dim)):
        result = direct(reduction.prod)(result, d, bool(keepdim))
    return result


def cumsum(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """Sums of the elements kept up to each one."""
    (d,) = _dims("masked.cumsum", input, dim) or (0,)
    kind = input.dtype if dtype is None else dtype
    filled = _filled("masked.cumsum", input, mask, 0)
    return cast(direct(cumulative.cumsum)(filled, d, dtype=kind), kind)


def cumprod(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """Products of the elements kept up to each one."""
    (d,) = _dims("masked.cumprod", input, dim) or (0,)
    kind = input.dtype if dtype is None else dtype
    filled = _filled("masked.cumprod", input, mask, 1)
    return cast(direct(cumulative.cumprod)(filled, d, dtype=kind), kind)


def logsumexp(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Logarithm of the sum of exponentials of the elements kept, -inf where there are none."""
    dims = _dims("masked.logsumexp", input, dim)
    filled = _filled("masked.logsumexp", input, mask, -math.inf)
    result = direct(reduction.logsumexp)(filled, dims, keepdim)
    return cast(result, input.dtype if dtype is None else dtype)


def logaddexp(
    input: Tensor,
    other: Tensor,
    *,
    dtype: Any = None,
    input_mask: Any = None,
    other_mask: Any = None,
) -> Tensor:
    """`log(exp(input) + exp(other))` with -inf for elements left out."""
    a = _filled("masked.logaddexp", input, input_mask, -math.inf)
    b = _filled("masked.logaddexp", other, other_mask, -math.inf)
    return cast(direct(special.logaddexp)(a, b), input.dtype if dtype is None else dtype)


# -- extremes --------------------------------------------------------------------------------------


def amax(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Largest of the elements kept."""
    dims = _dims("masked.amax", input, dim)
    filled = _filled("masked.amax", input, mask, -math.inf)
    result = direct(extremes.amax)(filled, dims, bool(keepdim))
    return cast(result, input.dtype if dtype is None else dtype)


def amin(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Smallest of the elements kept."""
    dims = _dims("masked.amin", input, dim)
    filled = _filled("masked.amin", input, mask, math.inf)
    result = direct(extremes.amin)(filled, dims, bool(keepdim))
    return cast(result, input.dtype if dtype is None else dtype)


def argmax(
    input: Tensor,
    dim: int | None = None,
    *,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """Where the largest of the elements kept is, in the type of the input unless given."""
    filled = _filled("masked.argmax", input, mask, -math.inf)
    result = direct(extremes.argmax)(filled, dim, bool(keepdim))
    return cast(result, input.dtype if dtype is None else dtype)


def argmin(
    input: Tensor,
    dim: int | None = None,
    *,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """Where the smallest of the elements kept is, in the type of the input unless given."""
    filled = _filled("masked.argmin", input, mask, math.inf)
    result = direct(extremes.argmin)(filled, dim, bool(keepdim))
    return cast(result, input.dtype if dtype is None else dtype)


def median(
    input: Tensor, dim: int = -1, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Median of the elements kept (the lower of two)."""
    (d,) = _dims("masked.median", input, dim) or (0,)
    kind = input.dtype if dtype is None else dtype
    real = input.array.dtype.kind in "fV"
    filled = _filled(
        "masked.median", input if real else cast(input, dtypes.float32), mask, math.nan
    )
    found: Tensor = sorting.nanmedian(filled, d, keepdim).values
    if real:
        return found
    if np.isnan(found.array).any():
        raise InvalidValueError(
            "masked.median", "a slice without elements kept", "none if dtype is not floating point"
        )
    return cast(found, kind)


# -- moments and norms -----------------------------------------------------------------------------


def _count(where: str, input: Tensor, dim: Any, keepdim: bool, mask: Any) -> Tensor:
    """How many elements are kept."""
    kept = wrap(np.ones(input.array.shape, bool)) if mask is None else _mask(where, input, mask)
    return sum(kept, dim, keepdim=keepdim)


def mean(
    input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Any = None
) -> Tensor:
    """Mean of the elements kept, NaN where there are none."""
    kind = input.dtype if dtype is None else dtype
    if not (kind.is_floating_point or kind.is_complex):
        raise InvalidValueError("masked.mean", f"dtype {kind}", "floating point or complex")
    total = sum(input, dim, keepdim=keepdim, dtype=kind, mask=mask)
    return elementwise.div(total, _count("masked.mean", input, dim, bool(keepdim), mask))


def norm(
    input: Tensor,
    ord: float | None = 2.0,
    dim: Any = None,
    *,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """`linalg.vector_norm` of the elements kept."""
    order = 2.0 if ord is None else ord
    filled = _filled("masked.norm", input, mask, math.inf if order == -math.inf else 0)
    kind = input.dtype if dtype is None else dtype
    dims = _dims("masked.norm", input, dim)
    return direct(norms.vector_norm)(filled, order, dims, bool(keepdim), dtype=kind)


def _variance(
    input: Tensor, dim: Any, unbiased: Any, correction: Any, keepdim: Any, dtype: Any, mask: Any
) -> Tensor:
    if unbiased is not None and correction is not None:
        raise AssertionError("masked.var: both unbiased and correction are given; one of them.")
    lost = correction if correction is not None else float(unbiased is None or unbiased)
    kind = input.dtype if dtype is None else dtype
    floating = kind if kind.is_floating_point or kind.is_complex else dtypes.float32
    kind = floating if dtype is None else kind
    count = _count("masked.var", input, dim, True, mask)
    centre = elementwise.div(sum(input, dim, keepdim=True, dtype=kind, mask=mask), count)
    x = elementwise.sub(input, centre)
    square = elementwise.mul(x, elementwise.conj(x))
    total = sum(square, dim, keepdim=keepdim, dtype=floating, mask=mask)
    if not keepdim:
        count = shape.reshape(count, total.array.shape)
    if lost:
        real = cast(count, dtypes.of(floating.numpy.type(0).real.dtype))
        count = elementwise.clamp(elementwise.sub(real, lost), min=0)
    return cast(elementwise.div(total, count), kind)


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """Variance of the elements kept, NaN where there are none."""
    return _variance(input, dim, unbiased, correction, keepdim, dtype, mask)


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """Standard deviation of the elements kept, see `var`."""
    return elementwise.sqrt(_variance(input, dim, unbiased, correction, keepdim, dtype, mask))


# -- normalisations --------------------------------------------------------------------------------


def softmax(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """`softmax` of the elements kept, 0 elsewhere."""
    (d,) = _dims("masked.softmax", input, dim) or (0,)
    filled = _filled("masked.softmax", input, mask, -math.inf)
    return activation.softmax(filled, d, dtype=input.dtype if dtype is None else dtype)


def log_softmax(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """`log_softmax` of the elements kept, -inf elsewhere."""
    (d,) = _dims("masked.log_softmax", input, dim) or (0,)
    filled = _filled("masked.log_softmax", input, mask, -math.inf)
    return activation.log_softmax(filled, d, dtype=input.dtype if dtype is None else dtype)


def softmin(input: Tensor, dim: int, *, dtype: Any = None, mask: Any = None) -> Tensor:
    """`softmin` of the elements kept, 0 elsewhere."""
    (d,) = _dims("masked.softmin", input, dim) or (0,)
    filled = _filled("masked.softmin", input, mask, math.inf)
    kind = input.dtype if dtype is None else dtype
    return activation.softmax(elementwise.neg(filled), d, dtype=kind)


def normalize(
    input: Tensor,
    ord: float,
    dim: int,
    *,
    eps: float = 1e-12,
    dtype: Any = None,
    mask: Any = None,
) -> Tensor:
    """Elements kept divided by their norm (at least `eps`), 0 elsewhere."""
    kind = input.dtype if dtype is None else dtype
    size = norm(input, ord, dim, keepdim=True, dtype=kind, mask=mask)
    divisor = elementwise.clamp(size, min=eps)
    filled = _filled("masked.normalize", input, mask, 0)
    return elementwise.div(filled, divisor)
