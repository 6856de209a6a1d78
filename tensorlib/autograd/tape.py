"""The tape: what `record` notes about an operation, the modes that switch it, and the history of
in-place changes.

A node's closure holds the plain arrays its gradient needs. What each input was (edge, shape, dtype,
version) stands in
`Node.inputs`, so that the engine can undo broadcasting, cast, and notice in-place changes for all
operations alike.
"""

from __future__ import annotations

import functools
import itertools
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from tensorlib.device import Array, address
from tensorlib.errors import AutogradError, UnsupportedError
from tensorlib.ops.strides import extent, strided

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Grads = tuple[Any, ...]
Backward = Callable[..., Grads]
P = ParamSpec("P")
R = TypeVar("R")

_new = object.__new__
_ndarray = np.ndarray
_sequence = itertools.count()
_Tensor: Any = None  # tensor.py puts the class here; the tape itself knows no operation


class _Mode(threading.local):
    """Per-thread switches. NumPy's floating-point warnings are off where tensors compute:
    infinities are values here.
    """

    grad = True
    inference = False

    def __init__(self) -> None:
        np.seterr(all="ignore")


mode = _Mode()
mode.grad = True


class Input(NamedTuple):
    """What a node remembers of one input; `edge` is a Node, a leaf Tensor, or None when no gradient
    flows there.
    """

    edge: Any
    shape: tuple[int, ...]
    dtype: Any
    version: list[Any]
    seen: int
    array_id: int


class Node:
    """One recorded operation; `tensor.grad_fn`."""

    __slots__ = (
        "__weakref__",
        "backward",
        "hooks",
        "inputs",
        "label",
        "output_id",
        "output_version",
        "outputs",
        "sequence",
        "smooth",
    )

    def __init__(self, backward: Backward | None, inputs: list[Any]) -> None:
        self.backward = backward
        self.inputs = inputs
        self.sequence = next(_sequence)
        self.hooks: list[Any] | None = None
        self.label: str | None = None
        self.outputs = 1
        self.output_id: Any = 0  # of several outputs that have a second form: a list of places
        self.output_version: Any = None
        self.smooth: Backward | None = None

    def name(self) -> str:
        """PyTorch's name of this step, such as `AddBackward0`."""
        if self.label is None:
            if self.backward is None:
                return "FreedBackward0"
            self.label = _label(self.backward.__qualname__)
        return self.label

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that this one passes gradients to."""
        return tuple((_leaf_node(i[0]), 0) for i in self.inputs)

    def register_hook(self, hook: Callable[[Any], Any]) -> Handle:
        """Call `hook(grad)` with the gradient of this node's output before it is used."""
        if self.hooks is None:
            self.hooks = []
        return Handle(self.hooks, hook)

    def free(self) -> None:
        """Drop what backward needed."""
        if self.label is None and self.backward is not None:
            self.label = _label(self.backward.__qualname__)
        self.backward = self.smooth = None

    def __repr__(self) -> str:
        return f"<{self.name()}>"


class Output(Node):
    """One of several outputs of a node: hands its gradient to the shared node, which waits for all
    of them.
    """

    __slots__ = ("index", "parent")

    def __init__(self, parent: Node, index: int) -> None:
        super().__init__(None, [(parent, None, None, None, 0, 0)])
        self.parent, self.index = parent, index

    def name(self) -> str:
        """The name of the operation."""
        return self.parent.name()


class AccumulateGrad:
    """Stands for a leaf in `next_functions`."""

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable
        self.next_functions: tuple[Any, ...] = ()

    def name(self) -> str:
        """PyTorch's name of a leaf's node."""
        return "AccumulateGrad"

    def __repr__(self) -> str:
        return "<AccumulateGrad>"


class Handle:
    """Removes a hook: `handle.remove()`; also a context manager."""

    def __init__(self, hooks: list[Any], hook: Callable[..., Any]) -> None:
        self._hooks, self._hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


_LABELS = {
    "getitem": "SliceBackward0",
    "astype": "ToCopyBackward0",
    "linear": "AddmmBackward0",
    "conv2d": "ConvolutionBackward0",
    "conv1d": "ConvolutionBackward0",
    "conv3d": "ConvolutionBackward0",
    "conv_transpose1d": "ConvolutionBackward0",
    "conv_transpose2d": "ConvolutionBackward0",
    "conv_transpose3d": "ConvolutionBackward0",
    "batch_norm": "NativeBatchNormBackward0",
    "layer_norm": "NativeLayerNormBackward0",
    "group_norm": "NativeGroupNormBackward0",
    "max_pool2d": "MaxPool2DWithIndicesBackward0",
    "avg_pool2d": "AvgPool2DBackward0",
    "adaptive_avg_pool2d": "MeanBackward1",
    "cross_entropy": "NllLossBackward0",
    "matmul": "MmBackward0",
    "dot": "DotBackward0",
    "outer": "MulBackward0",
    "norm": "LinalgVectorNormBackward0",
    "vector_norm": "LinalgVectorNormBackward0",
    "flatten": "ViewBackward0",
    "reshape": "ViewBackward0",
    "embedding": "EmbeddingBackward0",
    "gelu": "GeluBackward0",
    "rsub": "RsubBackward1",
}


