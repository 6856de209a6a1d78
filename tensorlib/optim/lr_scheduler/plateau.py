"""Lower rates when a metric stops improving."""

from __future__ import annotations

import math
import warnings
from typing import Any

from tensorlib.errors import AutogradError, InvalidValueError
from tensorlib.optim.lr_scheduler.base import EPOCH, LRScheduler, expect_optimizer, put, values
from tensorlib.optim.optimizer import Optimizer, State

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(LRScheduler):
    """Times `factor` when a metric has not improved for more than `patience` steps.

    Args:
        mode: "min" (the metric should fall) or "max".
        threshold, threshold_mode: the least improvement, relative ("rel") or absolute ("abs").
        cooldown: steps to wait after a reduction.
        min_lr: the lowest rate, for all groups or for each.
        eps: the least change of a rate.
    """

    mode_worse: float

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        where = "ReduceLROnPlateau"
        if factor >= 1.0:
            raise InvalidValueError(where, f"Factor should be < 1.0., got {factor}")
        self.factor = factor
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        groups = len(optimizer.param_groups)
        if isinstance(min_lr, list | tuple):
            if len(min_lr) != groups:
                raise InvalidValueError(where, f"expected {groups} min_lrs, got {len(min_lr)}")
            self.default_min_lr, self.min_lrs = None, list(min_lr)
        else:
            self.default_min_lr, self.min_lrs = min_lr, [min_lr] * groups
        self.patience, self.cooldown, self.eps = patience, cooldown, eps
        self.last_epoch = 0
        self._last_lr = values(optimizer, "lr")
        self._compare_by(mode, threshold, threshold_mode)
        self._reset()

    def _compare_by(self, mode: str, threshold: float, threshold_mode: str) -> None:
        if mode not in ("min", "max"):
            raise InvalidValueError("ReduceLROnPlateau", f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise InvalidValueError(
                "ReduceLROnPlateau", f"threshold mode {threshold_mode} is unknown!"
            )
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode

    def _reset(self) -> None:
        self.best = self.mode_worse
        self.cooldown_counter = self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> bool:
        """Whether a reduction is too recent for another."""
        return self.cooldown_counter > 0

    def _is_better(self, value: float, best: float) -> bool:
        if self.threshold_mode == "rel":
            if self.mode == "min":
                return value < best * (1.0 - self.threshold)
            return value > best * (self.threshold + 1.0)
        if self.mode == "min":
            return value < best - self.threshold
        return value > best + self.threshold

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]  # takes the metric, as torch's
        """Note the metric of one epoch and lower the rates if it is time."""
        value = float(metrics)
        if epoch is None:
            epoch = self.last_epoch + 1
        else:
            warnings.warn(EPOCH, UserWarning, stacklevel=2)
        self.last_epoch = epoch
        if self._is_better(value, self.best):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = values(self.optimizer, "lr")

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise AutogradError(
                    "ReduceLROnPlateau.step",
                    f"The number of param groups in the `optimizer` ({len(groups)}) differs from"
                    f" when `ReduceLROnPlateau` was initialized ({len(self.min_lrs)})",
                    hint="modify `min_lrs` to match the optimizer's param groups",
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, low in zip(groups, self.min_lrs, strict=True):
            rate = float(group["lr"])
            lower = max(rate * self.factor, low)
            if rate - lower > self.eps:
                put(group, "lr", lower)

    def load_state_dict(self, state_dict: State) -> None:
        super().load_state_dict(state_dict)
        self._compare_by(self.mode, self.threshold, self.threshold_mode)
