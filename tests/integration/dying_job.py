"""train_classifier in slow motion, whose workers may kill themselves after a step was logged."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs import train_classifier
from orchestrator.context import JobContext

ENGINE = "training"


class Config(train_classifier.Config):
    """`die` maps a step to the ranks that end with it, once each; `pause_s` follows each step."""

    die: dict[int, list[int]] = Field(default_factory=dict)
    pause_s: float = 0.0


def check(config: Config) -> None:
    train_classifier.check(config)


def run(config: Config, ctx: JobContext) -> None:
    log = ctx.metrics.log

    def log_and_die(values: Any, *, step: int, epoch: int | None = None) -> None:
        log(values, step=step, epoch=epoch)
        died = Path(ctx.run_dir.path, f"died-{step}-{ctx.rank}")
        if ctx.rank in config.die.get(step, ()) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(config.pause_s)

    ctx.metrics.log = log_and_die  # type: ignore[method-assign]
    train_classifier.run(config, ctx)
