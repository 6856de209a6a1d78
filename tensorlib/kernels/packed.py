"""Packed forms of weights, kept while the weights are known to stay as they are.

Packing costs as much for a small batch as for a large one. Within a training step that computes
several small batches one after the other, the parameters do not change: their packed forms are made
once (`keep`), by the functions decorated with `reused`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Kept(threading.local):
    forms: dict[int, tuple[Any, dict[Any, Any]]] | None = None  # by id of the array, which is held


_kept = _Kept()


def keep(arrays: Iterable[Any] | None) -> None:
    """From now on and in this thread, keep packed forms of `arrays`, which must not change; None
    forgets all.
    """
    _kept.forms = None if arrays is None else {id(array): (array, {}) for array in arrays}


def reused(function: F) -> F:
    """Decorate `function(weights, *options)`, whose result is only read."""

    def wrapper(weights: Any, *options: Any, **named: Any) -> Any:
        entry = None if _kept.forms is None else _kept.forms.get(id(weights))
        if entry is None:
            return function(weights, *options, **named)
        key = (function, options, tuple(named.items()))
        found = entry[1].get(key)
        if found is None:
            found = entry[1][key] = function(weights, *options, **named)
        return found

    wrapper.__doc__ = function.__doc__
    wrapper.__name__ = function.__name__
    return wrapper  # type: ignore[return-value]  # the same signature
