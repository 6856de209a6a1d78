"""Record what a model does: every operation, its arguments, results and changes in place.

Operations are plain functions of the modules in `ops` and a few beside them. While a trace runs,
Python tells this thread about each call (`sys.setprofile`); a call into one of those modules from
outside them is an operation, whatever name or method it was called by. Nothing is patched but the
slot `Tensor.array`, whose readers outside the library are noticed: what leaves a tensor as a number
or an array may decide what the model does next.
"""

from __future__ import annotations

import dis
import inspect
import sys
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorlib
from tensorlib.autograd import tape
from tensorlib.inference.templates import Pack, Ref, encode, leaves
from tensorlib.tensor import Tensor

__all__ = ["Call", "Trace", "Untraceable", "Value", "trace"]

_HOME = str(Path(tensorlib.__file__).parent) + "/"
_OPS = _HOME + "ops/"
_BESIDE = {
    _HOME + name + ".py"
    for name in (
        "creation",
        "spaced",
        "typed",
        "masked",
        "interop",
        "utils/dlpack",
        "fft",
        "special",
        "inference/pixels",
    )
}
_INSIDE = tuple(
    _HOME + name for name in ("ops/", "nn/", "autograd/", "inference/", "utils/", "tensor.py")
)
_WRAPPERS = {_OPS + "names.py", _OPS + "types.py"}
_ASKING = {_OPS + "queries.py", _OPS + "strides.py", _HOME + "typed.py"}  # about form, not values
_RANDOM = {_OPS + name for name in ("draws.py", "sampling.py")}
_MOVING = {_OPS + "shape/memory.py"}  # set_ and resize_: another memory behind the same tensor
_CUSTOM = _HOME + "autograd/function.py"
_READERS = {_HOME + "nn/transformer.py", _HOME + "nn/normalization.py"}
_FORM_ONLY = {"length"}
_FILLED = {"zeros", "ones", "empty", "zeros_like", "ones_like", "empty_like"}
_FORM_OF = {"canonical_mask": ("other", "like")}  # parameters whose form alone matters
_MAKERS = {_HOME + "creation.py", _HOME + "typed.py"}
_RETURNS = {code for name, code in dis.opmap.items() if name.startswith("RETURN")}
_COMPREHENSIONS = {"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"}
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

_one = threading.RLock()  # one trace at a time: the slot `array` belongs to all threads


class Untraceable(Exception):
    """The model does something that a trace cannot hold; says what and where."""


@dataclass(eq=False)
class Value:
    """A tensor of the trace. `origin` is "input", "state" (a parameter, buffer or another tensor
    that lives outside the call) or "made".
    """

    index: int
    shape: tuple[Any, ...]
    dtype: Any
    origin: str
    memory: int  # values of one number share memory
    varies: bool  # whether it depends on the inputs
    tensor: Any = None  # of a state
    name: str = ""


