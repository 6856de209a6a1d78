"""`vmap`: a function of single examples applied to a batch, one call for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from tensorlib import random
from tensorlib.errors import AutogradError, InvalidValueError, UnsupportedError
from tensorlib.ops.shape import select, stack

__all__ = ["vmap"]


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """`func` over dimension `in_dims` of its arguments (None: the same for all), its results joined
    at `out_dims`; both may be trees that begin like the arguments or results.

    `func` is called once for each example, so that it saves writing, not time (`chunk_size` changes
    nothing). With `randomness` "error" a call that draws random numbers is refused (RuntimeError);
    "same" gives every example the same ones. ValueError for arguments that do not fit.
    """
    if randomness not in ("error", "different", "same"):
        raise AutogradError(
            "vmap",
            "Only allowed values for randomness are 'error', 'different', or 'same', got"
            f" {randomness!r}",
        )
    if chunk_size is not None and chunk_size <= 0:
        raise InvalidValueError("vmap", f"chunk_size is {chunk_size}", "more than 0")
    name = f"vmap({getattr(func, '__name__', repr(func))})"

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not args:
            raise InvalidValueError(name, "got no inputs")
        if not isinstance(in_dims, int | tuple):
            raise InvalidValueError(
                name, f"in_dims is {type(in_dims).__name__}", "int or a tuple like the inputs"
            )
        leaves = list(_leaves(args))
        dims = list(_spread(name, "in_dims", in_dims, args))
        size = _size(name, leaves, dims)
        state = random.get_rng_state()
        results = []
        for number in range(size):
            if randomness == "same":
                random.set_rng_state(state)
            chosen = iter(
                leaf if dim is None else select(leaf, dim, number)
                for leaf, dim in zip(leaves, dims, strict=True)
            )
            results.append(func(*_rebuilt(args, chosen), **kwargs))
            if randomness == "error" and bool((random.get_rng_state() != state).any()):
                random.set_rng_state(state)
                raise AutogradError(
                    name,
                    "called random operation while in randomness error mode",
                    hint="pass randomness='different' or 'same', or draw the numbers outside",
                )
        return _joined(name, results, out_dims)

    return wrapper


def _size(name: str, leaves: list[Any], dims: list[Any]) -> int:
    """How many examples there are."""
    sizes = []
    for leaf, dim in zip(leaves, dims, strict=True):
        if dim is None:
            continue
        if not isinstance(dim, int):
            raise InvalidValueError(name, f"Got in_dim={dim} for an input", "an integer or None")
        if not hasattr(leaf, "array"):
            raise InvalidValueError(
                name,
                f"Got in_dim={dim} for an input of type {type(leaf).__name__}",
                "None for what is no Tensor",
            )
        if not -leaf.dim() <= dim < leaf.dim():
            raise InvalidValueError(
                name, f"Got in_dim={dim} for an input of dimensionality {leaf.dim()}"
            )
        sizes.append(leaf.shape[dim])
    if not sizes:
        raise InvalidValueError(name, "at least one Tensor to go over is expected, in_dims is None")
    if len(set(sizes)) > 1:
        raise InvalidValueError(
            name,
            "Expected all tensors to have the same size in the mapped dimension, got sizes"
            f" {sizes} for the mapped dimension",
        )
    if not sizes[0]:
        raise UnsupportedError(name, "a batch of no examples: there is no call to see results of")
    return int(sizes[0])


def _joined(name: str, results: list[Any], out_dims: Any) -> Any:
    columns = list(zip(*(list(_leaves(r)) for r in results), strict=True))
    dims = list(_spread(name, "out_dims", out_dims, results[0]))
    made = []
    for column, dim in zip(columns, dims, strict=True):
        first = column[0]
        if not hasattr(first, "array"):
            raise InvalidValueError(
                name, f"must only return Tensors, got type {type(first).__name__}"
            )
        if dim is not None:
            made.append(stack(list(column), dim))
        elif all(one is first for one in column):
            made.append(first)
        else:
            raise InvalidValueError(name, "out_dims is None for a result that depends on the batch")
    return _rebuilt(results[0], iter(made))


# -- trees -----------------------------------------------------------------------------------------


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree


def _rebuilt(tree: Any, values: Iterator[Any]) -> Any:
    """The tree with its leaves replaced in order."""
    if isinstance(tree, dict):
        return type(tree)((k, _rebuilt(v, values)) for k, v in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[_rebuilt(v, values) for v in tree])
    if isinstance(tree, tuple | list):
        return type(tree)([_rebuilt(v, values) for v in tree])
    return next(values)


def _spread(name: str, what: str, dims: Any, tree: Any) -> Iterator[Any]:
    """The entry of `dims`, a tree that begins like `tree`, for each leaf."""
    if isinstance(dims, dict | tuple | list):
        if isinstance(dims, tuple) and len(dims) == 1 and hasattr(tree, "array"):
            dims, tree = dims, (tree,)
        keys = list(dims) if isinstance(dims, dict) else range(len(dims))
        fits = isinstance(tree, dict) == isinstance(dims, dict) and not hasattr(tree, "array")
        if not fits or not hasattr(tree, "__len__") or len(tree) != len(dims):
            raise InvalidValueError(name, f"{what} is not compatible with the structure, {dims}")
        for key in keys:
            yield from _spread(name, what, dims[key], tree[key])
    else:
        for _ in _leaves(tree):
            yield dims
