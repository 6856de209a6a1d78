"""Trigonometric and hyperbolic functions and their inverses, angles, `hypot`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tensorlib.ops._common import (
    Array,
    Grads,
    called,
    check_dtype,
    conjugate,
    differ,
    expect_tensor,
    floating,
    promoted,
    record,
)
from tensorlib.ops.out import takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@takes_out
def sin(input: Tensor) -> Tensor:
    """Sine of radians."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * conjugate(np.cos(x)),)

    return record(np.sin(x), backward, input)


@takes_out
def cos(input: Tensor) -> Tensor:
    """Cosine of radians."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * -conjugate(np.sin(x)),)

    return record(np.cos(x), backward, input)


@takes_out
def tan(input: Tensor) -> Tensor:
    """Tangent of radians."""
    input = floating(input)
    output = np.tan(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * conjugate(1 + output * output),)

    return record(output, backward, input)


@takes_out
def asin(input: Tensor) -> Tensor:
    """Inverse sine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / conjugate(np.sqrt(1 - x * x)),)

    return record(np.arcsin(x), backward, input)


@takes_out
def acos(input: Tensor) -> Tensor:
    """Inverse cosine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (-grad / conjugate(np.sqrt(1 - x * x)),)

    return record(np.arccos(x), backward, input)


@takes_out
def atan(input: Tensor) -> Tensor:
    """Inverse tangent."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / conjugate(1 + x * x),)

    return record(np.arctan(x), backward, input)


@takes_out
def sinh(input: Tensor) -> Tensor:
    """Hyperbolic sine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * conjugate(np.cosh(x)),)

    return record(np.sinh(x), backward, input)


@takes_out
def cosh(input: Tensor) -> Tensor:
    """Hyperbolic cosine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * conjugate(np.sinh(x)),)

    return record(np.cosh(x), backward, input)


@takes_out
def asinh(input: Tensor) -> Tensor:
    """Inverse hyperbolic sine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / conjugate(np.sqrt(x * x + 1)),)

    return record(np.arcsinh(x), backward, input)


@takes_out
def acosh(input: Tensor) -> Tensor:
    """Inverse hyperbolic cosine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        if x.dtype.kind == "c":  # two roots, so that the branch cuts are those of acosh
            return (grad / conjugate(np.sqrt(x + 1) * np.sqrt(x - 1)),)
        return (grad / np.sqrt(x * x - 1),)

    return record(np.arccosh(x), backward, input)


@takes_out
def atanh(input: Tensor) -> Tensor:
    """Inverse hyperbolic tangent."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / conjugate(1 - x * x),)

    return record(np.arctanh(x), backward, input)


@takes_out
def atan2(input: Tensor, other: Tensor) -> Tensor:
    """Angle of the point (other, input)."""
    expect_tensor("atan2", "other", other)
    input, other = promoted(input, other)
    y, x = (input := floating(input)).array, (other := floating(other)).array
    check_dtype("atan2", y, "f", "real numbers")
    try:
        output = np.arctan2(y, x)
    except ValueError:
        raise differ("atan2", y, x) from None

    def backward(grad: Array) -> Grads:
        square = x * x + y * y
        inverse = np.where(square == 0, 0, 1 / square)
        return grad * (x * inverse), grad * (-y * inverse)

    return record(output, backward, input, other)


@takes_out
def hypot(input: Tensor, other: Tensor) -> Tensor:
    """`sqrt(input**2 + other**2)`."""
    expect_tensor("hypot", "other", other)
    input, other = promoted(input, other)
    a, b = input.array, other.array
    check_dtype("hypot", a, "f", "floating point")
    try:
        output = np.hypot(a, b)
    except ValueError:
        raise differ("hypot", a, b) from None

    def backward(grad: Array) -> Grads:
        return grad * (a / output), grad * (b / output)

    return record(output, backward, input, other)


@takes_out
@called("Deg2RadBackward0")
def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians."""
    return _scaled(input, math.pi / 180, "deg2rad")


@takes_out
@called("Rad2DegBackward0")
def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees."""
    return _scaled(input, 180 / math.pi, "rad2deg")


def _scaled(input: Tensor, factor: float, where: str) -> Tensor:
    from tensorlib.ops.arithmetic import mul

    check_dtype(where, input.array, "biuf", "real numbers")
    return mul(floating(input), factor)
