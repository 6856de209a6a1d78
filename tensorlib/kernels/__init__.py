"""Array functions worth a second implementation: one reference body each, overrides with the
condition they hold under.

The reference body runs on any array backend and is the specification. `python -m tensorlib.kernels`
lists which override answers for what; `TENSORLIB_KERNELS=reference` turns them off. One that cannot
be compiled here says so once, and the reference answers from then on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensorlib.errors import InvalidValueError


class Unsupported(RuntimeError):
    """A compiled body cannot work on this machine; the reference body answers."""


class KernelWarning(UserWarning):
    """A compiled body was given up."""


@dataclass(frozen=True)
class Override:
    """A faster body of a kernel and when it may answer."""

    name: str
    when: str
    condition: Callable[..., bool]
    function: Callable[..., Any]


class Kernel:
    """An array function: calls the first override whose condition holds, otherwise the reference
    body.
    """

    def __init__(
        self, reference: Callable[..., Any], samples: Callable[[], list[tuple[Any, ...]]]
    ) -> None:
        self.name = reference.__name__
        self.reference = reference
        self.samples = samples
        self.overrides: list[Override] = []
        self._active: tuple[Override, ...] = ()
        self.__doc__ = reference.__doc__

    @property
    def overrides_active(self) -> bool:
        """Whether another body than the reference may answer."""
        return bool(self._active)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for override in self._active:
            if override.condition(*args, **kwargs):
                try:
                    return override.function(*args, **kwargs)
                except Unsupported as problem:
                    self._give_up(override, problem)
        return self.reference(*args, **kwargs)

    def _give_up(self, override: Override, problem: Unsupported) -> None:
        self._active = tuple(one for one in self._active if one is not override)
        text = str(problem)
        if text not in _said:  # the same cause stops every kernel: one line is enough
            _said.add(text)
            warnings.warn(f"{text}; NumPy computes instead", KernelWarning, stacklevel=4)

    def override(
        self, when: str, condition: Callable[..., bool]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a body for the calls `condition(*args)` accepts; `when` says which, in words."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            name = f"{function.__module__}.{function.__qualname__}"
            self.overrides.append(Override(name, when, condition, function))
            if choice() == "auto":
                self._active = tuple(self.overrides)
            return function

        return register


REGISTRY: dict[str, Kernel] = {}
_said: set[str] = set()


def choice() -> str:
    """`auto`, or `reference` when TENSORLIB_KERNELS says so."""
    value = os.environ.get("TENSORLIB_KERNELS", "auto")
    if value not in ("auto", "reference"):
        raise InvalidValueError(
            "TENSORLIB_KERNELS", f"{value!r} is unknown", "'auto' or 'reference'"
        )
    return value


def kernel(samples: Callable[[], list[tuple[Any, ...]]]) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a reference body a Kernel; `samples()` gives argument tuples that its overrides are
    tested on.
    """

    def make(reference: Callable[..., Any]) -> Kernel:
        made = Kernel(reference, samples)
        REGISTRY[made.name] = made
        return made

    return make
