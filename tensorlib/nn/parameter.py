"""Tensors that a Module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

import tensorlib
from tensorlib.tensor import Tensor

__all__ = ["Buffer", "Parameter"]


class Parameter(Tensor):
    """A leaf tensor that `Module` lists among its parameters. Shares `data`'s memory.

    Raises TypeError for anything but a Tensor.
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        parameter: Parameter = _make(cls, data, requires_grad)
        return parameter

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        pass

    def __repr__(self, **kwargs: Any) -> str:
        return "Parameter containing:\n" + super().__repr__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        copy = type(self)(self.detach().clone(), self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (self.detach(), self.requires_grad)


class Buffer(Tensor):
    """A tensor that `Module` lists among its buffers. Shares `data`'s memory.

    `persistent=False` keeps it out of the state dict. Raises TypeError for anything but a Tensor.
    """

    persistent: bool

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        buffer: Buffer = _make(cls, data, data is not None and data.requires_grad)
        buffer.persistent = persistent
        return buffer

    def __init__(self, data: Tensor | None = None, *, persistent: bool = True) -> None:
        pass


def _make(cls: Any, data: Tensor | None, requires_grad: bool) -> Any:
    """A `cls` around the memory of `data`."""
    if data is None:
        data = tensorlib.empty(0)
    if not isinstance(data, Tensor):
        raise TypeError(
            f"{cls.__name__}: got a {type(data).__name__}; expected a Tensor."
            " Hint: tensorlib.tensor(...) makes one."
        )
    return cls._wrap(data.array, requires_grad)
