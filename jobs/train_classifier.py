"""Train an image classifier, data-parallel over the workers of the run.

    orchestrator run configs/train/digits.yaml                  # workers on Ray
    python -m jobs.train_classifier configs/train/digits.yaml   # one worker, this process

`batch_size` is the global batch: more workers make a step faster, not different.
"""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import numpy as np
from pydantic import Field

import tensorlib
from jobs import plots
from jobs.config import ModelConfig, Part, build_model
from jobs.sources import DataConfig, Source, load_source
from orchestrator.context import JobContext
from tensorlib import Tensor, distributed, nn, optim
from tensorlib.nn import functional as F
from tensorlib.utils.data import DataLoader, DistributedSampler

ENGINE = "training"


class OptimizerConfig(Part):
    """SGD or AdamW with torch's parameters; `momentum` and `nesterov` are SGD's."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=5e-4, ge=0)


class ScheduleConfig(Part):
    """Learning rate over the steps of the run: a linear warm-up, then one of three shapes.

    `step` multiplies by `gamma` every `step_epochs` epochs.
    """

    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    step_epochs: int = Field(default=30, ge=1)
    gamma: float = Field(default=0.1, gt=0)


class Config(Part):
    """`params` of a training."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    loader_threads: int = Field(default=0, ge=0)

    def check(self, resources: Any) -> None:
        """Every rank takes the same share of a batch."""
        workers = resources.workers
        if self.batch_size % workers:
            fitting = workers * (self.batch_size // workers + 1)
            raise ValueError(
                f"batch_size: {self.batch_size} cannot be split over {workers} workers; expected a "
                f"multiple. Hint: --set params.batch_size={fitting}"
            )


def check(config: Config) -> None:
    """Say now what could not work later: data that is not there, a model that cannot be built."""
    source = load_source(config.data)
    build_model(config.model, source.model_options(config.model.name))


def run(config: Config, ctx: JobContext) -> None:
    """Train to the last epoch, or until the run is asked to stop; continue where it was."""
    tensorlib.set_num_threads(ctx.threads)
    tensorlib.manual_seed(ctx.seed)
    if ctx.world_size > 1:
        distributed.init_process_group()
    source = load_source(config.data)
    ctx.record_data(**source.facts)
    training = Training(config, ctx, source)
    training.restore()
    while training.epoch < config.epochs:
        if not training.train_epoch():
            return  # asked to stop; the state is saved
        training.finish_epoch()
    if ctx.rank == 0:
        training.draw()


class Training:
    """The state of a training and the steps that change it."""

    def __init__(self, config: Config, ctx: JobContext, source: Source) -> None:
        self.config, self.ctx, self.source = config, ctx, source
        self.epoch = self.step = 0
        self.sums = np.zeros(3)  # of this epoch, all workers: loss, correct, samples
        self.confusion = np.zeros((len(source.classes),) * 2, dtype=np.int64)

        self.options = {**source.model_options(config.model.name), **config.model.options}
        self.module = build_model(config.model, self.options)
        self.model = (
            distributed.DistributedDataParallel(self.module) if ctx.world_size > 1 else self.module
        )
        # Padded, so that all ranks take the same number of steps; a padding sample weighs nothing.
        self.sampler = self.sampler_for(source.train, shuffle=True, mode="padded")
        self.loader = self.loader_for(source.train, self.sampler)
        steps = len(self.loader)
        self.optimizer = build_optimizer(config.optimizer, self.module)
        self.scheduler = build_schedule(config.schedule, self.optimizer, steps, config.epochs)

    def sampler_for(
        self, dataset: Any, *, shuffle: bool, mode: Literal["padded", "exact"]
    ) -> DistributedSampler:
        world, rank = self.ctx.world_size, self.ctx.rank
        return DistributedSampler(dataset, world, rank, shuffle, self.ctx.seed, mode=mode)

    def loader_for(self, dataset: Any, sampler: DistributedSampler) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.config.batch_size // self.ctx.world_size,
            sampler=sampler,
            num_workers=self.config.loader_threads,
        )

    # -- one epoch --------------------------------------------------------------------------------

    def train_epoch(self) -> bool:
        """The rest of the current epoch; False where the run was asked to stop in it."""
        self.model.train()
        samples, started = len(self.source.train), time.monotonic()
        first = position = self.loader.state_dict()["next_index"]
        for images, labels in self.loader:
            count = min(self.config.batch_size, samples - position)  # of the global batch
            stop = self.train_step(images, labels, position, count)
            position += count
            per_s = (position - first) / max(time.monotonic() - started, 1e-9)
            self.ctx.metrics.progress(
                self.epoch * samples + position,
                self.config.epochs * samples,
                "samples",
                epoch=self.epoch + 1,
                loss=round(self.sums[0] / self.sums[2], 4),
                per_s=round(per_s),
            )
            last = position == samples  # the epoch's end saves by itself, after its evaluation
            if not last and (stop or self.ctx.checkpoint.due(self.step)):
                self.save()
            if stop and not last:
                return False
        return True

    def train_step(self, images: Tensor, labels: Tensor, position: int, count: int) -> bool:
        """One step on this rank's part of a global batch of `count` samples from `position` on.

        Returns whether any rank was asked to stop, the same on all of them.
        """
        world, rank = self.ctx.world_size, self.ctx.rank
        own = len(range(rank, count, world))  # without padding
        logits = self.model(self.inputs(images))
        loss = F.cross_entropy(
            logits[:own],
            labels[:own],
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )
        self.optimizer.zero_grad()
        # Gradients are averaged over ranks; this makes them the mean over the global batch.
        (loss * (world / count)).backward()
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1

        correct = (logits[:own].argmax(1) == labels[:own]).sum().item()
        sums = np.array([loss.item(), correct, self.ctx.should_stop], dtype=np.float64)
        if world > 1:
            distributed.all_reduce(sums)
        self.sums += [sums[0], sums[1], count]
        self.ctx.metrics.log(
            {
                "train/loss": sums[0] / count,
                "train/accuracy": sums[1] / count,
                "lr": self.optimizer.param_groups[0]["lr"],
            },
            step=self.step,
            epoch=self.epoch,
        )
        return bool(sums[2] > 0)

    def finish_epoch(self) -> None:
        """Evaluate on the held-out samples, log the epoch, save."""
        values = {
            "epoch/train_loss": self.sums[0] / self.sums[2],
            "epoch/train_accuracy": self.sums[1] / self.sums[2],
            **self.evaluate(),
        }
        self.ctx.metrics.log(values, step=self.step, epoch=self.epoch)
        if self.sums[2] != len(self.source.train):
            raise RuntimeError(
                f"epoch {self.epoch}: {self.sums[2]:.0f} samples were trained on; expected each "
                f"of the {len(self.source.train)} once"
            )
        self.epoch += 1
        self.sums[:] = 0
        self.save(values)

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy on the held-out samples, each counted once on one rank."""
        if isinstance(self.model, distributed.DistributedDataParallel):
            self.model.sync_buffers()  # every rank judges by rank 0's running statistics
        self.model.eval()
        dataset = self.source.test
        loss = 0.0
        confusion = np.zeros_like(self.confusion)
        with tensorlib.no_grad():
            sampler = self.sampler_for(dataset, shuffle=False, mode="exact")
            for images, labels in self.loader_for(dataset, sampler):
                logits = self.module(self.inputs(images))
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                np.add.at(confusion, (labels.numpy(), logits.argmax(1).numpy()), 1)
        sums = np.concatenate([[loss], confusion.ravel()])
        if self.ctx.world_size > 1:
            distributed.all_reduce(sums)
        self.confusion = sums[1:].astype(np.int64).reshape(confusion.shape)
        count = self.confusion.sum()
        return {"val/loss": sums[0] / count, "val/accuracy": np.trace(self.confusion) / count}

    def inputs(self, images: Tensor) -> Tensor:
        """uint8 images [N, H, W(, C)] as what the model takes."""
        return tensorlib.from_numpy(self.source.preset.normalize(images.numpy()))

    # -- state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that has to survive; with the facts that `classify` needs to use the model."""
        return {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "loader": self.loader.state_dict(),
            "rng": tensorlib.get_rng_state(),
            "progress": {"epoch": self.epoch, "step": self.step, "sums": self.sums},
            "confusion": self.confusion,
            "classifier": {
                "model": self.config.model.name,
                "options": self.options,
                "classes": self.source.classes,
                "preset": self.source.preset.to_dict(),
            },
        }

    def save(self, metrics: dict[str, float] | None = None) -> None:
        self.ctx.checkpoint.save(
            self.state_dict(), step=self.step, epoch=self.epoch, metrics=metrics
        )

    def restore(self) -> None:
        """Continue from the newest good checkpoint of the run, if it has one."""
        checkpoint = self.ctx.checkpoint.latest()
        if checkpoint is None:
            return
        state = checkpoint.state
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.loader.load_state_dict(state["loader"])
        tensorlib.set_rng_state(tensorlib.as_tensor(state["rng"]))
        self.epoch, self.step = state["progress"]["epoch"], state["progress"]["step"]
        self.sums = np.array(state["progress"]["sums"])
        self.confusion = np.array(state["confusion"])

    def draw(self) -> None:
        """The loss curve and the confusion matrix, as pictures among the artifacts."""
        artifacts = self.ctx.artifacts
        history = self.ctx.run_dir.metrics()
        plots.loss_curve(history, artifacts.path("loss_curve.png"))
        plots.confusion_matrix(
            self.confusion, self.source.classes, artifacts.path("confusion_matrix.png")
        )
        for name in ("loss_curve.png", "confusion_matrix.png"):
            artifacts.add(artifacts.path(name))


def build_optimizer(config: OptimizerConfig, module: nn.Module) -> optim.Optimizer:
    """Weight decay on matrices and kernels only; biases and norm parameters are left alone."""
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return optim.AdamW(groups, lr=config.lr)
    return optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def build_schedule(
    config: ScheduleConfig, optimizer: optim.Optimizer, steps_per_epoch: int, epochs: int
) -> optim.lr_scheduler.LambdaLR:
    """A factor on the learning rate as a function of the step."""
    total = steps_per_epoch * epochs
    warmup = config.warmup_steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.name == "cosine":
            done = (step - warmup) / max(total - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        if config.name == "step":
            return float(config.gamma ** (step // (config.step_epochs * steps_per_epoch)))
        return 1.0

    return optim.lr_scheduler.LambdaLR(optimizer, factor)


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
