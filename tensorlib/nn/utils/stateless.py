"""A module called with other parameters and buffers than its own."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from tensorlib.nn.module import Module
from tensorlib.tensor import Tensor

__all__ = ["call", "functional_call"]

_NOTHING = object()


def functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Tensor],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """The old place of `tensorlib.func.functional_call`."""
    warnings.warn(
        "`nn.utils.stateless.functional_call` is deprecated. Please use `func.functional_call`"
        " instead.",
        FutureWarning,
        stacklevel=2,
    )
    return call(
        module, parameters_and_buffers, args, kwargs, tie_weights=tie_weights, strict=strict
    )


def call(
    module: Module,
    parameters_and_buffers: dict[str, Tensor],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """`module(*args, **kwargs)` with these tensors in the places of their names.

    Args:
        tie_weights: a tensor that the module has under several names is replaced under all.
        strict: refuse missing and unexpected names (RuntimeError).

    Buffers that forward changes in place are those given; what it assigns anew is found in
    `parameters_and_buffers` afterwards.
    """
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with _replaced(module, parameters_and_buffers, tie_weights, strict):
        return module(*args, **(kwargs or {}))


@contextlib.contextmanager
def _replaced(
    module: Module, given: dict[str, Tensor], tie_weights: bool, strict: bool
) -> Iterator[None]:
    wanted = _with_ties(module, given) if tie_weights else dict(given)
    if strict:
        _check_names(module, wanted)
    before: dict[str, Any] = {}
    try:
        for name, value in wanted.items():
            before[name] = _swap(module, name, value)
        yield
    finally:
        after = {name: _swap(module, name, value) for name, value in before.items()}
        given.update({name: after[name] for name in given if name in after})


def _with_ties(module: Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    names: dict[int, list[str]] = {}
    for members in (module.named_parameters, module.named_buffers):
        for name, tensor in members(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    wanted = dict(given)
    for tied in names.values():
        chosen = [name for name in tied if name in given]
        if len({id(given[name]) for name in chosen}) > 1:
            raise ValueError(
                f"functional_call got multiple values for keys {sorted(tied)}, which are tied."
                " Hint: consider using tie_weights=False"
            )
        if chosen:
            wanted.update(dict.fromkeys(tied, given[chosen[0]]))
    return wanted


def _check_names(module: Module, wanted: dict[str, Tensor]) -> None:
    known = {n for n, _ in module.named_parameters(remove_duplicate=False)}
    known |= {n for n, _ in module.named_buffers(remove_duplicate=False)}
    missing, unexpected = sorted(known - set(wanted)), sorted(set(wanted) - known)
    if missing or unexpected:
        raise RuntimeError(
            f"functional_call: the tensors given do not fit {type(module).__name__}: missing"
            f" {missing}, unexpected {unexpected}. Hint: strict=False keeps the module's own."
        )


def _swap(module: Module, path: str, value: Any) -> Any:
    """Put `value` at a dotted name and return what stood there."""
    if value is not _NOTHING and value is not None and not isinstance(value, Tensor):
        raise TypeError(f"{path}: {value!r} is not an instance of Tensor")
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    tables: tuple[Any, ...] = (owner._parameters, owner._buffers)
    for table in tables:
        if name in table:
            before, table[name] = table[name], value
            return before
    old = getattr(owner, name, _NOTHING)
    if value is _NOTHING:
        delattr(owner, name)
    else:
        setattr(owner, name, value)
    return old
