"""How hooks are run during a backward pass, and what they may return."""

from __future__ import annotations

from typing import Any

from tensorlib.autograd.tape import wrap
from tensorlib.errors import ArgumentError, AutogradError


def run_hooks(hooks: Any, gradient: Any, create_graph: bool) -> Any:
    """Pass a gradient through tensor hooks; one that returns a Tensor replaces it."""
    for hook in list(hooks):
        value = gradient if create_graph else wrap(gradient)
        result = hook(value)
        if result is not None:
            _same_form(hook, result, value)
            gradient = result if create_graph else result.array
    return gradient


def unused_outputs(node: Any, grads: list[Any], create_graph: bool) -> None:
    """Hooks on outputs that nobody used see None, and may put a gradient in its place."""
    for index, known in node.parts.items():
        output = known()
        if grads[index] is None and output is not None and output.hooks:
            for hook in list(output.hooks):
                value = grads[index]
                result = hook(value if create_graph or value is None else wrap(value))
                if result is not None:
                    grads[index] = result if create_graph else result.array


def tuple_hooks(hooks: Any, grads: tuple[Any, ...], create_graph: bool) -> tuple[Any, ...]:
    """Pass the gradients of a node's outputs through its prehooks."""
    for hook in list(hooks):
        values = grads if create_graph else tuple(None if g is None else wrap(g) for g in grads)
        result = hook(values)
        if result is not None:
            grads = _replaced(hook, result, values, create_graph)
    return grads


def _replaced(hook: Any, result: Any, before: tuple[Any, ...], create_graph: bool) -> Any:
    values = result if isinstance(result, tuple) else (result,)
    if len(values) != len(before):
        raise AutogradError(
            "hook",
            f"hook '{_hook_name(hook)}' has returned an incorrect number of values",
            f"{len(before)}, got {len(values)}",
        )
    for value, old in zip(values, before, strict=True):
        if value is not None and old is not None:
            _same_form(hook, value, old)
    return tuple(v if create_graph or v is None else v.array for v in values)


def _same_form(hook: Any, result: Any, value: Any) -> None:
    name = _hook_name(hook)
    if not hasattr(result, "array"):
        raise ArgumentError(
            "hook",
            f"expected Variable, but hook '{name}' returned '{type(result).__name__}'",
        )
    if result.array.shape != value.array.shape:
        raise AutogradError(
            "hook",
            f"hook '{name}' has changed the size of value, from {value.array.shape} to"
            f" {result.array.shape}",
        )
    if result.array.dtype != value.array.dtype:
        raise AutogradError(
            "hook",
            f"hook '{name}' has changed the type of value, from {value.dtype} to {result.dtype}",
        )


def _hook_name(hook: Any) -> str:
    return getattr(hook, "__name__", type(hook).__name__)


def before_node(extra: dict[str, Any], gradient: Any, create_graph: bool) -> Any:
    """Run what hangs on a node before it is called: prehooks, then `retain_grad`."""
    if extra.get("before"):
        several = type(gradient) is list
        grads = tuple_hooks(
            extra["before"], tuple(gradient) if several else (gradient,), create_graph
        )
        gradient = list(grads) if several else grads[0]
    if "retain" in extra and gradient is not None:
        extra["retain"](gradient if create_graph else wrap(gradient))
    return gradient


def after_node(hooks: Any, results: Any, gradient: Any, create_graph: bool) -> Any:
    """Pass the gradients of a node's inputs through its hooks."""
    grads = tuple(gradient) if type(gradient) is list else (gradient,)
    if not create_graph:
        grads = tuple(None if g is None else wrap(g) for g in grads)
    found = tuple(results)
    for hook in list(hooks):
        values = found if create_graph else tuple(None if g is None else wrap(g) for g in found)
        result = hook(values, grads)
        if result is not None:
            found = _replaced(hook, result, values, create_graph)
    return found