def _label(qualname: str) -> str:
    op = qualname.partition(".")[0]
    known = _LABELS.get(op)
    if known is not None:
        return known
    return "".join(part.capitalize() for part in op.strip("_").split("_")) + "Backward0"


def _leaf_node(edge: Any) -> Any:
    return AccumulateGrad(edge) if edge is not None and not isinstance(edge, Node) else edge


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
    result._counter = [0]
    result._extra = None
    return result  # type: ignore[no-any-return]  # the class arrives at run time


def record(
    output: Any, backward: Backward, *inputs: Tensor, smooth: Backward | None = None
) -> Tensor:
    """A Tensor around `output` that remembers how to pass gradients to `inputs`.

    `backward(grad)` gets the gradient as an array of `output`'s shape and dtype and returns one
    array or None per input;
    broadcasting and casts are undone by the engine. It captures the plain arrays `input.array` and
    `output` only, and uses
    operators and NumPy functions, so that it can be run again on Tensors for second derivatives.
    Where that is not
    possible, `smooth` is a second form of it that is.
    """
    plain = output
    if type(output) is not _ndarray:
        output = as_array(output)
    result = _new(_Tensor)
    result.array = output
    result._grad = None
    result._base = None
    result._counter = version = [0]
    result._extra = None
    if mode.grad:
        for tensor in inputs:
            if tensor._base is not None:
                tensor._sync()
            if tensor._requires_grad and output.dtype.kind in "fc":
                node = Node(backward, [_describe(t) for t in inputs])
                node.output_id = id(plain)
                node.output_version = version
                node.smooth = smooth
                result._node = node
                result._requires_grad = True
                return result  # type: ignore[no-any-return]
    result._requires_grad = False
    result._node = None
    return result  # type: ignore[no-any-return]


def record_outputs(
    outputs: tuple[Any, ...],
    backward: Backward,
    *inputs: Tensor,
    smooth: Backward | None = None,
) -> tuple[Tensor, ...]:
    """As `record` for an operation of several outputs; `backward(*grads)` gets None for an output
    nobody used.
    """
    results = tuple(wrap(o) for o in outputs)
    if mode.grad and needs_grad(*inputs):
        node = Node(backward, [_describe(t) for t in inputs])
        node.outputs, node.smooth = len(results), smooth
        places = []
        for index, result in enumerate(results):
            if result.array.dtype.kind in "fc":
                result._node = made = Output(node, index)
                result._requires_grad = True
                places.append([id(result.array), index, weakref.ref(made), result._counter])
        if smooth is not None:
            node.output_id = places
    return results


def record_view(
    output: Array, backward: Backward, input: Tensor, *, smooth: Backward | None = None
) -> Tensor:
    """As `record` for an `output` that shares memory with `input.array`."""
    result = record(output, backward, input, smooth=smooth)
    result._base = input if input._base is None else input._base
    result._counter = version = input._counter
    result._seen = version[0]
    if result._node is not None:
        result._node.output_version = version
    return result


def needs_grad(*inputs: Tensor) -> bool:
    """Whether an operation on `inputs` would be recorded now."""
    if mode.grad:
        for tensor in inputs:
            if tensor._base is not None:
                tensor._sync()
            if tensor._requires_grad:
                return True
    return False


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


# -- in-place changes ------------------------------------------------------------------------------


def check_inplace(tensor: Any, where: str) -> None:
    """Refuse an in-place change of a leaf (or a view of one) that is to receive a gradient."""
    if not mode.grad:
        return
    base = tensor._base
    if base is not None:
        tensor._sync()
        if base._requires_grad and base._node is None:
            raise AutogradError(
                where,
                f"a view of a leaf Variable that requires grad is being used in an in-place "
                f"operation, shape "
                f"{tuple(tensor.array.shape)}",
                hint="do it under tensorlib.no_grad(), or on a copy (clone())",
            )
        if type(tensor._node) is Output:
            raise AutogradError(
                where,
                f"Output {tensor._node.index} of {tensor._node.name()} is a view and is being "
                f"modified inplace; it comes from a function that returns multiple views, which "
                f"do not allow that, shape {tuple(tensor.array.shape)}",
                hint="use the operation that is not in place",
            )
    elif tensor._requires_grad and tensor._node is None:
        raise AutogradError(
            where,
            f"a leaf Variable that requires grad is being used in an in-place operation, shape "
            f"{tuple(tensor.array.shape)}",
            hint="do it under tensorlib.no_grad(), or on a copy (clone())",
        )


