"""Parts of complex numbers: `real imag conj angle polar`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorlib.ops._common import (
    Array,
    Grads,
    check_dtype,
    expect_tensor,
    floating,
    record,
    record_view,
)
from tensorlib.ops.out import takes_exact_out, takes_out

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


@takes_exact_out
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
