"""Gradients compared with central differences: `gradcheck`, `gradgradcheck`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib.autograd import tape
from tensorlib.autograd.engine import grad
from tensorlib.errors import AutogradError, InvalidValueError


class GradcheckError(AutogradError):
    """A gradient that is not the derivative."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether the Jacobian of `func(*inputs)` by backward equals that by central differences.

    Inputs that require grad have to be float64: differences of float32 numbers are noise.
    """
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    leaves = [x for x in given if getattr(x, "requires_grad", False)]
    if not leaves:
        raise InvalidValueError(
            "gradcheck", "none of the inputs requires grad", "at least one tensor that does"
        )
    for x in leaves:
        if x.array.dtype != np.float64:
            raise InvalidValueError(
                "gradcheck", f"an input is {x.dtype}", "float64", hint="make it with dtype=float64"
            )
    outputs = _differentiable(func(*given))
    for place, output in enumerate(outputs):
        for number, leaf in enumerate(leaves):
            analytic = _by_backward(output, leaf)
            numeric = _by_difference(func, given, leaf, place, eps)
            if not np.allclose(analytic, numeric, rtol, atol):
                if not raise_exception:
                    return False
                worst = float(np.abs(analytic - numeric).max())
                raise GradcheckError(
                    "gradcheck",
                    f"Jacobian mismatch for output {place} with respect to input {number}, at most "
                    f"{worst:.3g}: numerical {numeric.tolist()}, analytical {analytic.tolist()}",
                    "equal Jacobians",
                )
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """`gradcheck` of the gradients of `func`, along fixed random directions of its outputs."""
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(o.array.shape) for o in _differentiable(func(*given))]

    def first(*args: Any) -> tuple[Any, ...]:
        outputs = _differentiable(func(*args))
        leaves = [x for x in args if getattr(x, "requires_grad", False)]
        seeds = [tape.wrap(w.astype(o.array.dtype)) for w, o in zip(weights, outputs, strict=True)]
        found = grad(outputs, leaves, seeds, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(first, given, eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception)


def _differentiable(result: Any) -> list[Any]:
    values = result if isinstance(result, tuple | list) else (result,)
    return [v for v in values if getattr(v, "requires_grad", False)]


def _by_backward(output: Any, leaf: Any) -> Any:
    """[outputs, inputs], a row per backward pass."""
    rows = np.zeros((output.array.size, leaf.array.size))
    for i in range(output.array.size):
        seed = np.zeros(output.array.size)
        seed[i] = 1
        wrapped = tape.wrap(seed.reshape(output.array.shape).astype(output.array.dtype))
        (found,) = grad(output, leaf, wrapped, retain_graph=True, allow_unused=True)
        if found is not None:
            rows[i] = found.array.reshape(-1)
    return rows


def _by_difference(func: Any, given: Any, leaf: Any, place: int, eps: float) -> Any:
    """[outputs, inputs], a column per pair of evaluations; the leaf's memory is put back."""
    columns = []
    array = leaf.array
    for index in np.ndindex(array.shape):
        before = array[index]
        ends = []
        for sign in (1, -1):
            array[index] = before + sign * eps
            ends.append(_differentiable(func(*given))[place].array.reshape(-1).copy())
        array[index] = before
        columns.append((ends[0] - ends[1]) / (2 * eps))
    return np.stack(columns, 1) if columns else np.zeros((0, 0))
