"""Each job once, small, from its check to its artifacts; and what it refuses, in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib
from jobs import evaluate
from orchestrator import plan
from orchestrator.errors import UsageError
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir
from orchestrator.submit import preflight
from tensorlib.vision import image, models

from .conftest import on_ranks

Planned = Callable[..., RunPlan]
Run = Callable[..., RunDir]
DIGITS = {
    "model": {"name": "small_cnn", "options": {"width": 8}},
    "data": {"name": "digits"},
    "epochs": 2,
    "batch_size": 64,
    "optimizer": {"lr": 0.05},
}


def last(run_dir: RunDir, key: str) -> float:
    """The newest value of a metric."""
    return float(run_dir.metrics()[key][-1][1])


def refused(planned: Planned, job: str, params: dict[str, Any], what: str) -> None:
    """The job says `what` before it starts."""
    with pytest.raises(UsageError, match=what):
        preflight(planned(job, params))


@pytest.fixture
def trained(run_here: Run) -> RunDir:
    """A classifier of digits, run-1."""
    return run_here("train_classifier", DIGITS)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two classes, bright and dark, to train on and to judge."""
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name, light in (("bright", 190), ("dark", 20)):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(light, light + 60, (40, 48, 3)).astype(np.uint8)
                image.write(folder / f"{i}.png", pixels)
    return tmp_path / "pictures"


def test_train_classifier_learns_and_draws(trained: RunDir) -> None:
    assert last(trained, "val/accuracy") > 0.85
    for name in ("loss_curve.png", "confusion_matrix.png"):
        assert (trained.artifacts_dir / name).read_bytes().startswith(b"\x89PNG")


def test_train_classifier_on_a_folder_with_augmentation(run_here: Run, pictures: Path) -> None:
    run_dir = run_here(
        "train_classifier",
        {
            "model": {"name": "resnet18"},
            "data": {"name": "image_folder", "root": str(pictures), "image_size": 64},
            "augment": {"resized_crop": True, "flip": True, "crop_padding": 4},
            "optimizer": {"lr": 0.01},
            "activation_checkpointing": True,
            "epochs": 2,
            "batch_size": 16,
            "loader_threads": 1,
        },
    )
    assert len(run_dir.metrics()["train/loss"]) == 2
    assert last(run_dir, "val/loss") > 0


def test_evaluate_counts_every_image_once_for_any_number_of_workers(
    run_here: Run, planned: Planned, trained: RunDir
) -> None:
    params = {"weights": "run:/run-1", "data": {"name": "digits"}, "top_k": 3}
    run_dir = run_here("evaluate", params)
    record = json.loads((run_dir.artifacts_dir / "evaluation.json").read_text())
    assert record["samples"] == np.sum(record["confusion"]) == 360
    assert record["right"] / 360 == last(run_dir, "val/accuracy") == last(trained, "val/accuracy")
    assert record["right"] <= record["top_k"]["right"] <= 360
    assert last(run_dir, "val/top3_accuracy") == record["top_k"]["right"] / 360
    made = planned("evaluate", params)
    other = RunDir.create(made)
    config = evaluate.Config.model_validate(made.config)
    on_ranks(made, other, 3, lambda ctx, group: evaluate.run(config, ctx, group))
    assert json.loads((other.artifacts_dir / "evaluation.json").read_text()) == record


def test_evaluate_refuses_what_does_not_fit(
    planned: Planned, trained: RunDir, pictures: Path
) -> None:
    weights = {"weights": "run:/run-1"}
    folder = {"name": "image_folder", "root": str(pictures)}
    refused(
        planned, "evaluate", weights | {"data": folder}, "the model knows no class bright, dark"
    )
    many = weights | {"data": {"name": "digits"}, "top_k": 11}
    refused(planned, "evaluate", many, "11 labels of a model with 10 classes")
    none = {"weights": "none.pth", "data": {"name": "digits"}}
    refused(planned, "evaluate", none, "there are no such weights")
    empty = {"weights": "run:/run-1", "data": {"name": "image_folder", "root": "nowhere"}}
    refused(planned, "evaluate", empty, "nowhere")
    params = weights | {"data": {"name": "digits"}}
    made = planned("evaluate", params, retry={"errors": 1})
    assert made.shards is None
    assert "checkpoints  " not in plan.render(made)
    for key, value in {
        "checkpoint": {"keep": 7},
        "determinism": "fast",
        "shards": 4,
        "seed": 3,
    }.items():
        text = f"{key} has no effect on evaluate, which trains nothing; expected it to be left out"
        with pytest.raises(UsageError, match=rf"yaml:\d+: {text}"):
            planned("evaluate", params, **{key: value})


def test_finetune_changes_the_head_alone(run_here: Run, trained: RunDir) -> None:
    from orchestrator import checkpoint

    run_dir = run_here("finetune", DIGITS | {"model": None, "weights": "run:/run-1", "epochs": 1})
    states = [checkpoint.latest(d.checkpoints_dir) for d in (trained, run_dir)]
    before, after = (state.state["model"] for state in states if state is not None)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"11.weight", "11.bias"}
    assert last(run_dir, "val/accuracy") > 0.8
    assert run_here("evaluate", {"weights": "run:/run-2", "data": {"name": "digits"}})


def test_finetune_takes_a_pth_file_and_names_what_is_frozen(
    run_here: Run, planned: Planned, pictures: Path, tmp_path: Path
) -> None:
    tensorlib.manual_seed(0)
    tensorlib.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    params = {
        "weights": str(tmp_path / "resnet18.pth"),
        "model": "resnet18",
        "data": {"name": "image_folder", "root": str(pictures), "image_size": 64},
        "epochs": 1,
        "batch_size": 8,
    }
    run_dir = run_here("finetune", params)
    assert len(run_dir.metrics()["train/loss"]) == 2
    refused(planned, "finetune", params | {"freeze": ["layer9"]}, "no module layer9.*layer1")
    refused(planned, "finetune", params | {"model": "resnet34"}, "does not fit the model resnet34")
    refused(planned, "finetune", params | {"model": None}, "--model resnet50")
    every = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    refused(planned, "finetune", params | {"freeze": every}, "leaves nothing to train")
