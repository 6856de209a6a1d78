"""What a tensor holds for autograd, and how it is set: gradients, flags, data, hooks."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorlib.autograd.tape import INFERENCE, Handle, mode
from tensorlib.errors import ArgumentError, AutogradError, DTypeError, ShapeError
from tensorlib.ops.shape.reinterpret import storage_of

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Let gradients flow to this leaf, or no longer."""
    if self._node is not None:
        if not requires_grad:
            raise AutogradError(
                "requires_grad_",
                "you can only change requires_grad flags of leaf variables",
                hint="use detach() to get a tensor without history",
            )
        return self
    if requires_grad and self._counter is INFERENCE and not mode.inference:
        raise AutogradError(
            "requires_grad_",
            "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed",
            hint="clone() it first",
        )
    if requires_grad and self.array.dtype.kind not in "fcV":
        raise DTypeError(
            "requires_grad_",
            f"only Tensors of floating point and complex dtype can require gradients, got "
            f"{self.dtype}",
        )
    self._requires_grad = bool(requires_grad)
    return self


def warn_of_no_grad(self: Tensor) -> None:
    """Say that backward leaves no gradient at a tensor that is no leaf."""
    if not self.retains_grad:
        warnings.warn(
            "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad"
            " attribute won't be populated during autograd.backward(). Hint: .retain_grad() on it"
            " before, or access the leaf it was made of.",
            stacklevel=3,
        )


def set_grad(self: Tensor, value: Tensor | None) -> None:
    """Replace the gradient by a tensor of the same shape and type, or by None."""
    if value is not None:
        if not hasattr(value, "array"):
            raise ArgumentError(
                "grad",
                f"assigned grad expected to be a Tensor or None but got {type(value).__name__}",
            )
        if value is self:
            raise AutogradError("grad", "can't assign Variable as its own grad")
        if value.array.shape != self.array.shape:
            raise ShapeError(
                "grad",
                f"assigned grad has data of a different size: {value.array.shape}",
                f"{self.array.shape}",
            )
        if value.array.dtype != self.array.dtype:
            raise DTypeError(
                "grad",
                f"assigned grad has data of a different type: {value.dtype}",
                f"{self.dtype}",
            )
    self._grad = value


def set_data(self: Tensor, value: Tensor) -> None:
    """Take over the memory of a tensor; history and flags stay."""
    if not hasattr(value, "array"):
        raise ArgumentError(
            "data", f"Variable data has to be a tensor, but got {type(value).__name__}"
        )
    if self._requires_grad and value.array.dtype.kind not in "fcV":
        raise AutogradError(
            "data",
            "data set to a tensor that requires gradients must be floating point or complex"
            f" dtype, got {value.dtype}",
        )
    self.array, self._base = value.array, None
    if self._counter is not INFERENCE:  # it knows the owner of the old memory
        self._counter = [self._counter[0]]
    memory = storage_of(value)
    if self._extra is not None or memory is not value.array:
        self._extra = {**(self._extra or {}), "memory": memory}


def detach_(self: Tensor) -> Tensor:
    """Cut the history of this tensor."""
    if self._base is not None:
        raise AutogradError("detach_", "can't detach views in-place", hint="use detach() instead")
    self._node, self._requires_grad = None, False
    return self


def hooks(self: Tensor, key: str) -> list[Any]:
    """The list of hooks of a kind."""
    if self._extra is None:
        self._extra = {}
    found: list[Any] = self._extra.setdefault(key, [])
    return found


def register_hook(self: Tensor, hook: Callable[[Tensor], Any]) -> Handle:
    """Call `hook(grad)` when this tensor's gradient is known; a Tensor it returns replaces the
    gradient.
    """
    if not self.requires_grad:
        raise AutogradError(
            "register_hook", "cannot register a hook on a tensor that doesn't require gradient"
        )
    if self._base is not None:
        self._sync()
    if self._node is None:
        return Handle(hooks(self, "hooks"), hook)
    handle: Handle = self._node.register_tensor_hook(hook)
    return handle


def register_post_accumulate_grad_hook(self: Tensor, hook: Callable[[Tensor], Any]) -> Handle:
    """Call `hook(tensor)` after this leaf's `.grad` was updated."""
    if not self.requires_grad or self._node is not None:
        raise AutogradError(
            "register_post_accumulate_grad_hook",
            "post accumulate grad hooks cannot be registered on non-leaf tensors",
        )
    return Handle(hooks(self, "post_accumulate"), hook)


def retain_grad(self: Tensor) -> None:
    """Keep `.grad` of this non-leaf tensor too."""
    if not self.requires_grad:
        raise AutogradError(
            "retain_grad", "can't retain_grad on Tensor that has requires_grad=False"
        )
    if self._node is None or (self._extra and self._extra.get("retained")):
        return
    if self._base is not None:
        self._sync()
    if self._extra is None:
        self._extra = {}
    self._extra["retained"] = True
    me = weakref.ref(self)

    def keep(grad: Tensor) -> None:
        tensor = me()
        if tensor is not None:
            tensor._grad = grad if tensor._grad is None else tensor._grad + grad

    self._node.more("retain")
    self._node.extra["retain"] = keep
