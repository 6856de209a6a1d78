"""The tape: what `record` notes about an operation.

A node's closure holds the plain arrays its gradient needs. What each input was (edge, shape,
dtype, version) stands in `Node.inputs`, so that the engine can undo broadcasting, cast, and notice
in-place changes for all operations alike.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tensorlib.autograd.nodes import (
    AccumulateGrad,
    Handle,
    ManyNode,
    Node,
    Output,
    accumulator,
    sequence,
)
from tensorlib.device import Array
from tensorlib.errors import AutogradError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Grads = tuple[Any, ...]
Backward = Callable[..., Grads]
F = TypeVar("F", bound=Callable[..., Any])

_new = object.__new__
_ndarray = np.ndarray
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
    return next(sequence)


def needs_grad(*inputs: Tensor) -> bool:
    """Whether an operation on `inputs` would be recorded now."""
    if mode.grad:
        for tensor in inputs:
            if tensor._requires_grad if tensor._base is None else tensor._sync():
                return True
    return False


def placed(array: Any, edge: Any) -> Tensor:
    """A Tensor around `array` whose gradient flows to `edge`, a node or a leaf (None: nowhere)."""
    if edge is None:
        return wrap(array)
    if not isinstance(edge, Node):
        if edge.array is array:
            return edge  # type: ignore[no-any-return]
        edge = Node(_identity, [(edge, array.shape, array.dtype, None, 0, 0)], _identity)
    made = wrap(array)
    made._node, made._requires_grad = edge, True
    return made


def _identity(grad: Any) -> Grads:
    return (grad,)


def named(result: Tensor, label: str) -> Tensor:
    """`result`, of an operation made of others, with PyTorch's name for its last step."""
    if result._node is not None:
        result._node.label = label
    return result


def called(label: str | Callable[..., str]) -> Callable[[F], F]:
    """Decorate an operation made of others: its results show PyTorch's name for the whole of it,
    which may depend on the arguments.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not mode.grad:
                return function(*args, **kwargs)
            begin = next(sequence)
            found = function(*args, **kwargs)
            for one in found if isinstance(found, tuple) else (found,):
                node = getattr(one, "_node", None)
                if type(node) is Output:
                    node = node.parent
                if node is not None and node.sequence > begin:
                    node.label = label if isinstance(label, str) else label(*args, **kwargs)
            return found

        return wrapper  # type: ignore[return-value]  # the same signature

    return decorate


def wants(tensor: Any) -> bool:
    """Whether a gradient flows to `tensor`, so that its operation keeps what that takes."""
    if not mode.grad:
        return False
    if tensor._base is not None:
        tensor._sync()
    return tensor._requires_grad  # type: ignore[no-any-return]


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
from tensorlib.autograd.grad_mode import (  # noqa: E402
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
    "ManyNode",
    "Node",
    "Output",
    "accumulator",
    "as_array",
    "attach",
    "bump",
    "called",
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
    "placed",
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
