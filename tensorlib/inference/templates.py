"""Arguments and results of operations with references in place of tensors, and with expressions of
the batch size in place of numbers that change with it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import device

__all__ = ["Batch", "Differs", "Pack", "Ref", "decode", "encode", "leaves", "merge", "size_at"]


@dataclass(frozen=True)
class Batch:
    """A whole number that follows the batch size n: `scale * n + offset`."""

    scale: int
    offset: int = 0

    def at(self, n: int) -> int:
        return self.scale * n + self.offset

    def __str__(self) -> str:
        head = "n" if self.scale == 1 else f"{self.scale}n"
        return head if not self.offset else f"{head}{self.offset:+d}"


@dataclass(frozen=True)
class Ref:
    """The tensor number `index` of the trace."""

    index: int


@dataclass(frozen=True)
class Pack:
    """A container: its type, its items, and for a dict its keys."""

    kind: type
    items: tuple[Any, ...]
    keys: tuple[Any, ...] = ()


class Differs(Exception):
    """Two traces do not have the same form; says what differs."""


_PLAIN = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, np.dtype)
_KEPT = (dtypes.dtype, device, np.generic, np.ndarray, type, types.FunctionType)


def encode(value: Any, number: Callable[[Any], int]) -> Any:
    """`value` with `Ref(number(tensor))` for each tensor; containers become Packs. Other objects
    stay themselves.
    """
    if hasattr(value, "_counter"):
        return Ref(number(value))
    if isinstance(value, tuple | list):
        return Pack(type(value), tuple(encode(v, number) for v in value))
    if isinstance(value, dict):
        items = tuple(encode(v, number) for v in value.values())
        return Pack(type(value), items, tuple(value))
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return Pack(slice, tuple(encode(v, number) for v in parts))
    return value


def decode(template: Any, tensors: Any, n: int) -> Any:
    """The value that `template` stands for at batch size n, with `tensors` by number."""
    kind = type(template)
    if kind is Ref:
        return tensors[template.index]
    if kind is Batch:
        return template.at(n)
    if kind is Pack:
        items = [decode(item, tensors, n) for item in template.items]
        if template.keys:
            return template.kind(zip(template.keys, items, strict=True))
        if template.kind is slice or hasattr(template.kind, "_fields"):
            return template.kind(*items)
        return template.kind(items)
    return template


def leaves(template: Any) -> Iterator[Any]:
    """All that is in a template and no container."""
    if type(template) is Pack:
        for item in template.items:
            yield from leaves(item)
    else:
        yield template


def size_at(shape: tuple[Any, ...], n: int) -> tuple[int, ...]:
    """A shape of numbers and Batches at batch size n."""
    return tuple(s.at(n) if type(s) is Batch else s for s in shape)


def merge(a: Any, b: Any, n: int, m: int) -> Any:
    """One template of those of two traces at batch sizes n and m: whole numbers that differ become
    Batches. Raises Differs.
    """
    if type(a) is Pack and type(b) is Pack:
        if a.kind is not b.kind or a.keys != b.keys or len(a.items) != len(b.items):
            raise Differs(f"{_name(a)} and {_name(b)}")
        items = tuple(merge(x, y, n, m) for x, y in zip(a.items, b.items, strict=True))
        return Pack(a.kind, items, a.keys)
    if type(a) is not type(b):
        raise Differs(f"{a!r} and {b!r}")
    if isinstance(a, np.ndarray):
        same = a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        if not same:
            raise Differs("arrays with other values or shapes")
        return a
    if type(a) is int:
        return a if a == b else _line(a, b, n, m)
    if isinstance(a, (Ref, *_PLAIN, *_KEPT)):
        if a is b or a == b or (a != a and b != b):
            return a
        raise Differs(f"{a!r} and {b!r}")
    if a is b:
        return a
    raise Differs(f"an argument of type {type(a).__name__}, another object each time")


def _line(a: int, b: int, n: int, m: int) -> Any:
    if n != m:
        scale, rest = divmod(a - b, n - m)
        if scale > 0 and not rest:
            return Batch(scale, a - scale * n)
    raise Differs(f"{a} and {b}")


def _name(pack: Pack) -> str:
    return f"{pack.kind.__name__} of {len(pack.items)}"
