"""Derivatives of a function as objects: `vjp jvp jacobian hessian vhp hvp`.

Each takes a function of Tensors and its inputs (a Tensor or a tuple of them). With `create_graph`
the results can be differentiated again; with `strict` an input or output that the result does not
depend on is an error (RuntimeError) where otherwise it gets zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib.autograd import engine, grad_mode, tape
from tensorlib.errors import (
    ArgumentError,
    AutogradError,
    InvalidValueError,
    ShapeError,
    UnsupportedError,
)

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Function = Callable[..., Any]
_STRICT = "This is not allowed in strict mode"
# what each stage of a computation found to be independent of what, in strict mode
_INDEPENDENT = {
    "back": ("output of the user-provided function", "input"),
    "back_trick": ("gradient with respect to the input", "grad_outputs entry"),
    "double_back": ("jacobian of the user-provided function", "input"),
    "double_back_trick": ("hessian of the user-provided function", "grad_jacobian entry"),
}


def vjp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), `v` times the Jacobian); `v` has the outputs' shapes, None stands for 1."""
    with grad_mode.enable_grad():
        several, given = _tensors("vjp", "inputs", inputs)
        own = _own(given, create_graph, True)
        many, outputs = _called("vjp", func, own, strict)
        vector = _vector("vjp", v, outputs, many, create_graph, "output")
    with grad_mode.set_grad_enabled(create_graph or grad_mode.is_grad_enabled()):
        found = _grads(outputs, own, vector, create_graph)
        result = _filled("vjp", found, own, strict, create_graph, "back")
    return _single(_done(outputs, create_graph), many), _single(
        _done(result, create_graph), several
    )


def jvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), the Jacobian times `v`), by differentiating a gradient with respect to the
    vector it is taken along; `v` has the inputs' shapes, None stands for 1.
    """
    with grad_mode.enable_grad():
        several, given = _tensors("jvp", "inputs", inputs)
        own = _own(given, create_graph, True)
        vector = _vector("jvp", v, own, several, create_graph, "input")
        many, outputs = _called("jvp", func, own, strict)
        along = tuple(_zeros(o, True) for o in outputs)
        slopes = _grads(outputs, own, along, True)
        _expect_grad("jvp", slopes, "gradient with respect to the inputs", strict)
    with grad_mode.set_grad_enabled(create_graph or grad_mode.is_grad_enabled()):
        found = _grads(slopes, along, vector, create_graph)
        result = _filled("jvp", found, outputs, strict, create_graph, "back_trick")
    return _single(_done(outputs, create_graph), many), _single(_done(result, create_graph), many)


def jacobian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian: of each output (outer tuple) with respect to each input (inner tuple), of shape
    [*output, *input].

    It takes one backward pass for each element of the outputs. `vectorize` and
    `strategy="forward-mode"` choose among PyTorch's ways to the same numbers: they are checked as
    there and change nothing else.
    """
    if strategy not in ("forward-mode", "reverse-mode"):
        raise InvalidValueError("jacobian", f"strategy is {strategy!r}", "forward- or reverse-mode")
    if strategy == "forward-mode":
        if create_graph:
            raise UnsupportedError("jacobian", "create_graph=True with forward-mode")
        if not vectorize and not strict:
            raise UnsupportedError("jacobian", "forward-mode", "vectorize=True with it")
    if strict and (vectorize or strategy == "forward-mode"):
        raise AutogradError(
            "jacobian", "strict=True is not supported with vectorize or forward-mode"
        )
    with grad_mode.enable_grad():
        several, given = _tensors("jacobian", "inputs", inputs)
        own = _own(given, create_graph, True)
        many, outputs = _called("jacobian", func, own, strict)
        rows = []
        for output in outputs:
            flat = output.reshape(-1)
            columns: list[list[Any]] = [[] for _ in own]
            for j in range(output.numel()):
                found = _grads((flat[j],), own, None, create_graph, retain_graph=True)
                found = _filled("jacobian", found, own, strict, create_graph, "back")
                for column, one in zip(columns, found, strict=True):
                    column.append(one)
            rows.append(
                tuple(
                    _stacked(column, output, one) for column, one in zip(columns, own, strict=True)
                )
            )
    table = tuple(_done(row, create_graph) for row in rows)
    return _single(tuple(_single(row, several) for row in table), many)


def hessian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The Hessian of a function of one element: a Tensor of shape [*input, *input], or a tuple of
    tuples for several inputs.
    """
    several, given = _tensors("hessian", "inputs", inputs)

    def scalar(*own: Any) -> Any:
        return _scalar("hessian", func, own, strict)[0].squeeze()

    def slope(*own: Any) -> Any:
        found = jacobian(scalar, own, create_graph=True)
        _expect_grad("hessian", found, "jacobian with respect to input", strict)
        return found

    table = jacobian(
        slope, given, create_graph, strict, vectorize, strategy=outer_jacobian_strategy
    )
    return _single(tuple(_single(row, several) for row in table), several)


def vhp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), `v` times the Hessian) of a function of one element."""
    with grad_mode.enable_grad():
        several, given = _tensors("vhp", "inputs", inputs)
        own = _own(given, create_graph, True)
        vector = _vector("vhp", v, own, several, create_graph, "input")
        outputs = _scalar("vhp", func, own, strict)
        slopes = _grads(outputs, own, None, True)
        _expect_grad("vhp", slopes, "jacobian with respect to input", strict)
    with grad_mode.set_grad_enabled(create_graph or grad_mode.is_grad_enabled()):
        found = _grads(slopes, own, vector, create_graph)
        result = _filled("vhp", found, own, strict, create_graph, "double_back")
    return _done(outputs, create_graph)[0], _single(_done(result, create_graph), several)


def hvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), the Hessian times `v`) of a function of one element; `vhp` is cheaper and,
    where second derivatives are continuous, the same.
    """
    with grad_mode.enable_grad():
        several, given = _tensors("hvp", "inputs", inputs)
        own = _own(given, create_graph, True)
        vector = _vector("hvp", v, own, several, create_graph, "input")
        outputs = _scalar("hvp", func, own, strict)
        slopes = _grads(outputs, own, None, True)
        _expect_grad("hvp", slopes, "jacobian with respect to input", strict)
        along = tuple(_zeros(one, True) for one in own)
        bends = _grads(slopes, own, along, True)
    with grad_mode.set_grad_enabled(create_graph or grad_mode.is_grad_enabled()):
        found = _grads(bends, along, vector, create_graph)
        result = _filled("hvp", found, own, strict, create_graph, "double_back_trick")
    return _done(outputs, create_graph)[0], _single(_done(result, create_graph), several)


# -- parts -----------------------------------------------------------------------------------------


def _tensors(where: str, what: str, given: Any) -> tuple[bool, tuple[Any, ...]]:
    """Whether it is a tuple, and the tuple."""
    several = isinstance(given, tuple)
    values = given if several else (given,)
    for place, one in enumerate(values):
        if not hasattr(one, "array"):
            raise ArgumentError(
                where,
                f"the {what} must be either a Tensor or a tuple of Tensors but the value at index"
                f" {place} has type {type(one).__name__}",
            )
    return several, values


def _single(values: tuple[Any, ...], several: bool) -> Any:
    return values if several else values[0]


def _own(given: tuple[Any, ...], create_graph: bool, need_graph: bool) -> tuple[Any, ...]:
    """Tensors of our own, so that one that `func` holds besides is not taken for its input."""
    return tuple(
        one.view_as(one)
        if create_graph and one.requires_grad
        else one.detach().requires_grad_(need_graph)
        for one in given
    )


def _called(where: str, func: Function, own: Any, strict: bool) -> tuple[bool, tuple[Any, ...]]:
    many, outputs = _tensors(where, "outputs of the user-provided function", func(*own))
    _expect_grad(where, outputs, "output", strict)
    return many, outputs


def _scalar(where: str, func: Function, own: Any, strict: bool) -> tuple[Any, ...]:
    many, outputs = _called(where, func, own, strict)
    if many or len(outputs) != 1:
        raise AutogradError(where, f"The function given to {where} should return a single Tensor")
    if outputs[0].numel() != 1:
        raise AutogradError(
            where,
            f"The Tensor returned by the function given to {where} should contain a single"
            f" element, shape {tuple(outputs[0].shape)}",
        )
    return outputs


def _vector(
    where: str, v: Any, like: Any, several: bool, create_graph: bool, what: str
) -> tuple[Any, ...] | None:
    """`v` checked against the tensors it has to match."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise AutogradError(
                where,
                f"The vector v can only be None if the {what} of the user-provided function is a"
                " single Tensor with a single element",
            )
        return None
    _, given = _tensors(where, "v", v)
    given = _own(given, create_graph, False)
    if len(given) != len(like):
        what = f"a tuple of {len(like)}" if several else "a single Tensor"
        raise ShapeError(where, f"v holds {len(given)} Tensors", what)
    for place, (one, other) in enumerate(zip(given, like, strict=True)):
        if one.array.shape != other.array.shape:
            raise ShapeError(
                where,
                f"Entry {place} in v has invalid size: {one.array.shape}",
                f"{other.array.shape}",
            )
    return given


def _zeros(like: Any, requires_grad: bool) -> Any:
    made: Any = tape.wrap(np.zeros_like(like.array))
    made._requires_grad = requires_grad
    return made


def _expect_grad(where: str, tensors: Any, what: str, strict: bool) -> None:
    if not strict:
        return
    for place, one in enumerate(tensors):
        if one is None or not one.requires_grad:
            raise AutogradError(
                where,
                f"the {what} {place} of the user-provided function is independent of the inputs."
                f" {_STRICT}",
            )


def _grads(
    outputs: Any, inputs: Any, v: Any, create_graph: bool, retain_graph: bool | None = None
) -> tuple[Any, ...]:
    """`autograd.grad` that passes over outputs without history."""
    given = (None,) * len(outputs) if v is None else v
    pairs = [
        (o, g) for o, g in zip(outputs, given, strict=True) if o is not None and o.requires_grad
    ]
    if not pairs:
        return (None,) * len(inputs)
    found: tuple[Any, ...] = engine.grad(
        [o for o, _ in pairs],
        inputs,
        [g for _, g in pairs],
        retain_graph,
        create_graph,
        allow_unused=True,
    )
    return found


def _filled(
    where: str, grads: Any, like: Any, strict: bool, create_graph: bool, stage: str
) -> tuple[Any, ...]:
    """Zeros for what is independent, in strict mode an error."""
    what, of = _INDEPENDENT[stage]
    filled = []
    for place, (one, other) in enumerate(zip(grads, like, strict=True)):
        if strict and (one is None or (create_graph and not one.requires_grad)):
            if one is not None:
                what = "hessian" if "double" in stage else "jacobian"
            raise AutogradError(where, f"The {what} is independent of {of} {place}. {_STRICT}")
        filled.append(_zeros(other, False) if one is None else one)
    return tuple(filled)


def _stacked(column: list[Any], output: Any, one: Any) -> Any:
    from tensorlib.ops.shape import stack  # the tape needs operations only here

    return stack(column, 0).view(*output.shape, *one.shape)


def _done(tensors: tuple[Any, ...], create_graph: bool) -> tuple[Any, ...]:
    return tensors if create_graph else tuple(t.detach() for t in tensors)
