"""Tensors by the names of their types: `FloatTensor(2, 3)`, `x.type()`; and `x.new_zeros(...)`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorlib import creation, dtypes, interop
from tensorlib.autograd.tape import wrap
from tensorlib.errors import ArgumentError, InvalidValueError
from tensorlib.ops._common import common_dtype
from tensorlib.ops.shape.memory import Storage

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _words(name: str) -> str:
    known = {"uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long"}
    known |= {"float16": "Half", "float32": "Float", "float64": "Double", "bfloat16": "BFloat16"}
    known |= {"complex64": "ComplexFloat", "complex128": "ComplexDouble", "bool": "Bool"}
    return known.get(name, name.replace("ui", "UI").replace("int", "Int"))


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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorType) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

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


_NAMED = [d.name for d in dtypes.ALL] + ["bfloat16"]


def tensor_type(name: str) -> TensorType | None:
    """The TensorType of this name, if there is one: not for complex and wide unsigned numbers."""
    dtype = _dtype_of(name)
    if dtype is None or dtype.is_complex or (dtype.name.startswith("uint") and dtype.itemsize > 1):
        return None
    return TensorType(name, dtype)


def _dtype_of(name: str) -> dtypes.dtype | None:
    for short in _NAMED:
        if name == f"{_words(short)}Tensor":
            return dtypes._by_name(short)
    return None


def type_name(dtype: dtypes.dtype) -> str:
    """What `x.type()` gives: `tensorlib.FloatTensor`."""
    return f"tensorlib.{_words(dtype.name)}Tensor"


def type_of(name: Any) -> Any:
    """The dtype that a type's name (after `tensorlib.` or `torch.`) or a TensorType stands for."""
    if isinstance(name, TensorType):
        return name.dtype
    if isinstance(name, str):
        found = _dtype_of(name.partition(".")[2])
        if found is not None:
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


# -- questions about types -------------------------------------------------------------------------


def result_type(tensor1: Any, tensor2: Any) -> dtypes.dtype:
    """The dtype of an operation on the two arguments, tensors or numbers."""
    found = []
    for value in (tensor1, tensor2):
        if hasattr(value, "requires_grad"):
            found.append(value.array)
        elif isinstance(value, bool | int | float | complex):
            found.append(value)
        else:
            raise ArgumentError(
                "result_type", f"{type(value).__name__} given", "tensors or numbers"
            )
    return dtypes.of(common_dtype(*found))


def can_cast(from_: dtypes.dtype, to: dtypes.dtype) -> bool:
    """Whether PyTorch's rules allow storing `from_` values in `to`."""
    for name, value in (("from_", from_), ("to", to)):
        if not isinstance(value, dtypes.dtype):
            raise ArgumentError(
                "can_cast", f"argument '{name}' must be a dtype, not {type(value).__name__}"
            )
    return dtypes.can_cast(from_, to)


def is_storage(obj: object) -> bool:
    """Whether `obj` is what `untyped_storage()` or `storage()` give."""
    return isinstance(obj, Storage)


def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """A 0-dim tensor of the number `s`, of the default dtype whatever its type."""
    return creation.full((), s, dtype=dtype or dtypes.get_default_dtype(), device=device, **options)
