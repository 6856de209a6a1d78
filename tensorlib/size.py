"""`Size`, the shape of a tensor."""

from __future__ import annotations

import math
import operator
from typing import Any

from tensorlib.errors import ArgumentError


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple of integers that prints as PyTorch's."""

    __slots__ = ()
    __module__ = "tensorlib"

    def __new__(cls, sizes: Any = ()) -> Size:
        made = tuple.__new__(cls, sizes)
        for place, n in enumerate(made):
            if type(n) is not int:
                if not hasattr(n, "__index__"):
                    raise ArgumentError(
                        "Size",
                        f"takes an iterable of 'int' (item {place} is {type(n).__name__!r})",
                    )
                return tuple.__new__(cls, map(operator.index, made))
        return made

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self)

    def __repr__(self) -> str:
        return f"tensorlib.Size([{', '.join(map(str, self))}])"

    def __getitem__(self, index: Any) -> Any:
        found = tuple.__getitem__(self, index)
        return size_of_shape(found) if isinstance(index, slice) else found

    def __add__(self, other: Any) -> Any:
        return Size((*self, *other))

    def __radd__(self, other: Any) -> Size:
        return Size((*other, *self))

    def __mul__(self, count: Any) -> Size:
        return Size(tuple.__mul__(self, count))

    __rmul__ = __mul__


def size_of_shape(shape: tuple[int, ...]) -> Size:
    """A NumPy shape, whose numbers need no check."""
    return tuple.__new__(Size, shape)
