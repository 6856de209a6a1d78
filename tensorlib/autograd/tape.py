"""The tape: what `record` notes about an operation.

A node's closure holds the plain arrays its gradient needs. What each input was (edge, shape,
dtype, version) stands in `Node.inputs`, so that the engine can undo broadcasting, cast, and notice
in-place changes for all operations alike.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.autograd.names import node_name
from tensorlib.device import Array
from tensorlib.errors import AutogradError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Grads = tuple[Any, ...]
Backward = Callable[..., Grads]

_new = object.__new__
_ndarray = np.ndarray
_sequence = itertools.count()
_Tensor: Any = None  # tensor.py puts the class here; the tape itself knows no operation

# How a view was made, where that decides whether it may be changed in place later.
DEFAULT: int = 0
NO_GRAD: int = 1
INFERENCE_VIEW: int = 2
MANY: int = 3  # one of several outputs
CUSTOM: int = 4  # inside a custom Function


class _Mode(threading.local):
    """Per-thread switches. NumPy's floating-point warnings are off where tensors compute:
    infinities are values here.
    """

    grad = True  # whether operations are recorded
    inference = False
    multithreading = True
    asked = True  # what is_grad_enabled() says: inside inference_mode nothing is recorded even so

    def __init__(self) -> None:
        np.seterr(all="ignore")


mode = _Mode()
mode.grad = True

# The version counter of every tensor made in inference_mode: it counts nothing and marks them.
INFERENCE: list[Any] = [0]
_last_change = -1  # the last change of memory in place, in the order of nodes
_inferring = 0  # entered inference modes of all threads; at zero no thread looks at its switch
_inferred = False  # whether there was ever one
# Called with (node, inputs, results) for each new node while anomaly mode or saved-tensor hooks are
# on in some thread, None otherwise.
_watch: Callable[..., None] | None = None


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
        self.sequence = next(_sequence)
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
        if function is None or not keeps_values(function):
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
    closure = getattr(function, "__closure__", ())  # a callable object may hold anything
    if closure == ():
        return True
    for cell in closure or ():
        try:
            held = cell.cell_contents
        except ValueError:
            continue
        kind = type(held)
        if kind is _ndarray or kind is float or kind is complex or isinstance(held, np.generic):
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


def as_array(value: Any) -> Any:
    """NumPy gives scalars for 0-dim results; tensors hold arrays."""
    return np.asarray(value) if isinstance(value, np.generic | int | float | complex) else value


def wrap(array: Any) -> Tensor:
    """A Tensor around `array`, without copy and without history."""
    if type(array) is not _ndarray:
        array = as_array(array)
    result = _new(_Tensor)
    result.array = array
    result._requires_grad = False
    result._node = None
    result._grad = None
    result._base = None
    result._counter = INFERENCE if _inferring and mode.inference else [0]
    result._extra = None
    return result  # type: ignore[no-any-return]  # the class arrives at run time


def record(
    output: Any, backward: Backward, *inputs: Tensor, smooth: Backward | None = None
) -> Tensor:
    """A Tensor around `output` that remembers how to pass gradients to `inputs`.

    `backward(grad)` gets the gradient as an array of `output`'s shape and dtype and returns one
    array or None per input; broadcasting and casts are undone by the engine. It captures the plain
    arrays `input.array` and `output` only, and uses operators and NumPy functions, so that it can
    be run again on Tensors for second derivatives. Where that is not possible, `smooth` is a second
    form of it that is.
    """
    plain = output
    if type(output) is not _ndarray:
        output = as_array(output)
    result = _new(_Tensor)
    result.array = output
    result._grad = None
    result._base = None
    result._counter = version = INFERENCE if _inferring and mode.inference else [0]
    result._extra = None
    if mode.grad:
        for tensor in inputs:
            if (
                tensor._requires_grad if tensor._base is None else tensor._sync()
            ) and output.dtype.kind in "fcV":
                node = Node(backward, [_describe(t) for t in inputs], smooth, id(plain), version)
                if _inferred and _only_inference(node):
                    break
                result._node = node
                result._requires_grad = True
                if _watch is not None:
                    _watch(node, inputs, (result,))
                return result  # type: ignore[no-any-return]
    result._requires_grad = False
    result._node = None
    return result  # type: ignore[no-any-return]


def record_outputs(
    outputs: tuple[Any, ...], backward: Backward, *inputs: Tensor, smooth: Backward | None = None
) -> tuple[Tensor, ...]:
    """As `record` for an operation of several outputs; `backward(*grads)` gets None for an output
    nobody used.
    """
    results = tuple(wrap(o) for o in outputs)
    if mode.grad and needs_grad(*inputs):
        node = ManyNode(backward, [_describe(t) for t in inputs], smooth, len(results))
        if _inferred and _only_inference(node):
            return results
        for index, result in enumerate(results):
            if result.array.dtype.kind in "fcV":
                result._node = node.part(index)
                result._requires_grad = True
                node.results.append((id(result.array), index, result._counter, 0))
        if _watch is not None:
            _watch(node, inputs, results)
    return results


def record_view(
    output: Array, backward: Backward, input: Tensor, *, smooth: Backward | None = None
) -> Tensor:
    """As `record` for an `output` that shares memory with `input.array`."""
    result = record(output, backward, input, smooth=smooth)
    base = input._base
    result._counter = version = input._counter
    result._seen = version[0]
    if base is None:
        result._base = input
        result._made = DEFAULT if mode.grad else INFERENCE_VIEW if mode.inference else NO_GRAD
    else:
        result._base = base
        result._made = input._made or (
            DEFAULT if mode.grad else INFERENCE_VIEW if mode.inference else NO_GRAD
        )
    if result._node is not None:
        result._node.output_version, result._node.output_seen = version, version[0]
    return result


def record_views(
    outputs: tuple[Any, ...], backward: Backward, input: Tensor, *, smooth: Backward | None = None
) -> tuple[Tensor, ...]:
    """As `record_outputs` for outputs that share memory with `input.array`; PyTorch forbids to
    change those in place where it would have to be recorded.
    """
    results = record_outputs(outputs, backward, input, smooth=smooth)
    kind = MANY if mode.grad else INFERENCE_VIEW if mode.inference else NO_GRAD
    for result in results:
        result._base = input if input._base is None else input._base
        result._counter = input._counter
        result._seen = input._counter[0]
        result._made = kind
    return results


def now() -> int:
    """A place in the sequence of nodes: those recorded from here on come after it."""
    return next(_sequence)


def needs_grad(*inputs: Tensor) -> bool:
    """Whether an operation on `inputs` would be recorded now."""
    if mode.grad:
        for tensor in inputs:
            if tensor._requires_grad if tensor._base is None else tensor._sync():
                return True
    return False


def named(result: Tensor, label: str) -> Tensor:
    """`result`, of an operation made of others, with PyTorch's name for its last step."""
    if result._node is not None:
        result._node.label = label
    return result