@dataclass(eq=False)
class Call:
    """One operation."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]  # templates by parameter
    star: str | None  # the parameters *args and **kwargs
    named: str | None
    places: tuple[str, ...]  # parameters given by position
    file: str
    where: str  # the user's line
    module: str  # dotted name of the innermost module
    result: Any = None
    changed: tuple[int, ...] = ()  # values whose memory it changed
    random: bool = False

    def inputs(self) -> list[int]:
        """Numbers of all tensors among the arguments."""
        return [
            leaf.index
            for template in self.arguments.values()
            for leaf in leaves(template)
            if type(leaf) is Ref
        ]

    def outputs(self) -> list[int]:
        """Numbers of all tensors in the result."""
        return [leaf.index for leaf in leaves(self.result) if type(leaf) is Ref]


@dataclass
class Trace:
    """What one run of a model did."""

    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: Any = None  # template of the arguments
    result: Any = None


class _Recorder:
    """Follows the events of one run."""

    def __init__(self, model: Any) -> None:
        self.trace = Trace()
        self.numbers: dict[int, tuple[Any, int]] = {}  # id of a tensor: weak reference, number
        self.memories: dict[int, tuple[Any, int]] = {}  # id of a counter: the counter, number
        self.modules: dict[int, str] = {}
        self.known: dict[int, str] = {}  # id of a parameter or buffer: name
        if hasattr(model, "named_modules"):
            self.modules = {id(m): name for name, m in model.named_modules()}
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                self.known[id(tensor)] = name
        self.frame: Any = None  # of the operation that runs
        self.call: Any = None
        self.before: list[tuple[Any, Any]] = []
        self.problem: Untraceable | None = None

    # -- values ------------------------------------------------------------------------------------

    def number(self, tensor: Any, origin: str = "state", varies: bool = False) -> int:
        """The number of a tensor; a new one for a tensor not seen yet."""
        held = self.numbers.get(id(tensor))
        if held is not None and held[0]() is tensor:
            return held[1]
        counter = tensor._counter
        memory = len(self.trace.values)
        if counter is not tape.INFERENCE:
            memory = self.memories.setdefault(id(counter), (counter, memory))[1]
        value = Value(
            len(self.trace.values), tuple(tensor.array.shape), tensor.array.dtype, origin, memory,
            varies,
        )  # fmt: skip
        if origin == "state":
            value.tensor, value.name = tensor, self.known.get(id(tensor), "")
        self.trace.values.append(value)
        self.numbers[id(tensor)] = weakref.ref(tensor), value.index
        return value.index

    def varies(self, call: Call) -> bool:
        if call.file in _MAKERS and call.name in _FILLED:
            return False  # takes a tensor's form alone
        without = _FORM_OF.get(call.name, ())
        parts = (value for key, value in call.arguments.items() if key not in without)
        used = (leaf.index for part in parts for leaf in leaves(part) if type(leaf) is Ref)
        return any(self.trace.values[i].varies for i in used)

    def refuse(self, what: str, where: str) -> None:
        """Keep the first problem; the run goes on to its end."""
        if self.problem is None:
            self.problem = Untraceable(f"{what} at {where}")

    # -- events ------------------------------------------------------------------------------------

    def event(self, frame: Any, kind: str, arg: Any) -> None:
        """What `sys.setprofile` calls."""
        if self.frame is not None:
            if kind == "return" and frame is self.frame:
                self.leave(frame, arg)
        elif kind == "call":
            file = frame.f_code.co_filename
            if (file.startswith(_OPS) or file in _BESIDE) and not _transparent(frame, file):
                self.enter(frame, file)
            elif file == _CUSTOM and frame.f_code.co_name == "apply":
                self.refuse("a custom autograd Function", self.where(frame)[0])

    def enter(self, frame: Any, file: str) -> None:
        code, scope = frame.f_code, frame.f_locals
        count = code.co_argcount
        names = code.co_varnames
        total = count + code.co_kwonlyargcount
        star = named = None
        if code.co_flags & inspect.CO_VARARGS:
            star = names[total]
            total += 1
        if code.co_flags & inspect.CO_VARKEYWORDS:
            named = names[total]
            total += 1
        where, module = self.where(frame)
        self.frame = frame
        self.call = Call(
            _name(code, scope), _rebuilt(frame), {}, star, named, names[:count], file, where, module
        )
        self.before = []
        given = {name: scope[name] for name in names[:total]}
        for value in given.values():
            self.watch(value)
        self.call.arguments = {key: encode(value, self.number) for key, value in given.items()}
        self.call.random = file in _RANDOM

    def watch(self, value: Any) -> None:
        """Note the version of each tensor among the arguments."""
        if hasattr(value, "_counter"):
            self.before.append((value, value._counter[0]))
        elif isinstance(value, tuple | list):
            for item in value:
                self.watch(item)
        elif isinstance(value, dict):
            for item in value.values():
                self.watch(item)

    def leave(self, frame: Any, result: Any) -> None:
        call, self.frame, self.call = self.call, None, None
        code = frame.f_code
        if result is None and code.co_code[frame.f_lasti] not in _RETURNS:
            return  # it raised; whoever caught that goes on
        changed = [t for t, version in self.before if t._counter[0] != version]
        if call.name.endswith("_") and self.before and not changed:
            first = self.before[0][0]
            if first._counter is tape.INFERENCE:
                changed = [first]
        self.before = []
        call.changed = tuple({self.number(t) for t in changed})
        varies = self.varies(call)
        call.result = encode(result, lambda t: self.number(t, "made", varies))
        if varies:
            for i in call.changed:
                self.spread(i)
        if call.file in _MOVING and call.changed:
            self.refuse(f"{call.name} gives a tensor other memory", call.where)
        if call.random and (call.outputs() or call.changed):
            self.refuse(f"{call.name} draws random numbers", call.where)
        self.check(call, varies)
        if call.outputs() or call.changed:
            self.trace.calls.append(call)

    def spread(self, index: int) -> None:
        """All that shares memory with a value depends on the inputs from now on."""
        memory = self.trace.values[index].memory
        for value in self.trace.values:
            if value.memory == memory:
                value.varies = True

    def check(self, call: Call, varies: bool) -> None:
        """Refuse values that leave the graph as numbers or arrays."""
        if not varies or call.file in _ASKING or call.name in _FORM_ONLY:
            return
        plain = [x for x in leaves(call.result) if type(x) is not Ref and x is not None]
        if plain or (call.result is not None and call.result == Pack(list, ())):
            what = "bool()" if call.name == "truth" else f"{call.name}()"
            self.refuse(f"{what} takes a value out of a tensor", call.where)

    def read(self, tensor: Any, frame: Any) -> None:
        """`tensor.array` was read or set outside the library."""
        held = self.numbers.get(id(tensor))
        if held is not None and held[0]() is tensor and self.trace.values[held[1]].varies:
            self.refuse(".array of a tensor is read", self.where(frame)[0])

    def where(self, frame: Any) -> tuple[str, str]:
        """The user's line and the module for a frame."""
        line = module = ""
        while frame is not None and not (line and module):
            code = frame.f_code
            if not line and not code.co_filename.startswith(_INSIDE):
                line = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_qualname}"
            if not module and code.co_varnames[:1] == ("self",):
                module = self.modules.get(id(frame.f_locals.get("self")), "")
            frame = frame.f_back
        return line, module


