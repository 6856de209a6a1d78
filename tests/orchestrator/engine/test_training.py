"""What ended an attempt: the job's own error, a dead worker, or the engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
import ray.exceptions
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from orchestrator import heartbeat
from orchestrator.engine import training
from orchestrator.engine.training import WorkerGroup, classify
from orchestrator.errors import BackendUnavailable
from orchestrator.heartbeat import Beat, Hang
from orchestrator.place import Orders
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
    failure = classify(
        WorkerGroupError("x", {0: ConnectionError(), 1: ValueError()}), run, 1, 3, {1: 1}
    )
    assert failure.kind == "job_error"
    assert failure.error == "ValueError: no such label"
    assert failure.where == "job.py:3 in run (rank 1)"
    assert failure.step == 7


def test_a_dead_worker_is_named_by_ray(run: RunDir) -> None:
    failure = classify(WorkerGroupError("x", {1: DEATH}), run, 1, 3, {})
    assert failure.kind == "worker_died"
    assert "rank 1" in failure.error


def test_a_dead_worker_is_the_silent_one(run: RunDir) -> None:
    """Ray may tell of the survivors' broken connections before it notices the death."""
    run.append_event("attempt", number=1, workers=3)
    run.append_event("metrics", attempt=1, step=7, epoch=0, values={"loss": 1.0})
    echo(run, 0)
    echo(run, 1)
    failure = classify(WorkerGroupError("x", {0: ConnectionError()}), run, 1, 3, {})
    assert failure.kind == "worker_died"
    assert "rank 2" in failure.error
    assert failure.step == 7


def test_the_exit_code_says_how_a_worker_died(run: RunDir) -> None:
    echo(run, 0)
    failure = classify(None, run, 1, 3, {0: 1, 1: -9, 2: 3})
    assert failure.kind == "worker_died"
    assert failure.error == (
        "WorkerDied: rank 1 was killed by SIGKILL; rank 2 ended with exit code 3"
    )


def test_ranks_that_only_lost_each_other_say_so(run: RunDir) -> None:
    for rank in range(3):
        echo(run, rank)
    failure = classify(None, run, 1, 3, {0: 1, 1: 1, 2: 1})
    assert failure.kind == "worker_died"
    assert failure.error == "DistributedError: rank 2 is gone"


def test_a_reclaimed_machine_is_a_preemption(run: RunDir) -> None:
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [1]})
    failure = classify(PreemptionError(info), run, 1, 3, {})
    assert failure.kind == "preempted"


def test_anything_else_is_the_engine(run: RunDir) -> None:
    failure = classify(RuntimeError("no resources\nfor 60 s"), run, 1, 3, {})
    assert failure.kind == "backend"
    assert "for 60 s" in failure.error


@pytest.fixture
def group(run: RunDir) -> Iterator[WorkerGroup]:
    """Two places without Ray; what they answer is written by the test."""
    made = object.__new__(WorkerGroup)
    over = threading.Event()
    made._thread = threading.Thread(target=over.wait, args=(30,), daemon=True)
    made._thread.start()
    made._plan, made._run_dir, made._orders = run.plan(), run, Orders(run, 1)
    made.size, made._lost, made._error = 2, False, None
    yield made
    over.set()
    made._thread.join(10)


def ended(run: RunDir, rank: int, code: int) -> None:
    atomic_write_json(run.attempt_dir(1) / f"ended-rank-{rank}.json", {"rank": rank, "code": code})


def test_who_died_is_known_even_where_the_survivor_ends_first(
    run: RunDir, group: WorkerGroup
) -> None:
    echo(run, 1)
    ended(run, 1, 1)
    failure = group.run(1, lambda _: ended(run, 0, -9) or True)
    assert failure is not None
    assert failure.error == "WorkerDied: rank 0 was killed by SIGKILL"
    assert group.usable


def test_ranks_that_lost_each_other_get_new_places(run: RunDir, group: WorkerGroup) -> None:
    for rank in (0, 1):
        echo(run, rank)
        ended(run, rank, 1)
    failure = group.run(1, lambda _: True)
    assert failure is not None
    assert failure.kind == "worker_died"
    assert group.alive
    assert not group.usable


def test_a_survivor_that_does_not_notice_is_ended(
    run: RunDir, group: WorkerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_ECHO_S", 0.05)
    order = run.attempt_dir(1) / "order.json"

    def watch(_: object) -> bool:
        if json.loads(order.read_text())["kill"]:
            ended(run, 1, -9)  # as its place would say
        return True

    ended(run, 0, -11)
    failure = group.run(1, watch)
    assert failure is not None
    assert failure.error == "WorkerDied: rank 0 was killed by SIGSEGV"
    assert group.usable


def test_a_hang_whose_workers_do_not_end_is_not_tried_again(
    run: RunDir, group: WorkerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts beside each other would write the same run."""
    monkeypatch.setattr(training, "_END_S", 0.1)
    monkeypatch.setattr(heartbeat, "_STACKS_WAIT_S", 0.1)
    directory, hang = run.attempt_dir(1), Hang((1,), True, 5.0, 7)
    beat = Beat(rank=1, pid=1, host="elsewhere", born=0)
    (directory / "rank-1.alive").write_text(json.dumps(asdict(beat)))
    with pytest.raises(BackendUnavailable, match=r"rank 1 gave no sign.*did not end.*resume"):
        group._end_hang(hang, directory, 1)
    ended(run, 1, -9)
    failure = group._end_hang(hang, directory, 1)
    assert (failure.kind, failure.step) == ("hung", 7)
