"""The loop of all trainings: the same bits for any number of workers, restarts, what it refuses.

Ranks are threads; a kill is an exception out of a step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tensorlib
from jobs import train_classifier
from jobs.images import ImageTask
from jobs.train_classifier import Config
from jobs.training import Step, Task, Training, train
from orchestrator import checkpoint
from orchestrator.errors import UsageError
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir
from orchestrator.submit import preflight
from tensorlib import Tensor, nn
from tensorlib.utils.data import TensorDataset

from .conftest import context_of, on_ranks

Planned = Callable[..., RunPlan]
SMALL = {
    "model": {"name": "small_cnn", "options": {"width": 4, "hidden": 16}},
    "data": {"name": "digits"},
    "epochs": 1,
    "batch_size": 150,
}
# 10 steps: 9 of 150 samples and one of 87
EVERYTHING = SMALL | {
    "optimizer": {"name": "adamw", "lr": 0.003},
    "schedule": {"name": "cosine", "warmup_steps": 3},
    "augment": {"crop_padding": 1, "flip": True},
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "clip_norm": 0.5,
    "ema": 0.9,
    "accumulate": 2,
    "precision": "float16",
}


class Killed(Exception):
    """Stands for a process that ended."""


def digest(run_dir: RunDir) -> tuple[str, dict[str, Any]]:
    """weights_sha256 of the newest checkpoint, and its state."""
    found = checkpoint.latest(run_dir.checkpoints_dir)
    assert found is not None
    return found.weights_sha256, found.state


def attempt(made: RunPlan, run_dir: RunDir, workers: int, dies: int | None, number: int) -> None:
    """One attempt; `dies` is the step in which every rank is killed."""

    def make() -> ImageTask:
        task = train_classifier.make(Config.model_validate(made.config))
        usual = task.loss

        def loss(model: Any, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
            if where.step == dies:
                raise Killed
            return usual(model, batch, where)

        task.loss = loss  # type: ignore[method-assign]
        return task

    def work(ctx: Any, group: Any) -> None:
        try:
            train(Config.model_validate(made.config), ctx, make, group)
        finally:
            ctx.close()

    on_ranks(made, run_dir, workers, work, number)


def history(
    planned: Planned, params: dict[str, Any], *attempts: tuple[int, int | None], **spec: Any
) -> RunDir:
    """A run of several attempts: (workers, step in which it is killed or None)."""
    made = planned("train_classifier", params, checkpoint={"every_steps": 3}, **spec)
    run_dir = RunDir.create(made)
    for number, (workers, dies) in enumerate(attempts, 1):
        if dies is None:
            attempt(made, run_dir, workers, None, number)
            continue
        with pytest.raises((Killed, ConnectionError)):
            attempt(made, run_dir, workers, dies, number)
    return run_dir


@pytest.mark.parametrize("params", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_n1_kills_and_other_numbers_of_workers_change_no_bit(
    planned: Planned, params: dict[str, Any]
) -> None:
    expected, whole = digest(history(planned, params, (1, None)))
    run_dir = history(planned, params, (4, 4), (2, 8), (3, None))
    found, state = digest(run_dir)
    assert found == expected
    for part in ("model", "ema", "scaler", "scheduler", "progress", "loader", "task"):
        np.testing.assert_equal(state[part], whole[part], err_msg=part)
    assert [step for step, *_ in run_dir.metrics()["train/loss"]] == list(range(1, 11))


def test_a_fast_run_goes_on_with_another_number_of_workers(planned: Planned) -> None:
    """Global batch, learning rate and order of the samples stay; only its bits may differ."""
    run_dir = history(planned, EVERYTHING, (3, 5), (2, None), determinism="fast")
    metrics = run_dir.metrics()
    assert [step for step, *_ in metrics["train/loss"]] == list(range(1, 11))
    exact = history(planned, EVERYTHING, (1, None)).metrics()
    assert [point[:2] for point in metrics["lr"]] == [point[:2] for point in exact["lr"]]


def test_metrics_of_a_restarted_run_are_those_of_an_undisturbed_one(planned: Planned) -> None:
    one, other = (
        history(planned, SMALL, *attempts).metrics()
        for attempts in ([(1, None)], [(2, 5), (4, None)])
    )
    assert one.keys() == other.keys()
    for key, points in one.items():
        assert [point[:2] for point in points] == [point[:2] for point in other[key]], key


def test_accumulation_is_one_big_batch(planned: Planned) -> None:
    """As many pieces, accumulated or as shards: the same bits. One piece: the same sums."""
    params = SMALL | {"model": {"name": "mlp"}}  # batch norm's statistics are of a piece
    states = []
    for accumulate, shards in ((1, 1), (4, 1), (1, 4)):
        made = planned("train_classifier", params | {"accumulate": accumulate}, shards=shards)
        run_dir = RunDir.create(made)
        attempt(made, run_dir, 1, None, 1)
        states.append(digest(run_dir))
    assert states[1][0] == states[2][0]
    for name, value in states[0][1]["model"].items():
        np.testing.assert_allclose(states[1][1]["model"][name], value, rtol=1e-4, atol=1e-6)


class Line(Task):
    """y = 3 x by least squares; sample number `bad` is not finite."""

    facts = {"name": "line"}  # noqa: RUF012

    def __init__(self, bad: int | None = None, inside: bool = False) -> None:
        x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
        if bad is not None:
            x[bad] = np.inf
        self.dataset = TensorDataset(x, 3 * np.nan_to_num(x, posinf=1))
        first = nn.Linear(1, 2)
        self.model = nn.Sequential(first, Divide() if inside else nn.Identity(), nn.Linear(2, 1))

    def loss(self, model: Any, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
        return ((model(batch[0]) - batch[1]) ** 2).sum(), []


class Divide(nn.Module):
    """0 / 0 from the fifth forward on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if self.calls <= 12 else (x * 0) / (x * 0)


