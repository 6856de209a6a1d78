"""Hooks of a Module. A module without any pays one comparison per call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tensorlib import creation
from tensorlib.autograd import needs_grad, record_outputs
from tensorlib.errors import AutogradError, UnsupportedError
from tensorlib.tensor import Tensor

if TYPE_CHECKING:
    from tensorlib.nn.module import Module

__all__ = ["HookList", "HookMethods", "Hooks", "RemovableHandle"]


@dataclass(eq=False)
class Hook:
    """One registered function and how it wants to be called."""

    hook: Callable[..., Any]
    with_kwargs: bool = False
    always: bool = False
    with_module: bool = False
    public: bool = False


class RemovableHandle:
    """Takes a hook away again: `handle.remove()`, or as a context manager."""

    def __init__(self, hooks: HookList, entry: Hook) -> None:
        self._hooks, self._entry = hooks, entry

    def remove(self) -> None:
        self._hooks.entries = [e for e in self._hooks.entries if e is not self._entry]

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class HookList:
    """Hooks in calling order."""

    def __init__(self) -> None:
        self.entries: list[Hook] = []

    def add(self, hook: Callable[..., Any], prepend: bool = False, **how: bool) -> RemovableHandle:
        entry = Hook(hook, **how)
        # a new list: a hook may remove itself while the old one is walked
        self.entries = [entry, *self.entries] if prepend else [*self.entries, entry]
        return RemovableHandle(self, entry)


class Hooks:
    """All hooks of one module around its calls."""

    def __init__(self) -> None:
        self.before = HookList()
        self.after = HookList()
        self.backward_before = HookList()
        self.backward = HookList()

    def call(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`module.forward` with the hooks around it."""
        done: set[Hook] = set()
        output: Any = None
        try:
            for entry in self.before.entries:
                args, kwargs = _before(entry, module, args, kwargs)
            watch = None
            if self.backward.entries or self.backward_before.entries:
                watch = _Watch(module, self)
                args = watch.inputs(args)
            output = module.forward(*args, **kwargs)
            for entry in self.after.entries:
                done.add(entry)
                output = _after(entry, module, args, kwargs, output)
            return watch.outputs(output) if watch else output
        except Exception:
            for entry in self.after.entries:
                if entry.always and entry not in done:
                    try:
                        output = _after(entry, module, args, kwargs, output)
                    except Exception as error:
                        warnings.warn(
                            "module forward hook with ``always_call=True`` raised an exception"
                            f" that was silenced as another error was raised in forward: {error}",
                            stacklevel=3,
                        )
            raise


