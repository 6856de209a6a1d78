"""The nodes of the graph: an operation's, one of its outputs', a leaf's."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.autograd.names import node_name

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_ndarray = np.ndarray
sequence = itertools.count()  # in it nodes and changes of memory are ordered


# The history of a change through a view; PyTorch frees it, though it keeps no values.
COPY_SLICES = "torch::autograd::CopySlices"


class Node:
    """One recorded operation; `tensor.grad_fn`."""

    __slots__ = (
        "__weakref__",
        "backward",
        "extra",
        "hooks",
        "inputs",
        "label",
        "output_id",
        "output_seen",
        "output_version",
        "sequence",
        "smooth",
    )

    # Entries of `inputs` are (edge, shape, dtype, version counter, version then, id of the array);
    # an edge is a Node, a leaf Tensor, or None where no gradient flows.

    def __init__(
        self,
        backward: Any,
        inputs: list[Any],
        smooth: Any = None,
        output_id: int = 0,
        output_version: Any = None,
    ) -> None:
        self.backward = backward
        self.inputs = inputs
        self.smooth = smooth
        self.output_id = output_id
        self.output_version = output_version
        self.output_seen = 0
        self.sequence = next(sequence)
        self.hooks: list[Any] | None = None  # on the gradient of the output
        self.extra: dict[str, Any] | None = None  # what few nodes have: other hooks, metadata
        self.label: str | None = None

    def name(self) -> str:
        """PyTorch's name of this step, such as `AddBackward0`."""
        return node_name(self)

    @property
    def metadata(self) -> dict[str, Any]:
        """Free for notes; anomaly mode keeps the place of the operation here."""
        found: dict[str, Any] = self.more("metadata", dict)
        return found

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that this one passes gradients to, each with the number of its output."""
        return tuple(_next_function(entry[0]) for entry in self.inputs)

    @property
    def public(self) -> Any:
        """What `grad_fn` shows."""
        return self

    def _sequence_nr(self) -> int:
        return self.sequence

    def more(self, key: str, kind: Callable[[], Any] = list) -> Any:
        """What few nodes have, made when first asked for."""
        if self.extra is None:
            self.extra = {}
        return self.extra.setdefault(key, kind())

    def register_tensor_hook(self, hook: Callable[[Any], Any]) -> Handle:
        """Call `hook(grad)` with the gradient of this node's output before it is used."""
        if self.hooks is None:
            self.hooks = []
        return Handle(self.hooks, hook)

    def register_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(grad_inputs, grad_outputs)` after this step ran; a tuple it returns replaces
        the gradients of the inputs.
        """
        return Handle(self.more("after"), hook)

    def register_prehook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(grad_outputs)` before this step runs; a tuple it returns replaces them."""
        return Handle(self.more("before"), hook)

    def free(self) -> None:
        """Drop what backward kept; a step that kept nothing can run again, as in PyTorch."""
        function = self.backward
        if function is None or not (self.label == COPY_SLICES or keeps_values(function)):
            return
        if self.label is None:
            self.label = getattr(function, "__qualname__", type(function).__name__)
        self.backward = self.smooth = None

    def __repr__(self) -> str:
        return f"<{self.name().rpartition('::')[2]} object at {hex(id(self))}>"


def keeps_values(function: Any) -> bool:
    """Whether a backward holds what PyTorch would have saved: arrays, or a number it multiplies
    with.
    """
    closure = getattr(function, "__closure__", ())
    if not closure:  # a callable object may hold anything
        return closure is not None
    contents = []
    for cell in closure:
        try:
            held = cell.cell_contents
        except ValueError:
            continue
        if type(held) is _ndarray:
            return True
        contents.append(held)
    for held in contents:
        kind = type(held)
        if kind is float or kind is complex or isinstance(held, np.generic):
            return True
        if kind is tuple or kind is list:
            if any(hasattr(h, "strides") for h in held):
                return True
        elif kind is int or kind is bool or held is None:
            continue
        elif hasattr(held, "strides") or (callable(held) and keeps_values(held)):
            return True
    return "other" in function.__code__.co_freevars


class Output(Node):
    """One of several outputs of a node: hands its gradient to the shared node, which waits for all
    of them.
    """

    __slots__ = ("index", "parent")

    def __init__(self, parent: Any, index: int) -> None:
        super().__init__(None, [(parent, None, None, None, 0, 0)])
        self.parent, self.index = parent, index

    @property
    def public(self) -> Any:
        """The shared node."""
        return self.parent.public

    def name(self) -> str:
        """The name of the operation."""
        return str(self.parent.name())


class ManyNode(Node):
    """A node of several outputs."""

    __slots__ = ("outputs", "parts", "results")

    def __init__(self, backward: Any, inputs: list[Any], smooth: Any, outputs: int) -> None:
        super().__init__(backward, inputs, smooth)
        self.outputs = outputs
        self.parts: dict[int, weakref.ref[Output]] = {}
        self.results: list[tuple[int, int, Any, int]] = []  # (array id, index, counter, version)

    def part(self, index: int) -> Node:
        """The place of one output in the graph: of each there is one at a time, which gathers the
        gradients.
        """
        known = self.parts.get(index)
        found = known() if known is not None else None
        if found is None:
            found = Output(self, index)
            self.parts[index] = weakref.ref(found)
        return found


class AccumulateGrad:
    """Stands for a leaf in `next_functions`; its hooks belong to the leaf."""

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable
        self.next_functions: tuple[Any, ...] = ()
        self.metadata: dict[str, Any] = {}

    def name(self) -> str:
        """PyTorch's name of a leaf's node, namespace and all."""
        return "torch::autograd::AccumulateGrad"

    def _sequence_nr(self) -> int:
        return (1 << 64) - 1

    def register_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(grad_inputs, grad_outputs)`, ((), (grad,)) here, after `.grad` was updated."""
        return Handle(self.variable._hooks("after"), hook)

    def register_prehook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook((grad,))` before `.grad` is updated; a tuple it returns replaces it."""
        return Handle(self.variable._hooks("before"), hook)

    def __repr__(self) -> str:
        return f"<AccumulateGrad object at {hex(id(self))}>"


def accumulator(leaf: Any) -> AccumulateGrad:
    """The node that stands for `leaf`: the same one as long as somebody holds it."""
    if leaf._extra is None:
        leaf._extra = {}
    known = leaf._extra.get("accumulator")
    found: AccumulateGrad | None = known and known()
    if found is None:
        found = AccumulateGrad(leaf)
        leaf._extra["accumulator"] = weakref.ref(found)
    return found


class Handle:
    """Removes a hook: `handle.remove()`; also a context manager."""

    def __init__(self, hooks: list[Any], hook: Callable[..., Any]) -> None:
        self._hooks, self._hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        for place, hook in enumerate(self._hooks):
            if hook is self._hook:
                del self._hooks[place]
                break
        self._hooks = []

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _next_function(edge: Any) -> tuple[Any, int]:
    if edge is None:
        return None, 0
    if not isinstance(edge, Node):
        return accumulator(edge), 0
    return (edge.parent.public, edge.index) if type(edge) is Output else (edge.public, 0)
