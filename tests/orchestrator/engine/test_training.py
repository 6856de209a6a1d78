"""What ended an attempt: the job's own error, a dead worker, or the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import ray.exceptions
from ray.train.v2.api.exceptions import WorkerGroupError

from orchestrator.engine import training
from orchestrator.engine.training import classify
from orchestrator.errors import BackendUnavailable
from orchestrator.heartbeat import Hang
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir, atomic_write_json

Make = Callable[..., RunPlan]


@pytest.fixture
def run(make_plan: Make) -> RunDir:
    return RunDir.create(make_plan("resources.workers=3", run_id="toy-1"))


def last_words(run: RunDir, rank: int, **more: Any) -> None:
    record = {
        "rank": rank,
        "step": 7,
        "type": "ValueError",
        "message": "no such label",
        "where": "job.py:3 in run",
        "echo": False,
    }
    atomic_write_json(run.attempt_dir(1) / f"failure-rank-{rank}.json", record | more)


def echo(run: RunDir, rank: int) -> None:
    last_words(run, rank, type="DistributedError", message="rank 2 is gone", echo=True)


DEATH = ray.exceptions.RayActorError()


def test_the_jobs_own_error_wins_over_its_echoes(run: RunDir) -> None:
    echo(run, 0)
    last_words(run, 1)
    failure = classify(WorkerGroupError("x", {0: ConnectionError(), 1: ValueError()}), run, 1, 3)
    assert failure.kind == "job_error"
    assert failure.error == "ValueError: no such label"
    assert failure.where == "job.py:3 in run (rank 1)"
    assert failure.step == 7


def test_a_dead_worker_is_named_by_ray(run: RunDir) -> None:
    failure = classify(WorkerGroupError("x", {1: DEATH}), run, 1, 3)
    assert failure.kind == "worker_died"
    assert "rank 1" in failure.error


def test_a_dead_worker_is_the_silent_one(run: RunDir) -> None:
    """Ray may tell of the survivors' broken connections before it notices the death."""
    echo(run, 0)
    echo(run, 1)
    failure = classify(WorkerGroupError("x", {0: ConnectionError()}), run, 1, 3)
    assert failure.kind == "worker_died"
    assert "rank 2" in failure.error
    assert failure.step == 7


def test_anything_else_is_the_engine(run: RunDir) -> None:
    failure = classify(RuntimeError("no resources\nfor 60 s"), run, 1, 3)
    assert failure.kind == "backend"
    assert "for 60 s" in failure.error


def test_a_hang_whose_workers_do_not_end_is_not_tried_again(run: RunDir, monkeypatch) -> None:
    """Two attempts beside each other would write the same run."""
    monkeypatch.setattr(training, "_END_S", 0.1)
    over = threading.Event()
    thread = threading.Thread(target=over.wait, args=(30,), daemon=True)
    thread.start()
    hang = Hang((1,), True, 5.0, 7)
    try:
        with pytest.raises(BackendUnavailable, match=r"rank 1 gave no sign.*did not end.*resume"):
            training._end_hang(hang, run.attempt_dir(1), 1, thread)
    finally:
        over.set()
        thread.join(10)
    failure = training._end_hang(hang, run.attempt_dir(1), 1, thread)
    assert (failure.kind, failure.step) == ("hung", 7)