def _before(entry: Hook, module: Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    if entry.with_kwargs:
        result = entry.hook(module, args, kwargs)
        if result is None:
            return args, kwargs
        if not (isinstance(result, tuple) and len(result) == 2):
            raise RuntimeError(
                f"{type(module).__name__}: forward pre-hook must return None or a tuple of"
                f" (new_args, new_kwargs), but got {result}."
            )
        return result
    result = entry.hook(module, args)
    if result is None:
        return args, kwargs
    return (result if isinstance(result, tuple) else (result,)), kwargs


def _after(entry: Hook, module: Module, args: Any, kwargs: Any, output: Any) -> Any:
    if entry.with_kwargs:
        result = entry.hook(module, args, kwargs, output)
    else:
        result = entry.hook(module, args, output)
    return output if result is None else result


class _Gate:
    """Backward of an identity of several tensors: `seen` gets all their gradients at once.

    An object rather than a function, so that second derivatives call it on Tensors.
    """

    def __init__(self, seen: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
        self.seen = seen

    def __call__(self, *grads: Any) -> tuple[Any, ...]:
        tensors = any(isinstance(grad, Tensor) for grad in grads)
        results = self.seen(tuple(_as_tensor(grad) for grad in grads))
        if tensors:
            return results
        return tuple(None if value is None else value.array for value in results)


class _Watch:
    """One call of a module whose backward is watched.

    Its inputs pass through one identity of the tape and its outputs through another; the
    gradients of the inputs call the hooks, when those of the outputs are known.
    """

    def __init__(self, module: Module, hooks: Hooks) -> None:
        self.module, self.hooks = module, hooks
        self.grad_output: tuple[Tensor | None, ...] | None = None
        self.arity = 0
        self.places: list[int] | None = None
        self.given: list[tuple[Tensor, int]] = []

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.arity = len(args)
        watched, self.places = _identity(args, self.on_inputs)
        self.given = [(args[place], args[place]._version) for place in self.places or ()]
        return watched

    def outputs(self, output: Any) -> Any:
        if any(tensor._version != before for tensor, before in self.given):
            raise AutogradError(
                type(self.module).__name__,
                "an input was changed in place by forward, which would take it past the module's"
                " full backward hooks",
                "inputs left alone",
                hint="use inplace=False, or clone() the input",
            )
        if not isinstance(output, Tensor | tuple):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of"
                f" Tensors but received {type(output)}",
                stacklevel=4,
            )
        values = output if isinstance(output, tuple) else (output,)
        places: list[int] = []

        def seen(grads: tuple[Any, ...]) -> tuple[Any, ...]:
            return self.on_outputs(grads, places, len(values))

        results, found = _identity(values, seen)
        places += found or ()
        return results if isinstance(output, tuple) else results[0]

    def on_outputs(
        self, grads: tuple[Any, ...], places: list[int], count: int
    ) -> tuple[Tensor | None, ...]:
        packed = _packed(grads, places, count)
        for entry in self.hooks.backward_before.entries:
            result = entry.hook(self.module, packed)
            if result is not None:
                packed = _checked(result, packed, "pre hook", "grad_output")
        self.grad_output = packed
        if self.places is None:
            none = (None,) * self.arity
            for entry in self.hooks.backward.entries:
                result = entry.hook(self.module, none, packed)
                if result is not None and any(value is not None for value in result):
                    raise RuntimeError(
                        "Backward hook for Modules where no input requires gradient should always"
                        " return None or None for all gradients."
                    )
            self.grad_output = None
        return tuple(packed[place] for place in places)

    def on_inputs(self, grads: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
        assert self.places is not None
        if self.grad_output is None:  # the gradient came past the outputs: a second derivative
            return grads
        filled = [
            creation.zeros_like(tensor) if grad is None else grad
            for grad, (tensor, _) in zip(grads, self.given, strict=True)
        ]
        packed = _packed(filled, self.places, self.arity)
        for entry in self.hooks.backward.entries:
            result = entry.hook(self.module, packed, self.grad_output)
            if result is not None:
                packed = _checked(result, packed, "hook", "grad_input")
        self.grad_output = None
        return tuple(packed[place] for place in self.places)


def _identity(
    values: tuple[Any, ...], seen: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> tuple[tuple[Any, ...], list[int] | None]:
    """`values` with its tensors taken through one node of the tape, and where they stand; no
    places when nothing wants a gradient.
    """
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    tensors = [values[i] for i in places]
    if not needs_grad(*tensors):
        return values, None
    results = list(values)
    made = record_outputs(tuple(t.array for t in tensors), _Gate(seen), *tensors)
    for place, tensor, result in zip(places, tensors, made, strict=True):
        if tensor.requires_grad:
            result._node.parent.label = "BackwardHookFunctionBackward"
            result._counter = tensor._counter  # the memory is shared
            results[place] = result
    return tuple(results), places


def _packed(values: Any, places: list[int], count: int) -> tuple[Any, ...]:
    packed: list[Any] = [None] * count
    for place, value in zip(places, values, strict=True):
        packed[place] = value
    return tuple(packed)


def _checked(result: Any, before: tuple[Any, ...], who: str, what: str) -> tuple[Any, ...]:
    values = result if isinstance(result, tuple) else (result,)
    if len(values) != len(before):
        raise RuntimeError(
            f"Backward {who} returned an invalid number of {what}, got {len(values)}, but"
            f" expected {len(before)}"
        )
    return values


def _as_tensor(grad: Any) -> Any:
    """The engine passes arrays, or Tensors while it records second derivatives."""
    return grad if grad is None or isinstance(grad, Tensor) else Tensor._wrap(grad)


class HookMethods:
    """The part of Module that registers hooks around its calls."""

    _hooks: Hooks | None

    def _make_hooks(self) -> Hooks:
        if self._hooks is None:
            self.__dict__["_hooks"] = Hooks()
        hooks: Hooks = self.__dict__["_hooks"]
        return hooks

    def _shown(self, kind: str) -> MappingProxyType[int, Callable[..., Any]]:
        entries = getattr(self._hooks, kind).entries if self._hooks is not None else []
        return MappingProxyType({i: entry.hook for i, entry in enumerate(entries)})

    # tutorials print these and count them; a hook is taken away by its handle
    _forward_pre_hooks = property(lambda self: self._shown("before"))
    _forward_hooks = property(lambda self: self._shown("after"))
    _backward_hooks = property(lambda self: self._shown("backward"))

    def _before_hooks(self, kind: Any) -> list[Any]:
        """The forward pre-hooks that are of this class."""
        entries = self._hooks.before.entries if self._hooks is not None else []
        return [entry.hook for entry in entries if isinstance(entry.hook, kind)]

    def _drop_before_hook(self, hook: object) -> None:
        before = self._make_hooks().before
        before.entries = [entry for entry in before.entries if entry.hook is not hook]

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before forward; what it returns replaces the arguments.

        With `with_kwargs`, `hook(module, args, kwargs)` returns None or (args, kwargs).
        """
        return self._make_hooks().before.add(hook, prepend, with_kwargs=with_kwargs)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call `hook(module, args, output)` after forward; what it returns replaces the output.

        With `with_kwargs`, `hook(module, args, kwargs, output)`; with `always_call` also when
        forward raised an exception (output None then).
        """
        return self._make_hooks().after.add(
            hook, prepend, with_kwargs=with_kwargs, always=always_call
        )

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_output)` when the gradients of the outputs are known; the tuple
        it returns replaces them.
        """
        return self._make_hooks().backward_before.add(hook, prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` when the gradients of the inputs are
        known; the tuple it returns replaces them. Both have one entry per positional argument
        (output), None for what is no tensor that wants a gradient.
        """
        return self._make_hooks().backward.add(hook, prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Refused: torch's first form, which sees the last operation instead of the module."""
        raise UnsupportedError(
            "register_backward_hook",
            "the deprecated form is not supported",
            hint="use register_full_backward_hook",
        )
