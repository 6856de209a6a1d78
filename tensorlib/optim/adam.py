"""Adam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.autograd.tape import bump
from tensorlib.errors import InvalidValueError, ShapeError
from tensorlib.kernels.optimizer import adam_step
from tensorlib.optim.inplace import addcdiv_, addcmul_, div_, lerp_, mul_, shift_
from tensorlib.optim.optimizer import Group
from tensorlib.optim.rule import (
    Rule,
    check_betas,
    check_lr,
    check_options,
    gradient_like,
    number,
    scalar,
)
from tensorlib.tensor import Tensor

__all__ = ["Adam"]

Betas = tuple[float | Tensor, float | Tensor]


class Adam(Rule):
    """Adam (Kingma and Ba, 2015).

        m = beta1 · m + (1 - beta1) · g          v = beta2 · v + (1 - beta2) · g²
        param -= lr · m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    `weight_decay` is added to the gradient, or with `decoupled_weight_decay` shrinks the parameter
    by lr · weight_decay (AdamW). With `amsgrad` the largest v so far is used.
    """

    _late: ClassVar[Group] = {
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "decoupled_weight_decay": False,
        "fused": None,
    }
    _shaped = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        where = type(self).__name__
        each = bool(foreach) and not capturable
        if isinstance(lr, Tensor) and each:
            raise InvalidValueError(where, _UNSUPPORTED.format("lr"))
        check_lr(where, lr)
        check_options(where, eps=eps)
        check_betas(where, betas)
        check_options(where, weight_decay=weight_decay)
        _check_kind(where, betas, each)
        defaults = {
            "lr": lr,
            "betas": tuple(map(scalar, betas)),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _names(self, group: Group) -> tuple[str, ...]:
        return self._shaped if group["amsgrad"] else self._shaped[:2]

    def _update(self, group: Group) -> None:
        lr, eps = number(group["lr"]), group["eps"]
        beta1, beta2 = map(number, group["betas"])
        if group["foreach"] and isinstance(group["lr"], Tensor) and not group["capturable"]:
            raise ShapeError(f"{type(self).__name__}.step", _UNSUPPORTED.format("lr"))
        taken, group = self._together(group, adam_step)
        if taken:
            self._update_together(taken, group)
        for x, g, (m, v, *top), step, (w, _, u, _) in self._live(group, self._names(group)):
            lerp_(m, g, 1 - beta1, w)
            mul_(v, beta2, w)
            addcmul_(v, g, g, 1 - beta2, w)
            if top:
                v = np.maximum(top[0], v, out=top[0])
            np.sqrt(v, u)
            div_(u, (1 - beta2**step) ** 0.5, w)
            shift_(u, eps)
            addcdiv_(x, m, u, -(lr / (1 - beta1**step)), w)

    def _update_together(self, params: list[Tensor], group: Group) -> None:
        lr, decay = number(group["lr"]), number(group["weight_decay"])
        beta1, beta2 = map(number, group["betas"])
        shrink = 1.0
        if decay and group["decoupled_weight_decay"]:
            shrink, decay = float(1 - lr * decay), 0.0
        names = self._names(group)
        rows = []
        for param in params:
            buffers, step = self._begin(param, group, names)
            divisor, size = (1 - beta2**step) ** 0.5, lr / (1 - beta1**step)
            rows.append((param.array, gradient_like(param), *buffers, float(divisor), float(size)))
        numbers = (float(beta1), float(beta2), group["eps"], float(decay), shrink)
        adam_step(rows, *numbers, group["maximize"])
        for param in params:
            bump(param)


_UNSUPPORTED = "{} as a Tensor is not supported for capturable=False and foreach=True"


def _check_kind(where: str, betas: Betas, each: bool) -> None:
    kinds = [type(b) if not isinstance(b, float | Tensor) else isinstance(b, Tensor) for b in betas]
    if kinds not in ([False, False], [True, True]):
        raise InvalidValueError(
            where, f"betas must be either both floats or both Tensors, but got {betas}"
        )
    for i, beta in enumerate(betas):
        if isinstance(beta, Tensor) and each:
            raise InvalidValueError(where, _UNSUPPORTED.format(f"betas[{i}]"))
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise InvalidValueError(where, f"Tensor betas[{i}] must be 1-element")
