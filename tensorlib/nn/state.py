"""State dicts: what a Module saves, and loading it back.

Loading first walks the tree and compares; values are copied when everything fits, so that a
refused state dict changes nothing. A class that overrides `_load_from_state_dict` copies its own
at once, as code after its `super()` call may expect.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import tensorlib
from tensorlib.errors import TensorlibError
from tensorlib.nn.hooks import HookList, RemovableHandle
from tensorlib.nn.parameter import Parameter, is_lazy
from tensorlib.tensor import Tensor

if TYPE_CHECKING:
    from tensorlib.nn.module import Module

__all__ = ["IncompatibleKeys", "StateDictError", "StateMethods"]

_EXTRA = "_extra_state"


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
        return f"_{super().__repr__()}"  # PyTorch's name of this class has the underscore

    __str__ = __repr__


class StateHooks:
    """Hooks of one module around saving and loading."""

    def __init__(self) -> None:
        self.before_saving = HookList()
        self.after_saving = HookList()
        self.before_loading = HookList()
        self.after_loading = HookList()


class _Problems(list[str]):
    """The `error_msgs` of one loading, with the copies to make when there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Callable[[], None]] = []


class StateMethods:
    """The part of Module that saves and loads."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent_buffers_set: set[str]
    _state_hooks: StateHooks | None
    # raised when the meaning of a state dict changes; stored in its metadata as torch does
    _version = 1

    def _own_state(self) -> Iterator[tuple[str, Parameter | Tensor]]:
        for name, parameter in self._parameters.items():
            if parameter is not None:
                yield name, parameter
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:
                yield name, buffer

    def get_extra_state(self) -> Any:
        """Override, with `set_extra_state`, to keep more than tensors in the state dict."""
        raise RuntimeError(
            f"{type(self).__name__}.get_extra_state: not written. Hint: define it in the class."
        )

    def set_extra_state(self, state: Any) -> None:
        """Take back what `get_extra_state` gave."""
        raise RuntimeError(
            f"{type(self).__name__}.set_extra_state: not written, but the state dict has extra"
            " state. Hint: define it in the class."
        )

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(
        self,
        *args: Any,
        destination: Any = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> OrderedDict[str, Any]:
        """All parameters and persistent buffers by dotted name, sharing their memory.

        `keep_vars=True` gives the tensors themselves instead of detached ones.
        """
        if args:
            warnings.warn(
                "state_dict: positional arguments are deprecated. Hint: use keywords.",
                FutureWarning,
                stacklevel=2,
            )
            given = dict(zip(("destination", "prefix", "keep_vars"), args, strict=False))
            destination = given.get("destination", destination)
            prefix, keep_vars = given.get("prefix", prefix), given.get("keep_vars", keep_vars)
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        local_metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        hooks = self._state_hooks
        if hooks is not None:
            for entry in hooks.before_saving.entries:
                entry.hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, child in self._modules.items():
            if child is not None:
                child.state_dict(
                    destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars
                )
        if hooks is not None:
            for entry in hooks.after_saving.entries:
                result = entry.hook(self, destination, prefix, local_metadata)
                if result is not None and entry.public:
                    raise RuntimeError(
                        f"state_dict: the hook {entry.hook!r} returned a"
                        f" {type(result).__name__}; state_dict post-hook must return None"
                    )
                destination = destination if result is None else result
        return destination  # type: ignore[no-any-return]  # a caller's own mapping is allowed

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Put this module's own entries, without its children's, into `destination`."""
        for name, value in self._own_state():
            plain = keep_vars or is_lazy(value)
            destination[prefix + name] = value if plain else value.detach()
        if _overridden(self, "get_extra_state"):
            destination[prefix + _EXTRA] = self.get_extra_state()

    # --- loading ---------------------------------------------------------------------------------

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values from `state_dict` (Tensors or arrays) into this module.

        Args:
            state_dict: names as `state_dict()` gives them.
            strict: refuse missing and unexpected names; otherwise they are returned.
            assign: take the tensors themselves instead of copying their values.

        Raises StateDictError listing every missing, unexpected and mis-shaped name; nothing has
        been copied then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"load_state_dict: got a {type(state_dict).__name__}; expected a dict of tensors"
            )
        keys = IncompatibleKeys([], [])
        problems = _Problems()
        metadata = getattr(state_dict, "_metadata", None) or {}
        hooked: list[Any] = []

        def walk(module: Any, state: dict[str, Any], prefix: str) -> None:
            local = dict(metadata.get(prefix[:-1], {}))
            if assign:
                local["assign_to_params_buffers"] = True
            module._load_from_state_dict(state, prefix, local, True, *keys, problems)
            for name, child in module._modules.items():
                if child is not None:
                    below = f"{prefix}{name}."
                    part = {key: v for key, v in state.items() if key.startswith(below)}
                    walk(child, part, below)
            if module._state_hooks is not None and module._state_hooks.after_loading.entries:
                hooked.append(module)

        walk(self, dict(state_dict), "")
        if problems or (strict and not hooked and any(keys)):
            raise StateDictError(_describe(self, keys, problems, strict))
        with tensorlib.no_grad():
            for copy in problems.pending:
                copy()
        for module in hooked:
            for entry in module._state_hooks.after_loading.entries:
                if entry.hook(module, keys) is not None:
                    raise AssertionError(
                        f"load_state_dict: the post hook {entry.hook!r} returned a value; expected"
                        " None. Hint: change incompatible_keys in place."
                    )
        if strict and any(keys):
            raise StateDictError(_describe(self, keys, problems, strict))
        return keys

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take this module's own entries, without its children's, out of `state_dict`.

        What is wrong is appended to the three lists. A subclass may override it to read what its
        older versions (`local_metadata.get("version")`) saved.
        """
        arguments = (
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )  # fmt: skip
        if self._state_hooks is not None:
            for entry in self._state_hooks.before_loading.entries:
                entry.hook(*((self, *arguments) if entry.with_module else arguments))
        self._upgrade_state(state_dict, prefix, local_metadata.get("version"))
        assign = bool(local_metadata.get("assign_to_params_buffers", False))
        known = dict(self._own_state())
        copies: list[Callable[[], None]] = []
        for name, target in known.items():
            if prefix + name in state_dict:
                value, problem = _fit(prefix + name, state_dict[prefix + name], target)
                if problem:
                    error_msgs.append(problem)
                elif value is not None:
                    copies.append(lambda n=name, v=value, t=target: self._take(n, v, t, assign))  # type: ignore[misc]  # defaults bind now
            elif strict:
                missing_keys.append(prefix + name)
        extra = prefix + _EXTRA
        if _overridden(self, "set_extra_state"):
            if extra in state_dict:
                state = state_dict[extra]
                copies.append(lambda: self.set_extra_state(state))
            elif strict:
                missing_keys.append(extra)
        elif strict and extra in state_dict:
            unexpected_keys.append(extra)
        if strict:
            for key in state_dict:
                if key.startswith(prefix) and key != extra:
                    name, dot, _ = key[len(prefix) :].partition(".")
                    if name not in (self._modules if dot else known):
                        unexpected_keys.append(key)
        if isinstance(error_msgs, _Problems) and not _overridden(self, "_load_from_state_dict"):
            error_msgs.pending += copies
        else:
            with tensorlib.no_grad():
                for copy in copies:
                    copy()

    def _upgrade_state(self, state: dict[str, Any], prefix: str, version: int | None) -> None:
        """Rewrite entries that an older version of this class saved."""

    def _take(self, name: str, value: Tensor, target: Tensor, assign: bool) -> None:
        if not assign:
            target.copy_(value)
            return
        if isinstance(target, Parameter):
            if isinstance(value, Parameter):
                value.requires_grad_(target.requires_grad)
            else:
                value = Parameter(value, target.requires_grad)
        setattr(self, name, value)

    # --- hooks -----------------------------------------------------------------------------------

    def _make_state_hooks(self) -> StateHooks:
        if self._state_hooks is None:
            self.__dict__["_state_hooks"] = StateHooks()
        hooks: StateHooks = self.__dict__["_state_hooks"]
        return hooks

    def _state_hook_lists(self) -> list[HookList]:
        return list(vars(self._make_state_hooks()).values())

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, prefix, keep_vars)` before this module's part of `state_dict()`."""
        return self._make_state_hooks().before_saving.add(hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata)` after this module and all below
        were saved; it changes `state_dict` in place.
        """
        return self._make_state_hooks().after_saving.add(hook, public=True)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As `register_state_dict_post_hook`; a dict that the hook returns replaces the result."""
        return self._make_state_hooks().after_saving.add(hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing_keys,
        unexpected_keys, error_msgs)` before this module loads its own entries.
        """
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        return self._make_state_hooks().before_loading.add(hook, with_module=with_module)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, incompatible_keys)` after loading; it may change the two lists, and
        `strict` looks at what is left in them.
        """
        return self._make_state_hooks().after_loading.add(hook)


