"""Grad modes: `no_grad`, `enable_grad`, `set_grad_enabled`, `inference_mode`; each a function, a
context manager and a decorator.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tensorlib.autograd import tape

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()


class Switch:
    """A context manager that is also a decorator, of functions and generators alike."""

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        raise NotImplementedError

    def clone(self) -> Any:
        """A fresh switch of the same kind."""
        return type(self)()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isclass(function):
            warnings.warn(
                "Decorating classes is deprecated and will be disabled in future versions. You"
                " should only decorate functions or methods. To preserve the current behavior of"
                " class decoration, you can directly decorate the `__init__` method and nothing"
                " else.",
                FutureWarning,
                stacklevel=2,
            )
        elif inspect.isgeneratorfunction(function):
            return _generator(self.clone, function)

        def decorated(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.clone():
                return function(*args, **kwargs)

        return decorated if inspect.isclass(function) else functools.wraps(function)(decorated)


def _generator(switch: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The generator with the switch on while it runs, and off while its caller does."""

    @functools.wraps(function)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        with switch():
            inner = function(*args, **kwargs)
        try:
            with switch():
                value = next(inner)
            while True:
                try:
                    sent = yield value
                except GeneratorExit:
                    with switch():
                        inner.close()
                    raise
                except BaseException as error:
                    with switch():
                        value = inner.throw(error)
                else:
                    with switch():
                        value = inner.send(sent)
        except StopIteration as stop:
            return stop.value

    return decorated


def _set(grad: bool) -> None:
    mode = tape.mode
    mode.asked = grad
    mode.grad = grad and not mode.inference


class no_grad(Switch):
    """Within it nothing is recorded: `with no_grad(): ...`, `@no_grad()` or `@no_grad`."""

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else cls()(function)

    def __init__(self, function: Any = None) -> None:
        self._before = False

    def __enter__(self) -> None:
        mode = tape.mode
        self._before = mode.asked
        mode.asked = mode.grad = False

    def __exit__(self, *_: object) -> None:
        _set(self._before)


class enable_grad(no_grad):
    """Within it operations are recorded, also inside `no_grad`."""

    def __enter__(self) -> None:
        self._before = tape.mode.asked
        _set(True)


class set_grad_enabled(Switch):
    """Switch recording on or off, at once and, as a context manager, until its end."""

    def __init__(self, mode: bool) -> None:
        self._before = tape.mode.asked
        self.mode = mode
        _set(bool(mode))

    def __enter__(self) -> None:
        _set(bool(self.mode))

    def __exit__(self, *_: object) -> None:
        _set(self._before)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        _set(self._before)
        return super().__call__(function)

    def clone(self) -> set_grad_enabled:
        """A fresh switch of the same kind."""
        return type(self)(self.mode)

    def __repr__(self) -> str:
        return f"tensorlib.autograd.grad_mode.set_grad_enabled(mode={self.mode})"


class inference_mode(Switch):
    """As `no_grad`, and tensors made in it (`is_inference()`) stay out of autograd for good: they
    cannot be saved for backward nor, outside of the mode, be changed in place or require grad.
    """

    def __new__(cls, mode: Any = True) -> Any:
        return super().__new__(cls) if isinstance(mode, bool) else cls()(mode)

    def __init__(self, mode: Any = True) -> None:
        self.mode = mode
        self._before: list[tuple[bool, bool, bool]] = []

    def __enter__(self) -> None:
        mode = tape.mode
        self._before.append((mode.grad, mode.asked, mode.inference))
        on = bool(self.mode)
        mode.inference = on
        mode.grad = mode.asked = not on
        if on:
            tape._inferred = True
            with _lock:
                tape._inferring += 1

    def __exit__(self, *_: object) -> None:
        mode = tape.mode
        mode.grad, mode.asked, mode.inference = self._before.pop()
        if self.mode:
            with _lock:
                tape._inferring -= 1

    def clone(self) -> inference_mode:
        """A fresh switch of the same kind."""
        return type(self)(self.mode)


class set_multithreading_enabled(Switch):
    """PyTorch's switch for backward threads; here backward always runs on the calling thread, so
    that only the flag changes.
    """

    def __init__(self, mode: bool) -> None:
        self._before = tape.mode.multithreading
        self.mode = tape.mode.multithreading = bool(mode)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        tape.mode.multithreading = self._before

    def clone(self) -> set_multithreading_enabled:
        """A fresh switch of the same kind."""
        return type(self)(self.mode)


def is_grad_enabled() -> bool:
    """Whether grad mode is on in this thread."""
    return tape.mode.asked


def is_inference_mode_enabled() -> bool:
    """Whether `inference_mode` is on in this thread."""
    return tape.mode.inference