def bump(tensor: Any) -> None:
    """Note that the memory of `tensor` changed."""
    version = tensor._counter
    version[0] += 1
    if len(version) == 1:
        array = tensor.array
        owner = array if array.base is None else array.base
        try:
            version.append(weakref.ref(owner))
        except TypeError:  # memory owned by a buffer that takes no weak reference
            version.append(lambda: owner)


def rebase(tensor: Any, backward: Backward, inputs: list[Any], label: str) -> None:
    """Give `tensor`, whose memory was just changed, the history (backward, inputs); a view passes
    it on to its base.
    """
    node = Node(backward, inputs)
    node.label = label
    array, base = tensor.array, tensor._base
    if base is None:
        tensor._node, tensor._requires_grad = node, True
        return
    shape, dtype, version = array.shape, array.dtype, tensor._counter
    written = (node, shape, dtype, version, version[0], 0)
    place = _placement(array, base.array)
    before = _describe(base)
    form = _form(base.array)

    def smooth(grad: Any) -> Grads:
        count = grad.array.size
        places = place(_spread(form, np.arange(count).reshape(form[0])))
        kept = np.ones(count, bool)
        kept[places.reshape(-1)] = False
        return grad * kept.reshape(form[0]), grad.reshape(-1)[places]

    def copy_slices(grad: Any) -> Grads:
        flat = _spread(form, grad)
        region = place(flat)
        inner = region.copy()
        region[...] = 0
        return _seen_in(form, flat), inner

    new = Node(copy_slices, [before, written])
    new.label, new.smooth = "CopySlices", smooth
    base._node, base._requires_grad = new, True
    tensor._seen = -1
    tensor._sync()


