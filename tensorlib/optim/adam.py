"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorlib
from tensorlib.device import array_namespace
from tensorlib.optim.optimizer import Array, Group, Optimizer
from tensorlib.tensor import Tensor

__all__ = ["Adam", "AdamW", "adam"]


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015).

        m = beta1 · m + (1 - beta1) · g          v = beta2 · v + (1 - beta2) · g²
        param -= lr · m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    `weight_decay` is added to the gradient, or with `decoupled_weight_decay` shrinks the parameter
    by lr · weight_decay (AdamW). With `amsgrad` the largest v so far is used. `foreach` and `fused`
    choose among torch's own loops and are accepted without effect.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
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
        defaults = {
            "lr": lr,
            "betas": betas,
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

    def update(self, param: Tensor, grad: Array, group: Group) -> None:
        state = self.state[param]
        if not state:
            zeros_like = array_namespace(param.array).zeros_like
            state["step"] = tensorlib.tensor(0.0, dtype=tensorlib.float32)
            state["exp_avg"] = Tensor._wrap(zeros_like(param.array))
            state["exp_avg_sq"] = Tensor._wrap(zeros_like(param.array))
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = Tensor._wrap(zeros_like(param.array))
        state["step"].array[...] += 1
        adam(
            param.array,
            grad,
            state["exp_avg"].array,
            state["exp_avg_sq"].array,
            state["max_exp_avg_sq"].array if group["amsgrad"] else None,
            step=float(state["step"].array),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            scratch=(self.scratch(param.array), self.scratch(param.array, 1)),
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019). See Adam."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )


def adam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None,
    *,
    step: float,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    scratch: tuple[Array, Array],
) -> None:
    """One step on arrays of one shape; changes all but `grad`, overwrites `scratch`."""
    xp = array_namespace(param)
    work, spare = scratch
    beta1, beta2 = betas
    if weight_decay:
        if decoupled:
            param *= 1 - lr * weight_decay
        else:
            grad = xp.add(grad, xp.multiply(param, weight_decay, out=spare), out=spare)
    # exp_avg += (1 - beta1) · (grad - exp_avg)
    xp.subtract(grad, exp_avg, out=work)
    work *= 1 - beta1
    exp_avg += work
    # exp_avg_sq = beta2 · exp_avg_sq + (1 - beta2) · grad²
    exp_avg_sq *= beta2
    xp.multiply(grad, grad, out=work)
    work *= 1 - beta2
    exp_avg_sq += work
    if max_exp_avg_sq is not None:
        exp_avg_sq = xp.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
    xp.sqrt(exp_avg_sq, out=work)
    work /= math.sqrt(1 - beta2**step)
    work += eps
    xp.divide(exp_avg, work, out=work)
    work *= lr / (1 - beta1**step)
    param -= work
