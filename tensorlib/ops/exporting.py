"""Out of a tensor: NumPy arrays, Python numbers and lists, and Python's protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import wrap
from tensorlib.device import to_host
from tensorlib.errors import ArgumentError, AutogradError, InvalidValueError, ShapeError
from tensorlib.ops.shape.rearranging import flip
from tensorlib.ops.shape.splitting import unbind

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def numpy(self: Tensor, *, force: bool = False) -> Any:
    """The array itself, sharing memory; `force` detaches and copies from a GPU. bfloat16, which
    NumPy does not know, is refused (TypeError).
    """
    if self.array.dtype.kind == "V":
        raise ArgumentError(
            "numpy", "Got unsupported ScalarType BFloat16", hint="use tensor.float() first"
        )
    if force:
        return to_host(self.array)
    if self.requires_grad:
        raise AutogradError(
            "numpy",
            "Can't call numpy() on Tensor that requires grad",
            hint="use tensor.detach().numpy() instead",
        )
    if not isinstance(self.array, np.ndarray):
        raise ArgumentError(
            "numpy",
            f"can't convert {self.device} device type tensor to numpy",
            hint="use tensor.cpu() first",
        )
    return self.array


def array(self: Tensor, dtype: Any = None, copy: Any = None) -> Any:
    """The array, for NumPy; a copy where asked for or of another type."""
    array = numpy(self)
    if dtype is None or array.dtype == dtype:
        return array.copy() if copy else array
    return array.astype(dtype)


def array_wrap(self: Tensor, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
    """What NumPy's functions give for a tensor: a tensor."""
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)  # as PyTorch does
    return wrap(array)


def item(self: Tensor) -> Any:
    """The only element as a Python number."""
    if self.array.size != 1:
        raise ShapeError(
            "item",
            f"a Tensor with {self.array.size} elements cannot be converted to Scalar, shape "
            f"{self.array.shape}",
        )
    return self.array.item()


def tolist(self: Tensor) -> Any:
    """Nested lists of Python numbers."""
    return self.array.tolist()


def truth(self: Tensor) -> bool:
    """The only element as a bool."""
    if self.array.size != 1:
        raise ShapeError(
            "bool",
            f"Boolean value of Tensor with "
            f"{'no values' if not self.array.size else 'more than one value'} is ambiguous, "
            f"shape {self.array.shape}",
            hint="use .any() or .all()",
        )
    return bool(self.array.item())


def integer(self: Tensor) -> int:
    """The only element as an int."""
    return int(_number(self, real=True))


def real(self: Tensor) -> float:
    """The only element as a float."""
    return float(_number(self, real=True))


def complex_number(self: Tensor) -> complex:
    """The only element as a complex number."""
    return complex(_number(self))


def _number(self: Tensor, *, real: bool = False) -> Any:
    if self.array.size != 1:
        raise InvalidValueError(
            "item",
            "only one element tensors can be converted to Python scalars, shape "
            f"{self.array.shape}",
        )
    value = self.array.item()
    return dtypes.real_number(value) if real else value


def index(self: Tensor) -> int:
    """The only element of an integer tensor, as an int."""
    if self.array.dtype.kind not in "iub" or self.array.size != 1:
        raise ArgumentError(
            "index",
            f"only integer tensors of a single element can be converted to an index, got "
            f"{self.dtype}, shape {self.array.shape}",
        )
    return int(self.array.item())


def length(self: Tensor) -> int:
    """The size of the first dimension."""
    if not self.array.ndim:
        raise ArgumentError("len", "len() of a 0-d tensor")
    return len(self.array)


def iterator(self: Tensor) -> Iterator[Tensor]:
    """The slices along the first dimension."""
    if not self.array.ndim:
        raise ArgumentError("iter", "iteration over a 0-d tensor")
    return iter(unbind(self, 0))


def reversed_(self: Tensor) -> Tensor:
    """Reversed along the first dimension."""
    return flip(self, 0) if self.array.ndim else self


def contains(self: Tensor, element: Any) -> bool:
    """Whether any element equals a number or tensor."""
    if not (hasattr(element, "array") or isinstance(element, int | float | complex | np.generic)):
        raise ShapeError(
            "contains", f"only supports Tensor or scalar, but got {type(element).__name__}"
        )
    given = element.array if hasattr(element, "array") else element
    return bool((self.array == given).any())
