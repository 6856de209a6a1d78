"""Pieces of `params` that several jobs share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from tensorlib import nn, optim
from tensorlib.vision import models

_WANTED = {bool: "true or false", int: "a whole number", float: "a number"}


class Part(BaseModel):
    """A part of a job's `params`: frozen, closed to unknown keys, and of finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _nothing_is_guessed(cls, data: Any, read: Callable[[Any], Self]) -> Self:
        """Numbers and switches as they are: `epochs: true` is not one epoch, nor '3' three.

        (A strict model would take no list for a tuple here.)
        """
        taken = read(data)
        wrong = []
        for name, value in data.items() if isinstance(data, dict) else ():
            kinds = type(value), type(getattr(taken, name))
            if kinds[1] in _WANTED and kinds[0] is not kinds[1] and kinds != (int, float):
                text = f"got {json.dumps(value)}; expected {_WANTED[kinds[1]]}"
                kind = PydanticCustomError("value_error", "{error}", {"error": text})
                wrong.append(InitErrorDetails(type=kind, loc=(name,), input=value))
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return taken


class ModelConfig(Part):
    """A model of `tensorlib.vision.models` by name, with arguments for its builder."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


def build_model(config: ModelConfig, defaults: Mapping[str, Any]) -> nn.Module:
    """Build the model; `options` win over what the data says (classes, channels, image size).

    Raises ValueError for an unknown name or option, naming it.
    """
    try:
        return models.get_model(config.name, **{**defaults, **config.options})
    except TypeError as error:
        raise ValueError(
            f"params.model.options: {error}; expected arguments of {config.name}. "
            f"Hint: help(tensorlib.vision.models.{config.name})"
        ) from error


class OptimizerConfig(Part):
    """SGD, Adam or AdamW with torch's parameters. `momentum` and `nesterov` are SGD's, `betas`
    Adam's. `lr` is 0.1 by default for SGD, 0.001 for the others. A job with other defaults has a
    subclass.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=5e-4, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, data: Any) -> Any:
        usual = cls.model_fields["name"].default
        if isinstance(data, dict) and "lr" not in data and "name" in data:
            sgd = data["name"] == "sgd"
            if sgd != (usual == "sgd"):
                return {**data, "lr": 0.1 if sgd else 1e-3}
        return data

    @model_validator(mode="after")
    def _only_its_own(self) -> OptimizerConfig:
        foreign = {"betas"} if self.name == "sgd" else {"momentum", "nesterov"}
        ignored = sorted(foreign & self.model_fields_set)
        defaults = type(self).model_fields
        ignored = [name for name in ignored if getattr(self, name) != defaults[name].default]
        if ignored:
            raise ValueError(f"{self.name} takes no {' and no '.join(ignored)}")
        return self

    def build(self, module: nn.Module) -> optim.Optimizer:
        """Weight decay on matrices and kernels only; biases and norms' parameters are left alone.
        Frozen parameters are left out.
        """
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.name == "sgd":
            return optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
        kind = optim.AdamW if self.name == "adamw" else optim.Adam
        return kind(groups, lr=self.lr, betas=self.betas)


class AdamConfig(OptimizerConfig):
    """The same with Adam where no name is given."""

    name: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


class ScheduleConfig(Part):
    """Learning rate over the steps of the run: a linear warm-up, then one of three shapes.

    `step` multiplies by `gamma` every `step_epochs` epochs.
    """

    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    step_epochs: int = Field(default=30, ge=1)
    gamma: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _only_its_own(self) -> ScheduleConfig:
        defaults = type(self).model_fields
        foreign = ("step_epochs", "gamma") if self.name != "step" else ()
        ignored = [name for name in foreign if getattr(self, name) != defaults[name].default]
        if ignored:
            raise ValueError(f"{self.name} takes no {' and no '.join(ignored)}")
        return self

    def build(
        self, optimizer: optim.Optimizer, steps_per_epoch: int, epochs: int
    ) -> optim.lr_scheduler.LambdaLR:
        """A factor on the learning rate as a function of the step."""
        total, warmup = steps_per_epoch * epochs, self.warmup_steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            if self.name == "cosine":
                done = (step - warmup) / max(total - warmup, 1)
                return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
            if self.name == "step":
                return float(self.gamma ** (step // (self.step_epochs * steps_per_epoch)))
            return 1.0

        return optim.lr_scheduler.LambdaLR(optimizer, factor)


class TrainingConfig(Part):
    """What every training takes; a job's `Config` adds its model and data.

    Args:
        batch_size: samples of an optimizer step, over all workers together.
        accumulate: into how many pieces each shard of a batch is cut; the step is the same, its
            activations take a fraction of the memory.
        clip_norm: scale gradients down to this global norm.
        ema: decay of a moving average of the weights, which is then evaluated and classified with.
        precision: what products and convolutions compute in (`autocast`); float16 scales the loss.
        activation_checkpointing: compute activations a second time instead of keeping them
            (ResNets and Transformers).
        loader_threads: threads of each worker that load samples ahead.
        weights: where to start from: a `.pth` or `.safetensors` file, a checkpoint or `run:/ID`.
        weights_only: take the weights and nothing else; without it a checkpoint is continued with
            all its state, and has to fit this run.
    """

    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    clip_norm: float | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    activation_checkpointing: bool = False
    loader_threads: int = Field(default=0, ge=0)
    weights: str | None = None
    weights_only: bool = False

    @field_validator("weights")
    @classmethod
    def _resolve(cls, value: str | None) -> str | None:
        from jobs.weights import resolve

        return None if value is None else resolve(value)

    @model_validator(mode="after")
    def _weights_alone_or_a_checkpoint(self) -> TrainingConfig:
        if self.weights is None and self.weights_only:
            raise ValueError("weights_only without weights; expected a file or run:/ID to take")
        if self.weights is not None and not self.weights_only and not Path(self.weights).is_dir():
            raise ValueError(
                f"weights: {self.weights} holds no state of a training to continue; expected "
                "weights_only: true, or a checkpoint"
            )
        return self
