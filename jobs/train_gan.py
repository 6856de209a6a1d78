"""Train a DCGAN: a generator of pictures against a discriminator that tells them from real ones.

    orchestrator run configs/train/gan.yaml                        # Fashion-MNIST
    python -m jobs.train_gan configs/train/gan.yaml params.data.name=digits    # 8x8, no download

On each batch the discriminator takes a step, then the generator, on noise drawn anew. Both are one
module with one Adam, which leaves alone the network whose turn it is not: the same as two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import tensorlib
from jobs import plots
from jobs.config import AdamConfig, Part, ScheduleConfig, TrainingConfig
from jobs.networks import GAN
from jobs.sources import AugmentConfig, DataConfig, Source, load_source
from jobs.training import Model, Step, Task, Training, check_task, train
from orchestrator.context import JobContext
from tensorlib import Tensor
from tensorlib.nn import functional as F
from tensorlib.utils.data import sample_generator
from tensorlib.vision import image

ENGINE = "training"
DISCRIMINATOR, GENERATOR = "discriminator", "generator"
SHOWN = 64  # pictures in the grid
JUDGED = 1000  # made and held-out pictures that are compared, at most


class GanConfig(Part):
    """Length of the noise, and channels next to the picture; twice as many with each halving."""

    noise: int = Field(default=64, ge=1)
    width: int = Field(default=32, ge=1)


class GanOptimizerConfig(AdamConfig):
    """Adam as in the paper of Radford et al. (2016), where nothing else is said."""

    lr: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)


class GanScheduleConfig(ScheduleConfig):
    """One rate all the time, where nothing else is said."""

    name: Literal["cosine", "step", "constant"] = "constant"


class Config(TrainingConfig):
    """`params` of a DCGAN."""

    model: GanConfig = GanConfig()
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    optimizer: GanOptimizerConfig = GanOptimizerConfig()
    schedule: GanScheduleConfig = GanScheduleConfig()
    precision: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: Literal[False] = False


class GanTask(Task):
    """Both turns with the loss of Goodfellow et al. (2014), the generator's not saturating.

    Noise and all that is drawn come from the run's seed, the step and the shard.
    """

    names = (
        *("discriminator_loss", "generator_loss"),
        *("score_real", "score_made"),  # chance of being real, as the discriminator sees it
    )
    turns = (DISCRIMINATOR, GENERATOR)

    def __init__(self, config: GanConfig, source: Source) -> None:
        self.source, self.noise = source, config.noise
        self.dataset, self.facts = source.train, source.facts
        sizes = {"size": source.preset.crop_size, "channels": len(source.preset.mean)}
        self.model = GAN(**sizes, noise=config.noise, width=config.width)
        self.saved = {"gan": sizes | config.model_dump()}

    def loss(self, model: Model, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
        """Cross-entropy of real and made, or of made that are to pass for real."""
        noise = tensorlib.randn(len(batch[0]), self.noise, 1, 1)
        if where.turn == GENERATOR:
            (made,) = model(noise)
            return F.softplus(-made).sum(), [0.0, 0.0]
        real, made = model(noise, to_unit(batch[0]))
        loss = F.softplus(-real).sum() + F.softplus(made).sum()
        return loss, [real.sigmoid().sum().item(), made.sigmoid().sum().item()]

    def evaluate(self, training: Training) -> dict[str, float]:
        """A grid of pictures, always of the same noise; how far what is made is from what is real.

        Only rank 0 looks: the pictures are the same on all.
        """
        if training.ctx.rank:
            return {}
        with training.ctx.long_work("pictures"):
            test = self.source.test
            count = min(JUDGED, len(test))
            real = np.stack([np.asarray(test[i][0]) for i in range(count)])
            made = self.pictures(training.final, max(count, SHOWN), training.ctx.seed)
            path = training.ctx.artifacts.path(
                f"pictures/epoch-{training.progress.epoch + 1:04d}.png"
            )
            image.write(path, plots.grid(made[:SHOWN]))
            training.ctx.artifacts.add(path)
            distance = frechet_distance(real / 255.0, made[:count].reshape(real.shape) / 255.0)
        return {"val/frechet_distance": distance}

    def pictures(self, model: Any, count: int, seed: int) -> NDArray[np.uint8]:
        """uint8 [count, H, W, channels] of noise that depends on the seed alone."""
        noise = sample_generator(seed, 0, 0).standard_normal((count, self.noise, 1, 1))
        inputs = tensorlib.from_numpy(noise.astype(np.float32))
        with tensorlib.no_grad():
            parts = [model.generator(part).float().numpy() for part in inputs.split(100)]
        pixels = np.concatenate(parts).transpose(0, 2, 3, 1)
        return np.rint((pixels + 1) * 127.5).astype(np.uint8)

    def finish(self, training: Training) -> None:
        """The losses of both, as a picture among the artifacts."""
        training.draw(self.names[:2])


def to_unit(images: Tensor) -> Tensor:
    """uint8 [N, H, W(, channels)] as [N, channels, H, W] in -1..1."""
    pixels = images.numpy().astype(np.float32) / 127.5 - 1
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return tensorlib.from_numpy(np.ascontiguousarray(pixels))


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Squared Fréchet distance of two sets of pictures [N, ...], each taken as a normal
    distribution of its pixels.

    Heusel et al. (2017) take a network's features of the pictures; pixels need none, and notice
    means, contrasts and what goes together, but not sharpness of detail.
    """
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    shift = a.mean(0) - b.mean(0)
    a, b = ((x - x.mean(0)) / math.sqrt(max(len(x) - 1, 1)) for x in (a, b))
    # trace of the root of the product of both covariances, without making either
    common = np.linalg.norm(a @ b.T, "nuc")
    return float((shift**2).sum() + (a**2).sum() + (b**2).sum() - 2 * common)


def make(config: Config) -> GanTask:
    """The task; ValueError or OSError for data that cannot be."""
    return GanTask(config.model, load_source(config.data, config.augment))


def check(config: Config) -> None:
    """Say now what could not work later."""
    check_task(config, make(config))


def run(config: Config, ctx: JobContext) -> None:
    """Train to the last epoch, or until the run is asked to stop; continue where it was."""
    train(config, ctx, lambda: make(config))


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
