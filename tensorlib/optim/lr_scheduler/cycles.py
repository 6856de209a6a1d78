"""Schedules that go up and down: cosine with restarts, cyclic, one cycle."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from tensorlib.errors import InvalidValueError
from tensorlib.optim.lr_scheduler.base import (
    LRScheduler,
    Rate,
    each,
    expect_optimizer,
    lambda_state,
    load_lambdas,
    put,
)
from tensorlib.optim.optimizer import Group, Optimizer, State

__all__ = ["CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR"]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine in T_0 steps, then again in T_0 · T_mult, and so on. Loshchilov and Hutter,
    2017. `step(epoch)` takes fractions of an epoch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        where = type(self).__name__
        if T_0 <= 0 or not isinstance(T_0, int):
            raise InvalidValueError(where, f"Expected positive integer T_0, but got {T_0}")
        if T_mult < 1 or not isinstance(T_mult, int):
            raise InvalidValueError(where, f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, float | int):
            raise InvalidValueError(
                where, f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}"
            )
        self.T_0, self.T_i, self.T_mult, self.eta_min = T_0, T_0, T_mult, eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def _next(self) -> list[Rate]:
        cosine = math.cos(math.pi * self.T_cur / self.T_i)
        low = self.eta_min
        return [low + (base - low) * (1 + cosine) / 2 for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go on by one, or to `epoch` (>= 0, may be fractional)."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        elif epoch < 0:
            raise InvalidValueError(
                type(self).__name__, f"Expected non-negative epoch, but got {epoch}"
            )
        elif epoch < self.T_0:
            self.T_i, self.T_cur = self.T_0, epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            n = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**n - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**n
        self.last_epoch = math.floor(epoch)
        self._set(self._rates())


class _WithMomentum(LRScheduler):
    """A schedule that moves the momentum (or beta1) against the rate."""

    cycle_momentum: bool
    use_beta1: bool

    def _momentum_limits(
        self, optimizer: Optimizer, base: Any, top: Any, fresh: bool
    ) -> tuple[list[float], list[float]]:
        if not {"momentum", "betas"} & optimizer.defaults.keys():
            raise InvalidValueError(
                type(self).__name__,
                "optimizer must support momentum or beta1 with `cycle_momentum` option enabled",
                hint="pass cycle_momentum=False",
            )
        self.use_beta1 = "betas" in optimizer.defaults
        lows, highs = each("base_momentum", optimizer, base), each("max_momentum", optimizer, top)
        if fresh:
            for group, low, high in zip(optimizer.param_groups, lows, highs, strict=True):
                self._put_momentum(group, high)
                group["max_momentum"], group["base_momentum"] = high, low
        return lows, highs

    def _put_momentum(self, group: Group, value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value


class CyclicLR(_WithMomentum):
    """Up from `base_lr` to `max_lr` in `step_size_up` steps and down again, over and over; the
    momentum goes the other way. Smith, 2017.

    Args:
        mode: "triangular"; "triangular2" halves the height each cycle; "exp_range" scales it by
            gamma ** step.
        scale_fn: a function of the cycle or of the step (`scale_mode` "cycle" or "iterations")
            that scales the height; then `mode` is ignored.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        base_lrs = each("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for rate, group in zip(base_lrs, optimizer.param_groups, strict=True):
                put(group, "lr", rate)
        self.max_lrs = each("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        if scale_fn is None and mode not in ("triangular", "triangular2", "exp_range"):
            raise InvalidValueError(
                "CyclicLR",
                f"mode is invalid and scale_fn is None: {mode!r}",
                "'triangular', 'triangular2' or 'exp_range'",
            )
        self.mode, self.gamma = mode, gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        self._init_scale_fn()
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.base_momentums, self.max_momentums = self._momentum_limits(
                optimizer, base_momentum, max_momentum, last_epoch == -1
            )
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def _init_scale_fn(self) -> None:
        if self._scale_fn_custom is None:
            self._scale_fn_ref = partial(_SCALES[self.mode], self.gamma)
            self.scale_mode = "iterations" if self.mode == "exp_range" else "cycle"

    def scale_fn(self, x: float) -> float:
        """The factor of the height at cycle or step `x`."""
        function = self._scale_fn_custom
        return self._scale_fn_ref(x) if function is None else function(x)

    def _next(self) -> list[Rate]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        if x <= self.step_ratio:
            height = x / self.step_ratio
        else:
            height = (x - 1) / (self.step_ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            limits = zip(self.base_momentums, self.max_momentums, strict=True)
            for group, (low, high) in zip(self.optimizer.param_groups, limits, strict=True):
                self._put_momentum(group, high - (high - low) * height * scale)
        pairs = zip(self.base_lrs, self.max_lrs, strict=True)
        return [base + (top - base) * height * scale for base, top in pairs]

    def state_dict(self) -> State:
        """As the base; a function cannot be saved, an object that can be called gives its state."""
        state = super().state_dict()
        state.pop("_scale_fn_ref", None)
        custom = state.pop("_scale_fn_custom")
        state["_scale_fn_custom"] = None if custom is None else lambda_state(custom)
        return state

    def load_state_dict(self, state_dict: State) -> None:
        state = dict(state_dict)
        custom = state.pop("_scale_fn_custom")
        super().load_state_dict(state)
        if custom is not None and self._scale_fn_custom is not None:
            load_lambdas([self._scale_fn_custom], [custom])
        self._init_scale_fn()


def _triangular(gamma: float, x: float) -> float:
    return 1.0


def _triangular2(gamma: float, x: float) -> float:
    return float(1 / (2.0 ** (x - 1)))


def _exp_range(gamma: float, x: float) -> float:
    return float(gamma**x)


_SCALES = {"triangular": _triangular, "triangular2": _triangular2, "exp_range": _exp_range}


class OneCycleLR(_WithMomentum):
    """Up from max_lr / div_factor to max_lr and down to a small rate within `total_steps`, with
    the momentum going the other way. Smith and Topin, 2018.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise InvalidValueError(
                "OneCycleLR", f"Expected float between 0 and 1 pct_start, but got {pct_start}"
            )
        if anneal_strategy not in ("cos", "linear"):
            raise InvalidValueError(
                "OneCycleLR",
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}",
            )
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self._anneal_func_type = anneal_strategy
        fresh = last_epoch == -1
        tops = each("max_lr", optimizer, max_lr)
        if fresh:
            for group, top in zip(optimizer.param_groups, tops, strict=True):
                group["initial_lr"], group["max_lr"] = top / div_factor, top
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._momentum_limits(optimizer, base_momentum, max_momentum, fresh)
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: Rate, end: Rate, share: float) -> Rate:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def _next(self) -> list[Rate]:
        step, start = self.last_epoch, 0.0
        if step > self.total_steps:
            raise InvalidValueError(
                "OneCycleLR",
                f"Tried to step {step} times. The specified number of total steps is"
                f" {self.total_steps}",
            )
        for phase in self._schedule_phases:
            if step <= phase["end_step"] or phase is self._schedule_phases[-1]:
                break
            start = phase["end_step"]
        share = (step - start) / (phase["end_step"] - start)
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._anneal(group[phase["start_lr"]], group[phase["end_lr"]], share))
            if self.cycle_momentum:
                first, last = group[phase["start_momentum"]], group[phase["end_momentum"]]
                self._put_momentum(group, self._anneal(first, last, share))
        return rates


def _total(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        parts = {"total_steps": total_steps}
    elif epochs is not None and steps_per_epoch is not None:
        parts = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    else:
        raise InvalidValueError(
            "OneCycleLR", "You must define either total_steps OR (epochs AND steps_per_epoch)"
        )
    for name, value in parts.items():
        if not isinstance(value, int) or value <= 0:
            raise InvalidValueError(
                "OneCycleLR", f"Expected positive integer {name}, but got {value}"
            )
    return math.prod(parts.values())


def _phases(total: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    def phase(end: float, rates: tuple[str, str], momenta: tuple[str, str]) -> dict[str, Any]:
        return {
            "end_step": end,
            "start_lr": rates[0],
            "end_lr": rates[1],
            "start_momentum": momenta[0],
            "end_momentum": momenta[1],
        }

    first_end = float(pct_start * total) - 1
    down, up = ("max_momentum", "base_momentum"), ("base_momentum", "max_momentum")
    rise = phase(first_end, ("initial_lr", "max_lr"), down)
    if not three_phase:
        return [rise, phase(total - 1, ("max_lr", "min_lr"), up)]
    fall = phase(float(2 * pct_start * total) - 2, ("max_lr", "initial_lr"), up)
    flat = ("max_momentum", "max_momentum")
    return [rise, fall, phase(total - 1, ("initial_lr", "min_lr"), flat)]