def _overridden(module: StateMethods, method: str) -> bool:
    return getattr(type(module), method) is not getattr(StateMethods, method)


def _fit(name: str, value: Any, target: Tensor) -> tuple[Tensor | None, str | None]:
    """`value` as a Tensor for `target`, or the problem in words where it does not fit."""
    if isinstance(value, np.ndarray | np.generic):
        value = Tensor._wrap(np.asarray(value))
    if not isinstance(value, Tensor):
        return None, f"{name}: a {type(value).__name__}, expected a tensor"
    if is_lazy(value) or is_lazy(target):
        if is_lazy(value) and is_lazy(target):
            return None, None
        side = "state dict" if is_lazy(value) else "model"
        return None, f"{name}: uninitialized in the {side}. Hint: call forward once before."
    if tuple(target.shape) == () and tuple(value.shape) == (1,):
        value = value[0]  # scalars were saved so before PyTorch 0.4
    if tuple(value.shape) != tuple(target.shape):
        return None, (
            f"{name}: {tuple(value.shape)} in the state dict, {tuple(target.shape)} in the model"
        )
    return value, None


def _describe(module: Any, keys: IncompatibleKeys, problems: list[str], strict: bool) -> str:
    def block(title: str, names: list[str]) -> str:
        return f"\n  {title} ({len(names)}):\n    " + "\n    ".join(names) if names else ""

    text = f"load_state_dict: the state dict does not fit {type(module).__name__}:"
    if strict:
        text += block("Missing key(s) in state_dict", keys.missing_keys)
        text += block("Unexpected key(s) in state_dict", keys.unexpected_keys)
    text += block("size mismatch or wrong type", problems)
    if strict and not problems:
        return text + "\nHint: strict=False loads what matches and returns the other names."
    return text + "\nHint: build the model with the sizes the file was saved with."
