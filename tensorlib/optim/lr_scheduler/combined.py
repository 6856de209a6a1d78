"""Schedules made of schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from tensorlib.errors import ArgumentError, InvalidValueError
from tensorlib.optim.lr_scheduler.base import LRScheduler, put, values
from tensorlib.optim.lr_scheduler.plateau import ReduceLROnPlateau
from tensorlib.optim.optimizer import Optimizer, State

__all__ = ["ChainedScheduler", "SequentialLR"]


class _Combined(LRScheduler):
    _schedulers: Sequence[LRScheduler]

    def _check(self, schedulers: Sequence[LRScheduler], optimizer: Any) -> None:
        name = type(self).__name__
        for i, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise ArgumentError(
                    name, f"{name} at index {i} should have `optimizer` as its attribute"
                )
            if isinstance(scheduler, ReduceLROnPlateau):
                raise InvalidValueError(
                    name,
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires"
                    " additional kwargs to be specified when calling `step`, but got one at index"
                    f" {i} in the given schedulers sequence",
                )
            if scheduler.optimizer is not optimizer:
                raise InvalidValueError(
                    name,
                    f"{name} expects all schedulers to belong to the same optimizer, but got"
                    f" scheduler {type(scheduler).__name__} at index {i} has"
                    f" {scheduler.optimizer}, which is different from {type(optimizer).__name__}",
                )

    def state_dict(self) -> State:
        """As the base, with the state of each schedule."""
        state = super().state_dict()
        state["_schedulers"] = [each.state_dict() for each in state.pop("_schedulers")]
        return state

    def load_state_dict(self, state_dict: State) -> None:
        state = dict(state_dict)
        saved = state.pop("_schedulers")
        vars(self).update(state)
        for scheduler, each in zip(self._schedulers, saved, strict=True):
            scheduler.load_state_dict(each)


class SequentialLR(_Combined):
    """One schedule after another; `milestones` are the steps at which the next begins."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        if len(schedulers) < 1:
            raise InvalidValueError(
                "SequentialLR", "SequentialLR expects at least one scheduler, but got no scheduler"
            )
        self._check(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise InvalidValueError(
                "SequentialLR",
                "Sequential Schedulers expects number of schedulers provided to be one more than"
                " the number of milestone points, but got number of schedulers"
                f" {len(schedulers)} and the number of milestones to be equal to"
                f" {len(milestones)}",
            )
        self._schedulers, self._milestones = schedulers, milestones
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            put(group, "lr", group["initial_lr"])
        _undo(self)
        first = schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]  # takes no epoch, as torch's
        """Go on by one, with the schedule whose turn it is."""
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        if index and self._milestones[index - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


def _undo(scheduler: Any) -> None:
    """Take back the first step that each schedule made when it was built."""
    if hasattr(scheduler, "_schedulers"):
        for each in scheduler._schedulers:
            _undo(each)
    elif hasattr(scheduler, "last_epoch"):
        scheduler.last_epoch -= 1


class ChainedScheduler(_Combined):
    """Several schedules at once: their factors multiply."""

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        if len(schedulers) < 1:
            raise InvalidValueError(
                "ChainedScheduler",
                "ChainedScheduler expects at least one scheduler to be chained, but got no"
                " scheduler",
            )
        optimizer = optimizer or schedulers[0].optimizer
        self._check(schedulers, optimizer)
        self._schedulers = schedulers
        self.optimizer = optimizer
        self._last_lr = values(optimizer, "lr")

    def step(self) -> None:  # type: ignore[override]  # takes no epoch, as torch's
        """Let each schedule go on by one."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = values(self.optimizer, "lr")
