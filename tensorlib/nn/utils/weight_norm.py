"""Weight normalisation by hooks: the old form of `parametrizations.weight_norm`."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import tensorlib
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter, is_lazy
from tensorlib.tensor import Tensor

__all__ = ["norm_except", "normalized", "remove_weight_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def norm_except(weight: Tensor, dim: int) -> Tensor:
    """2-norms over all dimensions but `dim`, kept with size 1; over all of them (0-dim) for -1."""
    if dim == -1:
        return tensorlib.linalg.vector_norm(weight)
    others = [d for d in range(weight.dim()) if d != dim]
    if not others:
        return weight.abs()
    return tensorlib.linalg.vector_norm(weight, 2, others, True)


def normalized(direction: Tensor, length: Tensor, dim: int) -> Tensor:
    """`direction` with the norms `length`."""
    return direction * (length / norm_except(direction, dim))


class WeightNorm:
    """The hook: computes `name` from `name`_g and `name`_v before each forward."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, -1 if dim is None else dim

    def compute_weight(self, module: Module) -> Tensor:
        """The weight of the present length and direction."""
        length, direction = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        return normalized(direction, length, self.dim)

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Replace the parameter `name` by its length `name`_g and direction `name`_v; returns `module`.
    Salimans and Kingma, 2016.
    """
    warnings.warn(
        "`nn.utils.weight_norm` is deprecated in favor of `nn.utils.parametrizations.weight_norm`.",
        FutureWarning,
        stacklevel=2,
    )
    if any(hook.name == name for hook in module._before_hooks(WeightNorm)):
        raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
    hook = WeightNorm(name, dim)
    weight = getattr(module, name)
    if is_lazy(weight):
        raise ValueError(
            "The module passed to `WeightNorm` can't have uninitialized parameters. Hint: run a"
            " forward pass before."
        )
    del module._parameters[name]
    module.register_parameter(f"{name}_g", Parameter(norm_except(weight, hook.dim).detach()))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    hook(module, ())
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Undo `weight_norm`, keeping the present weight; returns `module`."""
    for hook in module._before_hooks(WeightNorm):
        if hook.name == name:
            weight = hook.compute_weight(module)
            delattr(module, name)
            del module._parameters[f"{name}_g"], module._parameters[f"{name}_v"]
            setattr(module, name, Parameter(weight.detach()))
            module._drop_before_hook(hook)
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")