def line(planned: Planned, task: Callable[[], Task], workers: int = 1, **params: Any) -> RunDir:
    """Train a `Line`, batches of 10."""
    made = planned("train_classifier", SMALL | {"batch_size": 10} | params,
                   checkpoint={"every_steps": 1})  # fmt: skip
    run_dir = RunDir.create(made)
    config = Config.model_validate(made.config)
    on_ranks(made, run_dir, workers, lambda ctx, group: train(config, ctx, task, group))
    return run_dir


def test_a_loss_that_is_not_finite_names_its_step_checkpoint_and_origin(planned: Planned) -> None:
    with pytest.raises(FloatingPointError) as caught:
        line(planned, lambda: Line(inside=True))
    text = str(caught.value)
    assert re.search(r"step 4: .*the output of 1 \(Divide\), made by DivBackward0", text), text
    assert re.search(r"the last good checkpoint is .*/00000003 of step 3", text), text
    with pytest.raises(FloatingPointError, match="part 0 of the batch itself"):
        line(planned, lambda: Line(bad=7), workers=2)


def test_weights_that_are_not_finite_are_never_saved(planned: Planned) -> None:
    with pytest.raises(FloatingPointError, match=r"(weights|is not finite)"):
        line(planned, Line, optimizer={"lr": 1e38}, schedule={"name": "constant"})


def test_each_sample_is_trained_on_once_in_an_epoch(planned: Planned) -> None:
    made = planned("train_classifier", SMALL)
    run_dir = RunDir.create(made)
    training = Training(Config.model_validate(made.config), context_of(made, run_dir), Line())
    training.train_epoch()
    assert training.progress.samples == 40
    training.progress.samples -= 1
    with pytest.raises(RuntimeError, match="39 samples were trained on; expected each of the 40"):
        training.finish_epoch()


def test_a_stop_saves_and_continues_with_the_same_bits(planned: Planned) -> None:
    made = planned("train_classifier", SMALL | {"epochs": 2})
    config = Config.model_validate(made.config)
    digests = []
    for stops in (False, True):
        run_dir = RunDir.create(made.model_copy(update={"run_dir": made.run_dir + str(stops)}))
        ctx = context_of(made, run_dir)
        if stops:
            ctx._terminated.set()
            assert train(config, ctx, lambda: train_classifier.make(config)).stopped
            assert digest(run_dir)[1]["progress"]["step"] == 1
            ctx = context_of(made, run_dir, attempt=2)
        train(config, ctx, lambda: train_classifier.make(config))
        digests.append(digest(run_dir)[0])
    assert digests[0] == digests[1]


def test_the_best_checkpoint_is_one_that_was_judged(planned: Planned) -> None:
    """One in the middle of an epoch does not inherit what the epoch before it reached."""
    spec = {"every_steps": 3, "keep": 9, "best": "val/acuracy"}
    made = planned("train_classifier", SMALL | {"epochs": 2}, checkpoint=spec)
    run_dir = RunDir.create(made)
    attempt(made, run_dir, 1, None, 1)
    judged = {
        int(path.name): "val/accuracy" in checkpoint.read_manifest(path)["metrics"]
        for path in run_dir.checkpoints_dir.iterdir()
    }
    assert judged == {step: step in (10, 20) for step in (3, 6, 9, 10, 12, 15, 18, 20)}
    (warning,) = (event for _, event in run_dir.events() if event["kind"] == "warning")
    assert "checkpoint.best: val/acuracy was not logged" in warning["text"]
    assert "did you mean 'val/accuracy'?" in warning["text"]


