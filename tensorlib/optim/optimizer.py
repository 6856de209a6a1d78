"""Optimizer: groups of parameters, the state kept for each, and both as a state dict."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import tensorlib
from tensorlib.autograd.tape import bump
from tensorlib.device import array_namespace
from tensorlib.tensor import Tensor

__all__ = ["Optimizer"]

Array = Any
Group = dict[str, Any]


class Optimizer:
    """Base class of optimizers.

    A subclass gives its defaults and writes `update(param, grad, group)`, which changes
    the array of one parameter in place.

    Args:
        params: tensors, (name, tensor) pairs, or dicts with a "params" key and the options that
            differ for these.
        defaults: options of groups that do not set them.
    """

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                f"{type(self).__name__}: params is a Tensor; expected an iterable of Tensors or"
                " dicts. Hint: pass [tensor]."
            )
        if defaults.get("differentiable"):
            raise NotImplementedError(
                f"{type(self).__name__}: differentiable=True is not supported; the update is made"
                " outside the tape"
            )
        if defaults.get("capturable"):
            raise NotImplementedError(
                f"{type(self).__name__}: capturable=True is not supported (CUDA graphs)"
            )
        _check(self, defaults)
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._stepped = False
        self._scratch: dict[tuple[str, str, int], Array] = {}
        groups = list(params)
        if not groups:
            raise ValueError(
                "optimizer got an empty parameter list. Hint: a model's parameters() can be used up"
                " only once; pass list(model.parameters())."
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with options of their own: {"params": ..., "lr": ..., ...}."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group).__name__}")
        params = param_group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering"
                " of tensors in sets will change between runs. Please use a list instead."
            )
        params = list(params)
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names and len(names) != len(params):
            raise ValueError(
                "all optimizer params should be with/without names. Some param names are missing"
            )
        params = [p[1] if isinstance(p, tuple) else p for p in params]
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is"
                    f" {type(param).__name__}"
                )
            if param.grad_fn is not None:
                raise ValueError("can't optimize a non-leaf Tensor")
        if len({id(p) for p in params}) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters", stacklevel=3
            )
        for group in self.param_groups:
            if ("param_names" in group) != bool(names):
                raise ValueError("all optimizer param groups should be with/without names.")
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in known for p in params):
            raise ValueError("some parameters appear in more than one parameter group")
        param_group["params"] = params
        if names:
            param_group["param_names"] = names
        for name, default in self.defaults.items():
            param_group.setdefault(name, default)
        _check(self, param_group)
        self.param_groups.append(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for param in group["params"]:
                if set_to_none:
                    param.grad = None
                elif param.grad is not None:
                    param.grad = param.grad.detach()
                    param.grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        `closure` evaluates the loss again (with gradients on) before; its result is returned.
        """
        loss = None
        if closure is not None:
            with tensorlib.enable_grad():
                loss = closure()
        self._stepped = True
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                grad = param.grad.array
                if group.get("maximize"):
                    grad = -grad
                self.update(param, grad, group)
                bump(param)
        return loss

    def update(self, param: Tensor, grad: Array, group: Group) -> None:
        """Change `param.array` in place by the rule; `self.state[param]` is free to use."""
        raise NotImplementedError(f"{type(self).__name__} has no update rule")

    def scratch(self, like: Array, number: int = 0) -> Array:
        """An array of `like`'s shape and dtype for intermediate values, reused by every call."""
        xp = array_namespace(like)
        key = (xp.__name__, like.dtype.str, number)
        held = self._scratch.get(key)
        if held is None or held.size < like.size:
            held = self._scratch[key] = xp.empty(like.size, like.dtype)
        return held[: like.size].reshape(like.shape)

    # --- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: {...}}, "param_groups": [...]} in torch's layout, sharing memory."""
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                numbers.setdefault(id(param), len(numbers))
            packed = {key: value for key, value in group.items() if key != "params"}
            packed["params"] = [numbers[id(param)] for param in group["params"]]
            groups.append(packed)
        state = {numbers[id(param)]: values for param, values in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state (Tensors or arrays are copied).

        Raises ValueError where the groups, their sizes or the shapes of the state do not match.
        """
        saved = [dict(group) for group in state_dict["param_groups"]]
        if len(saved) != len(self.param_groups):
            raise ValueError(
                "loaded state dict has a different number of parameter groups:"
                f" {len(saved)}, the optimizer has {len(self.param_groups)}"
            )
        by_number: dict[int, Tensor] = {}
        for i, (old, group) in enumerate(zip(saved, self.param_groups, strict=True)):
            if len(old["params"]) != len(group["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of"
                    f" optimizer's group: group {i} has {len(old['params'])} parameters, the"
                    f" optimizer {len(group['params'])}"
                )
            by_number.update(zip(old["params"], group["params"], strict=True))
        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        wrong = []
        for number, values in state_dict["state"].items():
            if number not in by_number:
                raise ValueError(f"loaded state dict has state for the unknown parameter {number}")
            param = by_number[number]
            for key, value in values.items():
                value = _own(value, param, key)
                if isinstance(value, Tensor) and value.dim() and value.shape != param.shape:
                    wrong.append(
                        f"state {number} {key}: {tuple(value.shape)}, the parameter has"
                        f" {tuple(param.shape)}"
                    )
                state[param][key] = value
        if wrong:
            raise ValueError("loaded state dict does not fit:\n  " + "\n  ".join(wrong))
        self.state = state
        for old, group in zip(saved, self.param_groups, strict=True):
            params, names = group["params"], group.get("param_names")
            group.clear()
            group.update(copy.deepcopy({k: v for k, v in old.items() if k != "params"}))
            group["params"] = params
            if names is not None:
                group.setdefault("param_names", names)
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
            "_stepped": self._stepped,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._scratch = {}

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            for key in sorted(group.keys() - {"params"}):
                text += f"    {key}: {group[key]}\n"
        return text + ")"


def _own(value: Any, param: Tensor, key: str) -> Any:
    """A copy of `value` on the parameter's device and, but for counters, in its dtype."""
    if isinstance(value, np.ndarray | np.generic):
        value = Tensor._wrap(np.array(value))
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    value = value.detach().clone()
    if key == "step":
        return value
    value = value.to(param.device)
    return value.to(param.dtype) if param.is_floating_point() else value


_AT_LEAST_ZERO = ("lr", "eps", "weight_decay", "momentum")


def _check(optimizer: Optimizer, group: Group) -> None:
    """Refuse options that make no sense, with torch's exception type."""
    for name in _AT_LEAST_ZERO:
        value = group.get(name, 0)
        if isinstance(value, Tensor):
            raise TypeError(
                f"{type(optimizer).__name__}: {name} is a Tensor; expected a number."
                " Hint: pass value.item()."
            )
        if not value >= 0:
            label = {"lr": "learning rate", "eps": "epsilon value"}.get(name, f"{name} value")
            raise ValueError(f"{type(optimizer).__name__}: Invalid {label}: {value}; expected >= 0")
    for i, beta in enumerate(group.get("betas", ())):
        if not 0.0 <= beta < 1.0:
            raise ValueError(
                f"{type(optimizer).__name__}: Invalid beta parameter at index {i}: {beta};"
                " expected in [0, 1)"
            )
