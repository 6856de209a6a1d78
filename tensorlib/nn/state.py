"""Loading a state dict into a module: all checks first, then all copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import tensorlib
from tensorlib.errors import TensorlibError
from tensorlib.tensor import Tensor

if TYPE_CHECKING:
    from tensorlib.nn.module import Module

__all__ = ["IncompatibleKeys", "StateDictError", "load_state"]


class StateDictError(TensorlibError, RuntimeError):
    """A state dict does not fit a module. The message lists every name that is wrong."""


class _IncompatibleKeys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


class IncompatibleKeys(_IncompatibleKeys):
    """What `load_state_dict(strict=False)` left out."""

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return super().__repr__()

    __str__ = __repr__


def load_state(
    module: Module, state_dict: Mapping[str, Any], strict: bool, assign: bool
) -> IncompatibleKeys:
    """See `Module.load_state_dict`."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"load_state_dict: got a {type(state_dict).__name__}; expected a dict of tensors"
        )
    state = dict(state_dict)
    metadata = getattr(state_dict, "_metadata", None) or {}
    targets: dict[str, tuple[Module, str, Tensor | None]] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        owner._upgrade_state(state, prefix, metadata.get(path, {}).get("version"))
        for name, value in owner._own_state():
            targets[prefix + name] = (owner, name, value)
        if owner._has_extra_state():
            targets[f"{prefix}_extra_state"] = (owner, "_extra_state", None)

    missing = [name for name in targets if name not in state]
    unexpected = [name for name in state if name not in targets]
    values: dict[str, Tensor] = {}
    wrong = []
    for name, (_, _, target) in targets.items():
        if name in state and target is not None:
            problem = _fit(name, state[name], target, values)
            if problem:
                wrong.append(problem)
    if wrong or (strict and (missing or unexpected)):
        raise StateDictError(_describe(module, missing, unexpected, wrong, strict))
    with tensorlib.no_grad():
        for name, (owner, key, target) in targets.items():
            if name not in state:
                continue
            if target is None:
                owner.set_extra_state(state[name])
            elif assign:
                owner._assign(key, values[name], target)
            else:
                target.copy_(values[name])
    return IncompatibleKeys(missing, unexpected)


def _fit(name: str, value: Any, target: Tensor, values: dict[str, Tensor]) -> str | None:
    """Put `value` as a Tensor into `values`; the problem in words where it does not fit."""
    if isinstance(value, np.ndarray | np.generic):
        value = Tensor._wrap(np.asarray(value))
    if not isinstance(value, Tensor):
        return f"{name}: a {type(value).__name__}, expected a tensor"
    if tuple(target.shape) == () and tuple(value.shape) == (1,):
        value = value[0]  # scalars were saved so before PyTorch 0.4
    if tuple(value.shape) != tuple(target.shape):
        return f"{name}: {tuple(value.shape)} in the state dict, {tuple(target.shape)} in the model"
    values[name] = value
    return None


def _describe(
    module: Module, missing: list[str], unexpected: list[str], wrong: list[str], strict: bool
) -> str:
    def block(title: str, names: list[str]) -> str:
        return f"\n  {title} ({len(names)}):\n    " + "\n    ".join(names) if names else ""

    text = f"load_state_dict: the state dict does not fit {type(module).__name__}:"
    if strict:
        text += block("missing", missing) + block("unexpected", unexpected)
    text += block("wrong shape or type", wrong)
    if strict and not wrong:
        return text + "\nHint: strict=False loads what matches and returns the other names."
    return text + "\nHint: build the model with the sizes the file was saved with."
