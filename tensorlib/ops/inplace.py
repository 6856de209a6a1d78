"""Changes in place: the twins `op_` of operations, and `fill_ copy_ map_`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import (
    INFERENCE,
    attach,
    bump,
    check_inplace,
    check_memory,
    check_view,
    mode,
    now,
    settle_behind,
    settle_inplace,
)
from tensorlib.device import device_of, move
from tensorlib.errors import ArgumentError, AutogradError, DTypeError, ShapeError
from tensorlib.kernels.arithmetic import LARGE, LARGE_FORMS
from tensorlib.ops._common import Array, Grads, astype, expect_tensor, record, scalar_dtype, wrap
from tensorlib.ops.out import direct
from tensorlib.ops.shape.reinterpret import as_strided

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

P = ParamSpec("P")
T = TypeVar("T", bound="Tensor")


def store(
    self: Tensor, where: str, operation: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> Tensor:
    """Put the result of `operation(self, ...)` into the memory of `self`, with its history, and
    return `self`.
    """
    check_inplace(self, where)
    if operation is not fill:
        check_memory(self, where, *args)
    begin = now()
    result = operation(self, *args, **kwargs)
    target, value = self.array, result.array
    if value.shape != target.shape:
        raise ShapeError(
            where,
            f"output with shape {list(target.shape)} doesn't match the broadcast shape "
            f"{list(value.shape)}",
        )
    if value.dtype != target.dtype:
        if not dtypes.can_cast(dtypes.of(value.dtype), dtypes.of(target.dtype)):
            raise DTypeError(
                where,
                f"result type {dtypes.of(value.dtype)} can't be cast to the desired output type "
                f"{dtypes.of(target.dtype)}",
            )
        result = astype(result, target.dtype)
        value = result.array
    node = result._node
    if node is None:
        if value is not target:
            np.copyto(target, value)
        bump(self)
        return self
    check_view(self, where)
    settle_inplace(node, self, result, args)
    settle_behind(node, self, begin)
    if value is not target:
        np.copyto(target, value)
    bump(self)
    attach(self, node)
    return self


def inplace(
    operation: Callable[Concatenate[Tensor, P], Any], quick: Any = None
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """The in-place twin of an operation; `quick` is a ufunc for the case without history."""
    where = operation.__name__ + "_"
    operation = direct(operation)

    def twin(self: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if (
            quick is not None
            and len(args) == 1
            and not kwargs
            and not (mode.grad and self._requires_grad)
        ):
            other: Any = args[0]
            target, version = self.array, self._counter
            compute = quick if target.size < LARGE else LARGE_FORMS.get(quick, quick)
            if target.dtype.char in "fd" and self._base is None and version is not INFERENCE:
                if type(other) is float or type(other) is int:
                    compute(target, other, out=target)
                    bump(self)
                    return self
                if (
                    hasattr(other, "array")
                    and other.array.dtype == target.dtype
                    and other._counter is not version
                    and not (mode.grad and other.requires_grad)
                ):
                    try:
                        compute(target, other.array, out=target)
                    except ValueError:
                        return store(self, where, operation, *args, **kwargs)
                    bump(self)
                    return self
        return store(self, where, operation, *args, **kwargs)

    twin.__name__ = where
    twin.__doc__ = f"`{operation.__name__}` in place."
    return twin  # type: ignore[return-value]  # NumPy's stubs are wider


# -- values ----------------------------------------------------------------------------------------


def fill_(self: Tensor, value: Any) -> Tensor:
    """`value` everywhere."""
    if mode.grad and (self.requires_grad or hasattr(value, "array")):
        return store(self, "fill_", fill, value)
    check_inplace(self, "fill_")
    self.array.fill(_filler("fill_", self.array, value))
    bump(self)
    return self


def fill(input: Tensor, value: Any) -> Tensor:
    """`value` in the size and type of `input`."""
    x = input.array
    output = np.full_like(x, _filler("fill", x, value))

    def backward(grad: Array) -> Grads:
        zeros = np.zeros_like(grad)
        return (zeros, grad.sum()) if is_tensor else (zeros,)

    is_tensor = hasattr(value, "array")
    return record(output, backward, input, *((value,) if is_tensor else ()))


def _filler(where: str, x: Any, value: Any) -> Any:
    """A number in the type of `x`."""
    if hasattr(value, "array"):
        if value.array.ndim:
            raise ShapeError(
                where,
                f"fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value.array.ndim} dimensions",
            )
        return astype(wrap(value.array), x.dtype).array
    if not isinstance(value, bool | int | float | complex | np.generic):
        raise ArgumentError(
            where, f"argument 'value' must be Number, not {type(value).__name__}", "a number"
        )
    return dtypes.fitting(value, x.dtype)


def zero_(self: Tensor) -> Tensor:
    """Zero everywhere."""
    return fill_(self, 0)


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """`fill_value` on the main diagonal; of a tall matrix, with `wrap`, on those below it too."""
    shape, steps = self.array.shape, self.stride()
    if len(shape) < 2:
        raise ShapeError("fill_diagonal_", f"dimensions must larger than 1, shape {shape}")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise ShapeError(
            "fill_diagonal_", f"all dimensions of input must be of equal length, shape {shape}"
        )
    check_inplace(self, "fill_diagonal_")
    size, step, begin = min(shape), sum(steps), self.storage_offset()
    fill_(as_strided(self, (size,), (step,), begin), fill_value)
    if wrap and len(shape) == 2 and shape[0] > shape[1] + 1:
        below = -(-self.array.size // (shape[1] + 1)) - size
        start = begin + steps[0] * (shape[1] + 1)
        fill_(as_strided(self, (below,), (step,), start), fill_value)
    return self


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """The values of `src`, broadcast and converted, in this memory."""
    if isinstance(src, bool | int | float | complex):
        src = wrap(np.asarray(src, scalar_dtype(src)))
    if not hasattr(src, "array"):
        raise ArgumentError("copy_", f"argument 'other' must be Tensor, not {type(src).__name__}")
    if mode.grad and (self.requires_grad or src.requires_grad):
        return store(self, "copy_", _copied, src)
    check_inplace(self, "copy_")
    check_memory(self, "copy_", src)
    target = self.array
    values = _fitted(target, src)
    np.copyto(target, values)
    bump(self)
    return self


def _fitted(x: Any, source: Tensor) -> Any:
    """The values of `source` in the type and on the device of `x`, to whose shape they expand."""
    values = source.array if source.array.dtype == x.dtype else astype(source, x.dtype).array
    if values.shape != x.shape:
        shape = values.shape
        if len(shape) > len(x.shape) or any(
            n not in (1, m) for n, m in zip(shape[::-1], x.shape[::-1], strict=False)
        ):
            raise ShapeError(
                "copy_",
                f"The size of tensor a {x.shape} must match the size of tensor b {shape}",
            )
    return values if type(values) is type(x) is np.ndarray else move(values, device_of(x))


def _copied(input: Tensor, source: Tensor) -> Tensor:
    x = input.array
    values = source if source.array.dtype == x.dtype else astype(source, x.dtype)
    output = np.broadcast_to(_fitted(x, values), x.shape)

    def copy(grad: Array) -> Grads:
        return np.zeros_like(grad), grad

    return record(output, copy, input, values)


# -- Python functions ------------------------------------------------------------------------------


def apply_(self: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """`callable(x)`, a Python function of numbers, for each element."""
    return _mapped("apply_", self, (), callable)


def map_(self: Tensor, tensor: Tensor, callable: Callable[[Any, Any], Any]) -> Tensor:
    """`callable(x, y)` for the elements of this tensor and another."""
    return _mapped("map_", self, (tensor,), callable)


def map2_(self: Tensor, x: Tensor, y: Tensor, callable: Callable[[Any, Any, Any], Any]) -> Tensor:
    """`callable(s, x, y)` for the elements of this tensor and two others."""
    return _mapped("map2_", self, (x, y), callable)


def _mapped(where: str, self: Tensor, others: Any, function: Callable[..., Any]) -> Tensor:
    if self.requires_grad:
        raise AutogradError(
            where,
            f"Can't call {where} on Variable that requires grad",
            hint=f"Use var.detach().{where} instead.",
        )
    target, kind = self.array, self.array.dtype
    given = []
    for other in others:
        expect_tensor(where, "tensor", other)
        if other.array.dtype != kind:
            raise ArgumentError(where, f"expected {self.dtype}, got {other.dtype}", "one type")
        try:
            given.append(np.broadcast_to(other.array, target.shape))
        except ValueError:
            raise ShapeError(
                where, f"shapes {target.shape} and {other.array.shape}", "shapes that broadcast"
            ) from None
    for place in np.ndindex(target.shape):
        found = function(*(a[place].item() for a in (target, *given)))
        target[place] = dtypes.fitting(found, kind)
    bump(self)
    return self
