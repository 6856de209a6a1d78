"""Spectral normalisation by hooks: the old form of `parametrizations.spectral_norm`."""

from __future__ import annotations

from typing import Any, TypeVar

import tensorlib
from tensorlib.nn import functional as F
from tensorlib.nn.conv import _ConvTransposeNd
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter, is_lazy
from tensorlib.tensor import Tensor

__all__ = ["remove_spectral_norm", "spectral_norm"]

M = TypeVar("M", bound=Module)


class SpectralNorm:
    """The hook: computes `name` from `name`_orig, `name`_u and `name`_v before each forward."""

    _version = 1

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float) -> None:
        if n_power_iterations <= 0:
            raise ValueError(
                "Expected n_power_iterations to be positive, but got"
                f" n_power_iterations={n_power_iterations}"
            )
        self.name, self.dim, self.eps = name, dim, eps
        self.n_power_iterations = n_power_iterations

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as [size of `dim`, rest]."""
        return weight.movedim(self.dim, 0).reshape(weight.shape[self.dim], -1)

    def compute_weight(self, module: Module, steps: int) -> Tensor:
        """The weight over its largest singular value, after `steps` of the power method."""
        weight, u, v = (getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v"))
        matrix = self.matrix(weight)
        with tensorlib.no_grad():
            for _ in range(steps):
                v.copy_(F.normalize(matrix.t() @ u, dim=0, eps=self.eps))
                u.copy_(F.normalize(matrix @ v, dim=0, eps=self.eps))
            if steps:  # the next call changes them in place
                u, v = u.clone(), v.clone()
        result: Tensor = weight / tensorlib.dot(u, matrix @ v)
        return result

    def __call__(self, module: Module, inputs: Any) -> None:
        steps = self.n_power_iterations if module.training else 0
        setattr(module, self.name, self.compute_weight(module, steps))

    def note_version(self, module: Module, state_dict: Any, prefix: str, metadata: Any) -> None:
        """After saving: the version of this hook."""
        metadata.setdefault("spectral_norm", {})[f"{self.name}.version"] = self._version

    def upgrade(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        *_: Any,
    ) -> None:
        """Before loading: solve for the vector `v`, which version None did not save."""
        version = metadata.get("spectral_norm", {}).get(f"{self.name}.version")
        key = prefix + self.name
        saved = [part for part in ("_orig", "_u", "_v") if key + part in state_dict]
        if version is not None or (len(saved) == 3 and key not in state_dict):
            return
        missing = [key + part for part in ("_orig", "", "_u") if key + part not in state_dict]
        if missing:
            missing_keys += missing if strict else []
            return
        with tensorlib.no_grad():
            weight, u = state_dict[f"{key}_orig"], state_dict[f"{key}_u"]
            sigma = (weight / state_dict.pop(key)).mean()
            matrix = self.matrix(weight)
            v = (tensorlib.linalg.pinv(matrix.t() @ matrix) @ matrix.t() @ u.unsqueeze(1)).squeeze(
                1
            )
            state_dict[f"{key}_v"] = v * (sigma / tensorlib.dot(u, matrix @ v))


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> M:
    """Divide the parameter `name` by its largest singular value before each forward; returns
    `module`. Miyato et al., 2018.
    """
    if dim is None:
        dim = 1 if isinstance(module, _ConvTransposeNd) else 0
    if any(hook.name == name for hook in module._before_hooks(SpectralNorm)):
        raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
    hook = SpectralNorm(name, n_power_iterations, dim, eps)
    weight = module._parameters[name]
    if weight is None:
        raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
    if is_lazy(weight):
        raise ValueError(
            "The module passed to `SpectralNorm` can't have uninitialized parameters. Hint: run a"
            " forward pass before."
        )
    matrix = hook.matrix(weight.detach())
    u, v = (
        F.normalize(matrix.new_empty(size).normal_(0, 1), dim=0, eps=eps) for size in matrix.shape
    )
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())  # a plain attribute, in no state dict
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    module.register_forward_pre_hook(hook)
    module._register_state_dict_hook(hook.note_version)
    module._register_load_state_dict_pre_hook(hook.upgrade)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Undo `spectral_norm`, keeping the present weight; returns `module`."""
    for hook in module._before_hooks(SpectralNorm):
        if hook.name == name:
            with tensorlib.no_grad():
                weight = hook.compute_weight(module, 0)
            for part in ("", "_u", "_v", "_orig"):
                delattr(module, name + part)
            module.register_parameter(name, Parameter(weight.detach()))
            module._drop_before_hook(hook)
            for hooks in module._state_hook_lists():
                hooks.entries = [
                    e for e in hooks.entries if getattr(e.hook, "__self__", None) is not hook
                ]
            return module
    raise ValueError(f"spectral_norm of '{name}' not found in {module}")
