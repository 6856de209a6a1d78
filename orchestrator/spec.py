"""JobSpec: what a YAML file may say. Frozen, strict, and closed at every depth.

`params` belongs to the job's own `Config`; everything else is described here. Keys that the design
names but this version cannot serve are refused with a sentence, never ignored.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from orchestrator.remote import is_uri, uri_problem

__all__ = [
    "CheckpointSpec",
    "JobSpec",
    "ResourceSpec",
    "RetrySpec",
    "TrackingSpec",
    "WorkerRange",
]

_LOWER_IS_BETTER = re.compile(r"(loss|error|perplexity|mse|mae|rmse)$")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WorkerRange(_Part):
    """Elastic workers: as many as the cluster has room for, never fewer than `min`."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max {self.max}; expected min <= max")
        return self


def _kind_of_workers(value: Any) -> str:
    return "WorkerRange" if isinstance(value, dict | WorkerRange) else "number"


class ResourceSpec(_Part):
    """Workers of a run and what each of them holds."""

    workers: Annotated[
        Annotated[int, Field(ge=1), Tag("number")] | Annotated[WorkerRange, Tag("WorkerRange")],
        Discriminator(_kind_of_workers),
    ] = 1
    cpus_per_worker: int = Field(default=1, ge=1)
    gpus_per_worker: int = Field(default=0, ge=0)

    @field_validator("gpus_per_worker")
    @classmethod
    def _no_gpu(cls, value: int) -> int:
        if value > 0:
            raise ValueError(f"{value} GPUs per worker are not supported yet; expected 0")
        return value

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while the run lasts."""
        return isinstance(self.workers, WorkerRange)

    @property
    def min_workers(self) -> int:
        """The fewest workers the run goes on with."""
        return self.workers.min if isinstance(self.workers, WorkerRange) else self.workers

    @property
    def max_workers(self) -> int:
        """The most workers the run uses."""
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.workers


class CheckpointSpec(_Part):
    """When a checkpoint is written and which ones stay.

    One is written after every `every_steps` steps (50 where none of the three is given), at the end
    of every `every_epochs`-th epoch, and `every_minutes` after the last one. The `keep` newest
    stay, those of every `keep_every`-th step stay for ever, and so does the best one.

    `best` names a metric, for example `val/accuracy`. Names that end in loss, error, perplexity,
    mse, mae or rmse are better when lower, others when higher; `val/score min` says it outright.
    """

    every_steps: int | None = Field(default=50, ge=1)
    every_epochs: int | None = Field(default=None, ge=1)
    every_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    keep: int = Field(default=2, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    best: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _steps_only_where_nothing_else_is_said(cls, data: Any) -> Any:
        if isinstance(data, dict) and "every_steps" not in data:
            given = data.get("every_epochs"), data.get("every_minutes")
            if given != (None, None):
                return {**data, "every_steps": None}
        return data

    @field_validator("best")
    @classmethod
    def _best_reads(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\S+( (min|max))?", value):
            raise ValueError(f"{value!r} is not a metric; expected 'key', 'key min' or 'key max'")
        return value

    def best_metric(self) -> tuple[str, Literal["max", "min"]] | None:
        """The metric that decides which checkpoint is best, and its better direction."""
        if self.best is None:
            return None
        key, _, mode = self.best.partition(" ")
        if mode == "min" or (not mode and _LOWER_IS_BETTER.search(key.lower())):
            return key, "min"
        return key, "max"


class RetrySpec(_Part):
    """How often each kind of failure is tried again, and when silence is one.

    A rank that said nothing for `hang_timeout_s` after its first step has hung: the stacks of all
    ranks are written and the attempt ends as if the worker had died.
    """

    errors: int = Field(default=0, ge=0)
    worker_deaths: int = Field(default=3, ge=0)
    preemptions: int = Field(default=10, ge=0)
    hang_timeout_s: float = Field(default=30.0, ge=1, allow_inf_nan=False)


class TrackingSpec(_Part):
    """Where MLflow is. `uri` None: SQLite under the home directory. `experiment` None: the name.

    `when: later` leaves it alone while the run lasts, for runs of seconds: loading MLflow takes
    longer; `orchestrator sync` sends them.
    """

    uri: str | None = None
    experiment: str | None = Field(default=None, min_length=1)
    when: Literal["live", "later"] = "live"


class JobSpec(_Part):
    """One job: the module that runs, its parameters, and how it is run.

    `determinism: exact` cuts every global batch into `shards` parts, whatever the number of
    workers, so that it changes no bit of the result; `fast` makes one part per worker.

    `storage` is where runs are kept: a directory (None: $ORCHESTRATOR_HOME), or a URI such as
    s3://bucket/runs, which holds the checkpoints, and a copy of the run's other files.
    """

    version: Literal[1]
    name: str = Field(max_length=64)
    job: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0, lt=2**63)
    determinism: Literal["exact", "fast"] = "exact"
    shards: int | None = Field(default=None, ge=1)
    resources: ResourceSpec = Field(default_factory=ResourceSpec)
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    retry: RetrySpec = Field(default_factory=RetrySpec)
    tracking: TrackingSpec = Field(default_factory=TrackingSpec)
    storage: str | None = Field(default=None, min_length=1)

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(
                f"{value!r} cannot name a directory; expected letters, digits, '.', '_' and '-'"
            )
        return value

    @field_validator("job")
    @classmethod
    def _job_is_a_module(cls, value: str) -> str:
        if not all(part.isidentifier() for part in value.split(".")):
            raise ValueError(f"{value!r} is not a module; expected a name such as train_classifier")
        return value

    @field_validator("storage")
    @classmethod
    def _storage_is_a_place(cls, value: str | None) -> str | None:
        if value is not None and is_uri(value) and (problem := uri_problem(value)):
            raise ValueError(problem)
        return value
