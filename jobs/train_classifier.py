"""Train an image classifier, data-parallel over the workers of the run.

    orchestrator run configs/train/digits.yaml                  # workers on Ray
    python -m jobs.train_classifier configs/train/digits.yaml   # one worker, this process

`batch_size` is the global batch: more workers make a step faster, not different.
"""

from __future__ import annotations

from pydantic import Field

from jobs.config import ModelConfig, TrainingConfig, build_model
from jobs.images import ImageTask
from jobs.sources import AugmentConfig, DataConfig, load_source
from jobs.training import check_task, train
from orchestrator.context import JobContext

ENGINE = "training"


class Config(TrainingConfig):
    """`params` of a training.

    Args:
        label_smoothing: share of a label that is spread over all classes.
        mixup: alpha of the Beta distribution with which samples are mixed; null mixes nothing.
    """

    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float | None = Field(default=None, gt=0)


def make(config: Config) -> ImageTask:
    """The task; ValueError or OSError for data or a model that cannot be."""
    source = load_source(config.data, config.augment)
    defaults = source.model_options(config.model.name)
    built = ModelConfig(name=config.model.name, options={**defaults, **config.model.options})
    module = build_model(built, {})
    if (classes := built.options["num_classes"]) < len(source.classes):
        raise ValueError(
            f"params.model.options.num_classes: {classes} for {len(source.classes)} classes of the "
            "data; expected as many at least. Hint: leave it out"
        )
    return ImageTask(module, built, source, config.label_smoothing, config.mixup)


def check(config: Config) -> None:
    """Say now what could not work later: data that is not there, a model that cannot be built,
    weights that do not fit it.
    """
    check_task(config, make(config))


def run(config: Config, ctx: JobContext) -> None:
    """Train to the last epoch, or until the run is asked to stop; continue where it was."""
    train(config, ctx, lambda: make(config))


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
