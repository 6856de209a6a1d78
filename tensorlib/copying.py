"""Pickle and `copy.deepcopy` of tensors: views of one memory stay views of one memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib.autograd.tape import wrap
from tensorlib.device import address
from tensorlib.errors import AutogradError
from tensorlib.ops.shape.reinterpret import storage_of
from tensorlib.ops.strides import memory, strided

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Place = tuple[tuple[int, ...], tuple[int, ...], int]  # shape, strides and offset in bytes


def _place(array: Any, held: Any) -> Place | None:
    """Where `array` lies in the memory of `held`; None: it is all of it."""
    if array is held:
        return None
    offset = address(array) - address(held) if array.size else 0
    return array.shape, array.strides, offset


def rebuild(kind: Any, held: Any, place: Place | None, requires_grad: bool, more: Any) -> Tensor:
    """A tensor of class `kind` at its place in memory that others may share."""
    from tensorlib.tensor import Tensor, _as_class

    if place is None:
        result = wrap(held)
    else:
        shape, strides, offset = place
        result = wrap(strided(held, shape, strides, offset) if held.size else held.reshape(shape))
        result._extra = {"memory": held}
    if kind is not Tensor:
        result = _as_class(result, kind)
    result._requires_grad = requires_grad
    for name, value in (more or {}).items():
        setattr(result, name, value)
    return result


def reduce(self: Tensor, protocol: Any) -> Any:
    """For pickle: the memory once for all its views in one pickle; history is left behind."""
    held = storage_of(self)
    place = _place(self.array, held)
    if not (held.flags.c_contiguous or held.flags.f_contiguous):
        held = memory(held)  # other orders of memory are not kept by pickled arrays
        place = _place(self.array, held)
    more = getattr(self, "__dict__", None)
    return rebuild, (type(self), held, place, self.requires_grad, more)


def deepcopy(self: Tensor, memo: dict[Any, Any]) -> Tensor:
    """A copy of the memory, once for all tensors copied together that share it."""
    from copy import deepcopy

    if id(self) in memo:
        return memo[id(self)]  # type: ignore[no-any-return]  # what was put there below
    if self.grad_fn is not None:
        raise AutogradError(
            "deepcopy",
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
            "protocol",
            hint="detach() it first",
        )
    held = storage_of(self)
    key = "tensorlib memory", id(held)
    if key not in memo:
        memo[key] = memory(held).copy(), held  # `held` stays alive, so that its id stays its own
    copied = memo[key][0]
    place = _place(self.array, held) or (held.shape, held.strides, 0)
    made = rebuild(type(self), copied, place, self.requires_grad, None)
    memo[id(self)] = made
    made._grad = deepcopy(self._grad, memo)
    for name, value in getattr(self, "__dict__", {}).items():
        setattr(made, name, deepcopy(value, memo))
    return made
