"""TrainState: everything of a training that has to survive, as one nested dict and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorlib
from tensorlib import nn, optim
from tensorlib.amp import GradScaler
from tensorlib.optim.lr_scheduler import LRScheduler
from tensorlib.optim.swa_utils import AveragedModel
from tensorlib.utils.data import DataLoader


@dataclass
class Progress:
    """Where a training is. `samples` and `sums` are of the current epoch, over all workers: how
    many samples were trained on, and the sums of what is logged.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    sums: list[float] = field(default_factory=list)


@dataclass
class TrainState:
    """The parts of a training by their names in a checkpoint.

    Args:
        fixed: what a continued training must have in common with the saved one (shards, batch
            size ...), for otherwise its bits would be others.
        task: a job's own state, arrays and numbers (`Task.state_dict`).
        facts: what a user of the model needs to know; saved, never loaded.
    """

    model: nn.Module
    optimizer: optim.Optimizer
    scheduler: LRScheduler
    scaler: GradScaler
    ema: AveragedModel | None
    loader: DataLoader
    progress: Progress
    fixed: dict[str, Any]
    task: Any
    facts: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """One nested dict of arrays, numbers and strings."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "loader": self.loader.state_dict(),
            "rng": tensorlib.get_rng_state(),
            "progress": vars(self.progress) | {"sums": list(self.progress.sums)},
            "fixed": dict(self.fixed),
            "task": self.task.state_dict(),
            **self.facts,
        }

    def load_state_dict(self, state: Mapping[str, Any], where: str = "TrainState") -> None:
        """Take all of it over. ValueError for a part that is missing, too much or does not fit."""
        own = self.state_dict()
        if state.keys() != own.keys():
            raise ValueError(
                f"{where}: lacks {sorted(own.keys() - state.keys())}, has besides "
                f"{sorted(state.keys() - own.keys())}; expected the state of a training of this job"
            )
        changed = [
            f"{key} {state['fixed'].get(key)!r} instead of {value!r}"
            for key, value in self.fixed.items()
            if state["fixed"].get(key) != value
        ]
        if changed:
            raise ValueError(
                f"{where}: was saved with {', '.join(changed)}; expected the same, or it would not "
                "be the same training. Hint: weights_only: true starts anew from its weights"
            )
        for part, on in (("ema", self.ema is not None), ("scaler", self.scaler.is_enabled())):
            if on != bool(state[part]):
                raise ValueError(
                    f"{where}: {part} is {'off' if on else 'on'} in it, {'on' if on else 'off'} "
                    "here; expected the same. Hint: weights_only: true takes the weights alone"
                )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.loader.load_state_dict(state["loader"])
        tensorlib.set_rng_state(tensorlib.as_tensor(state["rng"]))
        vars(self.progress).update(state["progress"])
        self.task.load_state_dict(state["task"])
