"""SparseAdam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorlib
from tensorlib.errors import AutogradError, InvalidValueError
from tensorlib.optim.optimizer import Optimizer
from tensorlib.optim.rule import check, check_betas, check_lr
from tensorlib.tensor import Tensor

__all__ = ["SparseAdam"]


class SparseAdam(Optimizer):
    """Adam for sparse gradients. tensorlib's tensors are dense, and dense gradients are refused
    as in torch: `step` raises RuntimeError for every parameter with a gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        check_lr("SparseAdam", lr)
        check("SparseAdam", "Invalid learning rate", lr, lr > 0.0, "> 0")
        check("SparseAdam", "Invalid epsilon value", eps, eps > 0.0, "> 0")
        check_betas("SparseAdam", betas)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})
        complex_params = [
            [i, k]
            for i, group in enumerate(self.param_groups)
            for k, param in enumerate(group["params"])
            if param.is_complex()
        ]
        if complex_params:
            raise InvalidValueError(
                "SparseAdam",
                f"Complex params at indices {complex_params}: SparseAdam does not support complex"
                " parameters",
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Refuse dense gradients; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with tensorlib.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if any(param.grad is not None for param in group["params"]):
                raise AutogradError(
                    "SparseAdam.step",
                    "SparseAdam does not support dense gradients, please consider Adam instead",
                )
        return loss
