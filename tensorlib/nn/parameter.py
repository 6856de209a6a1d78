"""Tensors that a Module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

import tensorlib
from tensorlib.errors import DTypeError, InvalidValueError, ShapeError
from tensorlib.tensor import Tensor

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "is_lazy"]


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
    if requires_grad and not (data.dtype.is_floating_point or data.dtype.is_complex):
        raise DTypeError(
            cls.__name__,
            "Only Tensors of floating point and complex dtype can require gradients, got"
            f" {data.dtype}",
            hint="requires_grad=False",
        )
    return cls._wrap(data.array, requires_grad)


class _Uninitialized:
    """A tensor without shape and values yet; whatever needs them is refused.

    Its device and dtype are those of an empty array, which `materialize` replaces.
    """

    _becomes: type[Tensor]

    @property
    def array(self) -> Any:
        raise InvalidValueError(
            type(self).__name__,
            "attempted to use an uninitialized parameter or buffer",
            hint="call forward of its lazy module with an example batch first",
        )

    @property
    def shape(self) -> Any:
        raise ShapeError(
            type(self).__name__,
            "can't access the shape of an uninitialized parameter or buffer",
            hint="call forward of its lazy module with an example batch first",
        )

    @property
    def data(self) -> Tensor:
        """The empty tensor that stands for the values to come."""
        return Tensor._wrap(_slot.__get__(self))

    @data.setter
    def data(self, value: Tensor) -> None:
        _slot.__set__(self, value.array)

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def device(self) -> Any:
        return self.data.device

    def is_floating_point(self) -> bool:
        return self.data.is_floating_point()

    def is_complex(self) -> bool:
        return self.data.is_complex()

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Become a Parameter (or buffer) of this shape with undefined values."""
        device = self.data.device if device is None else device
        dtype = self.data.dtype if dtype is None else dtype
        self.data = tensorlib.empty(tuple(shape), device=device, dtype=dtype)
        self.__class__ = self._becomes  # type: ignore[assignment]  # the same object, known now

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


_slot: Any = Tensor.__dict__["array"]


class UninitializedParameter(_Uninitialized, Parameter):  # type: ignore[misc]  # array is refused
    """A Parameter whose shape a lazy module learns from its first input."""

    _becomes = Parameter

    def __new__(
        cls, requires_grad: bool = True, device: Any = None, dtype: Any = None
    ) -> UninitializedParameter:
        empty = tensorlib.empty(0, device=device, dtype=dtype)
        made: UninitializedParameter = _as(cls, Parameter(empty, requires_grad))
        return made

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> UninitializedParameter:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.requires_grad, self.device, self.dtype)
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (self.requires_grad, str(self.device), self.dtype)


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer whose shape a lazy module learns from its first input."""

    _becomes = Buffer

    def __new__(
        cls,
        requires_grad: bool = False,
        device: Any = None,
        dtype: Any = None,
        persistent: bool = True,
    ) -> UninitializedBuffer:
        empty = tensorlib.empty(0, device=device, dtype=dtype).requires_grad_(requires_grad)
        made: UninitializedBuffer = _as(cls, Buffer(empty, persistent=persistent))
        return made

    def __init__(
        self,
        requires_grad: bool = False,
        device: Any = None,
        dtype: Any = None,
        persistent: bool = True,
    ) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> UninitializedBuffer:
        if id(self) not in memo:
            memo[id(self)] = type(self)(
                self.requires_grad, self.device, self.dtype, self.persistent
            )
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (self.requires_grad, str(self.device), self.dtype, self.persistent)


def _as(cls: Any, tensor: Tensor) -> Any:
    tensor.__class__ = cls
    return tensor


def is_lazy(value: Any) -> bool:
    """Whether `value` is an uninitialized parameter or buffer."""
    return isinstance(value, _Uninitialized)
