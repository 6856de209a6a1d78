"""Comparing tensors in tests, by torch.testing's names, tolerances and messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorlib.autograd import gradcheck, gradgradcheck
from tensorlib.errors import ArgumentError, InvalidValueError
from tensorlib.interop import as_tensor
from tensorlib.tensor import Tensor

__all__ = ["assert_close", "gradcheck", "gradgradcheck"]

# (rtol, atol) by dtype, as torch.testing's defaults
_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}
_NUMBERS = bool | int | float | complex


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: str | Callable[[str], str] | None = None,
) -> None:
    """AssertionError unless |actual - expected| <= atol + rtol |expected| everywhere.

    Tensors, arrays, numbers, None, and sequences and mappings of these. Shapes have to be equal,
    and dtypes and devices unless their checks are off. Without `rtol` and `atol` (give both or
    neither) the tolerances are those of the less exact dtype; integers and bools have to be equal.
    `msg` replaces the message or makes one of it. TypeError for other objects.
    """
    if (rtol is None) != (atol is None):
        raise InvalidValueError(
            "assert_close",
            f"Both 'rtol' and 'atol' must be either specified or omitted, rtol={rtol}, atol={atol}",
        )
    limits = None if rtol is None or atol is None else (rtol, atol)
    wanted = (check_device, check_dtype, check_stride)
    for place, one, other in _pairs(actual, expected, (), allow_subclasses, msg):
        wrong = _difference(one, other, limits, equal_nan, wanted)
        if wrong is not None:
            _fail(wrong, place, msg)


def _fail(text: str, place: tuple[Any, ...], msg: Any) -> None:
    if place:
        text += f"\n\nThe failure occurred for item {''.join(f'[{key!r}]' for key in place)}"
    if callable(msg):
        text = msg(text)
    raise AssertionError(text if msg is None or callable(msg) else msg)


def _pairs(actual: Any, expected: Any, place: Any, subclasses: bool, msg: Any) -> Any:
    """The leaves of both sides with their keys."""
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        if actual.keys() != expected.keys():
            _fail(
                "The keys of the mappings do not match:\n"
                f"Missing keys in the actual mapping: {sorted(expected.keys() - actual.keys())}\n"
                "Additional keys in the actual mapping: "
                f"{sorted(actual.keys() - expected.keys())}",
                place,
                msg,
            )
        for key in actual:
            yield from _pairs(actual[key], expected[key], (*place, key), subclasses, msg)
    elif _is_sequence(actual) and _is_sequence(expected):
        if len(actual) != len(expected):
            _fail(
                f"The length of the sequences mismatch: {len(actual)} != {len(expected)}",
                place,
                msg,
            )
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            yield from _pairs(one, other, (*place, i), subclasses, msg)
    else:
        _expect_comparable(actual, expected, subclasses)
        yield place, actual, expected


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _expect_comparable(actual: Any, expected: Any, subclasses: bool) -> None:
    if actual is None or expected is None:
        return
    for kind in (Tensor, np.ndarray | np.generic, _NUMBERS):
        if isinstance(actual, kind) and isinstance(expected, kind):
            related = isinstance(actual, type(expected)) or isinstance(expected, type(actual))
            if kind is not Tensor or type(actual) is type(expected) or (subclasses and related):
                return
    raise ArgumentError(
        "assert_close",
        f"inputs of type {type(actual).__name__} and {type(expected).__name__} are not compared",
        "two tensors, two arrays, two numbers, None, or sequences and mappings of these",
    )


def _difference(one: Any, other: Any, limits: Any, equal_nan: bool, wanted: Any) -> str | None:
    """What is wrong, None if nothing is."""
    if one is None or other is None:
        return None if one is other else f"None mismatch: {one} is not {other}"
    check_device, check_dtype, check_stride = wanted
    if isinstance(one, _NUMBERS) and not isinstance(one, np.generic):
        if check_dtype and type(one) is not type(other):
            return f"The (d)types do not match: {type(one)} != {type(other)}."
        a, b = np.asarray(one), np.asarray(other)
        return _far(a, b, limits or _limits(a, b), equal_nan)
    x, y = (v.detach() if isinstance(v, Tensor) else as_tensor(v) for v in (one, other))
    checks = [("shape", True, x.shape, y.shape), ("device", check_device, x.device, y.device)]
    checks.append(("dtype", check_dtype, x.dtype, y.dtype))
    checks.append(("stride()", check_stride, x.stride(), y.stride()))
    for name, checked, mine, yours in checks:
        if checked and mine != yours:
            return f"The values for attribute '{name}' do not match: {mine} != {yours}."
    a, b = x.cpu().array, y.cpu().array
    return _far(a, b, limits or _limits(a, b), equal_nan)


def _limits(a: Any, b: Any) -> tuple[float, float]:
    pairs = [_TOLERANCES.get(x.dtype.name, (0.0, 0.0)) for x in (a, b)]
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def _far(a: Any, b: Any, limits: tuple[float, float], equal_nan: bool) -> str | None:
    """The message about the elements that are too far from each other."""
    rtol, atol = limits
    exact = not rtol and not atol
    if a.dtype.kind in "fcV" or b.dtype.kind in "fcV":
        wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        apart = np.abs(a - b)
        near = (a == b) | (np.isfinite(b) & (apart <= atol + rtol * np.abs(b)))
        if equal_nan:
            near |= np.isnan(a) & np.isnan(b)
    else:
        near = a == b
        apart = np.abs(a.astype(object) - b.astype(object)) if not near.all() else near
    if near.all():
        return None
    with np.errstate(all="ignore"):
        size = np.abs(b)
        relative = apart.astype(np.float64) / size.astype(np.float64)
    words = "equal" if exact else "close"
    up_to = ["" if exact else f" (up to {limit} allowed)" for limit in (atol, rtol)]
    if not a.ndim:
        return (
            f"Scalars are not {words}!\n\nExpected {b.item()} but got {a.item()}.\n"
            f"Absolute difference: {_item(apart)}{up_to[0]}\n"
            f"Relative difference: {_item(relative)}{up_to[1]}"
        )
    bad = int((~near).sum())
    lines = [f"Tensor-likes are not {words}!\n"]
    lines.append(f"Mismatched elements: {bad} / {near.size} ({bad / near.size:.1%})")
    for name, values, limit in (("absolute", apart, up_to[0]), ("relative", relative, up_to[1])):
        shown = np.where(near, 0, values).astype(np.float64)
        at = np.unravel_index(int(np.argmax(shown)), near.shape)
        lines.append(
            f"Greatest {name} difference: {_item(values[at])} at index {tuple(map(int, at))}{limit}"
        )
    return "\n".join(lines)


def _item(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
