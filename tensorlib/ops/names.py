"""NumPy's names of arguments, which PyTorch takes too: `x.sum(axis=0, keepdims=True)`."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["renamed", "takes_numpy_names", "with_dim"]

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = {
    "axis": "dim",
    "keepdims": "keepdim",
    "x": "input",
    "a": "input",
    "x1": "input",
    "x2": "other",
}


def _parameters(function: Any) -> tuple[str, ...]:
    code = function.__code__
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return names


def renamed(function: Any, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """`kwargs` under the names of `function`; None where nothing is to be renamed."""
    if _NAMES.keys().isdisjoint(kwargs):
        return None
    own = _parameters(function)
    found = {
        _NAMES[key] if key not in own and _NAMES.get(key) in own else key: value
        for key, value in kwargs.items()
    }
    return None if found.keys() == kwargs.keys() or len(found) != len(kwargs) else found


def with_dim(function: Any) -> bool:
    """Whether a plain function has a parameter that NumPy names otherwise."""
    return isinstance(function, types.FunctionType) and "dim" in _parameters(function)


def takes_numpy_names(function: F) -> F:
    """The function, called again under PyTorch's names where it was called by NumPy's."""

    @functools.wraps(function)
    def named(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            again = renamed(function, kwargs)
            if again is None:
                raise
        return function(*args, **again)

    return named  # type: ignore[return-value]  # the same call
