"""Operations with a gradient written by the user: `class Exp(Function): forward(ctx, x),
backward(ctx, grad)`.

The context is the node of the graph itself, as in PyTorch: `y.grad_fn` is the `ctx` of forward.
"""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib.autograd import saved, tape, walk
from tensorlib.autograd.nodes import Handle, ManyNode, Node
from tensorlib.errors import ArgumentError, AutogradError

__all__ = ["Function", "FunctionCtx", "InplaceFunction", "once_differentiable"]


class FunctionCtx:
    """What `forward` leaves for `backward`: `save_for_backward`, and any attribute.

    It is what `grad_fn` shows; the node itself is apart, so that its names are the user's to take.
    """

    _forward_cls: Any = None
    _node: Any = staticmethod(lambda: None)

    def __init__(self) -> None:
        self._to_save: tuple[Any, ...] = ()
        self._saved: list[Any] | None = []
        self._constant: tuple[Any, ...] = ()
        self._dirty: tuple[Any, ...] = ()
        self._materialize = True
        self.needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep `tensors` for backward, with the check that nobody changes them in place."""
        self._to_save = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Nothing: there is no forward-mode differentiation."""

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Outputs that get no gradient."""
        self._constant = tensors

    def mark_dirty(self, *tensors: Any) -> None:
        """Inputs that `forward` changed in place."""
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (True) or None for outputs that nobody used."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept."""
        if self._saved is None:
            raise saved.freed(self)
        return tuple(None if s is None else s.open(self._node()) for s in self._saved)

    def name(self) -> str:
        """The class's name and `Backward`."""
        return type(self).__name__

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that this one passes gradients to."""
        node = self._node()
        return () if node is None else node.next_functions

    @property
    def metadata(self) -> dict[str, Any]:
        """Free for notes."""
        node = self._node()
        return {} if node is None else node.metadata

    def _sequence_nr(self) -> int:
        return self._node().sequence  # type: ignore[no-any-return]

    def register_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(grad_inputs, grad_outputs)` after this step ran."""
        return self._node().register_hook(hook)  # type: ignore[no-any-return]

    def register_prehook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(grad_outputs)` before this step runs."""
        return self._node().register_prehook(hook)  # type: ignore[no-any-return]


class FunctionNode(ManyNode):
    """The step of a custom Function."""

    __slots__ = ("arity", "ctx", "forms", "places")

    def __init__(self, ctx: FunctionCtx, inputs: list[Any], places: list[int], arity: int) -> None:
        super().__init__(None, inputs, None, 0)
        self.ctx, self.places, self.arity = ctx, places, arity
        self.label = ctx.name()
        self.forms: list[Any] = []
        ctx._node = weakref.ref(self)

    @property
    def public(self) -> FunctionCtx:
        """What `grad_fn` shows."""
        return self.ctx

    def part(self, index: int) -> Node:
        """The place of one output: the node itself where there is no other."""
        return self if self.outputs == 1 else super().part(index)

    def differentiable(self, index: int) -> bool:
        """Whether an output gets a gradient."""
        form = self.forms[index]
        return form is not None and form[2]

    def keep(self, outputs: tuple[Any, ...]) -> None:
        """Take over what `save_for_backward` was given."""
        ctx = self.ctx
        for place, tensor in enumerate(ctx._to_save):
            if tensor is not None and not hasattr(tensor, "array"):
                raise ArgumentError(
                    f"{self.name()}.save_for_backward",
                    "save_for_backward can only save variables, but argument"
                    f" {place} is of type {type(tensor).__name__}",
                    hint="keep other values as attributes of ctx",
                )
        numbers = {id(o): i for i, o in enumerate(outputs)}
        ctx._saved = [
            None if t is None else _Saved(t, numbers.get(id(t), -1)) for t in ctx._to_save
        ]
        ctx._to_save = ()

    def free(self) -> None:
        """Drop what was saved; a step that saved nothing can run again."""
        if self.ctx._saved:
            self.ctx._saved = None

    def run(self, gradient: Any, create_graph: bool) -> list[Any]:
        """The gradients of the tensor inputs, from arrays or (create_graph) from Tensors."""
        given = gradient if isinstance(gradient, list) else [gradient]
        grads: list[Any] = []
        for one, form in zip(given, self.forms, strict=True):
            if one is None and form is not None and self.ctx._materialize:
                one = np.zeros(*form[:2])
            grads.append(one if one is None or hasattr(one, "array") else tape.wrap(one))
        found = self._user_function()(self.ctx, *grads)
        values = list(found) if isinstance(found, tuple) else [found]
        if len(values) > self.arity and all(v is None for v in values[self.arity :]):
            del values[self.arity :]
        if len(values) != self.arity:
            raise AutogradError(
                self.name(),
                f"function {self.name()} returned an incorrect number of gradients (expected"
                f" {self.arity}, got {len(values)})",
                "one for each argument of forward",
            )
        for place, value in enumerate(values):
            if place not in self.places and value is not None:
                raise AutogradError(
                    self.name(),
                    f"function {self.name()} returned a gradient different than None at position"
                    f" {place + 1}, but the corresponding forward input was not a Variable",
                )
        return [
            self._fitted(number, values[place], create_graph)
            for number, place in enumerate(self.places)
        ]

    def _user_function(self) -> Any:
        cls = self.ctx._forward_cls
        if cls.vjp is Function.vjp:
            return cls.backward
        if cls.backward is not Function.backward:
            raise AutogradError(
                cls.__name__,
                "Implementing both 'backward' and 'vjp' for a custom Function is not allowed",
                "one of them",
            )
        return cls.vjp

    def _fitted(self, number: int, value: Any, create_graph: bool) -> Any:
        """A gradient in its input's shape and dtype."""
        if value is None:
            return None
        if not hasattr(value, "array"):
            raise AutogradError(
                self.name(), f"expected Variable or None (got {type(value).__name__})"
            )
        entry = self.inputs[number]
        if entry[0] is None:
            return None
        shape = entry[1]
        if value.array.shape != shape:
            try:
                fits = np.broadcast_shapes(value.array.shape, shape) == value.array.shape
            except ValueError:
                fits = False
            if not fits:
                raise AutogradError(
                    self.name(),
                    f"Function {self.name()} returned an invalid gradient at index {number} - got"
                    f" {list(value.array.shape)} but expected shape compatible with {list(shape)}",
                )
        if create_graph:
            from tensorlib.autograd import double  # needs the operations, which need the tape

            return double.fit(value, entry)
        return walk.fit(value.array, shape, entry[2])


class _Saved:
    """A tensor kept for backward. An output is kept without its place in the graph, which is the
    node that holds this.
    """

    def __init__(self, tensor: Any, number: int) -> None:
        self.number = number
        self.edge = None
        if tape.wants(tensor) and number < 0:
            self.edge = tensor if tensor._node is None else tensor._node
        self.counter, self.version = tensor._counter, tensor._counter[0]
        if number >= 0:
            kept = tape.wrap(tensor.array)
            kept._counter = tensor._counter
            tensor = kept
        self.held = saved.pack_tensor(tensor)

    def open(self, node: Any) -> Any:
        """The tensor, an output with its place in the graph again."""
        if isinstance(self.held, saved.Box):
            own = self.number >= 0 and node is not None and node.differentiable(self.number)
            return tape.placed(self.held.open(), node.part(self.number) if own else self.edge)
        tensor = self.held
        own = self.number >= 0 and node is not None
        if self.counter[0] != self.version:
            edge = node if own else tensor._node
            raise saved.changed_in_place(
                node.name() if node is not None else "saved_tensors",
                tensor.array,
                self.counter[0],
                self.version,
                edge,
            )
        if not own or not node.differentiable(self.number):
            return tensor
        made = tape.wrap(tensor.array)
        made._counter, made._requires_grad = self.counter, True
        made._node = node.part(self.number)
        return made


class _Meta(type):
    """Gives every Function the class of its contexts, named after it."""

    def __init__(cls, name: str, bases: Any, members: Any) -> None:
        super().__init__(name, bases, members)
        cls._context = type(f"{name}Backward", (FunctionCtx,), {"_forward_cls": cls})


class Function(metaclass=_Meta):
    """Base class; call it with `MyFunction.apply(...)`.

    Either `forward(ctx, *args)`, or `forward(*args)` with `setup_context(ctx, inputs, output)`;
    and `backward(ctx, *grads)` (also called `vjp`) with one gradient or None for each argument.
    """

    generate_vmap_rule = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f"{type(self)} should not be instantiated. Methods on autograd functions are all"
            " static, so you should invoke them on the class itself.",
            DeprecationWarning,
            stacklevel=2,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AutogradError(
            type(self).__name__,
            "Legacy autograd function with non-static forward method is deprecated",
            hint="make forward a staticmethod and call apply() on the class",
        )

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The value; receives `ctx` first unless `setup_context` is defined."""
        raise NotImplementedError(
            "You must implement the forward function for custom autograd.Function."
            " Hint: define a staticmethod forward(ctx, ...)."
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Fill `ctx` after a forward that does not take it."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One gradient (Tensor or None) for each argument of forward."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom"
            " autograd.Function to use it with backward mode AD."
            " Hint: define a staticmethod backward(ctx, grad)."
        )

    vjp = backward

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward without recording, and record backward."""
        separate = cls.setup_context is not Function.setup_context
        if separate or kwargs:
            args = _positional(cls.forward, args, kwargs, separate)
        if not isinstance(inspect.getattr_static(cls, "forward"), staticmethod):
            raise AutogradError(
                cls.__name__,
                "Legacy autograd function with non-static forward method is deprecated",
                hint="make forward a staticmethod",
            )
        ctx = cls._context()
        places = [i for i, a in enumerate(args) if hasattr(a, "array")]
        tensors = [args[i] for i in places]
        ctx.needs_input_grad = tuple(hasattr(a, "array") and bool(a.requires_grad) for a in args)
        recording = tape.needs_grad(*tensors)
        described = [tape._describe(t) for t in tensors]
        with tape.no_grad():
            if separate:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args)
        outputs = result if isinstance(result, tuple) else (result,)
        for dirty in ctx._dirty:
            _check_dirty(cls, dirty, outputs, tensors, recording)
        if not recording:
            ctx._to_save = ()
            finished = tuple(_plain(o, ctx, tensors) for o in outputs)
        else:
            node = FunctionNode(ctx, described, places, len(args))
            node.outputs, node.forms = len(outputs), [_form(o, ctx) for o in outputs]
            node.keep(outputs)
            finished = tuple(_finish(o, i, node, tensors) for i, o in enumerate(outputs))
            if tape._watch is not None:
                tape._watch(node, tensors, finished)
        return finished if isinstance(result, tuple) else finished[0]


def _positional(forward: Any, args: Any, kwargs: Any, separate: bool) -> tuple[Any, ...]:
    """Arguments in forward's order, with defaults where forward does not get the context."""
    lead = () if separate else (None,)
    bound = inspect.signature(forward).bind(*lead, *args, **kwargs)
    if separate or bound.kwargs:
        bound.apply_defaults()
    if bound.kwargs:
        raise ArgumentError(
            "Function.apply", f"keyword-only arguments {sorted(bound.kwargs)}", "positional ones"
        )
    return bound.args[len(lead) :]


def _check_dirty(cls: Any, dirty: Any, outputs: Any, tensors: Any, recording: bool) -> None:
    if not any(dirty is o for o in outputs):
        raise AutogradError(
            cls.__name__,
            "Some elements marked as dirty during the forward method were not returned as output."
            " The inputs that are modified inplace must all be outputs of the Function",
        )
    if recording and any(dirty is t for t in tensors):
        tape.check_inplace(dirty, cls.__name__)
        tape.check_view(dirty, cls.__name__)
    tape.bump(dirty)


def _form(output: Any, ctx: FunctionCtx) -> Any:
    """Shape, dtype, and whether it gets a gradient, of an output that is a tensor."""
    if not hasattr(output, "array"):
        return None
    constant = output.array.dtype.kind not in "fcV" or any(output is c for c in ctx._constant)
    return output.array.shape, output.array.dtype, not constant


def _plain(output: Any, ctx: FunctionCtx, tensors: list[Any]) -> Any:
    """An output; an input that was returned as it came is a view, so that it can have a history of
    its own.
    """
    if not any(output is t for t in tensors) or any(output is d for d in ctx._dirty):
        return output
    view = tape.wrap(output.array)
    view._base = output if output._base is None else output._base
    view._counter, view._seen = output._counter, output._counter[0]
    view._made = tape.CUSTOM
    return view


def _finish(output: Any, index: int, node: FunctionNode, tensors: list[Any]) -> Any:
    """An output with its place in the graph."""
    if not hasattr(output, "array"):
        return output
    output = _plain(output, node.ctx, tensors)
    if not node.differentiable(index):
        return output
    if any(output is d for d in node.ctx._dirty) and output._base is not None:
        tape.attach(output, node.part(index))
        return output
    if output._base is not None:
        output._made = tape.CUSTOM
    output._node, output._requires_grad = node.part(index), True
    return output


class InplaceFunction(Function):
    """PyTorch's older base class for functions with an `inplace` flag."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace


def once_differentiable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a backward that is not differentiable itself: its results raise an error when a
    second derivative is asked of them.
    """

    @functools.wraps(function)
    def wrapper(ctx: Any, *args: Any) -> Any:
        with tape.no_grad():
            result = function(ctx, *args)
        if not tape.mode.grad or not any(getattr(a, "requires_grad", False) for a in args):
            return result
        values = result if isinstance(result, tuple) else (result,)
        wants = [a for a in args if getattr(a, "requires_grad", False)]

        def refuse(*_: Any) -> Any:
            raise AutogradError(
                ctx.name(),
                "trying to differentiate twice a function that was marked with"
                " @once_differentiable",
            )

        def refused(value: Any) -> Any:
            if not hasattr(value, "array") or value.array.dtype.kind not in "fcV":
                return value
            return tape.record(value.array, refuse, *wants, smooth=refuse)

        finished = tuple(refused(v) for v in values)
        return finished if isinstance(result, tuple) else finished[0]

    return wrapper
