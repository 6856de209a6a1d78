"""Which element types an operation takes, and half precision computed in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from tensorlib.ops import _autocast
from tensorlib.ops._common import astype, expect_tensor, not_for, single

F = TypeVar("F", bound=Callable[..., Any])

_WORDS = {"f": "floating point", "c": "complex", "i": "signed integers", "u": "uint8", "b": "bool"}


def accepts(kinds: str, half: str = "widen") -> Callable[[F], F]:
    """An operation whose first tensor is of these NumPy kinds, others are refused (DTypeError).

    `half`: whether half precision computes in float32 with its result rounded once ("widen", as
    PyTorch does where it has a kernel), step by step in its own type ("keep"), or not ("refuse").
    "loss" is "widen", but inside `autocast` the result stays in float32.
    """
    expected = ", ".join(_WORDS[kind] for kind in kinds)

    def decorate(op: F) -> F:
        name = op.__name__

        @functools.wraps(op)
        def checked(input: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                given = input.array.dtype
            except AttributeError:
                expect_tensor(name, "input", input)
                raise
            if given.char not in "eE" or half not in ("widen", "loss"):
                kind = "f" if given.kind == "V" else given.kind
                if kind not in kinds or (given.char in "eE" and half == "refuse"):
                    raise not_for(name, input.array, expected)
                return op(input, *args, **kwargs)
            wide = [single(a) if hasattr(a, "array") else a for a in args]
            named = {k: single(a) if hasattr(a, "array") else a for k, a in kwargs.items()}
            result = op(single(input), *wide, **named)
            if (
                half == "loss"
                and _autocast.active
                and _autocast.chosen_for(result.array) is not None
            ):
                return result
            return astype(result, given)

        return checked  # type: ignore[return-value]  # the same signature

    return decorate
