"""The loop that all training jobs share.

A job says what it trains (`Task`); `train` does the rest: shards of the global batch over any
number of workers with the same bits, accumulation, clipping, moving average, mixed precision,
metrics, checkpoints, stopping, and the count of samples.

    def run(config, ctx):
        train(config, ctx, lambda: MyTask(config))
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import tensorlib
from jobs import diagnosis, evaluation, plots, recompute
from jobs.config import TrainingConfig
from jobs.sources import SizedDataset
from jobs.state import Progress, TrainState
from jobs.weights import load_checkpoint, start_weights
from orchestrator.context import JobContext
from orchestrator.errors import UsageError
from tensorlib import Tensor, distributed, nn
from tensorlib.amp import GradScaler, autocast
from tensorlib.distributed import Communicator, Shard, ShardedDataParallel
from tensorlib.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tensorlib.utils.data import DataLoader, ShardedBatchSampler

Model = Callable[..., Any]


class Step(NamedTuple):
    """Where a shard is: what its randomness may depend on."""

    seed: int
    epoch: int
    step: int
    shard: int
    turn: str = ""


class Task:
    """What a job trains and judges by. Subclasses set the attributes and write `loss`.

    Attributes:
        model: the module; the same on all ranks and in all attempts, drawn from the run's seed.
        dataset: the samples to train on. What is random in a sample has to come from
            `tensorlib.utils.data.current_generator()`, or from tensorlib's generator within `loss`.
        names: what is logged as `train/NAME`, the mean over samples; the loss of each turn comes
            first.
        turns: what is trained one after the other on each batch (the two networks of a GAN), each
            with gradients and a step of its own. The optimizer leaves alone what got no gradient.
        facts: of the data, for the report.
        saved: what a user of the model needs beside the weights, under its key of a checkpoint.
        collate: samples to a batch; None is torch's default.
    """

    model: nn.Module
    dataset: SizedDataset
    names: Sequence[str] = ("loss",)
    turns: Sequence[str] = ("",)
    facts: Mapping[str, Any]
    saved: Mapping[str, Any] = {}
    collate: Callable[[Any], Any] | None = None

    def loss(self, model: Model, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
        """Forward of one shard, whose samples `batch` holds.

        Returns the loss of `where.turn`, summed over the samples, and sums for those `names` that
        are no turn's loss.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(model, batch, where)")

    def train_mode(self) -> None:
        """Before each epoch's steps."""
        self.model.train()

    def evaluate(self, training: Training) -> dict[str, float]:
        """Held-out metrics after an epoch, with `training.over(...)`."""
        return {}

    def finish(self, training: Training) -> None:
        """After the last epoch, on rank 0: pictures and other artifacts."""

    def start(self, weights: Path) -> None:
        """Warm start: take over weights, and nothing else."""
        start_weights(self.model, weights)

    def state_dict(self) -> dict[str, Any]:
        """What else has to survive a restart."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict()`."""


