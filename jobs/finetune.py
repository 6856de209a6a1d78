"""Adapt a trained image classifier to other classes: a new head, and layers that stay as they are.

    orchestrator run configs/train/finetune.yaml --set params.weights=resnet18.pth
    python -m jobs.finetune configs/train/finetune.yaml params.weights=run:/digits

The last linear layer is made anew for the classes of the data. Frozen layers get no gradient, and
their batch norms keep the statistics they came with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from jobs.config import ModelConfig, TrainingConfig, build_model
from jobs.images import ImageTask
from jobs.sources import AugmentConfig, DataConfig, load_source
from jobs.training import check_task, train
from jobs.weights import Weights, load, load_into
from orchestrator.context import JobContext
from orchestrator.errors import UsageError
from tensorlib import nn

ENGINE = "training"


class Config(TrainingConfig):
    """`params` of a finetuning.

    Args:
        weights: what to start from: a `.pth` or `.safetensors` file, a checkpoint or `run:/ID`.
        model: name of the model in a file; a checkpoint knows it.
        freeze: `backbone` (all but the new head), `none`, or a list of module names.
    """

    weights: str
    weights_only: Literal[True] = True
    model: str | None = None
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    freeze: Literal["backbone", "none"] | list[str] = "backbone"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float | None = Field(default=None, gt=0)


class FinetuneTask(ImageTask):
    """An image classifier some of whose layers stay as they are."""

    frozen: tuple[nn.Module, ...] = ()

    def train_mode(self) -> None:
        """All in training mode but the frozen layers."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def start(self, weights: Path) -> None:
        """The weights are in the model since it was made."""


def make(config: Config) -> FinetuneTask:
    """The task; UsageError, ValueError or OSError for what does not fit."""
    weights = load(config.weights, config.model, None)
    preset = weights.preset
    if config.data.name == "image_folder" and "image_size" in config.data.model_fields_set:
        size = config.data.image_size
        preset = replace(preset, crop_size=size, resize_size=round(size * 256 / 224))
    source = load_source(config.data, config.augment, preset)
    options = {**weights.model.options, "num_classes": len(source.classes)}
    built = ModelConfig(name=weights.model.name, options=options)
    module = build_model(built, {})
    head = head_of(module)
    load_backbone(module, head, weights)
    task = FinetuneTask(module, built, source, config.label_smoothing, config.mixup)
    task.frozen = freeze(module, head, config.freeze)
    return task


def head_of(module: nn.Module) -> str:
    """The name of the last linear layer."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise UsageError(
            f"params.model: {type(module).__name__} has no linear layer to make anew; expected a "
            "classifier that ends in one"
        )
    return names[-1]


def load_backbone(module: nn.Module, head: str, weights: Weights) -> None:
    """Everything but the head from `weights`. UsageError lists what is missing or too much."""
    own = module.state_dict()
    mine = {name for name in own if not name.startswith(f"{head}.")}
    given: Mapping[str, Any] = {
        name: value for name, value in weights.state.items() if not name.startswith(f"{head}.")
    }
    kept = {name: own[name] for name in own.keys() - mine}
    refusal = f"{weights.path}: does not fit the model {weights.model.name}"
    load_into(module, {**given, **kept}, refusal, "params.model names the model in the file")


def freeze(module: nn.Module, head: str, what: str | list[str]) -> tuple[nn.Module, ...]:
    """Take gradients away from the named modules; gives them."""
    parts = dict(module.named_modules())
    if what == "none":
        return ()
    if what == "backbone":
        around = {head.rsplit(".", count)[0] for count in range(head.count(".") + 1)}
        names = [
            name for name, part in parts.items() if name and name not in around and not
            any(part.children())
        ]  # fmt: skip
    else:
        names = list(what)
        unknown = [name for name in names if name not in parts or not name]
        if unknown:
            known = ", ".join(name for name, _ in module.named_children())
            raise UsageError(
                f"params.freeze: there is no module {', '.join(unknown)}; expected names such as "
                f"{known}"
            )
    frozen = tuple(parts[name] for name in names)
    for part in frozen:
        part.requires_grad_(False)
    if not any(p.requires_grad for p in module.parameters()):
        raise UsageError(
            f"params.freeze: {what} leaves nothing to train; expected a layer that is not named"
        )
    return frozen


def check(config: Config) -> None:
    """Say now what could not work later."""
    check_task(config, make(config))


def run(config: Config, ctx: JobContext) -> None:
    """Train to the last epoch, or until the run is asked to stop; continue where it was."""
    train(config, ctx, lambda: make(config))


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
