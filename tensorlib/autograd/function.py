"""Operations with a gradient written by the user: `class Exp(Function): forward(ctx, x),
backward(ctx, grad)`.
"""

from __future__ import annotations

from typing import Any

from tensorlib.autograd import tape
from tensorlib.autograd.tape import Node, Output
from tensorlib.errors import AutogradError


class FunctionCtx:
    """What `forward` leaves for `backward`: `save_for_backward`, and any attribute."""

    def __init__(self) -> None:
        self._saved: tuple[Any, ...] = ()
        self._versions: tuple[Any, ...] = ()
        self._constant: set[int] = set()
        self._dirty: tuple[Any, ...] = ()
        self.needs_input_grad: tuple[bool, ...] = ()
        self._materialize = True

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep `tensors` for backward, with the check that nobody changes them in place."""
        self._saved = tensors
        self._versions = tuple(None if t is None else t._counter[0] for t in tensors)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept."""
        for tensor, seen in zip(self._saved, self._versions, strict=True):
            if tensor is not None and tensor._counter[0] != seen:
                raise AutogradError(
                    "saved_tensors",
                    "one of the variables needed for gradient computation has been modified by an "
                    "inplace operation: "
                    f"shape {tuple(tensor.shape)} is at version {tensor._counter[0]}; expected "
                    f"version {seen} instead",
                    hint="clone() it before the in-place change",
                )
        return self._saved

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Outputs that get no gradient."""
        self._constant |= {id(t) for t in tensors}

    def mark_dirty(self, *tensors: Any) -> None:
        """Inputs that `forward` changed in place."""
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (True) or None for outputs that nobody used."""
        self._materialize = value


class Function:
    """Base class; call it with `MyFunction.apply(...)`."""

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The value; receives `ctx` first unless `setup_context` is defined."""
        raise NotImplementedError(
            "Function.forward: not written. Hint: define a staticmethod forward(ctx, ...)."
        )

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One gradient (Tensor or None) for each argument of forward."""
        raise NotImplementedError(
            "Function.backward: not written. Hint: define a staticmethod backward(ctx, grad)."
        )

    setup_context: Any = None

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward without recording, and record backward."""
        ctx = FunctionCtx()
        tensors = [a for a in args if hasattr(a, "array")]
        ctx.needs_input_grad = tuple(hasattr(a, "array") and bool(a.requires_grad) for a in args)
        recording = tape.needs_grad(*tensors)
        if recording:
            for dirty in ctx._dirty:
                tape.check_inplace(dirty, cls.__name__)
        described = [tape._describe(t) for t in tensors]
        with tape.no_grad():
            if cls.setup_context is None:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        if not recording:
            return result
        outputs = result if isinstance(result, tuple) else (result,)
        backward = _backward_of(cls, ctx, args, outputs)
        node = Node(backward, described)
        node.label = f"{cls.__name__}Backward"
        node.smooth = backward
        node.outputs = len(outputs)
        finished = tuple(
            _attach(o, i, node, ctx, tensors, len(outputs)) for i, o in enumerate(outputs)
        )
        return finished if isinstance(result, tuple) else finished[0]


def _attach(
    output: Any, index: int, node: Node, ctx: FunctionCtx, tensors: list[Any], count: int
) -> Any:
    if (
        not hasattr(output, "array")
        or id(output) in ctx._constant
        or output.array.dtype.kind not in "fc"
    ):
        return output
    dirty = any(output is d for d in ctx._dirty)
    if any(output is t for t in tensors) and not dirty:
        output = tape.wrap(output.array)
    if dirty:
        tape.bump(output)
    output._node = node if count == 1 else Output(node, index)
    output._requires_grad = True
    return output


def _backward_of(
    cls: Any, ctx: FunctionCtx, args: tuple[Any, ...], outputs: tuple[Any, ...]
) -> Any:
    forms = [(o.array.shape, o.array.dtype) if hasattr(o, "array") else None for o in outputs]
    positions = [i for i, a in enumerate(args) if hasattr(a, "array")]
    count = len(args)

    def backward(*grads: Any) -> tuple[Any, ...]:
        import numpy as np

        plain = not any(hasattr(g, "array") for g in grads)
        given = []
        for gradient, form in zip(grads, forms, strict=True):
            if gradient is None:
                zeros = ctx._materialize and form is not None
                given.append(tape.wrap(np.zeros(form[0], form[1])) if zeros and form else None)
            else:
                given.append(tape.wrap(gradient) if plain else gradient)
        if plain:
            with tape.no_grad():
                found = cls.backward(ctx, *given)
        else:
            found = cls.backward(ctx, *given)
        values = found if isinstance(found, tuple) else (found,)
        if len(values) > count and all(v is None for v in values[count:]):
            values = values[:count]
        if len(values) != count:
            raise AutogradError(
                f"{cls.__name__}.backward",
                f"returned {len(values)} gradients",
                f"{count}, one for each argument",
            )
        picked = [values[i] for i in positions]
        return tuple(None if v is None else (v.array if plain else v) for v in picked)

    return backward
