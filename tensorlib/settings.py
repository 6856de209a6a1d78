"""Switches of PyTorch's that scripts set: determinism, the precision of products, denormals; and
`compile`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from tensorlib import dtypes
from tensorlib.errors import ArgumentError
from tensorlib.typed import type_of

__all__ = [
    "are_deterministic_algorithms_enabled",
    "compile",
    "get_float32_matmul_precision",
    "is_deterministic_algorithms_warn_only_enabled",
    "set_default_tensor_type",
    "set_float32_matmul_precision",
    "set_flush_denormal",
    "use_deterministic_algorithms",
]


class _State:
    deterministic = False
    warn_only = False
    precision = "highest"


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Ask for results that do not change from run to run: they never do here."""
    if not isinstance(mode, bool):
        raise ArgumentError("use_deterministic_algorithms", f"mode {mode!r} given", "a bool")
    _State.deterministic, _State.warn_only = mode, warn_only


def are_deterministic_algorithms_enabled() -> bool:
    """What `use_deterministic_algorithms` was told."""
    return _State.deterministic


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """What `use_deterministic_algorithms` was told to do about others."""
    return _State.warn_only


def set_float32_matmul_precision(precision: str) -> None:
    """How exact float32 products have to be at least; they are at the "highest" whatever is set."""
    if precision not in ("highest", "high", "medium"):
        warnings.warn(
            f"{precision} is not one of 'highest', 'high', or 'medium'; the current"
            "setFloat32MatmulPrecision call has no effect.",
            stacklevel=2,
        )
        return
    _State.precision = precision


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` was told."""
    return _State.precision


def set_flush_denormal(mode: bool) -> bool:
    """Whether denormal numbers can be flushed to zero as asked: only if not (`mode=False`)."""
    return not mode


def set_default_tensor_type(t: Any) -> None:
    """The dtype of new floating-point tensors by the name of its type, such as
    `tensorlib.DoubleTensor`; deprecated in favour of `set_default_dtype`.
    """
    dtypes.set_default_dtype(type_of(t))


def compile(
    model: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: bool = False,
) -> Any:
    """`model` itself (or a decorator that gives it): the same numbers, and nothing is compiled."""
    if model is None:
        return lambda function: function
    if not callable(model):
        raise ArgumentError("compile", f"{type(model).__name__} given", "a function or a module")
    return model
