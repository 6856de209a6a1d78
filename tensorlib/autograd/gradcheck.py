"""Gradients compared with central differences: `gradcheck`, `gradgradcheck`.

A complex output is checked as two real ones, its parts; of a complex input the gradient is
dL/dx + i dL/dy, as in PyTorch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorlib.autograd import grad_mode, tape
from tensorlib.autograd.engine import grad
from tensorlib.errors import AutogradError, InvalidValueError, UnsupportedError

Function = Callable[..., Any]


class GradcheckError(AutogradError):
    """A gradient that is not the derivative."""


class _Rules(NamedTuple):
    """How to compare."""

    eps: float
    atol: float
    rtol: float
    nondet_tol: float
    dtypes: bool
    fast: bool


def gradcheck(
    func: Function,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether the Jacobian of `func(*inputs)` by backward equals that by central differences.

    Also: backward twice gives the same (within `nondet_tol`), is proportional to the gradient it is
    given, and (`check_undefined_grad`) takes outputs that nobody used. `fast_mode` compares one
    random projection instead of the whole Jacobian. Inputs that require grad should be float64 or
    complex128: differences of shorter numbers are noise.
    """
    refused = {
        "check_batched_grad": check_batched_grad,
        "check_batched_forward_grad": check_batched_forward_grad,
        "check_forward_ad": check_forward_ad,
    }
    for name, wanted in refused.items():
        if wanted:
            raise UnsupportedError(
                "gradcheck", f"{name}=True: there is no vmap and no forward mode"
            )
    if not check_backward_ad:
        raise UnsupportedError("gradcheck", "check_backward_ad=False", "True, the only mode")
    given = _tuple(inputs)
    _check_inputs(given)
    rules = _Rules(eps, atol, rtol, nondet_tol, check_grad_dtypes, fast_mode)
    try:
        _compare_all(func, given, rules)
        _check_proportional(func, given)
        if check_undefined_grad:
            _check_undefined(func, given)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Function,
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """`gradcheck` of the gradients of `func`, with respect to its inputs and to `grad_outputs`
    (random ones, always the same, if None).
    """
    if check_fwd_over_rev or not check_rev_over_rev:
        raise UnsupportedError("gradgradcheck", "forward mode", "check_rev_over_rev=True only")
    given = _tuple(inputs)
    _check_inputs(given)
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        seeds = tuple(
            _seed(rng, o.array, gen_non_contig_grad_outputs) for o in _differentiable(func(*given))
        )
    else:
        seeds = _tuple(grad_outputs)
    count = len(seeds)

    def first(*args: Any) -> tuple[Any, ...]:
        own, along = args[: len(args) - count], args[len(args) - count :]
        with grad_mode.enable_grad():
            outputs = _differentiable(func(*own))
            leaves = [x for x in own if getattr(x, "requires_grad", False)]
            found = grad(outputs, leaves, along, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(
        first,
        given + seeds,
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        fast_mode=fast_mode,
    )


def _seed(rng: Any, like: Any, scattered: bool) -> Any:
    shape = (*like.shape, 2) if scattered else like.shape
    values = rng.uniform(-1, 1, shape)
    if like.dtype.kind == "c":
        values = values + 1j * rng.uniform(-1, 1, shape)
    array = values.astype(like.dtype if like.dtype.kind in "fc" else np.float64)
    made: Any = tape.wrap(array[..., 0] if scattered else array)
    return made.requires_grad_()


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, tuple | list) else (values,)


def _check_inputs(given: tuple[Any, ...]) -> None:
    leaves = [x for x in given if getattr(x, "requires_grad", False)]
    if not leaves:
        raise InvalidValueError(
            "gradcheck",
            "gradcheck expects at least one input tensor to require gradient, but none of them have"
            " requires_grad=True",
        )
    for place, x in enumerate(leaves):
        if x.array.dtype.char not in "dD":
            warnings.warn(
                f"Input #{place} requires gradient and is not a double precision floating point or"
                " complex. This check will likely fail",
                stacklevel=3,
            )
        if any(s == 0 and n > 1 for s, n in zip(x.array.strides, x.array.shape, strict=True)):
            raise AutogradError(
                "gradcheck",
                f"The {place}th input has a dimension with stride 0",
                "inputs that do not overlap in memory",
                hint="call contiguous() on it",
            )


def _differentiable(result: Any) -> list[Any]:
    return [v for v in _tuple(result) if getattr(v, "requires_grad", False)]