def _transparent(frame: Any, file: str) -> bool:
    """Whether a function of the library is a wrapper or made of operations, which are recorded in
    its place.
    """
    code = frame.f_code
    if code.co_flags & _GENERATOR or file in _WRAPPERS or code.co_name in _COMPREHENSIONS:
        return True
    if file == _OPS + "out.py":
        return code.co_name == "with_out" and frame.f_locals.get("out") is None
    if file == _OPS + "attention.py":
        if code.co_name == "multi_head_attention_forward":
            given = frame.f_locals  # masks are read as arrays inside
            masked = given["key_padding_mask"] is not None or given["attn_mask"] is not None
            return not (bool(given["add_zero_attn"]) or masked)
        return str(code.co_name).startswith("_")
    return file == _OPS + "exporting.py" and code.co_name == "iterator"


def _name(code: Any, scope: dict[str, Any]) -> str:
    """PyTorch's name of the operation."""
    if "<locals>" in code.co_qualname:
        inner = scope.get("operation", scope.get("function"))
        if code.co_name == "twin" and inner is not None:
            return f"{inner.__name__}_"
        if inner is not None:
            return str(inner.__name__)
    return str(code.co_name)


def _rebuilt(frame: Any) -> Callable[..., Any]:
    """A function that runs the code of `frame` on other arguments."""
    code = frame.f_code
    found = frame.f_globals.get(code.co_name)
    if getattr(found, "__code__", None) is code:
        return found  # type: ignore[no-any-return]
    closure = tuple(types.CellType(frame.f_locals[name]) for name in code.co_freevars)
    return types.FunctionType(code, frame.f_globals, code.co_name, None, closure)


class _Watched:
    """Stands for the slot `Tensor.array` while a trace runs in `thread`."""

    def __init__(self, slot: Any, recorder: _Recorder) -> None:
        self.slot, self.recorder = slot, recorder
        self.thread = threading.get_ident()

    def __get__(self, tensor: Any, kind: Any = None) -> Any:
        if tensor is None:
            return self
        if threading.get_ident() == self.thread:
            self.look(tensor, sys._getframe(1))
        return self.slot.__get__(tensor, kind)

    def __set__(self, tensor: Any, array: Any) -> None:
        self.slot.__set__(tensor, array)

    def look(self, tensor: Any, frame: Any) -> None:
        file = frame.f_code.co_filename
        if not file.startswith(_HOME) or file in _READERS:
            self.recorder.read(tensor, frame)


def trace(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Trace, Any]:
    """Run `model(*args, **kwargs)` without gradients and record it; also returns the result.

    Raises Untraceable where values leave the graph.
    """
    recorder = _Recorder(model)
    found = recorder.trace
    found.inputs = encode((args, kwargs), lambda t: recorder.number(t, "input", True))
    with _one, tape.no_grad():
        slot, profile = Tensor.__dict__["array"], sys.getprofile()
        Tensor.array = _Watched(slot, recorder)
        sys.setprofile(recorder.event)
        try:
            result = model(*args, **kwargs)
        finally:
            sys.setprofile(profile)
            Tensor.array = slot
    if recorder.problem is not None:
        raise recorder.problem
    found.result = encode(result, recorder.number)
    return found, result
