"""Draws into a tensor's own memory: `uniform_`, `normal_` and their like.

The numbers are PyTorch's for the same seed. Memory is filled as PyTorch fills it: in the order of
the strides, normals in pairs instead of blocks where memory is not contiguous.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import bump, check_inplace, mode
from tensorlib.creation import empty_as
from tensorlib.device import Array
from tensorlib.errors import ArgumentError, DTypeError, InvalidValueError, ShapeError
from tensorlib.ops._common import Grads, record
from tensorlib.ops.out import expect_distinct
from tensorlib.ops.strides import ordered
from tensorlib.random import Generator, pick

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Draw = Callable[[int, Any, bool], Array]  # (count, type, whether memory is contiguous)
_LOWEST = -(1 << 63)


class _Here(threading.local):
    drawing = True


_here = _Here()


@contextmanager
def unspecified() -> Iterator[None]:
    """In the block, draws of this thread leave their tensors' values unspecified and draw nothing:
    for modules whose state is loaded next. Drawing took a third of the start of a ResNet-50.
    """
    before, _here.drawing = _here.drawing, False
    try:
        yield
    finally:
        _here.drawing = before


def fill(array: Array, draw: Draw) -> None:
    """Put `draw(count, type, contiguous)` into the array, in the order of its memory."""
    if not _here.drawing:
        return
    dense = array.flags.c_contiguous
    if array.dtype.kind == "c":
        parts = _as_parts(array)
        fill(parts, draw)
        return
    values = draw(array.size, array.dtype, dense)
    if dense:
        np.copyto(array, values.reshape(array.shape), casting="unsafe")
        return
    view = array.transpose(ordered(array.shape, array.strides)[::-1])
    np.copyto(view, values.reshape(view.shape), casting="unsafe")


def _as_parts(array: Array) -> Array:
    """The real and imaginary parts along a last dim, in the same memory."""
    part = array.real
    shape, strides = (*part.shape, 2), (*part.strides, part.itemsize)
    return np.lib.stride_tricks.as_strided(part, shape, strides)


def _draw(self: Tensor, where: str, label: str, draw: Draw) -> Tensor:
    check_inplace(self, where)
    array = self.array
    expect_distinct(where, array)
    if mode.grad and self.requires_grad:
        from tensorlib.ops.inplace import store

        fresh = empty_as(array, array.dtype)
        fill(fresh, draw)
        return store(self, where, lambda x: constant(fresh, label, x))
    fill(array, draw)
    bump(self)
    return self


def constant(output: Array, label: str, *inputs: Tensor) -> Tensor:
    """A draw: its gradient is zero."""
    arrays = [x.array for x in inputs]

    def backward(grad: Array) -> Grads:
        return tuple(np.zeros_like(x) for x in arrays)

    result = record(output, backward, *inputs)
    if result._node is not None:
        result._node.label = label
    return result


def expect_floating(where: str, kind: Any, *, complex: bool = False) -> None:
    if not (kind.kind in "fV" or (complex and kind.kind == "c")):
        raise DTypeError(where, f"not implemented for {dtypes.of(kind)}", "a floating-point dtype")


def expect_plain(where: str, kind: Any) -> None:
    """Refuse complex and the unsigned types for which PyTorch has no such draw."""
    if kind.kind == "c" or (kind.kind == "u" and kind.itemsize > 1):
        raise DTypeError(where, f"not implemented for {dtypes.of(kind)}", "another dtype")


# -- in place --------------------------------------------------------------------------------------


def uniform_(
    self: Tensor,
    from_: float = 0,
    to: float = 1,
    *,
    generator: Generator | None = None,
    **limits: Any,
) -> Tensor:
    """Uniform numbers in [from, to); `from` may be given by `**{"from": ...}`."""
    low, high = _from(limits, "uniform_", from_), to
    kind = self.array.dtype
    expect_floating("uniform_", kind, complex=True)
    if kind.kind != "c":
        for name, value in (("from", low), ("to", high)):
            if abs(value) > float(dtypes.float_info(kind).max):
                raise ShapeError("uniform_", f"{name}={value} is out of bounds for {self.dtype}")
        if low > high:
            raise ShapeError(
                "uniform_",
                f"expects to return a [from, to) range, but found from={low} > to={high}",
            )
        if high - low > float(dtypes.float_info(kind).max):
            raise ShapeError(
                "uniform_", f"to-from exceeds the limit of {self.dtype}: to={high}, from={low}"
            )
    source = pick(generator)
    return _draw(
        self, "uniform_", "UniformBackward0", lambda n, k, _: source.uniform(n, k, low, high)
    )


def _from(limits: dict[str, Any], where: str, default: Any) -> Any:
    """The argument that PyTorch calls `from`, a word Python keeps to itself."""
    value = limits.pop("from", default)
    if limits:
        raise ArgumentError(where, f"got an unexpected keyword argument {next(iter(limits))!r}")
    return value


def normal_(
    self: Tensor, mean: float = 0, std: float = 1, *, generator: Generator | None = None
) -> Tensor:
    """Normal numbers; complex ones with half the variance in each part."""
    kind = self.array.dtype
    expect_std(std, "normal_")
    expect_floating("normal_", kind, complex=True)
    scale = std / math.sqrt(2) if kind.kind == "c" else std
    source = pick(generator)
    return _draw(
        self,
        "normal_",
        "NormalBackward0",
        lambda n, k, dense: source.normal(n, k, mean, scale, dense),
    )


def expect_std(std: float, where: str = "normal") -> None:
    if not std >= 0:
        raise ShapeError(where, f"normal expects std >= 0.0, but found std {std}")


def log_normal_(
    self: Tensor, mean: float = 1, std: float = 2, *, generator: Generator | None = None
) -> Tensor:
    """Numbers whose logarithms are normal."""
    if not std > 0:
        raise ShapeError("log_normal_", f"expects std > 0.0, but found std={std}")
    expect_floating("log_normal_", self.array.dtype)
    source = pick(generator)
    return _draw(
        self,
        "log_normal_",
        "LogNormalBackward0",
        lambda n, k, _: source.log_normal(n, k, mean, std),
    )


def exponential_(self: Tensor, lambd: float = 1, *, generator: Generator | None = None) -> Tensor:
    """Exponential numbers of rate `lambd`."""
    if not lambd > 0:
        raise ShapeError("exponential_", f"expects lambda > 0.0, but found lambda={lambd}")
    expect_floating("exponential_", self.array.dtype)
    source = pick(generator)
    return _draw(
        self,
        "exponential_",
        "ExponentialBackward0",
        lambda n, k, _: source.exponential(n, k, lambd),
    )


def cauchy_(
    self: Tensor, median: float = 0, sigma: float = 1, *, generator: Generator | None = None
) -> Tensor:
    """Cauchy numbers."""
    if not sigma > 0:
        raise ShapeError("cauchy_", f"expects sigma > 0.0, but found sigma={sigma}")
    expect_floating("cauchy_", self.array.dtype)
    source = pick(generator)
    return _draw(
        self, "cauchy_", "CauchyBackward0", lambda n, k, _: source.cauchy(n, k, median, sigma)
    )


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """How many trials of probability `p` the first success takes."""
    if not 0 < p < 1:
        raise ShapeError("geometric_", f"expects p to be in (0, 1), but got p={p}")
    expect_plain("geometric_", self.array.dtype)
    if self.array.dtype.kind == "b":
        raise DTypeError("geometric_", "not implemented for tensorlib.bool", "numbers")
    source = pick(generator)
    return _draw(
        self, "geometric_", "GeometricBackward0", lambda n, k, _: source.geometric(n, k, p)
    )


def random_(self: Tensor, *limits: Any, generator: Generator | None = None, **named: Any) -> Tensor:
    """Integers in [from, to): `random_(from, to)`, `random_(to)`; with `to=None` up to the largest
    the type holds; without limits from zero.
    """
    given = list(limits)
    if "from" in named:
        given.insert(0, named.pop("from"))
    if "to" in named:
        given.append(named.pop("to"))
    bad = named or len(given) > 2 or any(not_int(v) for v in given if v is not None)
    if bad or (given and given[0] is None):
        raise ArgumentError("random_", f"arguments {given} {named}", "from and to, integers")
    source, kind = pick(generator), self.array.dtype
    if not given:
        expect_plain("random_", kind)
        return _draw(self, "random_", "RandomBackward2", lambda n, k, _: source.whole(n, k))
    low, high = given if len(given) == 2 else (0, given[0])
    label = "RandomBackward0" if len(given) == 2 else "RandomBackward1"
    if high is None and low == _LOWEST:
        if kind not in (np.int64, np.float64, np.float32):
            raise ShapeError(
                "random_", f"the full range of 64 bits handles only int64 and floats, not {kind}"
            )
        low, span = 0, 1 << 64
    else:
        low, span = whole_range(low, high, kind)
    return _draw(self, "random_", label, lambda n, k, _: source.integers(n, low, span))


def not_int(value: Any) -> bool:
    return isinstance(value, bool | float) or not hasattr(value, "__index__")


def whole_range(low: Any, high: Any, kind: Any) -> tuple[int, int]:
    """Start and length of [low, high) in whole numbers that the type holds."""
    low = low.__index__()
    floating = kind.kind in "fV"
    if kind.kind == "c":
        raise ShapeError("random_", "handles only integral, floating-point and boolean types")
    if high is None:
        high = (1 << dtypes.digits(kind)) + 1 if floating else dtypes.limits(kind)[1] + 1
    else:
        high = high.__index__()
        for value in (low, high):
            if not _LOWEST <= value < 1 << 63:
                raise InvalidValueError("random_", f"Overflow when unpacking long long, {value}")
    if low >= high:
        raise ShapeError(
            "random_", f"expects 'from' to be less than 'to', but got from={low} >= to={high}"
        )
    if floating:
        low, high = _representable(low, high, kind)
    else:
        least, greatest = dtypes.limits(kind)
        for name, value in (("from", low), ("to - 1", high - 1)):
            if not least <= value <= min(greatest, (1 << 63) - 1):
                raise ShapeError("random_", f"{name}={value} is out of bounds for {kind.name}")
    return low, high - low


def _representable(low: int, high: int, kind: Any) -> tuple[int, int]:
    """The range narrowed to what the floating-point type does not round out of it."""
    digits, most = dtypes.digits(kind), float(dtypes.float_info(kind).max)
    after, before = (int(kind.type(float(v))) if abs(v) <= most else v for v in (low + 1, high - 1))
    if after < low:
        low = after + (1 << (abs(low + 1).bit_length() - digits))
    if before >= high:
        high = before - (1 << (abs(high - 1).bit_length() - digits))
    if low >= high:
        raise ShapeError(
            "random_",
            f"expects 'from' casted to dtype to be less than 'to' casted to dtype, but got "
            f"from={low} >= to={high}",
        )
    for name, value in (("from", low), ("to - 1", high - 1)):
        if abs(value) > most:
            raise ShapeError("random_", f"{name}={value} is out of bounds for {kind.name}")
        if abs(value) > 1 << digits:
            warnings.warn(
                f"random_: {name}={value} is out of bounds [-(2^{digits}), 2^{digits}]; "
                f"{kind.name} holds not every integer of this range.",
                UserWarning,
                stacklevel=5,
            )
    return low, high


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Ones with probability `p`, a number or a tensor that broadcasts to this one."""
    kind, source = self.array.dtype, pick(generator)
    expect_plain("bernoulli_", kind)
    if hasattr(p, "array"):
        probabilities = chances("bernoulli_", p.array, self.array)
        return _draw(
            self,
            "bernoulli_",
            "BernoulliBackward1",
            lambda n, k, _: source.bernoulli(probabilities, k),
        )
    chance("bernoulli_", p)
    return _draw(
        self, "bernoulli_", "BernoulliBackward2", lambda n, k, _: source.bernoulli(p, k, n)
    )


def chance(where: str, p: Any) -> None:
    if not 0 <= p <= 1:
        raise ShapeError(where, f"expects p to be in [0, 1], but got p={p}")


def chances(where: str, p: Array, target: Array) -> Array:
    """Probabilities for the elements of `target`, flat, in the order of its memory."""
    if not target.size:
        return p.reshape(-1)[:0]
    if p.dtype.kind not in "fV":
        raise DTypeError(where, f"not implemented for {dtypes.of(p.dtype)}", "probabilities")
    if p.size and not ((p >= 0) & (p <= 1)).all():
        raise ShapeError(
            where, "Expected p_in >= 0 && p_in <= 1 to be true", "probabilities between 0 and 1"
        )
    try:
        spread = np.broadcast_to(p, target.shape)
    except ValueError:
        raise ShapeError(
            where,
            f"The expanded size of the tensor {target.shape} must match the existing size {p.shape}"
            " at each dimension counted from the end",
        ) from None
    if target.flags.c_contiguous:
        return spread.reshape(-1)
    return spread.transpose(ordered(target.shape, target.strides)[::-1]).reshape(-1)