def _form(array: Any) -> tuple[Any, Any]:
    """Shape and strides in elements."""
    return array.shape, tuple(s // array.itemsize for s in array.strides)


def _seen_in(form: tuple[Any, Any], flat: Any) -> Any:
    """Memory seen in a form."""
    return strided(flat, form[0], tuple(s * flat.itemsize for s in form[1]))


def _spread(form: tuple[Any, Any], values: Any) -> Any:
    """Memory (one dimension) in which `values` lie in a form, as the base's do."""
    flat = np.zeros_like(values, shape=(extent(*form) + 1 if values.size else 0,))
    _seen_in(form, flat)[...] = values
    return flat


def _placement(array: Any, base: Any) -> Callable[[Any], Any]:
    """A function that finds in memory spread like that of `base` the part that `array` is of it."""
    offset = address(array) - address(base) if array.size else 0
    shape, strides = array.shape, array.strides
    kind, item = array.dtype, base.itemsize
    same = kind == base.dtype

    def place(flat: Any) -> Any:
        if same:  # in elements, for indices of any type
            size = flat.itemsize
            steps = tuple(s // item * size for s in strides)
            return strided(flat, shape, steps, offset // item * size)
        if flat.dtype.kind == "i":
            raise UnsupportedError(
                "create_graph",
                "second derivatives do not go through a change of parts of complex "
                "numbers in place",
            )
        return strided(flat, shape, strides, offset, kind)

    return place


def sync_view(view: Any) -> None:
    """Bring a view's history up to date after its memory was changed through another tensor."""
    base, version = view._base, view._counter
    if view._seen == version[0]:
        return
    view._seen = version[0]
    if not base._requires_grad:
        return
    if base._node is None and view._node is not None:
        return  # a leaf changed under no_grad: the old history still holds
    place, form = _placement(view.array, base.array), _form(base.array)
    kind = base.array.dtype

    def as_strided(grad: Any) -> Grads:
        flat = _spread(form, np.zeros_like(grad, kind, shape=form[0]))
        place(flat)[...] = grad
        return (_seen_in(form, flat),)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.shape import added_at  # the tape needs operations only here

        flat = np.arange(base_size).reshape(form[0])
        return (added_at(grad, place(_spread(form, flat)), form[0]),)

    base_size = base.array.size
    view._node = Node(as_strided, [_describe(base)])
    view._node.smooth = smooth
    view._node.label = "AsStridedBackward0"
    view._node.output_version = version
    view._requires_grad = True


def captured_arrays(function: Any) -> Iterator[tuple[str, Any]]:
    """The arrays (and array-like scalars) a closure holds, by name; looks into tuples, lists and
    inner functions.
    """
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held = cell.cell_contents
        except ValueError:  # the name is bound later, in the branch not taken
            continue
        yield from _arrays_in(name, held)


def _arrays_in(name: str, held: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(held, tuple | list):
        for item in held:
            yield from _arrays_in(name, item)
    elif isinstance(held, types.FunctionType):
        if held.__closure__:
            yield from captured_arrays(held)
    elif isinstance(held, np.generic) or (hasattr(held, "dtype") and hasattr(held, "strides")):
        yield name, held


def with_cells(function: Any, replace: Callable[[str, Any], Any]) -> Any:
    """The function with each captured value `v` under `name` replaced by `replace(name, v)`."""
    cells = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cells.append(types.CellType(replace(name, cell.cell_contents)))
        except ValueError:
            cells.append(cell)
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells),
    )
    made.__qualname__ = function.__qualname__
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def keep_old_values(node: Any, array: Any) -> None:
    """Before `array` is overwritten: let the closures of `node` keep a copy where they hold it."""
    forms = [f for f in (node.backward, node.smooth) if getattr(f, "__closure__", None)]
    if not any(_shares(held, array) for form in forms for _, held in captured_arrays(form)):
        return
    copies: dict[int, Any] = {}

    def fresh(name: str, held: Any) -> Any:
        if _shares(held, array):
            return copies.setdefault(id(held), held.copy())
        if type(held) in (tuple, list):
            return type(held)(fresh(name, item) for item in held)
        if isinstance(held, types.FunctionType) and held.__closure__:
            return with_cells(held, fresh)
        return held

    node.backward = with_cells(node.backward, fresh)
    if node.smooth is not None:
        node.smooth = with_cells(node.smooth, fresh)
    renamed = {old: id(copy) for old, copy in copies.items()}
    node.inputs = [(*entry[:5], renamed.get(entry[5], entry[5])) for entry in node.inputs]


def _shares(held: Any, array: Any) -> bool:
    return hasattr(held, "__array_function__") and bool(np.may_share_memory(held, array))


# -- modes -----------------------------------------------------------------------------------------


class _Switch:
    """A grad mode as context manager and decorator."""

    _grad = True
    _inference: bool | None = None

    def __init__(self) -> None:
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((mode.grad, mode.inference))
        mode.grad = self._grad
        if self._inference is not None:
            mode.inference = self._inference

    def __exit__(self, *_: object) -> None:
        mode.grad, mode.inference = self._before.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        import inspect

        if inspect.isgeneratorfunction(function):
            raise AutogradError(
                type(self).__name__,
                "a generator cannot be decorated",
                hint="use `with` inside the generator",
            )

        @functools.wraps(function)
        def decorated(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.clone():
                return function(*args, **kwargs)

        return decorated

    def clone(self) -> _Switch:
        """A fresh switch of the same kind."""
        return type(self)()


class no_grad(_Switch):
    """Within it nothing is recorded: `with no_grad(): ...` or `@no_grad()`."""

    _grad = False

    def __new__(cls, function: Any = None) -> Any:
        if function is not None:
            return cls()(function)
        return super().__new__(cls)

    def __init__(self, function: Any = None) -> None:
        super().__init__()


class enable_grad(no_grad):
    """Within it operations are recorded, also inside `no_grad`."""

    _grad = True


class inference_mode(_Switch):
    """As `no_grad`; PyTorch's name for code that will never need a gradient."""

    def __new__(cls, mode: Any = True) -> Any:
        if callable(mode):
            return cls()(mode)
        return super().__new__(cls)

    def __init__(self, mode: Any = True) -> None:
        super().__init__()
        self._grad = not mode and is_grad_enabled()
        self._inference = bool(mode)

    def clone(self) -> _Switch:
        """A fresh switch of the same kind."""
        return type(self)(self._inference)


class set_grad_enabled(_Switch):
    """Switch recording on or off, at once and, as a context manager, until its end."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self._grad = bool(mode)
        self._outer = globals()["mode"].grad
        globals()["mode"].grad = self._grad

    def __enter__(self) -> None:
        mode.grad = self._grad
        self._before.append((self._outer, mode.inference))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        mode.grad = self._outer
        return super().__call__(function)

    def clone(self) -> _Switch:
        """A fresh switch of the same kind."""
        return type(self)(self._grad)


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return mode.grad


def is_inference_mode_enabled() -> bool:
    """Whether `inference_mode` is on in this thread."""
    return mode.inference