def wants(tensor: Any) -> bool:
    """Whether a gradient flows to `tensor`, so that its operation keeps what that takes."""
    return tensor._requires_grad if tensor._base is None else tensor._sync()  # type: ignore[no-any-return]


def _describe(tensor: Any) -> tuple[Any, ...]:
    if tensor._base is not None:
        tensor._sync()
    array = tensor.array
    version = tensor._counter
    edge = None
    if tensor._requires_grad:
        edge = tensor._node
        if edge is None:
            edge = tensor
    return edge, array.shape, array.dtype, version, version[0], id(array)


def _only_inference(node: Node) -> bool:
    """Whether all inputs are inference tensors, on which PyTorch records nothing; one of them that
    would have to be kept for another's gradient is refused.
    """
    inferred = {
        entry[5]: number for number, entry in enumerate(node.inputs) if entry[3] is INFERENCE
    }
    if not inferred:
        return False
    if len(inferred) == len(node.inputs):
        return True
    wanting = {number for number, entry in enumerate(node.inputs) if entry[0] is not None}
    for _, held in captured_arrays(node.backward):
        if id(held) in inferred and wanting - {inferred[id(held)]}:
            raise AutogradError(
                node.name(),
                "Inference tensors cannot be saved for backward",
                "tensors made outside inference_mode",
                hint="clone() it to get a normal tensor, or compute under no_grad() instead",
            )
    return False


# The rest of the tape, under the names that operations know.
from tensorlib.autograd.modes import (  # noqa: E402
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from tensorlib.autograd.saved import captured_arrays, settle_behind, settle_inplace, with_cells  # noqa: E402
from tensorlib.autograd.views import (  # noqa: E402
    attach,
    bump,
    check_inplace,
    check_memory,
    check_view,
    rebase,
    sync_view,
)

__all__ = [
    "AccumulateGrad",
    "Grads",
    "Handle",
    "Node",
    "Output",
    "accumulator",
    "as_array",
    "attach",
    "bump",
    "captured_arrays",
    "check_inplace",
    "check_memory",
    "check_view",
    "enable_grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "mode",
    "named",
    "needs_grad",
    "no_grad",
    "rebase",
    "record",
    "record_outputs",
    "record_view",
    "record_views",
    "set_grad_enabled",
    "settle_behind",
    "settle_inplace",
    "sync_view",
    "wants",
    "with_cells",
    "wrap",
]
