"""From PyTorch's objects to ours: tensors with their strides, dtypes, and whole trees of them."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

import tensorlib

NAMESPACES = (
    (torch, tensorlib),
    (torch.nn.functional, tensorlib.nn.functional),
    (torch.linalg, "linalg"),
    (torch.fft, "fft"),
    (torch.special, "special"),
    (torch.signal.windows, "signal.windows"),
    (torch.masked, "masked"),
    (torch.Tensor, tensorlib.Tensor),
)


class Absent(Exception):
    """A name of torch that tensorlib has not."""


def find(path: str) -> Any:
    """The object of this dotted name in tensorlib."""
    found: Any = tensorlib
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Absent(path) from None
    return found


def lookup(path: str) -> Any:
    """A function of tensorlib, or the Tensor method of that name."""
    try:
        return find(path)
    except Absent:
        if hasattr(tensorlib.Tensor, path):
            return getattr(tensorlib.Tensor, path)
        raise


_shared: dict[Any, Any] | None = None


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Within it, what is one tensor or one memory in torch is one in tensorlib too."""
    global _shared
    _shared = {}
    try:
        yield
    finally:
        _shared = None


def tensor(value: torch.Tensor) -> Any:
    """The same numbers with the same strides and flags in memory of its own."""
    if _shared is None:
        return _alone(value)
    if id(value) not in _shared:
        _shared[id(value)] = value, _beside(value)
    return _shared[id(value)][1]


def _beside(value: torch.Tensor) -> Any:
    """As a part of the memory it shares with others, or could be extended into."""
    if (
        value.layout is not torch.strided
        or value.dtype in (torch.bfloat16, torch.complex32)
        or value.is_conj()
        or value.is_neg()
        or value.device.type != "cpu"
        or not value.numel()
    ):
        return _alone(value)
    memory = value.untyped_storage()
    if memory.nbytes() < value.element_size():
        raise Absent("a tensor whose memory an earlier refusal took away")
    key = memory.data_ptr()
    if key not in _shared:
        flat = torch.empty(0, dtype=value.dtype).set_(memory).detach()
        _shared[key] = memory, tensorlib.from_numpy(flat.numpy().copy())
    whole = _shared[key][1]
    if whole.dtype != dtype(value.dtype):
        return _alone(value)
    place = value.shape, value.stride(), value.storage_offset()
    made = whole.as_strided(*place).detach()
    return made.requires_grad_() if value.requires_grad else made


def _alone(value: torch.Tensor) -> Any:
    plain = value.detach().resolve_conj().resolve_neg()
    if value.layout is not torch.strided:
        raise Absent(f"layout {value.layout}")
    if plain.dtype is torch.bfloat16:
        made = tensorlib.from_numpy(plain.float().numpy().copy()).to(tensorlib.bfloat16)
    elif plain.dtype in (torch.complex32,):
        raise Absent(str(plain.dtype))
    else:
        span = sum((n - 1) * s for n, s in zip(plain.shape, plain.stride(), strict=True)) + 1
        if plain.numel() == 0 or plain.is_contiguous():
            made = tensorlib.from_numpy(plain.numpy().copy())
        else:  # copy the memory it views, so that strides and overlaps stay
            flat = plain.as_strided((span,), (1,)).clone()
            made = tensorlib.from_numpy(flat.as_strided(plain.shape, plain.stride()).numpy())
    return made.requires_grad_() if value.requires_grad else made