def _compare_all(func: Function, given: tuple[Any, ...], rules: _Rules) -> None:
    """Compare for all outputs, of complex ones both parts."""
    result = _tuple(func(*given))
    parts = ("real", "imag") if any(r.array.dtype.kind == "c" for r in result) else (None,)
    for part in parts:

        def real_valued(*args: Any, part: str | None = part) -> tuple[Any, ...]:
            return tuple(
                getattr(o, part) if part and o.array.dtype.kind == "c" else o
                for o in _tuple(func(*args))
            )

        compare = _compare_projection if rules.fast else _compare_jacobians
        compare(real_valued, given, rules, part)


def _compare_jacobians(
    func: Function, given: tuple[Any, ...], rules: _Rules, part: str | None
) -> None:
    outputs = _tuple(func(*given))
    wanted = [i for i, o in enumerate(outputs) if o.requires_grad]
    leaves = [x for x in given if getattr(x, "requires_grad", False)]
    for number, leaf in enumerate(leaves):
        numeric = _by_difference(func, given, leaf, rules.eps)
        for place, table in enumerate(numeric):
            if place not in wanted:
                if not wanted and np.any(table):
                    raise GradcheckError(
                        "gradcheck", "Numerical gradient for function expected to be zero"
                    )
                continue
            output = wanted.index(place)
            first = _by_backward(outputs[place], leaf, rules)
            second = _by_backward(outputs[place], leaf, rules)
            _check_repeatable(first, second, rules)
            _check_close(first, table, rules.atol, rules, output, number, part)


def _compare_projection(
    func: Function, given: tuple[Any, ...], rules: _Rules, part: str | None
) -> None:
    """One number for each pair of output and input: the Jacobian between two random vectors."""
    rng = np.random.default_rng(0)
    outputs = _tuple(func(*given))
    leaves = [x for x in given if getattr(x, "requires_grad", False)]
    wanted = [o for o in outputs if o.requires_grad]
    directions = [_direction(rng, leaf.array) for leaf in leaves]
    seeds = [_direction(rng, o.array.real) for o in wanted]
    for number, (leaf, along) in enumerate(zip(leaves, directions, strict=True)):
        steps = [along.real, 1j * along.imag] if leaf.array.dtype.kind == "c" else [along]
        slopes = [_slopes(func, given, leaf, step, rules.eps) for step in steps]
        output = 0
        for place, one in enumerate(outputs):
            numeric = sum(s[place] for s in slopes)
            if not one.requires_grad:
                if not wanted and np.any(numeric):
                    raise GradcheckError(
                        "gradcheck", "Numerical gradient for function expected to be zero"
                    )
                continue
            seed = seeds[output]
            first, second = (_pulled(one, leaf, seed, rules) for _ in range(2))
            _check_repeatable(first, second, rules)
            analytic = np.sum((first * np.conj(along)).real)
            scale = float(np.abs(seed).sum() * (np.abs(along.real) + np.abs(along.imag)).sum())
            atol = rules.atol * scale
            _check_close(analytic, np.sum(numeric * seed), atol, rules, output, number, part)
            output += 1


def _direction(rng: Any, like: Any) -> Any:
    values = rng.uniform(0, 1, like.shape)
    if like.dtype.kind == "c":
        values = values + 1j * rng.uniform(0, 1, like.shape)
    norm = np.linalg.norm(values.reshape(-1))
    return values / norm if norm else values


def _check_repeatable(first: Any, second: Any, rules: _Rules) -> None:
    gap = float(np.abs(first - second).max()) if np.size(first) else 0.0
    if gap > rules.nondet_tol:
        raise GradcheckError(
            "gradcheck",
            "Backward is not reentrant, i.e., running backward with same input and grad_output"
            f" multiple times gives different values, {gap:.3g} apart",
            f"at most nondet_tol={rules.nondet_tol}",
        )


def _check_close(
    analytic: Any, numeric: Any, atol: float, rules: _Rules, place: int, number: int, part: Any
) -> None:
    if np.allclose(analytic, numeric, rules.rtol, atol):
        return
    worst = float(np.abs(analytic - numeric).max())
    of = f" (its {part} part)" if part else ""
    raise GradcheckError(
        "gradcheck",
        f"Jacobian mismatch for output {place} with respect to input {number}{of}, at most"
        f" {worst:.3g}: numerical {np.asarray(numeric).tolist()}, analytical"
        f" {np.asarray(analytic).tolist()}",
        "equal Jacobians",
    )


