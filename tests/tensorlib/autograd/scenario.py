"""Scenarios: small programs written once and run with tensorlib and with torch.

A scenario is a function `(lib, see)`. It reports what it observes by `see(value)`, and refusals by
`see.error(call, words)`: the builtin exception type is compared, and both messages hold `words`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Scenario = Callable[[Any, Any], None]


class See:
    """Collects what a scenario observes, in a form that both libraries share."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, *values: Any) -> None:
        self.values.extend(plain(v) for v in values)

    def error(self, call: Callable[[], Any], words: str = "") -> None:
        """Note the builtin exception type that `call` raises and that its text holds `words`."""
        try:
            call()
        except Exception as error:
            if words.lower() not in str(error).lower():
                raise AssertionError(f"{words!r} is not in: {error}") from error
            self.values.append(("raises", builtin(type(error))))
        else:
            self.values.append("no error")


def builtin(kind: type) -> str:
    """The first builtin class a user would catch."""
    found = [c for c in kind.__mro__ if c.__module__ == "builtins"]
    return found[0].__name__.replace("NotImplementedError", "RuntimeError")  # its base class


def plain(value: Any) -> Any:
    """Tensors as dtype, shape and numbers; containers by their elements; the rest as it is."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [type(value).__name__, *(plain(v) for v in value)]
    if hasattr(value, "detach") and hasattr(value, "requires_grad"):
        flat = np.asarray(value.detach().tolist())
        name = str(value.dtype).rpartition(".")[2]
        return ("tensor", name, tuple(value.shape), bool(value.requires_grad), flat)
    return value


def agree(ours: Any, theirs: Any) -> bool:
    """Equal, numbers within 1e-5 relative."""
    if isinstance(ours, np.ndarray) or isinstance(theirs, np.ndarray):
        same = np.shape(ours) == np.shape(theirs)
        return bool(same and np.allclose(ours, theirs, 1e-5, 1e-6, equal_nan=True))
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(agree(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, tuple | list):
        return len(ours) == len(theirs) and all(map(agree, ours, theirs))
    if isinstance(ours, float):
        return bool(np.isclose(ours, theirs, 1e-5, 1e-6, equal_nan=True))
    return bool(ours == theirs)


def compare(scenario: Scenario, ours: Any, theirs: Any) -> None:
    """Run with both libraries; every observation has to agree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = See(), See()
        theirs.manual_seed(0)
        scenario(theirs, expected)
        ours.manual_seed(0)
        scenario(ours, found)
    for place, (a, b) in enumerate(zip(found.values, expected.values, strict=False)):
        assert agree(a, b), f"observation {place}: tensorlib {a}, torch {b}"
    assert len(found.values) == len(expected.values)


class Table:
    """Scenarios by name; decorate with it."""

    def __init__(self) -> None:
        self.all: dict[str, Scenario] = {}

    def __call__(self, scenario: Scenario) -> Scenario:
        name = scenario.__name__
        assert name not in self.all, name
        self.all[name] = scenario
        return scenario
