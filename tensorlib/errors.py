"""Exceptions of tensorlib: each is also the builtin that a PyTorch user would catch.

TensorlibError
├── ShapeError, DeviceError, AutogradError               (RuntimeError)
│               └── AbsentDeviceError                    (AssertionError too)
├── DTypeError                                           (NotImplementedError, a RuntimeError)
├── DimensionError                                       (IndexError)
├── ArgumentError                                        (TypeError)
├── InvalidValueError                                    (ValueError)
└── UnsupportedError                                     (NotImplementedError)

One form for all messages: `<where>: <what is wrong>; <what was expected>. Hint: <fix>.`
"""

from __future__ import annotations


class TensorlibError(Exception):
    """Base of all errors raised on purpose; builds the message from its parts."""

    def __init__(self, where: str, what: str = "", expected: str = "", hint: str = "") -> None:
        text = where
        if what:
            text += f": {what}"
            text += f"; {expected}." if expected else "."
        if hint:
            text += f" Hint: {hint}."
        super().__init__(text)


class ShapeError(TensorlibError, RuntimeError):
    """Sizes that do not fit together."""


class DTypeError(TensorlibError, NotImplementedError):
    """A dtype that an operation does not take (PyTorch: RuntimeError, or its subclass this one)."""


class DeviceError(TensorlibError, RuntimeError):
    """An unknown device, or tensors on different devices."""


class AbsentDeviceError(DeviceError, AssertionError):
    """A device that is not here (PyTorch built without CUDA: AssertionError)."""


class AutogradError(TensorlibError, RuntimeError):
    """Misuse of the tape: freed graph, in-place change of a needed value, no gradient to follow."""


class DimensionError(TensorlibError, IndexError):
    """A dimension or an index out of range."""


class ArgumentError(TensorlibError, TypeError):
    """An argument of the wrong type."""


class InvalidValueError(TensorlibError, ValueError):
    """An argument of the right type with an impossible value."""


class UnsupportedError(TensorlibError, NotImplementedError):
    """Something PyTorch has and tensorlib refuses rather than ignores."""
