"""Optimizer: groups of parameters, the state kept for each, hooks, and state dicts."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar

import numpy as np

import tensorlib
from tensorlib.autograd.tape import Handle
from tensorlib.errors import AutogradError, InvalidValueError, UnsupportedError
from tensorlib.tensor import Tensor

__all__ = [
    "Optimizer",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
]

Array = Any
Group = dict[str, Any]
State = dict[str, Any]

_before_all: list[Callable[..., Any]] = []
_after_all: list[Callable[..., Any]] = []


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> Handle:
    """Call `hook(optimizer, args, kwargs)` before `step` of every optimizer; see
    `Optimizer.register_step_pre_hook`.
    """
    return Handle(_before_all, hook)


def register_optimizer_step_post_hook(hook: Callable[..., Any]) -> Handle:
    """Call `hook(optimizer, args, kwargs)` after `step` of every optimizer."""
    return Handle(_after_all, hook)


class _Required:
    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()  # a default that every group has to give


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step`, which a class defines, between the hooks of its instances."""

    @functools.wraps(step)
    def hooked(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        mine = self._hooks
        before, after = mine["step_pre"], mine["step_post"]
        quiet = not (before or after or _before_all or _after_all)
        # a subclass calls its parent's step within its own, which has run the hooks
        if quiet or type(self).step is not hooked:
            return step(self, *args, **kwargs)
        given: tuple[Any, ...] = (self, *args)
        for hook in chain(_before_all, before):
            result = hook(self, given, kwargs)
            if result is not None:
                if not (isinstance(result, tuple) and len(result) == 2):
                    raise AutogradError(
                        f"{type(self).__name__}.step",
                        f"a pre-hook must return None or a tuple of (new_args, new_kwargs), but got"
                        f" {result}",
                    )
                given, kwargs = result
        out = step(*given, **kwargs)
        for hook in chain(after, _after_all):
            hook(self, given, kwargs)
        return out

    return hooked


class Optimizer:
    """Base class of optimizers: a subclass gives its defaults and writes `step`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts with a "params" key and the options that
            differ for these.
        defaults: options of groups that do not set them.
    """

    # Options that state dicts of old versions lack, and counters they hold as plain numbers.
    _late: ClassVar[Group] = {}
    _counters: tuple[str, ...] = ("step",)
    # State of a parameter that has its shape.
    _shaped: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _with_hooks(cls.__dict__["step"])  # type: ignore[method-assign]

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self.defaults = defaults
        self._hooks: defaultdict[str, list[Callable[..., Any]]] = defaultdict(list)
        if isinstance(params, Tensor):
            raise TypeError(
                f"{type(self).__name__}: params argument given to the optimizer should be an"
                f" iterable of Tensors or dicts, but got {type(params).__name__}."
                " Hint: pass [tensor]."
            )
        self.state: defaultdict[Tensor, State] = defaultdict(dict)
        self.param_groups: list[Group] = []
        groups = list(params)
        if not groups:
            raise InvalidValueError(
                type(self).__name__,
                "optimizer got an empty parameter list",
                hint="a model's parameters() can be used up only once; pass"
                " list(model.parameters())",
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with options of their own: {"params": ..., "lr": ..., ...}."""
        where = type(self).__name__
        if not isinstance(param_group, dict):
            raise TypeError(f"{where}: param_group must be a dict, but got {type(param_group)}")
        params = _listed(where, param_group["params"])
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names:
            if len(names) != len(params):
                raise InvalidValueError(
                    where,
                    "all optimizer params should be with/without names. Some param names are"
                    " missing",
                )
            param_group["param_names"] = names
            params = [p[1] for p in params]
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(
                    f"{where}: optimizer can only optimize Tensors, but one of the params is"
                    f" {type(param).__name__}"
                )
            if not (param.is_leaf or param.retains_grad):
                raise InvalidValueError(where, "can't optimize a non-leaf Tensor")
        param_group["params"] = params
        for name, default in self.defaults.items():
            if default is required and name not in param_group:
                raise InvalidValueError(
                    where,
                    "parameter group didn't specify a value of required optimization parameter"
                    f" {name}",
                )
            param_group.setdefault(name, default)
        if param_group.get("differentiable"):
            raise UnsupportedError(
                where,
                "differentiable=True is not supported",
                "the update is made in place, outside the tape",
            )
        if len({id(p) for p in params}) != len(params):
            warnings.warn(
                f"{where}: optimizer contains a parameter group with duplicate parameters; in"
                " future, this will cause an error",
                stacklevel=3,
            )
        for group in self.param_groups:
            if ("param_names" in group) != ("param_names" in param_group):
                kind = "with names" if "param_names" in param_group else "without names"
                raise InvalidValueError(
                    where,
                    "all optimizer param groups should be with/without names. cannot add param"
                    f" group {kind} to the optimizer",
                )
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in known for p in params):
            raise InvalidValueError(
                where, "some parameters appear in more than one parameter group"
            )
        self.param_groups.append(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for param in group["params"]:
                grad = param.grad
                if grad is None:
                    continue
                if set_to_none:
                    param.grad = None
                    continue
                if grad.grad_fn is not None:
                    grad.detach_()
                else:
                    grad.requires_grad_(False)
                grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        `closure` evaluates the loss again (with gradients on) before; its result is returned.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step")

    # -- hooks -------------------------------------------------------------------------------------

    def _register(self, kind: str, hook: Callable[..., Any], prepend: bool = False) -> Handle:
        hooks = self._hooks[kind]
        handle = Handle(hooks, hook)
        if prepend:
            hooks.insert(0, hooks.pop())
        return handle

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` before `step`; `args` begins with the optimizer. It
        may return new (args, kwargs).
        """
        return self._register("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` after `step`."""
        return self._register("step_post", hook)

    def register_state_dict_pre_hook(
        self, hook: Callable[[Optimizer], None], prepend: bool = False
    ) -> Handle:
        """Call `hook(optimizer)` before `state_dict`."""
        return self._register("state_dict_pre", hook, prepend)

    def register_state_dict_post_hook(
        self, hook: Callable[[Optimizer, State], State | None], prepend: bool = False
    ) -> Handle:
        """Call `hook(optimizer, state_dict)` after `state_dict`; a dict it returns is used."""
        return self._register("state_dict_post", hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Callable[[Optimizer, State], State | None], prepend: bool = False
    ) -> Handle:
        """Call `hook(optimizer, state_dict)` before loading; a dict it returns is loaded."""
        return self._register("load_pre", hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Callable[[Optimizer], None], prepend: bool = False
    ) -> Handle:
        """Call `hook(optimizer)` after loading."""
        return self._register("load_post", hook, prepend)

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """{"state": {index: {...}}, "param_groups": [...]} in torch's layout, sharing memory."""
        for before in self._hooks["state_dict_pre"]:
            before(self)
        numbers: dict[int, int] = {}
        groups, start = [], 0
        for group in self.param_groups:
            for i, param in enumerate(group["params"], start):
                numbers.setdefault(id(param), i)
            packed = {key: value for key, value in group.items() if key != "params"}
            packed["params"] = [numbers[id(param)] for param in group["params"]]
            start += len(packed["params"])
            groups.append(packed)
        state = {
            numbers[id(key)] if isinstance(key, Tensor) else key: values
            for key, values in self.state.items()
        }
        made: State = {"state": state, "param_groups": groups}
        for after in self._hooks["state_dict_post"]:
            changed = after(self, made)
            made = made if changed is None else changed
        return made

    def load_state_dict(self, state_dict: State) -> None:
        """Take over options and state. As in torch, Tensors that need no conversion are shared
        with `state_dict`; NumPy arrays are copied.

        Raises ValueError where the groups, their sizes or the shapes of the state do not match.
        """
        state_dict = state_dict.copy()
        for before in self._hooks["load_pre"]:
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        where = f"{type(self).__name__}.load_state_dict"
        saved = deepcopy(state_dict["param_groups"])
        if len(saved) != len(self.param_groups):
            raise InvalidValueError(
                where,
                f"loaded state dict has a different number of parameter groups: {len(saved)}",
                f"the optimizer has {len(self.param_groups)}",
            )
        places: dict[Any, tuple[Tensor, Group]] = {}
        for i, (old, group) in enumerate(zip(saved, self.param_groups, strict=True)):
            if len(old["params"]) != len(group["params"]):
                raise InvalidValueError(
                    where,
                    "loaded state dict contains a parameter group that doesn't match the size of"
                    f" optimizer's group: group {i} has {len(old['params'])} parameters",
                    f"the optimizer {len(group['params'])}",
                )
            for number, param in zip(old["params"], group["params"], strict=True):
                places[number] = param, old
        state: defaultdict[Any, State] = defaultdict(dict)
        for number, values in state_dict["state"].items():
            if number in places:
                param, old = places[number]
                state[param] = _fitted(values, param, old)
            else:
                state[number] = values
        self._check_shapes(where, {n: (p, state[p]) for n, (p, _) in places.items() if p in state})
        for old, group in zip(saved, self.param_groups, strict=True):
            old["params"] = group["params"]
            if "param_names" in group:
                old.setdefault("param_names", group["param_names"])
        self.__setstate__({"state": state, "param_groups": saved})
        for after in self._hooks["load_post"]:
            after(self)

    def _check_shapes(self, where: str, loaded: dict[Any, tuple[Tensor, State]]) -> None:
        wrong = [
            f"state {number} {key}: {tuple(values[key].shape)}, the parameter has"
            f" {tuple(param.shape)}"
            for number, (param, values) in loaded.items()
            for key in self._shaped
            if isinstance(values.get(key), Tensor) and values[key].shape != param.shape
        ]
        if wrong:
            raise InvalidValueError(
                where, "loaded state dict does not fit:\n  " + "\n  ".join(wrong)
            )

    def __getstate__(self) -> State:
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
        }

    def __setstate__(self, state: State) -> None:
        self.__dict__.update(state)
        if "_hooks" not in self.__dict__:
            self._hooks = defaultdict(list)
        self.defaults.setdefault("differentiable", False)
        for group in self.param_groups:
            for name, value in self._late.items():
                group.setdefault(name, value)
            for param in group["params"]:
                values = self.state.get(param) or {}
                for key in self._counters:
                    if key in values and not isinstance(values[key], Tensor):
                        values[key] = counter(values[key], group)

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            for key in sorted(group.keys() - {"params"}):
                text += f"    {key}: {group[key]}\n"
        return text + ")"


def counter(value: float, group: Group) -> Tensor:
    """A 0-dim tensor that counts, in the dtype torch uses for it."""
    double = tensorlib.get_default_dtype() == tensorlib.float64 and not group.get("fused")
    made: Tensor = tensorlib.tensor(
        float(value), dtype=tensorlib.float64 if double else tensorlib.float32
    )
    return made


def _listed(where: str, params: Any) -> list[Any]:
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, set):
        raise TypeError(
            f"{where}: optimizer parameters need to be organized in ordered collections, but the"
            " ordering of tensors in sets will change between runs. Please use a list instead."
        )
    return list(params)


def _fitted(value: Any, param: Tensor, group: Group, key: Any = None) -> Any:
    """`value` with its tensors on the parameter's device and, but for counters, in its dtype."""
    if isinstance(value, np.ndarray | np.generic):
        value = Tensor._wrap(np.array(value))
    if isinstance(value, Tensor):
        if key == "step":
            if group.get("capturable") or group.get("fused"):
                return value.to(dtype=tensorlib.float32, device=param.device)
            return value
        value = value.to(param.device)
        return value.to(param.dtype) if param.is_floating_point() else value
    if isinstance(value, dict):
        return {k: _fitted(v, param, group, k) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_fitted(v, param, group) for v in value)
    return value