def tree(value: Any) -> Any:
    """`value` with everything of torch's in it replaced by ours."""
    if isinstance(value, torch.nn.Parameter):
        return tensorlib.nn.Parameter(tensor(value), requires_grad=value.requires_grad)
    if isinstance(value, torch.Tensor):
        return tensor(value)
    if isinstance(value, torch.dtype):
        return dtype(value)
    if isinstance(value, torch.device):
        return tensorlib.device(str(value))
    if isinstance(value, torch.Size):
        return tensorlib.Size(value)
    if isinstance(value, torch.layout | torch.memory_format):
        return find(str(value).removeprefix("torch."))
    if isinstance(value, torch.Generator):
        made = tensorlib.Generator()
        made.set_state(tensorlib.from_numpy(value.get_state().numpy().copy()))
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(tree, value))
    if type(value) in (list, tuple, set):
        return type(value)(map(tree, value))
    if type(value) is dict:
        return {key: tree(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(tree(value.start), tree(value.stop), tree(value.step))
    if callable(value):
        return function(value)
    return value


def dtype(value: torch.dtype) -> Any:
    """Our dtype of the same name."""
    return find(str(value).removeprefix("torch."))


def back(value: Any) -> torch.Tensor:
    """One of our tensors as torch's."""
    value = value.detach()
    if getattr(tensorlib, "bfloat16", None) is not None and value.dtype == tensorlib.bfloat16:
        return torch.from_numpy(value.float().numpy().copy()).to(torch.bfloat16)
    return torch.from_numpy(value.numpy().copy(order="C"))


def function(value: Callable[..., Any]) -> Any:
    """Our twin of a function of torch; a test helper is bound to tensorlib in torch's place."""
    if isinstance(value, torch.nn.Module) and not list(value.parameters()):
        made = find(f"nn.{type(value).__name__}")()
        plain = (bool, int, float, str)
        vars(made).update({k: v for k, v in vars(value).items() if isinstance(v, plain)})
        return made
    if isinstance(value, functools.partial):
        return functools.partial(
            function(value.func), *map(tree, value.args), **tree(dict(value.keywords))
        )
    if not getattr(value, "__module__", None) or not str(value.__module__).startswith("torch.test"):
        for theirs, ours in NAMESPACES:
            name = getattr(value, "__name__", "")
            if name and getattr(theirs, name, None) is value:
                if isinstance(ours, str):
                    return find(f"{ours}.{name}")
                try:
                    return getattr(ours, name)
                except AttributeError:
                    raise Absent(f"{getattr(ours, '__name__', ours)}.{name}") from None
        if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            raise Absent(str(value))
    if isinstance(value, types.FunctionType) and value.__module__.startswith("torch.test"):
        return _rebound(value, {})
    if isinstance(value, type) or str(getattr(value, "__module__", "")).startswith("torch"):
        return value
    return value


def _wrapper_set_seed(op: Any, *args: Any, **kwargs: Any) -> Any:
    state = tensorlib.get_rng_state()
    tensorlib.manual_seed(42)
    try:
        return op(*args, **kwargs)
    finally:
        tensorlib.set_rng_state(state)


def _rebound(value: types.FunctionType, seen: dict[int, Any]) -> Any:
    if value.__name__ == "wrapper_set_seed":
        return _wrapper_set_seed
    if id(value) in seen:
        return seen[id(value)]
    names: dict[str, Any] = dict(value.__globals__)
    made = types.FunctionType(
        value.__code__, names, value.__name__, value.__defaults__, _cells(value, seen)
    )
    made.__kwdefaults__ = value.__kwdefaults__
    seen[id(value)] = made
    names["torch"] = tensorlib
    for name in _names(value.__code__):
        names_value = names.get(name)
        if isinstance(names_value, types.FunctionType):
            if names_value.__module__.startswith("torch.test"):
                names[name] = _rebound(names_value, seen)
        elif isinstance(names_value, types.ModuleType) and names_value is not tensorlib:
            path = names_value.__name__
            if path.startswith("torch.nn.functional"):
                names[name] = tensorlib.nn.functional
    return made


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _cells(value: types.FunctionType, seen: dict[int, Any]) -> Any:
    if not value.__closure__:
        return None
    cells = []
    for cell in value.__closure__:
        content = cell.cell_contents
        if isinstance(content, types.FunctionType) and content.__module__.startswith("torch.test"):
            cells.append(types.CellType(_rebound(content, seen)))
        elif isinstance(content, types.BuiltinFunctionType | types.FunctionType):
            cells.append(types.CellType(function(content)))
        elif isinstance(content, torch.Tensor | torch.dtype):
            cells.append(types.CellType(tree(content)))
        else:
            cells.append(cell)
    return tuple(cells)
