"""Averages of weights along training: stochastic weight averaging, exponential moving averages."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import tensorlib
from tensorlib.errors import InvalidValueError
from tensorlib.nn.module import Module
from tensorlib.nn.normalization import _BatchNorm
from tensorlib.optim.lr_scheduler.base import LRScheduler, Rate, each
from tensorlib.optim.optimizer import Optimizer, State
from tensorlib.tensor import Tensor

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

Average = Callable[[Tensor, Tensor, Any], Tensor]
MultiAverage = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise InvalidValueError(
            "get_ema_avg_fn",
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range",
        )


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """A function of (average, current, number averaged): decay · average + (1 - decay) · current.

    Raises ValueError for a decay outside [0, 1].
    """
    _check_decay(decay)

    @tensorlib.no_grad()
    def ema_update(ema_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        average: Tensor = decay * ema_param + (1 - decay) * current_param
        return average

    return ema_update


def get_swa_avg_fn() -> Average:
    """A function of (average, current, number averaged): the mean of all so far."""

    @tensorlib.no_grad()
    def swa_update(averaged_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        mean: Tensor = averaged_param + (current_param - averaged_param) / (num_averaged + 1)
        return mean

    return swa_update


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """As `get_ema_avg_fn` for lists of tensors, in place."""
    _check_decay(decay)

    @tensorlib.no_grad()
    def ema_update(
        ema_param_list: Sequence[Tensor], current_param_list: Sequence[Tensor], _: Any
    ) -> None:
        for average, current in zip(ema_param_list, current_param_list, strict=True):
            if average.is_floating_point() or average.is_complex():
                average.copy_(average.lerp(current, 1 - decay))
            else:
                average.copy_(average * decay + current * (1 - decay))

    return ema_update


def get_swa_multi_avg_fn() -> MultiAverage:
    """As `get_swa_avg_fn` for lists of tensors, in place."""

    @tensorlib.no_grad()
    def swa_update(
        averaged_param_list: Sequence[Tensor],
        current_param_list: Sequence[Tensor],
        num_averaged: Any,
    ) -> None:
        for average, current in zip(averaged_param_list, current_param_list, strict=True):
            if average.is_floating_point() or average.is_complex():
                weight = 1 / (num_averaged + 1)
                average.copy_(average.lerp(current, float(weight)))
            else:
                average.copy_(average + (current - average) / (num_averaged + 1))

    return swa_update


class AveragedModel(Module):
    """A copy of `model` that holds averages of its weights: equal ones (Izmailov et al., 2018), or
    what `avg_fn` or `multi_avg_fn` make.

    Args:
        model: is copied.
        device: where the averages live.
        avg_fn: gives the new average from (average, current, number averaged).
        multi_avg_fn: changes a list of averages in place; one of both at most.
        use_buffers: average buffers too; otherwise they are copied from the model.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError(
                "AveragedModel: Only one of avg_fn and multi_avg_fn should be provided"
            )
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer(
            "n_averaged", tensorlib.tensor(0, dtype=tensorlib.int64, device=device)
        )
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model gives."""
        return self.module(*args, **kwargs)

    def _tensors(self, model: Module) -> Iterable[Tensor]:
        if self.use_buffers:
            return itertools.chain(model.parameters(), model.buffers())
        return model.parameters()

    def update_parameters(self, model: Module) -> None:
        """Take the weights of `model` into the averages; the first time copy them."""
        averages = [p.detach() for p in self._tensors(self.module)]
        currents = [p.detach() for p in self._tensors(model)]
        pairs = [(a, c.to(a.device)) for a, c in zip(averages, currents, strict=False)]
        if self.n_averaged == 0:
            for average, current in pairs:
                average.copy_(current)
        elif self.multi_avg_fn is not None:
            alike: defaultdict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for average, current in pairs:
                alike[str(average.device), average.dtype].append((average, current))
            for some in alike.values():
                count = self.n_averaged.to(some[0][0].device)
                self.multi_avg_fn([a for a, _ in some], [c for _, c in some], count)
        else:
            mean = get_swa_avg_fn() if self.avg_fn is None else self.avg_fn
            for average, current in pairs:
                average.copy_(mean(average, current, self.n_averaged.to(average.device)))
        if not self.use_buffers:
            for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                mine.detach().copy_(theirs.detach().to(mine.device))
        self.n_averaged += 1


@tensorlib.no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of all BatchNorm layers anew by one pass over `loader`, whose
    batches are tensors or sequences that begin with one.
    """
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    if not momenta:
        return
    was_training = model.training
    model.train()
    for module in momenta:
        module.reset_running_stats()
        module.momentum = None  # a cumulative average
    for batch in loader:
        given = batch[0] if isinstance(batch, list | tuple) else batch
        model(given if device is None else given.to(device))
    for module, momentum in momenta.items():
        module.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """From each group's rate to `swa_lr` within `anneal_epochs` steps, then constant.

    Args:
        swa_lr: for all groups, or a list of one for each.
        anneal_strategy: "cos" or "linear".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        rates = each("swa_lr", optimizer, swa_lr)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise InvalidValueError(
                "SWALR",
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}",
            )
        self._anneal_strategy = anneal_strategy
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise InvalidValueError(
                "SWALR", f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}"
            )
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def anneal_func(self, t: float) -> float:
        """The share of `swa_lr` at the share `t` of the way."""
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def _next(self) -> list[Rate]:
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        length = max(1, self.anneal_epochs)
        before = self.anneal_func(max(0, min(1, (step - 1) / length)))
        now = self.anneal_func(max(0, min(1, step / length)))
        rates = []
        for group in self.optimizer.param_groups:
            end, first = group["swa_lr"], group["swa_lr"]
            if before != 1:
                first = (group["lr"] - before * end) / (1 - before)
            rates.append(end * now + first * (1 - now))
        return rates

    def load_state_dict(self, state_dict: State) -> None:
        vars(self).update({k: v for k, v in state_dict.items() if k != "anneal_func"})