def check_task(config: TrainingConfig, task: Task) -> None:
    """Say now what could not work later: weights that do not fit the model, a model without blocks
    to compute again, a warm-up in which the training would end.
    """
    steps = config.epochs * -(-len(task.dataset) // config.batch_size)
    warmup = config.schedule.warmup_steps
    if warmup >= steps:
        raise UsageError(
            f"params.schedule.warmup_steps: {warmup} steps, but the training has {steps} (epochs "
            f"{config.epochs}, samples {len(task.dataset)}, batch_size {config.batch_size}); "
            f"expected fewer than {steps}"
        )
    if config.activation_checkpointing:
        recompute.blocks(task.model)
    if config.weights is not None:
        task.start(Path(config.weights))


def train(
    config: TrainingConfig,
    ctx: JobContext,
    make: Callable[[], Task],
    process_group: Communicator | None = None,
) -> Training:
    """Train to the last epoch, or until the run is asked to stop; continue where it was.

    Args:
        make: the task, built after threads and seed are set.
        process_group: instead of the one that the environment describes.
    """
    tensorlib.set_num_threads(ctx.threads)
    tensorlib.manual_seed(ctx.seed)
    if process_group is None and ctx.world_size > 1 and not distributed.is_initialized():
        distributed.init_process_group()
    task = make()
    ctx.record_data(**task.facts)
    training = Training(config, ctx, task, process_group)
    training.restore()
    training.fit()
    ctx.checkpoint.wait()
    return training


class Training:
    """The state of a training and the steps that change it."""

    def __init__(
        self,
        config: TrainingConfig,
        ctx: JobContext,
        task: Task,
        process_group: Communicator | None = None,
    ) -> None:
        self.config, self.ctx, self.task = config, ctx, task
        module = task.model
        shards = ctx.shards * config.accumulate  # an accumulated shard is several smaller ones
        self.model = ShardedDataParallel(
            module, shards=shards, seed=ctx.seed, process_group=process_group
        )
        self.group = self.model.process_group
        self.samples = len(task.dataset)
        self.loader = DataLoader(
            task.dataset,
            batch_sampler=ShardedBatchSampler(
                task.dataset,
                config.batch_size,
                shards=shards,
                num_replicas=self.group.world_size,
                rank=self.group.rank,
                seed=ctx.seed,
            ),
            num_workers=config.loader_threads,
            collate_fn=task.collate,
        )
        self.optimizer = config.optimizer.build(module)
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.scheduler = config.schedule.build(self.optimizer, len(self.loader), config.epochs)
        self.scaler = GradScaler("cpu", enabled=config.precision == "float16")
        self.ema = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)
            self.ema = AveragedModel(module, multi_avg_fn=average).eval()
        if config.activation_checkpointing:
            recompute.wrap(module)
        self.progress = Progress(sums=[0.0] * len(task.names))
        self.stopped = False
        lower = config.precision != "float32"
        self._dtype = getattr(tensorlib, config.precision) if lower else None
        self.state = TrainState(
            *(module, self.optimizer, self.scheduler, self.scaler, self.ema, self.loader),
            progress=self.progress,
            fixed={
                "shards": shards if ctx.determinism == "exact" else "one per worker",
                "batch_size": config.batch_size,
                "samples": self.samples,
                "seed": ctx.seed,
                "optimizer": config.optimizer.model_dump(),  # its state has its own rates
            },
            task=task,
            facts=dict(task.saved),
        )

    @property
    def final(self) -> nn.Module:
        """The model to judge and to use: the moving average where there is one."""
        return self.task.model if self.ema is None else self.ema.module

    def fit(self) -> None:
        """All epochs that are left. Ends early, with the state saved, where a stop was asked."""
        while self.progress.epoch < self.config.epochs:
            self.stopped = not self.train_epoch()
            if self.stopped:
                return
            self.finish_epoch()
        if self.ctx.rank == 0:
            with self.ctx.long_work("finish"):
                self.task.finish(self)

    # -- one epoch --------------------------------------------------------------------------------

    def train_epoch(self) -> bool:
        """The rest of the current epoch; False where the run was asked to stop in it."""
        self.task.train_mode()
        progress, started = self.progress, time.monotonic()
        first = progress.samples
        for batch in self.loader:
            count = min(self.config.batch_size, self.samples - progress.samples)
            stop = self.train_step(batch, count)
            per_s = (progress.samples - first) / max(time.monotonic() - started, 1e-9)
            self.ctx.metrics.progress(
                progress.epoch * self.samples + progress.samples,
                self.config.epochs * self.samples,
                "samples",
                epoch=progress.epoch + 1,
                loss=round(progress.sums[0] / progress.samples, 4),
                per_s=round(per_s),
            )
            last = progress.samples == self.samples  # its end saves by itself, once evaluated
            if not last and (stop or self.ctx.checkpoint.due(progress.step)):
                self.save()
            if stop and not last:
                return False
        return True

    def train_step(self, batch: Any, count: int) -> bool:
        """One step of each turn on this rank's shards of a global batch of `count` samples.

        Returns whether a rank was asked to stop, the same on all of them. Raises
        FloatingPointError, before weights are changed, where the loss is not finite.
        """
        progress, names = self.progress, self.task.names
        values = {"lr": self.optimizer.param_groups[0]["lr"]}
        table = np.zeros(len(names) + 1)
        for turn in range(len(self.task.turns)):
            table += self.gradients(batch, count, turn)
            values |= self.update(turn)
        *sums, stop = table.tolist()
        values |= {f"train/{n}": value / count for n, value in zip(names, sums, strict=True)}
        progress.step += 1
        progress.samples += count
        progress.sums = [a + b for a, b in zip(progress.sums, sums, strict=True)]
        self.ctx.metrics.log(values, step=progress.step, epoch=progress.epoch)
        return bool(stop)

    def gradients(self, batch: Any, count: int, turn: int) -> NDArray[np.float64]:
        """Forward and backward of a turn; sums over the batch for `names`, and stops asked for."""
        self.optimizer.zero_grad()
        losses = [0.0] * len(self.task.turns)
        rows = []
        for shard in self.shards_of(count, turn):
            total, others = self.forward(batch, shard, turn)
            self.scaler.scale(total / count).backward()
            losses[turn] = total.item()
            rows.append([*losses, *others, 0.0])
        if self.ctx.should_stop and rows:
            rows[0][-1] = 1.0
        table = np.array(rows, np.float64).reshape(-1, len(self.task.names) + 1)
        sums = self.model.sum_over_shards(table)
        if not math.isfinite(sums[turn]):
            raise self.not_finite(batch, count, turn)
        return sums

    def shards_of(self, count: int, turn: int) -> Iterator[Shard]:
        """This rank's shards; each turn of a step has random numbers of its own."""
        return self.model.step(count, self.progress.step * len(self.task.turns) + turn)

    def forward(self, batch: Any, shard: Shard, turn: int) -> tuple[Tensor, Sequence[float]]:
        """The task's loss of one shard, in the precision asked for."""
        progress = self.progress
        where = Step(
            *(self.ctx.seed, progress.epoch, progress.step, shard.index), self.task.turns[turn]
        )
        own = [part[shard.local] for part in batch]
        try:
            if self._dtype is None:
                return self.task.loss(self.model, own, where)
            with autocast("cpu", self._dtype):
                return self.task.loss(self.model, own, where)
        except ValueError as error:  # batch norm's of a single value, above all
            if shard.stop - shard.start > 1:
                raise
            raise ValueError(
                f"step {progress.step + 1}, shard {shard.index} with one sample: {error}. Hint: "
                f"a larger batch_size; it is cut into {self.model.shards} shards"
            ) from error

    def update(self, turn: int) -> dict[str, float]:
        """Clip, change the weights, and what follows them; what is to be logged of it."""
        scaler, values = self.scaler, {}
        name = self.task.turns[turn]
        suffix = f"/{name}" if name else ""
        if self.config.clip_norm is not None:
            scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
            values[f"grad_norm{suffix}"] = norm.item()
        if not scaler.is_enabled():
            self.optimizer.step()
        else:
            values[f"loss_scale{suffix}"] = scale = scaler.get_scale()
            scaler.step(self.optimizer)
            scaler.update()
            if scaler.get_scale() < scale:
                return values  # gradients overflowed: the step was left out
        if turn == len(self.task.turns) - 1:
            self.scheduler.step()
            if self.ema is not None:
                self.ema.update_parameters(self.task.model)
        return values

    def not_finite(self, batch: Any, count: int, turn: int) -> FloatingPointError:
        """Run the step's forward again to find where the first value came from that is not finite.

        All ranks call it, for the shards of a step are computed by all of them.
        """
        found: list[str] = []
        for shard in self.shards_of(count, turn):
            own = [part[shard.local] for part in batch]
            with diagnosis.watching(self.task.model, own) as seen:
                total, _ = self.forward(batch, shard, turn)
            if not math.isfinite(total.item()):
                found.append(f"{seen.first or 'the loss itself'} (shard {shard.index})")
            total.backward()
        checkpoint = self.ctx.checkpoint.latest()
        good = (
            "there is no checkpoint yet"
            if checkpoint is None
            else f"the last good checkpoint is {checkpoint.path} of step {checkpoint.step}"
        )
        texts = self.group.all_gather_bytes("\n".join(found[:1]).encode())
        first = next((text.decode() for text in texts if text), "nothing in a second forward")
        return FloatingPointError(
            f"step {self.progress.step + 1}: the loss is not finite; first not finite: {first}; "
            f"{good}. Hint: a lower optimizer.lr, or clip_norm"
        )

    # -- the end of an epoch ----------------------------------------------------------------------

    def finish_epoch(self) -> None:
        """Check the count of samples, evaluate, log the epoch, save where it is due."""
        progress, task = self.progress, self.task
        if progress.samples != self.samples:
            raise RuntimeError(
                f"epoch {progress.epoch}: {progress.samples} samples were trained on; expected "
                f"each of the {self.samples} once"
            )
        values = {
            f"epoch/train_{name}": value / progress.samples
            for name, value in zip(task.names, progress.sums, strict=True)
        }
        self.final.eval()
        values |= task.evaluate(self)
        self.ctx.metrics.log(values, step=progress.step, epoch=progress.epoch)
        progress.epoch += 1
        progress.samples, progress.sums = 0, [0.0] * len(task.names)
        ended = progress.epoch == self.config.epochs
        judged = self.ctx.plan.spec.checkpoint.best is not None
        due = self.ctx.checkpoint.due(progress.step, epoch_end=True, epoch=progress.epoch)
        if ended or judged or due:
            self.save()

    def over(
        self,
        dataset: SizedDataset,
        judge: evaluation.Judge,
        sums: int,
        counts: tuple[int, ...] = (0,),
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """`evaluation.over` in parts of `batch_size`."""
        return evaluation.over(
            *(self.ctx, self.group, dataset, judge, sums, counts),
            batch_size=self.config.batch_size,
            loader_threads=self.config.loader_threads,
            collate=self.task.collate,
        )

    def draw(self, names: Sequence[str]) -> None:
        """`loss_curve.png` among the artifacts: a panel for each of `names` that was logged."""
        path = self.ctx.artifacts.path("loss_curve.png")
        plots.loss_curve(self.ctx.run_dir.metrics(), path, names)
        self.ctx.artifacts.add(path)

    # -- state ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint. FloatingPointError where a weight is not finite."""
        progress = self.progress
        for name, parameter in self.task.model.named_parameters():
            if not np.isfinite(parameter.array).all():
                raise FloatingPointError(
                    f"step {progress.step}: {name} is not finite after the step; expected finite "
                    "weights in a checkpoint. Hint: a lower optimizer.lr, or clip_norm"
                )
        self.ctx.checkpoint.save(
            self.state.state_dict(),
            step=progress.step,
            epoch=progress.epoch,
        )

    def restore(self) -> None:
        """Continue from the newest good checkpoint of the run; without one start, from `weights`
        where they are given.
        """
        checkpoint = self.ctx.checkpoint.latest()
        if checkpoint is not None:
            self.state.load_state_dict(checkpoint.state, str(checkpoint.path))
            return
        weights = self.config.weights
        if weights is None:
            return
        if self.config.weights_only:
            self.task.start(Path(weights))
            return
        self.state.load_state_dict(load_checkpoint(Path(weights)), weights)
        if self.progress.epoch >= self.config.epochs:
            raise ValueError(
                f"params.weights: {weights} has trained {self.progress.epoch} epochs, and epochs "
                f"is {self.config.epochs}; expected more, or nothing is left to train. Hint: "
                "weights_only: true starts anew from its weights"
            )
