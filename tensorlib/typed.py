"""Tensors by the names of their types: `FloatTensor(2, 3)`, `x.type()`; and `x.new_zeros(...)`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorlib import creation, dtypes, interop
from tensorlib.autograd.tape import wrap
from tensorlib.errors import ArgumentError, InvalidValueError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _words(dtype: dtypes.dtype) -> str:
    known = {"uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long"}
    known |= {"float16": "Half", "float32": "Float", "float64": "Double", "bfloat16": "BFloat16"}
    known |= {"complex64": "ComplexFloat", "complex128": "ComplexDouble", "bool": "Bool"}
    return known.get(dtype.name, dtype.name.replace("ui", "UI").replace("int", "Int"))


class TensorType:
    """`FloatTensor` and its like: makes tensors of one dtype; `isinstance(x, FloatTensor)` holds
    for all tensors of that dtype.
    """

    __slots__ = ("dtype", "name")

    def __init__(self, name: str, dtype: dtypes.dtype) -> None:
        self.name, self.dtype = name, dtype

    def __call__(self, *data: Any, device: Any = None) -> Tensor:
        return construct(data, self.dtype, device)

    def __instancecheck__(self, instance: object) -> bool:
        return getattr(instance, "dtype", None) is self.dtype

    def __repr__(self) -> str:
        return f"<class 'tensorlib.{self.name}'>"


def construct(data: tuple[Any, ...], dtype: dtypes.dtype, device: Any) -> Tensor:
    """A tensor of sizes (zeros) or of one sequence or array; another tensor's memory."""
    if len(data) == 1 and hasattr(data[0], "requires_grad"):
        return wrap(data[0].array)
    sized = not data or creation.is_index(data[0]) or type(data[0]).__name__ == "Size"
    if sized:
        return creation.zeros(*(data or (0,)), dtype=dtype, device=device)
    if len(data) > 1 or isinstance(data[0], float | complex):
        raise ArgumentError("Tensor", f"data must be a sequence, got {data!r:.80}")
    return interop.tensor(data[0], dtype=dtype, device=device)


TYPES = {
    f"{_words(d)}Tensor": TensorType(f"{_words(d)}Tensor", d)
    for d in dtypes.ALL
    if not d.is_complex and not (d.name.startswith("uint") and d.itemsize > 1)
}


def type_name(dtype: dtypes.dtype) -> str:
    """What `x.type()` gives: `tensorlib.FloatTensor`."""
    return f"tensorlib.{_words(dtype)}Tensor"


def type_of(name: Any) -> Any:
    """The dtype that a type's name (after `tensorlib.` or `torch.`) or a TensorType stands for."""
    if isinstance(name, TensorType):
        return name.dtype
    if isinstance(name, str):
        for found in dtypes.ALL:
            if name.partition(".")[2] == f"{_words(found)}Tensor":
                return found
        raise InvalidValueError("type", f"invalid type: {name!r}", "such as tensorlib.FloatTensor")
    return name


def typename(obj: object) -> str:
    """The name of an object's type: `tensorlib.FloatTensor` for a tensor."""
    dtype = getattr(obj, "dtype", None)
    if hasattr(obj, "requires_grad") and isinstance(dtype, dtypes.dtype):
        return type_name(dtype)
    kind = obj if isinstance(obj, type) else type(obj)
    module = kind.__module__
    if module == "builtins":
        return kind.__qualname__
    module = "tensorlib" if module in ("tensorlib.tensor", "tensorlib.dtypes") else module
    return f"{module}.{kind.__qualname__}"


# -- like a tensor ---------------------------------------------------------------------------------


def _like(function: Callable[..., Any], text: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(
        self: Tensor, *args: Any, dtype: Any = None, device: Any = None, **options: Any
    ) -> Any:
        dtype = self.dtype if dtype is None else dtype
        return function(*args, dtype=dtype, device=device or self.device, **options)

    method.__name__ = method.__qualname__ = f"new_{function.__name__}"
    method.__doc__ = f"{text}, by default of this tensor's dtype and device."
    return method


new_tensor = _like(interop.tensor, "A tensor with a copy of `data`")
new_zeros = _like(creation.zeros, "Zeros")
new_ones = _like(creation.ones, "Ones")
new_empty = _like(creation.empty, "Uninitialised memory")
new_empty_strided = _like(creation.empty_strided, "Uninitialised memory with given strides")
new_full = _like(creation.full, "`fill_value` everywhere")


def new(self: Tensor, *data: Any, device: Any = None) -> Tensor:
    """A tensor of sizes or of a sequence, in this dtype."""
    return construct(data, self.dtype, device or self.device)
