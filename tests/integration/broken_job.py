"""A job with a bug at step 7, for the tests of retries."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator.context import JobContext

ENGINE = "training"


class Config(BaseModel):
    pass


def run(config: Config, ctx: JobContext) -> None:
    for step in range(1, 10):
        ctx.metrics.log({"train/loss": 1.0}, step=step)
        if step == 7:
            raise ValueError("the seventh step is broken")
