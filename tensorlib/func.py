"""Functions from functions, as in torch.func: `grad vjp jvp linearize jacrev jacfwd hessian vmap`;
modules as functions of their tensors: `functional_call`.

They nest, and what they return can be differentiated with respect to tensors outside. Arguments
and results may be trees of tuples, lists and dicts of Tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorlib.autograd import engine, functional, grad_mode, tape, walk
from tensorlib.batching import vmap
from tensorlib.errors import AutogradError, InvalidValueError, UnsupportedError
from tensorlib.ops.shape import stack

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "stack_module_state",
    "vjp",
    "vmap",
]

Function = Callable[..., Any]


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """`module(*args, **kwargs)` with the tensors of a dict (or of several) in the places of their
    names; gradients flow to them. See `nn.utils.stateless.call`.
    """
    from tensorlib.nn.utils import stateless  # modules are built on functions

    given = parameter_and_buffer_dicts
    if not isinstance(given, dict):
        if not isinstance(given, list | tuple) or not all(isinstance(d, dict) for d in given):
            raise InvalidValueError(
                "functional_call",
                f"parameter_and_buffer_dicts is a {type(given).__name__}",
                "a dict or a sequence of dicts",
            )
        names = [name for part in given for name in part]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InvalidValueError(
                "functional_call", f"{repeated} appeared in multiple dictionaries", "each name once"
            )
        given = {name: value for part in given for name, value in part.items()}
    return stateless.call(module, given, args, kwargs, tie_weights=tie_weights, strict=strict)


def grad(func: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """A function that returns the gradient of `func`, which returns one number (0-dim), for its
    arguments `argnums`; with `has_aux` `func` returns (number, anything) and the result is
    (gradient, anything).
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        found, value = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return wrapper


