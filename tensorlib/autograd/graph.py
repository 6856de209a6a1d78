"""The graph itself: its nodes, hooks on several of them, and what happens to saved tensors."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tensorlib.autograd import anomaly_mode, saved, tape, walk
from tensorlib.autograd.engine import GradientEdge
from tensorlib.autograd.function import FunctionCtx
from tensorlib.autograd.views import increment_version
from tensorlib.errors import AutogradError, InvalidValueError

__all__ = [
    "GradientEdge",
    "Node",
    "allow_mutation_on_saved_tensors",
    "disable_saved_tensors_hooks",
    "get_gradient_edge",
    "increment_version",
    "register_multi_grad_hook",
    "save_on_cpu",
    "saved_tensors_hooks",
]


class Node(abc.ABC):
    """What `grad_fn` and `next_functions` hold; for isinstance."""

    @abc.abstractmethod
    def name(self) -> str:
        """What the step is called."""


for _kind in (tape.Node, tape.AccumulateGrad, FunctionCtx):
    Node.register(_kind)


def get_gradient_edge(tensor: Any) -> GradientEdge:
    """Where the gradient of `tensor` arises: `autograd.grad` takes it in place of the tensor."""
    if not tensor.requires_grad:
        raise AutogradError(
            "get_gradient_edge",
            "It is not possible to get the gradient edge for a Tensor that does not require"
            " gradients",
        )
    node = tensor._node
    if node is None:
        return GradientEdge(tape.accumulator(tensor), 0)
    return GradientEdge(node.public, tensor.output_nr, node)


class saved_tensors_hooks:
    """Within it every tensor that an operation keeps for backward goes through `pack_hook(tensor)`;
    what that returns is kept instead, and `unpack_hook` makes it a tensor again when backward needs
    it. Only the innermost pair applies.

    An operation here may keep other values than PyTorch's does (a mask, a mean), so that the number
    of calls differs; what they hold together is all that backward needs.
    """

    def __init__(self, pack_hook: Callable[[Any], Any], unpack_hook: Callable[[Any], Any]) -> None:
        self.pack_hook, self.unpack_hook = pack_hook, unpack_hook

    def __enter__(self) -> None:
        if saved.stack.disabled:
            raise AutogradError("saved_tensors_hooks", saved.stack.disabled[-1])
        saved.stack.hooks.append((self.pack_hook, self.unpack_hook))
        with anomaly_mode.lock:
            saved.users += 1
        anomaly_mode.watch()

    def __exit__(self, *_: object) -> None:
        saved.stack.hooks.pop()
        with anomaly_mode.lock:
            saved.users -= 1
        anomaly_mode.watch()


class save_on_cpu(saved_tensors_hooks):
    """Within it tensors kept for backward are copied to the CPU, and back when they are needed."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        def pack(tensor: Any) -> Any:
            return tensor.device, tensor.detach().cpu()

        def unpack(packed: Any) -> Any:
            device, tensor = packed
            return tensor.to(device)

        super().__init__(pack, unpack)


@contextlib.contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """Within it `saved_tensors_hooks` is refused with `error_message`."""
    if saved.stack.hooks:
        raise AutogradError("disable_saved_tensors_hooks", error_message)
    saved.stack.disabled.append(error_message)
    try:
        yield
    finally:
        saved.stack.disabled.pop()


class _Mutation:
    """What `allow_mutation_on_saved_tensors` gives; its copies are freed with the graph."""

    def clear(self) -> None:
        """Nothing to do: no copy is kept apart from the graph."""


@contextlib.contextmanager
def allow_mutation_on_saved_tensors() -> Iterator[_Mutation]:
    """Within it what operations keep for backward is a copy, so that the tensors may be changed in
    place afterwards.
    """
    with saved_tensors_hooks(lambda tensor: tensor.detach().clone(), lambda tensor: tensor):
        yield _Mutation()


class _MultiHandle:
    """Removes several hooks."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self.handles = tuple(handles)

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()

    def __enter__(self) -> _MultiHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def register_multi_grad_hook(
    tensors: Sequence[Any], fn: Callable[..., None], *, mode: str = "all"
) -> _MultiHandle:
    """Call `fn(grads)` once per backward pass when the gradients of all `tensors` that the pass
    computes are known (None for the others), or, with mode "any", `fn(grad)` with the first.
    """
    if mode not in ("all", "any"):
        raise InvalidValueError(
            "register_multi_grad_hook", f"mode is {mode!r}", "one of 'all', 'any'"
        )
    if mode == "any":
        return _first_of(tensors, fn)
    keys = [id(t) if t._node is None else t._node for t in tensors]
    counts: dict[int, int] = {}
    buffers: dict[int, list[Any]] = {}

    def inner(place: int) -> Callable[[Any], None]:
        def hook(grad: Any) -> None:
            task = walk.current.task
            assert task is not None  # a hook runs inside a pass
            buffer = buffers.setdefault(task.id, [None] * len(keys))
            counts[task.id] = counts.get(task.id, 0) + 1
            buffer[place] = grad
            if counts[task.id] == sum(task.runs(key) for key in keys):
                del buffers[task.id], counts[task.id]
                fn(buffer)

        return hook

    return _MultiHandle([t.register_hook(inner(i)) for i, t in enumerate(tensors)])


def _first_of(tensors: Sequence[Any], fn: Callable[..., None]) -> _MultiHandle:
    ran: set[int] = set()

    def hook(grad: Any) -> None:
        task = walk.current.task
        assert task is not None  # a hook runs inside a pass
        if task.id not in ran:
            ran.add(task.id)
            fn(grad)

    return _MultiHandle([t.register_hook(hook) for t in tensors if t.requires_grad])
