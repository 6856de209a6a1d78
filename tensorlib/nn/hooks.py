"""Hooks of a Module. A module without any pays one comparison per call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorlib.autograd import record_view
from tensorlib.tensor import Tensor

if TYPE_CHECKING:
    from tensorlib.nn.module import Module

__all__ = ["BackwardHooks", "HookList", "Hooks", "RemovableHandle"]


class RemovableHandle:
    """Takes a hook away again: `handle.remove()`, or as a context manager."""

    def __init__(self, hooks: HookList, entry: object) -> None:
        self._hooks, self._entry = hooks, entry

    def remove(self) -> None:
        self._hooks.entries = [e for e in self._hooks.entries if e is not self._entry]

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class HookList:
    """Hooks in calling order, each with its `with_kwargs`."""

    def __init__(self) -> None:
        self.entries: list[tuple[Callable[..., Any], bool]] = []

    def add(self, hook: Callable[..., Any], prepend: bool, with_kwargs: bool) -> RemovableHandle:
        entry = (hook, with_kwargs)
        self.entries.insert(0 if prepend else len(self.entries), entry)
        return RemovableHandle(self, entry)


class Hooks:
    """All hooks of one module."""

    def __init__(self) -> None:
        self.before = HookList()
        self.after = HookList()
        self.backward: HookList | None = None

    def backward_hooks(self, kind: type[HookList]) -> HookList:
        if self.backward is None:
            self.backward = kind()
        return self.backward

    def call(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for hook, with_kwargs in self.before.entries:
            if with_kwargs:
                result = hook(module, args, kwargs)
                if result is not None:
                    args, kwargs = result
            else:
                result = hook(module, args)
                if result is not None:
                    args = result if isinstance(result, tuple) else (result,)
        watch = None
        if isinstance(self.backward, BackwardHooks) and self.backward.entries:
            watch = _Watch(module, self.backward)
            args = watch.inputs(args)
        output = module.forward(*args, **kwargs)
        for hook, with_kwargs in self.after.entries:
            result = (
                hook(module, args, kwargs, output) if with_kwargs else hook(module, args, output)
            )
            if result is not None:
                output = result
        return watch.outputs(output) if watch else output


class BackwardHooks(HookList):
    """Hooks that get the gradients of a module's inputs and outputs."""


class _Watch:
    """One call of a module whose backward is watched.

    The inputs and outputs pass through identities of the tape; the gradient of the input calls
    the hooks, when those of the outputs are known.
    """

    def __init__(self, module: Module, hooks: BackwardHooks) -> None:
        self.module, self.hooks = module, hooks
        self.grad_output: list[Tensor | None] = []
        self.inputs_total = 0
        self.watched: int | None = None

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        wanted = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if len(wanted) > 1:
            raise NotImplementedError(
                f"register_full_backward_hook: {type(self.module).__name__} was called with"
                f" {len(wanted)} tensors that require grad; one is supported."
                " Hint: use Tensor.register_hook on each."
            )
        self.inputs_total = len([a for a in args if isinstance(a, Tensor)])
        tensors = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        if not wanted:
            return args
        self.watched = tensors.index(wanted[0])
        watched = list(args)
        watched[wanted[0]] = self.identity(args[wanted[0]], self.on_input)
        return tuple(watched)

    def outputs(self, output: Any) -> Any:
        values = output if isinstance(output, tuple) else (output,)
        results = []
        for value in values:
            if isinstance(value, Tensor):
                place = len(self.grad_output)
                self.grad_output.append(None)
                if value.requires_grad:
                    value = self.identity(value, self.on_output(place))
            results.append(value)
        return tuple(results) if isinstance(output, tuple) else results[0]

    def identity(self, tensor: Tensor, seen: Callable[[Any], Any]) -> Tensor:
        def backward(grad: Any) -> tuple[Any]:
            return (seen(grad),)

        return record_view(tensor.array, backward, tensor)

    def on_output(self, place: int) -> Callable[[Any], Any]:
        def seen(grad: Any) -> Any:
            self.grad_output[place] = _as_tensor(grad)
            if self.watched is None:
                self.run((None,) * self.inputs_total)
            return grad

        return seen

    def on_input(self, grad: Any) -> Any:
        grads: list[Tensor | None] = [None] * self.inputs_total
        assert self.watched is not None
        grads[self.watched] = _as_tensor(grad)
        result = self.run(tuple(grads))[self.watched]
        if result is None:
            return grad
        return result if isinstance(grad, Tensor) else result.array

    def run(self, grad_input: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        for hook, _ in self.hooks.entries:
            result = hook(self.module, grad_input, tuple(self.grad_output))
            if result is not None:
                grad_input = result if isinstance(result, tuple) else (result,)
        return grad_input


def _as_tensor(grad: Any) -> Tensor:
    """The engine passes arrays, or Tensors while it records second derivatives."""
    return grad if isinstance(grad, Tensor) else Tensor._wrap(grad)