def test_a_state_of_another_training_is_refused(planned: Planned) -> None:
    run_dir = history(planned, SMALL, (1, None))
    path = str(run_dir.checkpoints_dir / "00000010")
    for other, what in (
        ({"batch_size": 100}, "batch_size 150 instead of 100"),
        ({"optimizer": {"lr": 0.2}}, "optimizer {.*'lr': 0.1,.*} instead of {.*'lr': 0.2,"),
        ({"optimizer": {"name": "adam"}}, "was saved with optimizer {'name': 'sgd'"),
        ({}, "has trained 1 epochs, and epochs is 1; expected more"),
        ({"ema": 0.9}, "ema is off in it, on here"),
        ({"precision": "float16"}, "scaler is off in it, on here"),
    ):
        made = planned("train_classifier", SMALL | {"weights": path} | other)
        config = Config.model_validate(made.config)
        with pytest.raises(ValueError, match=what):
            train(
                config,
                context_of(made, RunDir.create(made)),
                lambda config=config: train_classifier.make(config),
            )


def test_a_warm_start_takes_the_weights_alone(planned: Planned, run_here: Any) -> None:
    run_dir = history(planned, SMALL | {"ema": 0.9}, (1, None))
    state = digest(run_dir)[1]
    params = SMALL | {"weights": "run:/run-1", "weights_only": True}
    made = planned("train_classifier", params)
    preflight(made)
    config = Config.model_validate(made.config)
    training = Training(
        config, context_of(made, RunDir.create(made)), train_classifier.make(config)
    )
    training.restore()
    assert training.progress.step == 0
    for name, value in training.task.model.named_parameters():
        np.testing.assert_array_equal(value.detach().numpy(), state["ema"][f"module.{name}"])
    wrong = (
        SMALL | {"model": {"name": "mlp"}} | {"weights": str(run_dir.checkpoints_dir / "00000010")}
    )
    with pytest.raises(UsageError, match=r"does not fit the model: it lacks 3\.w") as caught:
        preflight(planned("train_classifier", wrong | {"weights_only": True}))
    text = str(caught.value)
    assert "\n" not in text
    assert "strict" not in text
    assert text.count("Hint: ") == 1
    assert "; expected the names and sizes of " in text


def test_recomputed_activations_give_the_same_training(planned: Planned) -> None:
    params = SMALL | {
        "model": {"name": "resnet18"},
        "batch_size": 4,
        "optimizer": {"lr": 0.01},
    }
    made = planned("train_classifier", params | {"activation_checkpointing": True})
    images = np.random.default_rng(0).normal(size=(8, 3, 64, 64)).astype(np.float32)

    class Images(Task):
        facts = {"name": "images"}  # noqa: RUF012

        def __init__(self) -> None:
            self.dataset = TensorDataset(images, np.arange(8) % 2)
            self.model = tensorlib.vision.models.resnet18(num_classes=2)

        def loss(self, model: Any, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
            return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum"), []

    states = []
    for on in (False, True):
        config = Config.model_validate(made.config | {"activation_checkpointing": on})
        run_dir = RunDir.create(made.model_copy(update={"run_dir": made.run_dir + str(on)}))
        train(config, context_of(made, run_dir), Images)
        states.append(digest(run_dir)[1]["model"])
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_what_cannot_be_trained_is_said_before(planned: Planned) -> None:
    preflight(planned("train_classifier", SMALL | {"epochs": 2, "schedule": {"warmup_steps": 19}}))
    for params, what in (
        (SMALL | {"activation_checkpointing": True}, "Sequential has no blocks"),
        (SMALL | {"model": {"name": "resnet18"}}, "resnet18 takes RGB images"),
        (
            SMALL | {"model": {"name": "mlp", "options": {"num_classes": 4}}},
            "num_classes: 4 for 10 classes",
        ),
        (SMALL | {"augment": {"resized_crop": True}}, "expected image_folder"),
        (SMALL | {"weights": "none.pth", "weights_only": True}, "no such file or checkpoint"),
        (
            SMALL | {"epochs": 2, "schedule": {"warmup_steps": 20}},
            r"^params.schedule.warmup_steps: 20 steps, but the training has 20 \(epochs 2, samples "
            r"\d+, batch_size \d+\); expected fewer than 20",
        ),
    ):
        with pytest.raises(UsageError, match=what):
            preflight(planned("train_classifier", params))
    for params, what in (
        (SMALL | {"weights": "none.pth"}, "holds no state of a training to continue"),
        (SMALL | {"weights_only": True}, "weights_only without weights"),
        (SMALL | {"optimizer": {"name": "adam", "momentum": 0.5}}, "adam takes no momentum"),
        (SMALL | {"schedule": {"gamma": 0.5}}, "cosine takes no gamma"),
        (SMALL | {"epochs": True}, "epochs: got true; expected a whole number"),
        (SMALL | {"batch_size": "64"}, 'batch_size: got "64"; expected a whole number'),
        (SMALL | {"clip_norm": float("inf")}, "clip_norm: got .*; expected a finite number"),
        (SMALL | {"precision": "float64"}, "float64"),
    ):
        with pytest.raises(UsageError, match=what):
            planned("train_classifier", params)
    assert json.dumps(planned("train_classifier", SMALL).config)
