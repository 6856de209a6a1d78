"""Logic, bits and whole numbers: `logical_and bitwise_xor gcd`; none has a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ArgumentError
from tensorlib.ops._common import Array, check_dtype, differ, expect_tensor, pair, promoted, wrap
from tensorlib.ops.out import direct, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@takes_out
def logical_and(input: Tensor, other: Tensor) -> Tensor:
    """Both elements nonzero."""
    return _logical(input, other, np.logical_and, "logical_and")


@takes_out
def logical_or(input: Tensor, other: Tensor) -> Tensor:
    """At least one element nonzero."""
    return _logical(input, other, np.logical_or, "logical_or")


@takes_out
def logical_xor(input: Tensor, other: Tensor) -> Tensor:
    """Exactly one element nonzero."""
    return _logical(input, other, np.logical_xor, "logical_xor")


def _logical(input: Tensor, other: Tensor, function: Any, where: str) -> Tensor:
    expect_tensor(where, "other", other)
    try:
        return wrap(function(input.array, other.array))
    except ValueError:
        raise differ(where, input.array, other.array) from None


@takes_out
def logical_not(input: Tensor) -> Tensor:
    """Whether elements are zero."""
    return wrap(np.logical_not(input.array))


@takes_out
def bitwise_and(input: Tensor | int, other: Tensor | int) -> Tensor:
    """Bits set in both (logical and for bool)."""
    return _bitwise(input, other, np.bitwise_and, "bitwise_and")


@takes_out
def bitwise_or(input: Tensor | int, other: Tensor | int) -> Tensor:
    """Bits set in either (logical or for bool)."""
    return _bitwise(input, other, np.bitwise_or, "bitwise_or")


@takes_out
def bitwise_xor(input: Tensor | int, other: Tensor | int) -> Tensor:
    """Bits set in exactly one."""
    return _bitwise(input, other, np.bitwise_xor, "bitwise_xor")


@takes_out
def bitwise_left_shift(input: Tensor | int, other: Tensor | int) -> Tensor:
    """`input << other`."""
    return _bitwise(input, other, np.left_shift, "bitwise_left_shift", "iu")


@takes_out
def bitwise_right_shift(input: Tensor | int, other: Tensor | int) -> Tensor:
    """`input >> other`."""
    return _bitwise(input, other, np.right_shift, "bitwise_right_shift", "iu")


def reversed_bits(function: Any) -> Any:
    """The reflected operator (`1 & x`) of a bitwise operation."""
    plain = direct(function)

    def reflected(input: Tensor, other: Any) -> Tensor:
        expect_tensor(plain.__name__, "input", input)
        result: Tensor = plain(other, input)
        return result

    return reflected


def _bitwise(input: Any, other: Any, function: Any, where: str, kinds: str = "iub") -> Tensor:
    x, y = pair(input, other, where)
    check_dtype(where, x.array, kinds, "integers or bool" if "b" in kinds else "integers")
    return _applied(where, function, x.array, y.array)


def _applied(where: str, function: Any, a: Array, b: Array) -> Tensor:
    try:
        return wrap(function(a, b))
    except ValueError:
        raise differ(where, a, b) from None


@takes_exact_out
def bitwise_not(input: Tensor) -> Tensor:
    """All bits flipped (logical not for bool)."""
    check_dtype("bitwise_not", input.array, "iub", "integers or bool")
    return wrap(np.invert(input.array))


def invert(input: Tensor) -> Tensor:
    """`~input`; what has no bits is a TypeError, as in PyTorch."""
    if input.array.dtype.kind not in "iub":
        raise ArgumentError("~", f"{input.array.dtype} given", "an integer or Boolean tensor")
    return wrap(np.invert(input.array))


@takes_out
def gcd(input: Tensor, other: Tensor) -> Tensor:
    """The greatest common divisor."""
    return _whole(input, other, np.gcd, "gcd")


@takes_out
def lcm(input: Tensor, other: Tensor) -> Tensor:
    """The least common multiple."""
    return _whole(input, other, np.lcm, "lcm")


def _whole(input: Tensor, other: Tensor, function: Any, where: str) -> Tensor:
    expect_tensor(where, "other", other)
    input, other = promoted(input, other)
    check_dtype(where, input.array, "iu", "integers")
    return _applied(where, function, input.array, other.array)
