"""Parts of complex numbers: `real imag conj angle polar`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DTypeError
from tensorlib.ops._common import (
    Array,
    Grads,
    check_dtype,
    differ,
    expect_tensor,
    floating,
    record,
    record_view,
)
from tensorlib.ops.arithmetic import mul
from tensorlib.ops.out import takes_out
from tensorlib.ops.trigonometry import cos, sin

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def real(input: Tensor) -> Tensor:
    """Real part, a view; a real tensor itself."""
    if input.array.dtype.kind != "c":
        return input

    def backward(grad: Array) -> Grads:
        return (grad + 0j,)

    return record_view(input.array.real, backward, input)


def imag(input: Tensor) -> Tensor:
    """Imaginary part, a view."""
    check_dtype("imag", input.array, "c", "a complex tensor")

    def backward(grad: Array) -> Grads:
        return (grad * 1j,)

    return record_view(input.array.imag, backward, input)


def conj(input: Tensor) -> Tensor:
    """Complex conjugate; a real tensor itself."""
    return conj_physical(input) if input.array.dtype.kind == "c" else input


@takes_out
def conj_physical(input: Tensor) -> Tensor:
    """Complex conjugate in memory of its own; a real tensor itself."""
    if input.array.dtype.kind != "c":
        return input

    def backward(grad: Array) -> Grads:
        return (np.conj(grad),)

    backward.__qualname__ = "conj"
    return record(np.conj(input.array), backward, input)


def resolve_conj(input: Tensor) -> Tensor:
    """`input` itself: conjugation is never put off."""
    expect_tensor("resolve_conj", "input", input)
    return input


def resolve_neg(input: Tensor) -> Tensor:
    """`input` itself: negation is never put off."""
    expect_tensor("resolve_neg", "input", input)
    return input


def is_conj(input: Tensor) -> bool:
    """Always False: conjugation is never put off."""
    expect_tensor("is_conj", "input", input)
    return False


def is_neg(input: Tensor) -> bool:
    """Always False: negation is never put off."""
    expect_tensor("is_neg", "input", input)
    return False


@takes_out
def angle(input: Tensor) -> Tensor:
    """Angle of complex numbers in radians; of real ones 0 or pi."""
    x = (input := floating(input)).array
    if x.dtype.kind != "c":

        def backward_real(grad: Array) -> Grads:
            return (np.zeros_like(grad),)

        output = np.where(np.isnan(x), x, np.where(x < 0, np.pi, 0)).astype(x.dtype, copy=False)
        return record(output, backward_real, input)

    def backward(grad: Array) -> Grads:
        square = (x * np.conj(x)).real
        return (np.where(square == 0, 0, grad * 1j * x / np.where(square == 0, 1, square)),)

    return record(np.angle(x), backward, input)


@takes_out
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """Complex numbers of the lengths `abs` and the angles `angle`."""
    expect_tensor("polar", "abs", abs)
    expect_tensor("polar", "angle", angle)
    from tensorlib import complex

    r, phi = abs.array, angle.array
    if r.dtype != phi.dtype or r.dtype.char not in "fd":
        raise DTypeError(
            "polar",
            f"{dtypes.of(r.dtype)} and {dtypes.of(phi.dtype)} given",
            "both float32 or both float64",
        )
    if not _broadcast(r, phi):
        raise differ("polar", r, phi)
    made: Tensor = complex(mul(abs, cos(angle)), mul(abs, sin(angle)))
    return made


def _broadcast(a: Array, b: Array) -> bool:
    return all(
        n == m or n == 1 or m == 1 for n, m in zip(a.shape[::-1], b.shape[::-1], strict=False)
    )