def _pulled(output: Any, leaf: Any, seed: Any, rules: _Rules) -> Any:
    """The gradient of `leaf` for that of `output`, as an array."""
    wrapped = tape.wrap(np.asarray(seed).reshape(output.array.shape).astype(output.array.dtype))
    (found,) = grad(output, leaf, wrapped, retain_graph=True, allow_unused=True)
    if found is None:
        return np.zeros(leaf.array.shape, leaf.array.dtype)
    if rules.dtypes and found.array.dtype != leaf.array.dtype:
        raise GradcheckError(
            "gradcheck", f"Gradient has dtype {found.dtype}", f"that of the input, {leaf.dtype}"
        )
    return found.array


def _by_backward(output: Any, leaf: Any, rules: _Rules) -> Any:
    """[outputs, inputs], a row per backward pass."""
    rows = np.zeros((output.array.size, leaf.array.size), leaf.array.dtype)
    for i in range(output.array.size):
        seed = np.zeros(output.array.size)
        seed[i] = 1
        rows[i] = _pulled(output, leaf, seed, rules).reshape(-1)
    return rows


def _slopes(func: Function, given: Any, leaf: Any, step: Any, eps: float) -> list[Any]:
    """Central differences of all outputs when `leaf` moves along `step`; its memory is put back."""
    before = leaf.array.copy()
    ends = []
    for sign in (1, -1):
        leaf.array[...] = before + sign * eps * step
        ends.append([o.array.copy() for o in _tuple(func(*given))])
    leaf.array[...] = before
    return [(a - b) / (2 * eps) for a, b in zip(*ends, strict=True)]


def _by_difference(func: Function, given: Any, leaf: Any, eps: float) -> list[Any]:
    """For each output [outputs, inputs], a column per element (two steps for a complex one)."""
    units = (1, 1j) if leaf.array.dtype.kind == "c" else (1,)
    columns: list[list[Any]] = []
    for index in np.ndindex(leaf.array.shape):
        total: list[Any] = []
        for unit in units:
            step = np.zeros(leaf.array.shape, leaf.array.dtype)
            step[index] = unit
            found = _slopes(func, given, leaf, step, eps)
            total = [t + unit * f for t, f in zip(total or [0] * len(found), found, strict=True)]
        columns.append([t.reshape(-1) for t in total])
    if not columns:
        return [np.zeros((o.array.size, 0)) for o in _tuple(func(*given))]
    return [np.stack(one, 1) for one in zip(*columns, strict=True)]


def _zeros_like(outputs: Any) -> list[Any]:
    return [tape.wrap(np.zeros_like(o.array)) for o in outputs]


def _check_proportional(func: Function, given: tuple[Any, ...]) -> None:
    """Zero gradients come out for zero gradients in."""
    outputs = _differentiable(func(*given))
    if not outputs:
        return
    leaves = [x for x in given if getattr(x, "requires_grad", False)]
    found = grad(outputs, leaves, _zeros_like(outputs), allow_unused=True)
    for gradient, leaf in zip(found, leaves, strict=True):
        if gradient is None:
            continue
        if np.any(gradient.array):
            raise GradcheckError("gradcheck", "backward not multiplied by grad_output")
        if gradient.array.dtype != leaf.array.dtype:
            raise GradcheckError("gradcheck", f"grad is incorrect type, {gradient.dtype}")


def _undefined(output: Any) -> Any:
    """The output behind a step that passes no gradient on."""
    return tape.record(output.array, lambda grad: (None,), output)


def _check_undefined(func: Function, given: tuple[Any, ...]) -> None:
    """Backward takes outputs without a gradient: all of them, and one at a time."""
    leaves = [x for x in given if getattr(x, "requires_grad", False)]
    count = len(_differentiable(func(*given)))
    choices = [set(range(count))] + ([{i} for i in range(count)] if count > 1 else [])
    for chosen in choices if count else []:
        outputs = [
            _undefined(o) if i in chosen else o for i, o in enumerate(_differentiable(func(*given)))
        ]
        try:
            found = grad(outputs, leaves, _zeros_like(outputs), allow_unused=True)
        except RuntimeError as error:
            raise GradcheckError(
                "gradcheck", "Expected backward function to handle undefined output grads"
            ) from error
        if any(g is not None and np.any(g.array) for g in found):
            raise GradcheckError(
                "gradcheck",
                "Expected all input grads to be undefined or zero when all output grads are"
                " undefined or zero",
            )
