"""`backward` and `grad`: what a backward pass starts from, what is wanted of it, and what it
refuses.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from tensorlib.autograd import tape
from tensorlib.autograd.tape import Node, wrap
from tensorlib.autograd.walk import run
from tensorlib.errors import (
    ArgumentError,
    AutogradError,
    DTypeError,
    InvalidValueError,
    ShapeError,
)


class GradientEdge(NamedTuple):
    """Where in the graph a tensor's gradient arises; made by `autograd.graph.get_gradient_edge`."""

    node: Any
    output_nr: int
    ownership_token: Any = None


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Any = None,
) -> None:
    """Add the gradients of the sum of `tensors` to `.grad` of the leaves (or of `inputs` only).

    A tensor of several elements needs its entry of `grad_tensors`, of the same shape. RuntimeError
    for a tensor without history and for a graph that was freed before.
    """
    if grad_variables is not None:
        if grad_tensors is not None:
            raise AutogradError("backward", "both grad_tensors and grad_variables given")
        warnings.warn(
            "`grad_variables` is deprecated. Use `grad_tensors` instead.", FutureWarning, 2
        )
        grad_tensors = grad_variables
    targets = None
    if inputs is not None:
        targets = _targets("backward", list(inputs.values()) if type(inputs) is dict else inputs)
    roots, seeds = _roots("backward", tensors, grad_tensors, create_graph)
    retain = create_graph if retain_graph is None else retain_graph
    run(roots, seeds, retain, create_graph, targets, accumulate=True)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> Any:
    """The gradients of the sum of `outputs` with respect to `inputs`, without touching `.grad`: a
    tuple, or a dict where `inputs` is one.

    `is_grads_batched` takes `grad_outputs` with a dimension more in front and returns gradients
    with it too; one pass is made for each. RuntimeError for an input that the graph does not use,
    unless `allow_unused` (None stands for it) or `materialize_grads` (zeros do).
    """
    if materialize_grads and allow_unused is False:
        raise InvalidValueError(
            "grad",
            "materialize_grads=True with allow_unused=False",
            "Expected allow_unused to be True or not passed when materialize_grads=True",
        )
    if not only_inputs:
        warnings.warn("only_inputs argument is deprecated and is ignored now", FutureWarning, 2)
    given = list(inputs.values()) if type(inputs) is dict else _as_list(inputs)
    targets = _targets("grad", given)
    retain = create_graph if retain_graph is None else retain_graph
    seeds_of = _as_list(grad_outputs) if grad_outputs is not None else None
    if not is_grads_batched:
        roots, seeds = _roots("grad", outputs, seeds_of, create_graph)
        found = run(roots, seeds, retain, create_graph, targets, accumulate=False)
        results = [_wrapped(found.get(_key(one))) for one in given]
    else:
        results = _batched(outputs, given, targets, seeds_of, retain, create_graph)
    for place, one in enumerate(given):
        if results[place] is None:
            results[place] = _unused(one, place, allow_unused, materialize_grads, create_graph)
    if type(inputs) is dict:
        return dict(zip(inputs, results, strict=True))
    return tuple(results)


def _unused(one: Any, place: int, allow: Any, materialize: bool, create_graph: bool) -> Any:
    """What stands for the gradient of an input that was not reached."""
    if materialize:
        if isinstance(one, GradientEdge):
            raise AutogradError("grad", "materialize_grads cannot be used with a GradientEdge")
        zeros: Any = wrap(np.zeros_like(one.array))
        zeros._requires_grad = create_graph
        return zeros
    if not allow:
        raise AutogradError(
            "grad",
            f"input {place}: One of the differentiated Tensors appears to not have been used in the"
            " graph",
            hint="set allow_unused=True if this is the desired behavior",
        )
    return None


def _batched(
    outputs: Any, given: list[Any], targets: Any, seeds: Any, retain: bool, create_graph: bool
) -> list[Any]:
    """One pass for each first index of `seeds`, the gradients stacked."""
    from tensorlib.ops.shape import stack  # the engine itself needs no operation

    if not seeds or any(not hasattr(s, "array") or not s.array.ndim for s in seeds):
        raise AutogradError("grad", "is_grads_batched=True", "grad_outputs with a batch dimension")
    count = seeds[0].array.shape[0]
    if any(s.array.shape[0] != count for s in seeds):
        raise AutogradError("grad", "is_grads_batched=True", "equally many of all grad_outputs")
    passes = []
    for index in range(count):
        roots, one = _roots("grad", outputs, [s[index] for s in seeds], create_graph)
        keep = retain or index < count - 1
        found = run(roots, one, keep, create_graph, targets, accumulate=False)
        passes.append([_wrapped(found.get(_key(g))) for g in given])
    columns = zip(*passes, strict=True)
    return [None if any(c is None for c in column) else stack(column) for column in columns]


