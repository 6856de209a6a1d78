"""Pruning: masks of zeros on parameters, renewed before each forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import tensorlib
from tensorlib.nn.module import Module
from tensorlib.nn.utils.convert import parameters_to_vector
from tensorlib.tensor import Tensor

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

M = TypeVar("M", bound=Module)


class BasePruningMethod(ABC):
    """A way to choose what is zeroed; define `compute_mask` and `PRUNING_TYPE`: "unstructured"
    (sees what is not pruned yet), "structured" (whole channels along `dim`) or "global".
    """

    PRUNING_TYPE: ClassVar[str]
    _tensor_name: str
    dim: int

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of `t`: `default_mask` with more zeros."""

    def apply_mask(self, module: Module) -> Tensor:
        """The pruned tensor."""
        mask: Tensor = getattr(module, f"{self._tensor_name}_mask")
        original: Tensor = getattr(module, f"{self._tensor_name}_orig")
        return mask.to(dtype=original.dtype) * original

    @classmethod
    def apply(
        cls,
        module: Module,
        name: str,
        *args: Any,
        importance_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> BasePruningMethod:
        """Prune the parameter `name`: it becomes `name`_orig times the buffer `name`_mask. Several
        prunings of one parameter are joined in a PruningContainer.
        """
        method: BasePruningMethod = cls(*args, **kwargs)
        method._tensor_name = name
        before = [h for h in module._before_hooks(BasePruningMethod) if h._tensor_name == name]
        for old in before:
            module._drop_before_hook(old)
            container = old if isinstance(old, PruningContainer) else PruningContainer(old)
            container.add_pruning_method(method)
            method = container
        original = getattr(module, name)
        scores = original if importance_scores is None else importance_scores
        if scores.shape != original.shape:
            raise AssertionError(
                f"importance_scores should have the same shape as parameter {name} of {module}, got"
                f" {tuple(scores.shape)} vs {tuple(original.shape)}"
            )
        if before:
            mask = getattr(module, f"{name}_mask").detach().clone()
        else:
            mask = tensorlib.ones_like(original.detach())
        mask = method.compute_mask(scores, default_mask=mask)  # before anything is changed
        if not before:
            del module._parameters[name]
            module.register_parameter(f"{name}_orig", original)
        module.register_buffer(f"{name}_mask", mask)
        method(module, ())
        module.register_forward_pre_hook(method)
        return method

    def prune(
        self,
        t: Tensor,
        default_mask: Tensor | None = None,
        importance_scores: Tensor | None = None,
    ) -> Tensor:
        """`t` itself, pruned."""
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise AssertionError(
                "importance_scores should have the same shape as tensor t, got"
                f" {tuple(scores.shape)} vs {tuple(t.shape)}"
            )
        mask = tensorlib.ones_like(t.detach()) if default_mask is None else default_mask
        return t * self.compute_mask(scores, default_mask=mask)

    def remove(self, module: Module) -> None:
        """Make the pruned values the parameter's own."""
        name = self._tensor_name
        weight = self.apply_mask(module)
        delattr(module, name)
        original: Any = module._parameters.pop(f"{name}_orig")
        original.data = weight.detach()
        del module._buffers[f"{name}_mask"]
        setattr(module, name, original)


class PruningContainer(BasePruningMethod):
    """Several prunings of one tensor, the newest last."""

    PRUNING_TYPE = "container"

    def __init__(self, *args: BasePruningMethod) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        if args:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod) -> None:
        """Add one for the same tensor."""
        if not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if self._tensor_name != method._tensor_name:
            raise ValueError(
                "Can only add pruning methods acting on the parameter named"
                f" '{self._tensor_name}' to PruningContainer {self}. Found"
                f" '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: int) -> BasePruningMethod:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The newest method's mask of what the others left."""
        method = self._pruning_methods[-1]
        mask = default_mask.to(dtype=t.dtype).clone()
        where: Any = tuple(slice(None) for _ in t.shape)
        if method.PRUNING_TYPE == "unstructured":
            where = default_mask == 1
        elif method.PRUNING_TYPE == "structured":
            if not hasattr(method, "dim"):
                raise AttributeError(
                    'Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim`'
                    " defined."
                )
            dim = _checked_dim(t, method.dim)
            others = [d for d in range(t.dim()) if d != dim]
            kept = default_mask.sum(others) != 0
            where = tuple(kept if d == dim else slice(None) for d in range(t.dim()))
        elif method.PRUNING_TYPE != "global":
            raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}")
        part = method.compute_mask(t[where], default_mask=default_mask[where])
        mask[where] = part.to(dtype=mask.dtype)
        return mask


