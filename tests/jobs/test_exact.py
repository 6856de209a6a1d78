"""N1 for every job with `train`: kills and other numbers of workers change no bit of the weights.

Ranks are threads; a kill is an exception out of a step.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs
from jobs.training import Step, train
from orchestrator import checkpoint
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir

from .conftest import on_ranks

DATA = Path(jobs.__file__).parent / "data"
# Each with 8 to 10 steps and what draws random numbers.
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "text, lstm": (
        "train_sequence",
        {
            "model": {"name": "lstm", "width": 16, "layers": 2, "dropout": 0.2},
            "data": {"kind": "text", "path": "text", "window": 16},
            "batch_size": 25,
            "clip_norm": 1.0,
            "epochs": 1,
        },
    ),
    "series, transformer": (
        "train_sequence",
        {
            "model": {"name": "transformer", "width": 16, "heads": 2, "dropout": 0.2},
            "data": {
                "kind": "series",
                "path": str(DATA / "load.csv"),
                "columns": ["load", "temperature"],
                "targets": ["load"],
                "ignore": ["hour"],
                "window": 12,
            },
            "activation_checkpointing": True,
            "batch_size": 170,
            "ema": 0.9,
            "epochs": 1,
        },
    ),
    "gan": (
        "train_gan",
        {
            "model": {"noise": 8, "width": 4},
            "data": {"name": "digits"},
            "augment": {"crop_padding": 1},
            "batch_size": 150,
            "clip_norm": 1.0,
            "ema": 0.9,
            "epochs": 1,
        },
    ),
    "tabular": (
        "train_tabular",
        {
            "model": {"hidden": [16], "embedding": 3, "dropout": 0.2},
            "data": {
                "path": str(DATA / "houses.csv"),
                "target": "district",
                "task": "classification",
                "numeric": ["area", "rooms", "age", "price"],
                "categorical": ["heating"],
                "missing": "fill",
            },
            "batch_size": 100,
            "accumulate": 2,
            "epochs": 1,
        },
    ),
}


class Killed(Exception):
    """Stands for a process that ended."""


def history(made: RunPlan, *attempts: tuple[int, int | None]) -> RunDir:
    """A run of several attempts: (workers, step in which every rank is killed, or None)."""
    run_dir = RunDir.create(made)
    module = importlib.import_module(made.job_module)
    config = module.Config.model_validate(made.config)
    for number, (workers, dies) in enumerate(attempts, 1):

        def make(dies: int | None = dies) -> Any:
            task = module.make(config)
            usual = task.loss

            def loss(model: Any, batch: Any, where: Step) -> tuple[Any, Sequence[float]]:
                if where.step == dies and where.turn == task.turns[-1]:
                    raise Killed
                return usual(model, batch, where)

            task.loss = loss
            return task

        def work(ctx: Any, group: Any, make: Callable[[], Any] = make) -> None:
            try:
                train(config, ctx, make, group)
            finally:
                ctx.close()

        if dies is None:
            on_ranks(made, run_dir, workers, work, number)
            continue
        with pytest.raises((Killed, ConnectionError)):
            on_ranks(made, run_dir, workers, work, number)
    return run_dir


@pytest.mark.parametrize("case", JOBS)
def test_n1_one_worker_two_workers_and_a_killed_run_end_with_the_same_bits(
    planned: Callable[..., RunPlan], tmp_path: Path, case: str
) -> None:
    job, params = JOBS[case]
    if params["data"].get("path") == "text":
        path = tmp_path / "text.txt"
        path.write_text((DATA / "arithmetic.txt").read_text()[:4000])
        params = params | {"data": params["data"] | {"path": str(path)}}
    runs = []
    for attempts in ([(1, None)], [(2, None)], [(2, 4), (3, 7), (1, None)]):
        made = planned(job, params, checkpoint={"every_steps": 3})
        runs.append(history(made, *attempts))
    states = [checkpoint.latest(run_dir.checkpoints_dir) for run_dir in runs]
    first = states[0]
    assert first is not None
    for state, run_dir in zip(states[1:], runs[1:], strict=True):
        assert state is not None
        assert state.weights_sha256 == first.weights_sha256
        for part in ("model", "optimizer", "ema", "scheduler", "progress", "loader", "task"):
            np.testing.assert_equal(state.state[part], first.state[part], err_msg=part)
        for key, points in runs[0].metrics().items():
            assert [p[:2] for p in run_dir.metrics()[key]] == [p[:2] for p in points], key
