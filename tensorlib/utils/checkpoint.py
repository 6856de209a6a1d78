"""Memory for time: a part of a model forgets what backward needs and computes it again then.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from tensorlib import random
from tensorlib.autograd import engine, saved, tape, walk
from tensorlib.autograd.function import Function
from tensorlib.autograd.graph import saved_tensors_hooks
from tensorlib.errors import AutogradError, InvalidValueError, UnsupportedError
from tensorlib.ops import _autocast

__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential", "set_checkpoint_early_stop"]

_EXPLICIT = (
    "{}: the use_reentrant parameter should be passed explicitly. use_reentrant=False is"
    " recommended; True is taken now, as PyTorch's default."
)
Contexts = Callable[[], tuple[Any, Any]]


class CheckpointError(AutogradError):
    """The second run of a checkpointed function differs from the first."""


class _EarlyStop:
    """What set_checkpoint_early_stop says, None where it says nothing."""

    value: bool | None = None


def noop_context_fn() -> tuple[Any, Any]:
    """No contexts for the two runs."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Contexts = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """`function(*args, **kwargs)`, whose intermediate values are not kept: backward runs it again.

    With `use_reentrant=False` the graph is recorded and only its values are dropped, so that
    everything works as without a checkpoint; the second run ends (`early_stop`) with the last value
    needed, and values of another shape or dtype than the first time are an error
    (`determinism_check="none"`: not looked at). With True nothing is recorded, and the second run
    has a backward of its own: at least one tensor among `args` has to require grad, and `grad()`
    and `inputs=` are refused.

    `preserve_rng_state=True`, the default, gives both runs the same random numbers. Both compute in
    the precision of the `autocast` around the call.
    """
    if use_reentrant is None:
        warnings.warn(_EXPLICIT.format("checkpoint"), stacklevel=2)
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if debug:
        raise UnsupportedError("checkpoint", "debug=True is not supported")
    if not use_reentrant:
        return _recorded(
            function, preserve, context_fn, determinism_check, early_stop, args, kwargs
        )
    if kwargs:
        raise InvalidValueError("checkpoint", f"Unexpected keyword arguments: {', '.join(kwargs)}")
    if context_fn is not noop_context_fn:
        raise InvalidValueError(
            "checkpoint", "Passing `context_fn` is only supported when use_reentrant=False"
        )
    return _Reentrant.apply(function, preserve, *args)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """`functions` (a Sequential or a list) one after the other, in `segments` parts of which all
    but the last are checkpointed.
    """
    if use_reentrant is None:
        warnings.warn(_EXPLICIT.format("checkpoint_sequential"), stacklevel=2)
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise InvalidValueError(
            "checkpoint_sequential", f"Unexpected keyword arguments: {', '.join(kwargs)}"
        )
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)

    def part(chosen: Sequence[Any]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for step in chosen:
                value = step(value)
            return value

        return run

    size = len(steps) // segments
    end = 0
    for start in range(0, size * (segments - 1), size):
        end = start + size
        input = checkpoint(
            part(steps[start:end]),
            input,
            use_reentrant=use_reentrant,
            preserve_rng_state=preserve,
        )
    return part(steps[end:])(input)


@contextlib.contextmanager
def set_checkpoint_early_stop(enable: bool) -> Iterator[None]:
    """Override `early_stop` of every checkpoint made within."""
    before, _EarlyStop.value = _EarlyStop.value, enable
    try:
        yield
    finally:
        _EarlyStop.value = before


@contextlib.contextmanager
def _random_numbers_from(state: Any) -> Iterator[None]:
    """The generator put into `state`, and back at the end; None leaves it alone."""
    if state is None:
        yield
        return
    with random.fork_rng():
        random.set_rng_state(state)
        yield


# -- without recording -----------------------------------------------------------------------------


class _Reentrant(Function):
    """Runs the function without recording, and again with it when its gradient comes."""

    @staticmethod
    def forward(ctx: Any, function: Any, preserve: bool, *args: Any) -> Any:
        if not any(getattr(a, "requires_grad", False) for a in args):
            warnings.warn(
                "None of the inputs have requires_grad=True. Gradients will be None", stacklevel=4
            )
        ctx.function = function
        ctx.state = random.get_rng_state() if preserve else None
        ctx.precision = _autocast.chosen.dtypes
        ctx.args = [None if hasattr(a, "array") else a for a in args]
        ctx.places = [i for i, a in enumerate(args) if hasattr(a, "array")]
        ctx.save_for_backward(*(args[i] for i in ctx.places))
        return function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        task = walk.current.task
        if task is not None and task.useful is not None:
            raise AutogradError(
                "checkpoint",
                "When use_reentrant=True, checkpoint is incompatible with .grad() or passing an"
                " `inputs` parameter to .backward()",
                hint="set use_reentrant=False",
            )
        args = list(ctx.args)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            args[place] = tensor.detach().requires_grad_(tensor.requires_grad)
        with (
            _random_numbers_from(ctx.state),
            _autocast.within(ctx.precision),
            tape.enable_grad(),
        ):
            outputs = ctx.function(*args)
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [
            (value, grad)
            for value, grad in zip(values, grads, strict=True)
            if getattr(value, "requires_grad", False)
        ]
        if not pairs:
            raise AutogradError(
                "checkpoint",
                "none of output has requires_grad=True, this checkpoint() is not necessary",
            )
        engine.backward([v for v, _ in pairs], [g for _, g in pairs])
        return (None, None, *(getattr(a, "grad", None) for a in args))


# -- recorded, without the values ------------------------------------------------------------------


class _Stop(Exception):  # ends a second run that has found all it needs
    pass


class _Holder:
    """Stands in the graph for one kept value."""

    __slots__ = ("__weakref__",)


class _Argument:
    """A tensor that the second run starts from; an outer checkpoint may have to find it first."""

    def __init__(self, tensor: Any) -> None:
        self.counter, self.version = tensor._counter, tensor._counter[0]
        self.requires_grad = tensor.requires_grad
        self.held = saved.pack_tensor(tensor)

    def open(self) -> Any:
        if isinstance(self.held, saved.Box):
            return tape.wrap(self.held.open()).requires_grad_(self.requires_grad)
        if self.counter[0] != self.version:
            raise saved.changed_in_place(
                "checkpoint", self.held.array, self.counter[0], self.version, self.held._node
            )
        return self.held


class _Frame:
    """One checkpointed call: what its values looked like, and how to find them again."""

    checks: ClassVar[dict[str, Any]] = {
        "default": lambda x: (tuple(x.array.shape), x.array.dtype, str(x.device)),
        "none": None,
    }

    def __init__(self, again: Callable[..., Any], check: str, early_stop: bool) -> None:
        if check not in self.checks:
            raise InvalidValueError(
                "checkpoint", f"determinism_check is {check!r}", f"one of {list(self.checks)}"
            )
        self.again, self.describe, self.early_stop = again, self.checks[check], early_stop
        self.args: list[Any] = []
        self.holders: list[weakref.ref[_Holder]] = []
        self.forms: list[Any] = []
        # by backward pass: the values of the second run, until they are fetched
        self.found: dict[int, weakref.WeakKeyDictionary[_Holder, Any]] = {}

    def pack(self, tensor: Any) -> _Holder:
        holder = _Holder()
        self.holders.append(weakref.ref(holder))
        self.forms.append(self.describe and self.describe(tensor))
        return holder

    def unpack(self, holder: _Holder) -> Any:
        task = walk.current.task
        key = -1 if task is None else task.id
        if key not in self.found or key == -1:
            self.found = {key: self.recomputed()}
        values = self.found[key]
        if holder not in values:
            raise CheckpointError(
                "checkpoint",
                "Unpack is being triggered for a tensor that was already unpacked once",
                hint="read ctx.saved_tensors once in a backward",
            )
        return values.pop(holder)

    def recomputed(self) -> weakref.WeakKeyDictionary[_Holder, Any]:
        """The values of a second run."""
        values: weakref.WeakKeyDictionary[_Holder, Any] = weakref.WeakKeyDictionary()
        wrong: list[str] = []
        count = 0

        def pack(tensor: Any) -> Any:
            nonlocal count
            number, count = count, count + 1
            if number == len(self.holders):
                raise CheckpointError(
                    "checkpoint",
                    "trying to save more tensors during recomputation than during the original"
                    f" forward pass, {number}",
                    hint="the function has to do the same both times",
                )
            if number < len(self.holders):
                holder = self.holders[number]()
                if holder is not None:
                    values[holder] = tensor.detach()
                    form = self.describe and self.describe(tensor)
                    if form != self.forms[number]:
                        wrong.append(f"number {number}: {self.forms[number]}, now {form}")
            if self.early_stop and count == len(self.holders):
                raise _Stop
            return tensor.detach()

        args = [a.open() if isinstance(a, _Argument) else a for a in self.args]
        with contextlib.suppress(_Stop), saved_tensors_hooks(pack, lambda x: x), tape.enable_grad():
            self.again(*args)
        if count != len(self.holders):
            raise CheckpointError(
                "checkpoint",
                "A different number of tensors was saved during the original forward and"
                f" recomputation: {len(self.holders)}, then {count}",
                hint="the function has to do the same both times",
            )
        if wrong:
            raise CheckpointError(
                "checkpoint",
                "Recomputed values for the following tensors have different metadata than during"
                f" the forward pass: {'; '.join(wrong)}",
                hint="the function has to do the same both times",
            )
        return values


def _recorded(
    function: Callable[..., Any],
    preserve: bool,
    context_fn: Contexts,
    check: str,
    early_stop: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    first, second = context_fn()
    state = random.get_rng_state() if preserve else None
    precision = _autocast.chosen.dtypes

    def again(*own: Any) -> None:
        with _random_numbers_from(state), _autocast.within(precision), second:
            function(*own, **kwargs)

    stop = early_stop if _EarlyStop.value is None else _EarlyStop.value
    frame = _Frame(again, check, stop)
    if not tape.mode.grad:
        return function(*args, **kwargs)
    frame.args = [_Argument(a) if hasattr(a, "array") else a for a in args]
    with saved_tensors_hooks(frame.pack, frame.unpack), first:
        return function(*args, **kwargs)