def _wrapped(value: Any) -> Any:
    return value if value is None or hasattr(value, "array") else wrap(value)


def _as_list(tensors: Any) -> list[Any]:
    single = hasattr(tensors, "array") or isinstance(tensors, GradientEdge)
    return [tensors] if single else list(tensors)


def _key(tensor: Any) -> Any:
    """What the engine knows a gradient by: the node of a tensor, or the leaf itself (by id: ==
    compares elements).
    """
    edge = _edge(tensor)
    return edge if isinstance(edge, Node) else id(edge)


def _edge(tensor: Any) -> Any:
    if isinstance(tensor, GradientEdge):
        if isinstance(tensor.node, tape.AccumulateGrad):
            return tensor.node.variable
        return tensor.ownership_token or tensor.node
    if tensor._base is not None:
        tensor._sync()
    return tensor if tensor._node is None else tensor._node


def _targets(where: str, inputs: Any) -> dict[Any, Any]:
    """The tensors whose gradients are wanted, by key."""
    given = _as_list(inputs)
    if not given:
        raise AutogradError(where, f"`inputs` argument to `{where}()` cannot be empty")
    found = {}
    for place, one in enumerate(given):
        if hasattr(one, "array"):
            if not one.requires_grad:
                raise AutogradError(
                    where,
                    f"input {place} of shape {tuple(one.array.shape)}: One of the differentiated"
                    " Tensors does not require grad",
                    hint="call requires_grad_() on it before the forward pass",
                )
        elif not isinstance(one, GradientEdge):
            raise ArgumentError(where, f"input {place} is {type(one).__name__}", "a Tensor")
        found[_key(one)] = one
    return found


def _roots(where: str, tensors: Any, grads: Any, create_graph: bool) -> tuple[list[Any], list[Any]]:
    """Where to start, and the gradients there: arrays, or Tensors for create_graph."""
    roots = _as_list(tensors)
    given = [None] * len(roots) if grads is None else _as_list(grads)
    edges: list[Any] = []
    seeds: list[Any] = []
    for place, (root, seed) in enumerate(zip(roots, given, strict=False)):
        if isinstance(root, GradientEdge):
            if seed is None:
                raise AutogradError(where, f"element {place} is a GradientEdge", "its gradient")
            edges.append(_edge(root))
            seeds.append(seed if create_graph else seed.array)
            continue
        if not hasattr(root, "array"):
            raise ArgumentError(where, f"element {place} is {type(root).__name__}", "a Tensor")
        seeds.append(_seed(where, place, root, seed, create_graph))
        edges.append(_edge(root))
    if len(given) < len(roots):
        raise AutogradError(
            where, f"got {len(roots)} tensors and {len(given)} gradients", "one for each"
        )
    for place, root in enumerate(roots):
        if hasattr(root, "array") and not root.requires_grad:
            raise AutogradError(
                where,
                f"element {place} of tensors does not require grad and does not have a grad_fn,"
                f" shape {tuple(root.array.shape)}",
                hint="call requires_grad_() on an input, and do not compute under no_grad()",
            )
    return edges, seeds


def _seed(where: str, place: int, root: Any, seed: Any, create_graph: bool) -> Any:
    """The gradient that a root starts with."""
    array = root.array
    if seed is None:
        if array.size != 1 and root.requires_grad:
            raise AutogradError(
                where,
                f"grad can be implicitly created only for scalar outputs, shape {array.shape}",
                hint="reduce it with sum() or mean(), or pass a gradient of its shape",
            )
        if array.dtype.kind == "c":
            raise AutogradError(
                where,
                f"grad can be implicitly created only for real scalar outputs but got {root.dtype}",
                hint="take .real or abs(), or pass a gradient",
            )
        ones = np.ones_like(array)
        return wrap(ones) if create_graph else ones
    if not hasattr(seed, "array"):
        raise ArgumentError(
            where, f"gradients can be either Tensors or None, but got {type(seed).__name__}"
        )
    if seed.array.shape != array.shape:
        raise ShapeError(
            where,
            f"Mismatch in shape: grad_output[{place}] has a shape of {seed.array.shape} and"
            f" output[{place}] has a shape of {array.shape}",
            "equal shapes",
        )
    if (seed.array.dtype.kind == "c") != (array.dtype.kind == "c"):
        raise DTypeError(
            where,
            "For complex Tensors, both grad_output and output are required to have the same dtype,"
            f" got {seed.dtype} for {root.dtype}",
        )
    if create_graph:
        return seed if seed.array.dtype == array.dtype else seed.to(dtype=root.dtype)
    return seed.array if seed.array.dtype == array.dtype else seed.array.astype(array.dtype)