def grad_and_value(
    func: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Function:
    """As `grad`, of (gradient, value)."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with grad_mode.enable_grad():
            level = _Level("grad", args, argnums)
            output = func(*level.args, **kwargs)
            aux = None
            if has_aux:
                output, aux = _with_aux("grad", output)
            if not hasattr(output, "array"):
                raise AutogradError(
                    "grad",
                    f"Expected f(*args) to return a scalar tensor, got {type(output).__name__}",
                    hint="pass has_aux=True for a function that returns more",
                )
            if output.dim():
                raise AutogradError(
                    "grad",
                    "Expected f(*args) to return a scalar tensor, got tensor with shape"
                    f" {tuple(output.shape)}",
                )
            found = level.packed(level.grads((output,), None))
            found, output, aux = level.leave((found, output, aux))
        return found, ((output, aux) if has_aux else output)

    return wrapper


def vjp(func: Function, *primals: Any, has_aux: bool = False) -> Any:
    """(func(*primals), a function from a cotangent of its shape to the product with the Jacobian,
    one for each primal[, aux]).
    """
    with grad_mode.enable_grad():
        level = _Level("vjp", primals, tuple(range(len(primals))))
        output = func(*level.args)
        aux = None
        if has_aux:
            output, aux = _with_aux("vjp", output)
        flat = _leaves(output)
        if not flat or any(not hasattr(o, "array") for o in flat):
            raise AutogradError("vjp", "Expected f(*primals) to return only tensors")

    def pull(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        given = _leaves(cotangents)
        if len(given) != len(flat):
            raise AutogradError(
                "vjp", f"{len(given)} cotangents for {len(flat)} outputs", "the same structure"
            )
        with grad_mode.enable_grad():
            found = level.packed(level.grads(flat, tuple(given)))
        return level.leave(found)

    value = level.leave(output)
    return (value, pull, level.leave(aux)) if has_aux else (value, pull)


def jvp(
    func: Function, primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False
) -> Any:
    """(func(*primals), the Jacobian times `tangents`[, aux]), by differentiating twice."""
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        raise AutogradError("jvp", "Expected primals and tangents to be tuples")
    given = _leaves(tangents)
    with grad_mode.enable_grad():
        level = _Level("jvp", primals, tuple(range(len(primals))))
        if len(given) != len(level.own):
            raise AutogradError("jvp", "Expected primals and tangents to have the same structure")
        output = func(*level.args)
        aux = None
        if has_aux:
            output, aux = _with_aux("jvp", output)
        flat = _leaves(output)
        along = tuple(functional._zeros(o, True) for o in flat)
        slopes = functional._grads(flat, level.own, along, True)
        found = functional._grads(slopes, along, tuple(given), True)
        if strict and any(f is None for f in found):
            raise AutogradError("jvp", "an output is independent of the primals (strict=True)")
        pushed = iter(
            functional._zeros(o, False) if f is None else f
            for f, o in zip(found, flat, strict=True)
        )
        tangent = _mapped(output, lambda _: next(pushed))
        known = {id(a) for a in along}
        results = level.leave((output, tangent, aux), known)
    return results if has_aux else results[:2]


def linearize(func: Function, *primals: Any) -> tuple[Any, Function]:
    """(func(*primals), a function from tangents to the Jacobian times them), without calling `func`
    again.
    """
    with grad_mode.enable_grad():
        level = _Level("linearize", primals, tuple(range(len(primals))))
        output = func(*level.args)
        flat = _leaves(output)
        along = tuple(functional._zeros(o, True) for o in flat)
        slopes = functional._grads(flat, level.own, along, True)

    def push(*tangents: Any) -> Any:
        given = tuple(_leaves(tangents))
        if len(given) != len(level.own):
            raise AutogradError("linearize", "Expected tangents with the structure of the primals")
        with grad_mode.enable_grad():
            found = functional._grads(slopes, along, given, True)
            filled = iter(
                functional._zeros(o, False) if f is None else f
                for f, o in zip(found, flat, strict=True)
            )
            return level.leave(_mapped(output, lambda _: next(filled)), {id(one) for one in along})

    return level.leave(output), push


def stack_module_state(models: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, buffers) of modules of one class, those of each name stacked: `vmap` over them
    runs all models.
    """
    models = list(models)
    if not models:
        raise AutogradError("stack_module_state", "Expected at least one model, got 0")
    if len({m.training for m in models}) > 1:
        raise AutogradError(
            "stack_module_state", "Expected all models to have the same training/eval mode"
        )
    if len({type(m) for m in models}) > 1:
        raise AutogradError("stack_module_state", "Expected all models to be of the same class")

    def stacked(tables: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            name: stack([t[name] for t in tables], 0).detach().requires_grad_(one.requires_grad)
            for name, one in tables[0].items()
        }

    return (
        stacked([dict(m.named_parameters()) for m in models]),
        stacked([dict(m.named_buffers()) for m in models]),
    )


def jacrev(
    func: Function,
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Function:
    """A function that returns the Jacobian of `func`, [*output, *input] for each output and input;
    one backward pass for each element of the outputs (`chunk_size` changes nothing).
    """
    if chunk_size is not None and chunk_size <= 0:
        raise InvalidValueError("jacrev", f"chunk_size is {chunk_size}", "a positive number")

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with grad_mode.enable_grad():
            level = _Level("jacrev", args, argnums)
            output = func(*level.args, **kwargs)
            aux = None
            if has_aux:
                output, aux = _with_aux("jacrev", output)

            def rows(one: Any) -> Any:
                flat = one.reshape(-1)
                passes = [level.grads((flat[j],), None) for j in range(one.numel())]
                columns = zip(*passes, strict=True)
                table = [
                    stack(list(column), 0).view(*one.shape, *own.shape)
                    for column, own in zip(columns, level.own, strict=True)
                ]
                return level.packed(tuple(table))

            found, aux = level.leave((_mapped(output, rows), aux))
        return (found, aux) if has_aux else found

    return wrapper


def jacfwd(
    func: Function,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Function:
    """As `jacrev`: there is no forward-mode differentiation to take instead."""
    if randomness != "error":
        raise UnsupportedError("jacfwd", f"randomness={randomness!r}", "'error'")
    return jacrev(func, argnums, has_aux=has_aux, chunk_size=chunk_size)


def hessian(func: Function, argnums: int | tuple[int, ...] = 0) -> Function:
    """A function that returns the Hessian of `func`."""
    return jacfwd(jacrev(func, argnums), argnums)


class _Level:
    """The arguments of one call, with tensors of its own for those that are differentiated."""

    def __init__(self, where: str, args: Any, argnums: int | tuple[int, ...]) -> None:
        self.where, self.argnums = where, argnums
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        self.own: list[Any] = []
        self.fresh: set[int] = set()
        given = list(args)
        for number in numbers:
            if not -len(given) <= number < len(given):
                raise AutogradError(
                    where, f"argnums {number} for a call with {len(given)} positional arguments"
                )
            given[number] = _mapped(given[number], self._take)
        self.args = given
        self.trees = [given[number] for number in numbers]

    def _take(self, value: Any) -> Any:
        if not hasattr(value, "array"):
            raise InvalidValueError(
                self.where, f"an argument to differentiate is {type(value).__name__}", "a Tensor"
            )
        if tape.needs_grad(value):
            own = value.view_as(value)
        else:
            own = value.detach().requires_grad_()
            self.fresh.add(id(own))
        self.own.append(own)
        return own

    def grads(self, outputs: Any, v: Any) -> tuple[Any, ...]:
        """Gradients with respect to the own tensors, zeros where there is no way."""
        found = functional._grads(outputs, self.own, v, True)
        return tuple(
            functional._zeros(one, False) if f is None else f
            for f, one in zip(found, self.own, strict=True)
        )

    def packed(self, flat: Any) -> Any:
        """Values for the own tensors in the structure of the arguments."""
        values = iter(flat)
        trees = tuple(_mapped(tree, lambda _: next(values)) for tree in self.trees)
        return trees[0] if isinstance(self.argnums, int) else trees

    def leave(self, results: Any, also: set[int] | None = None) -> Any:
        """Results without history, unless they depend on more than the own tensors."""
        inside = self.fresh | (also or set())

        def out(value: Any) -> Any:
            if not hasattr(value, "array") or not value.requires_grad:
                return value
            _, leaves = walk.reach([engine._edge(value)])
            return value if set(leaves) - inside else value.detach()

        return _mapped(results, out)


def _with_aux(where: str, output: Any) -> tuple[Any, Any]:
    if not isinstance(output, tuple) or len(output) != 2:
        raise AutogradError(
            where, "output of function f should be a tuple: (output, aux) if has_aux is True"
        )
    return output


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with each leaf changed."""
    if isinstance(tree, dict):
        return type(tree)((k, _mapped(v, change)) for k, v in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_mapped(v, change) for v in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_mapped(v, change) for v in tree)
    return tree if tree is None else change(tree)


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    _mapped(tree, found.append)
    return found
