"""Module: a tree of parameters, buffers and children with one `forward`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import tensorlib
from tensorlib.errors import ArgumentError
from tensorlib.nn.hooks import HookMethods, Hooks
from tensorlib.nn.parameter import Buffer, Parameter, is_lazy
from tensorlib.nn.state import IncompatibleKeys, StateDictError, StateHooks, StateMethods
from tensorlib.tensor import Tensor

__all__ = ["IncompatibleKeys", "Module", "StateDictError"]

_TABLES = ("_parameters", "_buffers", "_modules")


class Module(HookMethods, StateMethods):
    """Base class of all layers and models. Subclasses assign parameters and children in
    `__init__` and define `forward`; calling the module runs `forward` and its hooks.
    """

    training: bool
    _hooks: Hooks | None = None
    _state_hooks: StateHooks | None = None

    def __init__(self) -> None:
        set_plain = super().__setattr__
        set_plain("training", True)
        set_plain("_parameters", {})
        set_plain("_buffers", {})
        set_plain("_non_persistent_buffers_set", set())
        set_plain("_modules", {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function.'
            " Hint: define forward(self, ...) in the class."
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._hooks is None:
                return self.forward(*args, **kwargs)
            return self._hooks.call(self, args, kwargs)
        except AttributeError as error:  # an operation asked something else for its array
            if error.name != "array" or isinstance(error.obj, Module):
                raise
            raise ArgumentError(
                type(self).__name__,
                f"argument of type {type(error.obj).__name__}",
                "a Tensor",
                hint="make it one with tensor(...) or from_numpy(...)",
            ) from error

    # --- registration ------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__
        if isinstance(value, Parameter):
            self._claim("_parameters", name, "parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._claim("_modules", name, "module")
            self.register_module(name, value)
        elif isinstance(value, Buffer):
            self._claim("_buffers", name, "buffers")
            self.register_buffer(name, value, value.persistent)
        elif name in state.get("_parameters", ()):
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}.{name}: cannot assign a {type(value).__name__} as"
                    " parameter; expected nn.Parameter or None. Hint: wrap it in nn.Parameter."
                )
            state["_parameters"][name] = None
        elif name in state.get("_modules", ()):
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}.{name}: cannot assign a {type(value).__name__} as"
                    " child module; expected nn.Module or None."
                )
            state["_modules"][name] = None
        elif name in state.get("_buffers", ()):
            self.register_buffer(name, value, name not in self._non_persistent_buffers_set)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # only called when the name is no plain attribute
        state = self.__dict__
        for table in _TABLES:
            if name in state.get(table, ()):
                return state[table][name]
        hint = "" if "_parameters" in state else " Hint: call super().__init__() first."
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'.{hint}")

    def __delattr__(self, name: str) -> None:
        for table in _TABLES:
            if name in self.__dict__[table]:
                del self.__dict__[table][name]
                self._non_persistent_buffers_set.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        names = [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]
        return sorted({name for name in names if name.isidentifier()})

    def _claim(self, table: str, name: str, kind: str) -> None:
        """Take `name`, which is to enter `table`, out of every other place."""
        self._has_tables(kind)
        for other in _TABLES:
            if other != table:
                self.__dict__[other].pop(name, None)
        if table != "_buffers":
            self._non_persistent_buffers_set.discard(name)
        self.__dict__.pop(name, None)

    def _has_tables(self, kind: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(
                f"cannot assign {kind} before Module.__init__() call."
                " Hint: call super().__init__() first in __init__."
            )

    def _check_name(self, table: str, name: str, kind: str) -> None:
        """Check that `name` is free, or taken in `table` only."""
        self._has_tables(kind)
        if not isinstance(name, str):
            raise TypeError(f"{kind} name is a {type(name).__name__}; expected a string.")
        if not name or "." in name:
            raise KeyError(f'{kind} name {name!r} is empty or contains "."; expected an identifier')
        if name not in self.__dict__[table] and hasattr(self, name):
            raise KeyError(
                f"attribute {name!r} already exists in {type(self).__name__}; expected a free name."
                f" Hint: del the attribute first, or assign with self.{name} = ..."
            )

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None keeps the name free of a value (and out of the state dict)."""
        self._check_name("_parameters", name, "parameter")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign a {type(param).__name__} to parameter {name!r}; expected"
                " nn.Parameter or None."
            )
        if param is not None and param.grad_fn is not None:
            raise ValueError(
                f"cannot assign a non-leaf tensor to parameter {name!r}; expected a leaf."
                " Hint: nn.Parameter(tensor.detach())."
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but no parameter; `persistent=False` keeps it unsaved."""
        self._check_name("_buffers", name, "buffer")
        self._check_name("_buffers", name, "buffer")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign a {type(tensor).__name__} as buffer {name!r}; expected a Tensor or"
                " None."
            )
        self._buffers[name] = tensor
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a child."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name("_modules", name, "module")
        self._modules[name] = module

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child; the same as `register_module`."""
        self.register_module(name, module)

    # --- walking the tree ----------------------------------------------------------------------

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and everything below it, with dotted names, parents first."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                below = f"{prefix}.{name}" if prefix else name
                yield from child.named_modules(memo, below, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        seen = set()
        for name, child in self._modules.items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        for _, child in self.named_children():
            yield child

    def _named_members(
        self, table: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        for path, module in modules:
            for name, value in module.__dict__[table].items():
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their dotted names; a shared one appears once."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with their dotted names; a shared one appears once."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; "" is this module. Raises AttributeError."""
        module: Module = self
        for name in target.split(".") if target else ():
            child = getattr(module, name)
            if not isinstance(child, Module):
                raise AttributeError(f"`{name}` in {target!r} is not an nn.Module")
            module = child
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put `module` at a dotted path; with `strict` only where one is already.

        Raises ValueError for an empty path or something else than a Module, AttributeError where
        the parent is missing or the place is taken by something else.
        """
        if not target:
            raise ValueError("set_submodule: the path is empty; expected a name below this module")
        if not isinstance(module, Module):
            raise ValueError(f"set_submodule: a {type(module).__name__} is not an nn.Module")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if hasattr(parent, name):
            if not isinstance(getattr(parent, name), Module):
                raise AttributeError(f"`{name}` in {target!r} is not an nn.Module")
        elif strict:
            raise AttributeError(f"{type(parent).__name__} has no attribute `{name}`")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path. Raises AttributeError."""
        path, _, name = target.rpartition(".")
        value = getattr(self.get_submodule(path), name)
        if not isinstance(value, Parameter):
            raise AttributeError(f"`{name}` in {target!r} is not an nn.Parameter")
        return value

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path. Raises AttributeError."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        value = getattr(module, name)
        if name not in module._buffers or not isinstance(value, Tensor):
            raise AttributeError(f"`{name}` in {target!r} is not a buffer")
        return value

    def apply(self, fn: Callable[[Module], object]) -> Self:
        """Call `fn` on every module, children first; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # --- mode, device and dtype ------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout drops, batch norm uses the batch) here and below."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is {mode!r}; expected a bool")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = parameter.grad.detach()
                parameter.grad.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Replace the values of all parameters, gradients and buffers by `fn` of them."""
        if recurse:
            for child in self.children():
                child._apply(fn)
        with tensorlib.no_grad():
            for parameter in self._parameters.values():
                if parameter is not None:
                    grad = parameter.grad
                    parameter.grad = None
                    parameter.data = fn(parameter.data)
                    parameter.grad = None if grad is None else fn(grad)
            for name, buffer in self._buffers.items():
                if is_lazy(buffer):
                    buffer.data = fn(buffer.data)  # type: ignore[union-attr]  # lazy: no None
                elif buffer is not None:
                    self._buffers[name] = fn(buffer)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device and/or cast floating point state: `to(device)`, `to(dtype)`,
        `to(device, dtype)`, `to(tensor)`; `memory_format` lays out images and volumes. In place;
        returns self.
        """
        device, dtype, layout = _to_arguments(args, kwargs)
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got {dtype}"
            )

        def convert(tensor: Tensor) -> Tensor:
            if device is not None:
                tensor = tensor.to(device)
            if layout is not None and tensor.dim() in (4, 5):
                tensor = tensor.to(memory_format=layout)
            cast = dtype is not None and (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
            return tensor.to(dtype) if cast else tensor

        return self._apply(convert)

    def type(self, dst_type: Any) -> Self:
        """Cast all parameters and buffers, integers too."""
        return self._apply(lambda t: t.type(dst_type))

    def _cast_floats(self, dtype: Any) -> Self:
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def float(self) -> Self:
        """Cast floating point state to float32."""
        return self._cast_floats(tensorlib.float32)

    def double(self) -> Self:
        """Cast floating point state to float64."""
        return self._cast_floats(tensorlib.float64)

    def half(self) -> Self:
        """Cast floating point state to float16."""
        return self._cast_floats(tensorlib.float16)

    def bfloat16(self) -> Self:
        """Cast floating point state to bfloat16."""
        return self._cast_floats(tensorlib.bfloat16)

    def cpu(self) -> Self:
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        return self.to("cuda" if device is None else device)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Move to a device without copying the values."""
        return self._apply(lambda t: tensorlib.empty_like(t, device=device), recurse)

    # --- text ------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The arguments shown inside the parentheses of `print(module)`."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        if len(lines) == 1 and not self._modules:
            return f"{self._get_name()}({extra})"
        for name, child in self._modules.items():
            lines.append(f"({name}): {indent(repr(child))}")
        body = "\n  " + "\n  ".join(lines) + "\n" if lines else ""
        return f"{self._get_name()}({body})"


def indent(text: str) -> str:
    """`text` with every line but the first moved right by two."""
    return text.replace("\n", "\n  ")


def _to_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    given = dict(kwargs)
    given.pop("non_blocking", None)  # copies here never block
    device, dtype = given.pop("device", None), given.pop("dtype", None)
    layout = given.pop("memory_format", None)
    if given:
        raise TypeError(f"Module.to: unexpected argument {next(iter(given))!r}")
    for arg in args:
        if isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, tensorlib.dtype):
            dtype = arg
        elif arg is not None and not isinstance(arg, bool):
            device = arg
    return device, dtype, layout
