"""LRScheduler, and how rates are read from and put into an optimizer's groups."""

from __future__ import annotations

import functools
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from tensorlib.errors import ArgumentError, InvalidValueError
from tensorlib.optim.optimizer import Group, Optimizer, State
from tensorlib.tensor import Tensor

__all__ = [
    "LRScheduler",
    "each",
    "expect_optimizer",
    "lambda_state",
    "load_lambdas",
    "put",
    "values",
]

Rate = Any  # a float or a Tensor of one element

ORDER = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. Call them in the opposite"
    " order: `optimizer.step()` before `lr_scheduler.step()`. Failure to do this will result in"
    " skipping the first value of the learning rate schedule."
)
REPLACED = (
    "Seems like `optimizer.step()` has been overridden after learning rate scheduler"
    " initialization. Please, make sure to call `optimizer.step()` before `lr_scheduler.step()`."
)
EPOCH = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where"
    " possible. Please use `scheduler.step()` to step the scheduler. During the deprecation, if"
    " epoch is different from None, the closed form is used instead of the new chainable form,"
    " where available."
)


def values(optimizer: Optimizer, key: str) -> list[Rate]:
    """The option of each group; Tensors as copies."""
    found = [group[key] for group in optimizer.param_groups]
    return [value.clone() if isinstance(value, Tensor) else value for value in found]


def put(group: Group, key: str, value: Rate) -> None:
    """Set an option of a group; a Tensor keeps its memory."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value.squeeze() if isinstance(value, Tensor) else value)
    else:
        group[key] = value


def each(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each group, from a list or from one for all; Tensors as copies."""
    groups = len(optimizer.param_groups)
    if isinstance(value, list | tuple):
        if len(value) != groups:
            raise InvalidValueError(
                name,
                f"{name} must have the same length as optimizer.param_groups. {name} has"
                f" {len(value)} values, param_groups has {groups}",
            )
    else:
        value = [value] * groups
    return [v.clone() if isinstance(v, Tensor) else v for v in value]


def expect_optimizer(value: Any) -> None:
    """Refuse what is no Optimizer (TypeError)."""
    if not isinstance(value, Optimizer):
        raise ArgumentError("optimizer", f"{type(value).__name__} is not an Optimizer")


def lambda_state(function: Callable[..., Any]) -> State | None:
    """The attributes of an object that can be called; functions cannot be saved."""
    return None if isinstance(function, types.FunctionType) else dict(vars(function))


def load_lambdas(functions: list[Callable[..., Any]], saved: list[State | None]) -> None:
    """Put attributes back into objects that can be called."""
    for function, state in zip(functions, saved, strict=False):
        if state is not None:
            vars(function).update(state)


class LRScheduler:
    """Base of schedules: `get_lr()` gives the rate of each group at `last_epoch`.

    Args:
        optimizer: whose groups are changed.
        last_epoch: the number of steps already made when resuming without a state dict; -1 starts.
    """

    _get_lr_called_within_step = False
    _is_initial = False
    _last_lr: list[Rate]
    _step_count: int

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                rate = group["lr"]
                group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming"
                    " scheduler with last_epoch >= 0. Hint: load the optimizer's state first."
                )
        self.base_lrs = values(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        _notice_steps(optimizer)
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def state_dict(self) -> State:
        """Everything but the optimizer."""
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state_dict: State) -> None:
        """Take over what `state_dict` gave; load the optimizer's state as well."""
        vars(self).update(state_dict)

    def get_last_lr(self) -> list[Rate]:
        """The rates set last."""
        return self._last_lr

    def get_lr(self) -> list[Rate]:
        """The rate of each group at `last_epoch`, from the present rates; for `step` to call."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use"
                " `get_last_lr()`.",
                UserWarning,
                stacklevel=2,
            )
        return self._next()

    def _next(self) -> list[Rate]:
        raise NotImplementedError(f"{type(self).__name__} has no get_lr")

    def step(self, epoch: int | None = None) -> None:
        """Go on by one and set the rates. With `epoch` (deprecated), go there by the closed form
        where there is one.
        """
        if self._step_count == 1:
            if not hasattr(self.optimizer.step, "_noticed"):
                warnings.warn(REPLACED, UserWarning, stacklevel=2)
            elif not getattr(self.optimizer, "_stepped", False):
                warnings.warn(ORDER, UserWarning, stacklevel=2)
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH, UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is None:
            self.last_epoch += 1
            rates = self._rates()
        else:
            self.last_epoch = epoch
            closed = getattr(self, "_get_closed_form_lr", None)
            rates = self._rates() if closed is None else closed()
        self._set(rates)

    def _rates(self) -> list[Rate]:
        self._get_lr_called_within_step = True
        try:
            return self.get_lr()
        finally:
            self._get_lr_called_within_step = False

    def _set(self, rates: list[Rate]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            put(group, "lr", rate)
        self._last_lr = values(self.optimizer, "lr")


class _LRScheduler(LRScheduler):
    """The name before torch 2.0, which schedules of others may still inherit from."""


def _notice_steps(optimizer: Optimizer) -> None:
    """Let the optimizer remember that its `step` was called."""
    if hasattr(optimizer.step, "_noticed"):
        return
    function = optimizer.step.__func__  # type: ignore[attr-defined]  # a bound method
    me = weakref.ref(optimizer)

    @functools.wraps(function)
    def step(*args: Any, **kwargs: Any) -> Any:
        self: Any = me()
        self._stepped = True
        return function(self, *args, **kwargs)

    step._noticed = True  # type: ignore[attr-defined]
    optimizer.step = step  # type: ignore[method-assign]