class Identity(BasePruningMethod):
    """Prunes nothing, but makes mask and original."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask


class _Amount(BasePruningMethod):
    """Prunes a number of units, given as an integer or as a fraction."""

    amount: Any

    def __init__(self, amount: Any) -> None:
        if not isinstance(amount, Real):
            raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
        if float(amount) < 0 or (not isinstance(amount, Integral) and float(amount) > 1.0):
            raise ValueError(
                f"amount={amount} should either be a float in the range [0, 1] or a non-negative"
                " integer"
            )
        self.amount = amount

    def _count(self, units: int) -> int:
        if not isinstance(self.amount, Integral):
            return round(float(self.amount) * units)
        if int(self.amount) > units:
            raise ValueError(
                f"amount={self.amount} should be smaller than the number of parameters to"
                f" prune={units}"
            )
        return int(self.amount)


class _Elements(_Amount):
    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone().contiguous()
        count = self._count(t.numel())
        if count:
            mask.view(-1)[self._chosen(t, count)] = 0
        return mask

    def _chosen(self, t: Tensor, count: int) -> Tensor:
        raise NotImplementedError


class RandomUnstructured(_Elements):
    """Zeroes elements at random."""

    def _chosen(self, t: Tensor, count: int) -> Tensor:
        found: Tensor = tensorlib.topk(tensorlib.rand_like(t).view(-1), count)[1]
        return found


class L1Unstructured(_Elements):
    """Zeroes the smallest elements."""

    def _chosen(self, t: Tensor, count: int) -> Tensor:
        found: Tensor = tensorlib.topk(t.detach().abs().reshape(-1), count, largest=False)[1]
        return found


class _Channels(_Amount):
    PRUNING_TYPE = "structured"

    def __init__(self, amount: Any, dim: int = -1) -> None:
        super().__init__(amount)
        self.dim = dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if t.dim() <= 1:
            raise ValueError(
                "Structured pruning can only be applied to multidimensional tensors. Found tensor"
                f" of shape {tuple(t.shape)} with {t.dim()} dims"
            )
        dim = _checked_dim(t, self.dim)
        count = self._count(t.shape[dim])
        if not count:
            return default_mask
        mask = tensorlib.zeros_like(t.detach())
        kept = self._kept(t, dim, count)
        mask[tuple(kept if d == dim else slice(None) for d in range(t.dim()))] = 1
        return mask * default_mask.to(dtype=mask.dtype)

    def _kept(self, t: Tensor, dim: int, count: int) -> Tensor:
        raise NotImplementedError


def _checked_dim(t: Tensor, dim: int) -> int:
    if not -t.dim() <= dim < t.dim():
        raise IndexError(f"Invalid index {dim} for tensor of size {tuple(t.shape)}")
    return dim % t.dim()


class RandomStructured(_Channels):
    """Zeroes channels along `dim` at random."""

    def _kept(self, t: Tensor, dim: int, count: int) -> Tensor:
        chance = tensorlib.rand(t.shape[dim])
        kept: Tensor = chance > chance.kthvalue(count)[0]
        return kept


class LnStructured(_Channels):
    """Zeroes the channels along `dim` with the smallest n-norm."""

    def __init__(self, amount: Any, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def _kept(self, t: Tensor, dim: int, count: int) -> Tensor:
        others = [d for d in range(t.dim()) if d != dim]
        sizes = tensorlib.norm(t.detach(), self.n, others)
        found: Tensor = tensorlib.topk(sizes, t.shape[dim] - count)[1]
        return found


class CustomFromMask(BasePruningMethod):
    """Zeroes where `mask` is zero."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if default_mask.shape != self.mask.shape:
            raise AssertionError(
                f"default_mask shape {tuple(default_mask.shape)} must match self.mask shape"
                f" {tuple(self.mask.shape)}"
            )
        return default_mask * self.mask.to(dtype=default_mask.dtype)


def identity(module: M, name: str) -> M:
    """Make mask and original without pruning; returns `module`, as all of these do."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: M, name: str, amount: float) -> M:
    """Zero `amount` elements of the parameter `name` at random."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(
    module: M, name: str, amount: float, importance_scores: Tensor | None = None
) -> M:
    """Zero the `amount` smallest elements (or those of the smallest scores)."""
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: M, name: str, amount: float, dim: int) -> M:
    """Zero `amount` channels along `dim` at random."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: M,
    name: str,
    amount: float,
    n: Any,
    dim: int,
    importance_scores: Tensor | None = None,
) -> M:
    """Zero the `amount` channels along `dim` of the smallest n-norm."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: M, name: str, mask: Tensor) -> M:
    """Zero where `mask` is zero."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: dict[tuple[Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune several parameters, pairs (module, name), as one by an unstructured method."""
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    scores = {} if importance_scores is None else importance_scores
    if not isinstance(scores, dict):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    pairs = list(parameters)
    tensors = [getattr(module, name) for module, name in pairs]
    chosen = [
        scores.get(pair, tensor).detach() for pair, tensor in zip(pairs, tensors, strict=True)
    ]
    masks = [
        getattr(module, f"{name}_mask", tensorlib.ones_like(tensor.detach()))
        for (module, name), tensor in zip(pairs, tensors, strict=True)
    ]
    method = pruning_method(**kwargs)
    method._tensor_name = "temp"
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method'
            f" {pruning_method} of type {method.PRUNING_TYPE}"
        )
    mask = PruningContainer(method).compute_mask(
        parameters_to_vector(chosen), parameters_to_vector(masks)
    )
    start = 0
    for (module, name), tensor in zip(pairs, tensors, strict=True):
        end = start + tensor.numel()
        custom_from_mask(module, name, mask[start:end].view(tensor.shape))
        start = end


def remove(module: M, name: str) -> M:
    """Make the pruning of the parameter `name` permanent."""
    for hook in module._before_hooks(BasePruningMethod):
        if hook._tensor_name == name:
            hook.remove(module)
            module._drop_before_hook(hook)
            return module
    raise ValueError(
        f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed"
    )


def is_pruned(module: Module) -> bool:
    """Whether any parameter in `module` is pruned."""
    return any(each._before_hooks(BasePruningMethod) for each in module.modules())
