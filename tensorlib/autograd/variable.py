"""`Variable`, the name that tensors with gradients had before PyTorch 0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib.autograd.tape import wrap
from tensorlib.errors import ArgumentError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class _Kind(type):
    def __instancecheck__(cls, instance: object) -> bool:
        from tensorlib.tensor import Tensor

        return isinstance(instance, Tensor)


class Variable(metaclass=_Kind):
    """`Variable(x, requires_grad=True)`: a leaf that shares the memory of the tensor `x`. All
    tensors are instances.
    """

    def __new__(cls, data: Any = None, requires_grad: bool = False) -> Tensor:  # type: ignore[misc]  # it makes tensors, as torch's
        from tensorlib.creation import empty

        if data is None:
            data = empty(0)
        if not isinstance(data, cls):
            raise ArgumentError(
                "Variable", f"data has to be a tensor, but got {type(data).__name__}"
            )
        made: Tensor = wrap(data.array)  # type: ignore[attr-defined]  # a tensor
        return made.requires_grad_(requires_grad)
