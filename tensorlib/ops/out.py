"""`out=`: the result of a function goes into tensors that the caller gives, by PyTorch's rules.

The functions of a family are decorated; Tensor methods, which have no `out=` in PyTorch, are the
undecorated ones (`direct`).
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import bump, mode, needs_grad
from tensorlib.errors import ArgumentError, AutogradError, DTypeError, ShapeError
from tensorlib.ops.names import renamed
from tensorlib.ops.strides import partly_overlap

__all__ = ["direct", "expect_distinct", "takes_distinct_out", "takes_exact_out", "takes_out"]

F = TypeVar("F", bound=Callable[..., Any])


def takes_out(function: F) -> F:
    """Give `function` a keyword `out`: a tensor, or a tuple of them where it returns several.

    The result's dtype must be castable to that of `out` (never down a category), otherwise
    DTypeError (RuntimeError); an `out` of another shape is resized, with a warning unless it is
    empty.
    """
    return _decorated(function, False)


def takes_exact_out(function: F) -> F:
    """As `takes_out` where PyTorch wants `out` to have the result's own dtype (sorts, products of
    matrices).
    """
    return _decorated(function, True)


def takes_distinct_out(function: F, exact: bool = True) -> F:
    """As `takes_exact_out` (or `takes_out`) where `out` must share no memory with the arguments
    (indexing, joining).
    """
    return _decorated(function, exact, True)


def direct(function: F) -> F:
    """The plain function under `takes_out`, other functions themselves."""
    if getattr(function, "__code__", None) is _CODE:
        return function.__wrapped__  # type: ignore[attr-defined,no-any-return]  # set by wraps
    return function


def _decorated(function: F, exact: bool, distinct: bool = False) -> F:
    @functools.wraps(function)
    def with_out(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is None:
            try:
                return function(*args, **kwargs)
            except AttributeError:
                _refuse_others(function, args, kwargs)
                raise
            except TypeError:
                again = renamed(function, kwargs)
                if again is None:
                    raise
            return function(*args, **again)
        kwargs = renamed(function, kwargs) or kwargs
        return _into(out, function, exact, args, kwargs, distinct)

    plain = inspect.signature(function)
    parameters = list(plain.parameters.values())
    place = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        place -= 1
    parameters.insert(place, inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None))
    with_out.__signature__ = plain.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    return with_out  # type: ignore[return-value]  # the same call, and `out`


_CODE = _decorated(lambda: None, False).__code__


def _expect_apart(where: str, out: Any, made: Any, args: Any, kwargs: Any) -> None:
    """Refuse an `out` whose memory, after resizing, is an argument's too."""
    from tensorlib.ops.shape import storage_of

    held = out.array if out.array.shape == made.shape else storage_of(out)
    for given in (*_tensors(args), *_tensors(kwargs.values())):
        if given is out or np.may_share_memory(held, given.array):
            raise _overlap(where, out.array)


def _overlap(where: str, target: Any) -> ShapeError:
    return ShapeError(
        where,
        "unsupported operation: some elements of the input tensor and the written-to tensor refer "
        f"to a single memory location, out of shape {target.shape}",
        hint="clone() the tensor before performing the operation",
    )


def _refuse_others(function: Any, args: Any, kwargs: Any) -> None:
    """Name the argument that should be a Tensor and is not, after it failed as one."""
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        return
    for name, value in given.items():
        wanted = inspect.signature(function).parameters[name].annotation
        if wanted == "Tensor" and not hasattr(value, "array"):
            raise ArgumentError(
                function.__name__,
                f"argument '{name}' must be Tensor, not {type(value).__name__}",
                hint="make it one with tensor(...)",
            ) from None


def _into(
    out: Any, function: Any, exact: bool, args: Any, kwargs: Any, distinct: bool = False
) -> Any:
    where = function.__name__
    several = isinstance(out, tuple | list)
    outs = list(out) if several else [out]
    for one in outs:
        if not hasattr(one, "array"):
            wanted = "a tuple of Tensors" if several else "Tensor"
            raise ArgumentError(where, f"argument 'out' must be {wanted}, not {type(one).__name__}")
    if mode.grad and needs_grad(*outs, *_tensors(args), *_tensors(kwargs.values())):
        raise AutogradError(
            where,
            "functions with out=... arguments don't support automatic differentiation, but one of "
            "the arguments requires grad",
            hint="leave out= away, or call it under no_grad()",
        )
    before, mode.grad = mode.grad, False
    try:
        result = function(*args, **kwargs)
    finally:
        mode.grad = before
    results = list(result) if isinstance(result, tuple | list) else [result]
    if several != isinstance(result, tuple | list) or len(outs) != len(results):
        given = f"a tuple of {len(outs)}" if several else "Tensor"
        wanted = f"a tuple of {len(results)} Tensors" if len(results) > 1 else "Tensor"
        raise ArgumentError(where, f"argument 'out' must be {wanted}, not {given}")
    inputs = [t.array for t in (*_tensors(args), *_tensors(kwargs.values()))]
    for one, made in zip(outs, results, strict=True):
        _check(where, one, made.array, exact)
        if distinct:
            expect_distinct(where, one.array)
            _expect_apart(where, one, made.array, args, kwargs)
        _write(where, one, made.array, inputs)
    if not several:
        return out
    return type(result)(*outs) if hasattr(result, "_fields") else tuple(outs)


def _tensors(values: Any) -> list[Any]:
    found = []
    for value in values:
        if hasattr(value, "array"):
            found.append(value)
        elif isinstance(value, tuple | list):
            found.extend(v for v in value if hasattr(v, "array"))
    return found


def _check(where: str, out: Any, value: Any, exact: bool) -> None:
    given, made = out.array.dtype, value.dtype
    if given == made:
        return
    if exact:
        raise DTypeError(
            where,
            f"Expected out tensor to have dtype {dtypes.of(made)}, but got {dtypes.of(given)} "
            f"instead",
        )
    if not dtypes.can_cast(dtypes.of(made), dtypes.of(given)):
        raise DTypeError(
            where,
            f"result type {dtypes.of(made)} can't be cast to the desired output type "
            f"{dtypes.of(given)}",
        )


def expect_distinct(where: str, array: Any) -> None:
    """Refuse to write to memory in which one place is several elements (an expanded tensor)."""
    if 0 in array.strides and any(
        s == 0 and n > 1 and array.size for s, n in zip(array.strides, array.shape, strict=True)
    ):
        raise ShapeError(
            where,
            "unsupported operation: more than one element of the written-to tensor refers to a "
            f"single memory location, shape {array.shape}",
            hint="clone() the tensor before performing the operation",
        )


def _write(where: str, out: Any, value: Any, inputs: list[Any]) -> None:
    target = out.array
    if target.shape == value.shape:
        expect_distinct(where, target)
        if any(partly_overlap(target, array) for array in inputs):
            raise _overlap(where, target)
        np.copyto(target, value, casting="unsafe")
        bump(out)
        return
    if target.size:
        warnings.warn(
            f"{where}: An output with one or more elements was resized since it had shape "
            f"{list(target.shape)}, which does not match the required output shape "
            f"{list(value.shape)}. Hint: resize it to zero elements first.",
            UserWarning,
            stacklevel=4,
        )
    shared = value.base is not None or any(value is array for array in inputs)
    if value.dtype == target.dtype and not shared:
        out.array = value
    else:
        out.array = value.astype(target.dtype, copy=True)
    # other tensors keep the old memory, unchanged
    out._base, out._counter = None, [out._counter[0] + 1]
