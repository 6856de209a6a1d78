"""How many workers an attempt gets from a cluster that changes, and what follows an attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import attempts, policy, submit
from orchestrator.attempts import Attempts
from orchestrator.errors import BackendUnavailable
from orchestrator.heartbeat import Beat
from orchestrator.plan import RunPlan
from orchestrator.policy import Failure
from orchestrator.run import TerminationReason
from orchestrator.store import RunDir


class Said:
    """A console that remembers."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, *_: Any, **__: Any) -> None: ...
    def close(self) -> None: ...


class Cluster:
    """Nodes with room for so many workers, one after another; the last stays."""

    def __init__(self, *rooms: int) -> None:
        self.rooms = list(rooms)

    def free_places(self, cpus: int) -> list[str]:
        room = self.rooms.pop(0) if len(self.rooms) > 1 else self.rooms[0]
        return ["node"] * room


class Group:
    """Workers whose attempts end as told: a failure, None (all returned), or a function."""

    made: list[Group]
    ends: list[Any]

    def __init__(self, plan: RunPlan, run_dir: RunDir, first: int, nodes: list[str], token: str):
        self.size, self.run_dir, self.usable = len(nodes), run_dir, True
        self.left: list[int] = []
        Group.made.append(self)

    def run(self, attempt: int, watch: Callable[..., bool]) -> Failure | None:
        self.attempt = attempt
        end = Group.ends.pop(0)
        return end(self, watch) if callable(end) else end

    def ask_to_leave(self) -> None:
        self.left.append(self.attempt)

    def close(self, wait: bool = True) -> None:
        self.usable = False


@pytest.fixture
def make(make_plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    from orchestrator.engine import training

    monkeypatch.setattr(training, "WorkerGroup", Group)
    Group.made, Group.ends = [], []

    def made(workers: str, cluster: Cluster, *ends: Any) -> Attempts:
        plan = make_plan(f"resources.workers={workers}", "retry.worker_deaths=2")
        Group.ends = list(ends)
        return Attempts(submit._Driver(plan, RunDir.create(plan), Said()), cluster)

    return made


def death(attempt: int = 1) -> Failure:
    return Failure("worker_died", "WorkerDied: rank 1 was killed", "worker process", 3, attempt)


@pytest.mark.parametrize(
    ("workers", "room", "expected"),
    [("2", 2, 2), ("2", 64, 2), ("{min: 1, max: 4}", 1, 1), ("{min: 1, max: 4}", 64, 4)],
)
def test_as_many_as_there_is_room_for(
    make: Callable[..., Any], workers: str, room: int, expected: int
) -> None:
    made = make(workers, Cluster(room), None)
    assert made.run() == (TerminationReason.COMPLETED, "")
    assert [group.size for group in Group.made] == [expected]
    assert made.driver.console.warnings == []


def test_a_killed_worker_is_replaced_in_its_place(make: Callable[..., Any]) -> None:
    made = make("2", Cluster(2), death(), None)
    assert made.run()[0] is TerminationReason.COMPLETED
    assert len(Group.made) == 1
    assert [a.workers for a in made.run_dir.attempts()] == [2, 2]


def test_a_lost_node_is_waited_for_and_said(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "WAITING_EVERY_S", 0.5)

    def lost(group: Group, _: Any) -> Failure:
        group.usable = False
        return death()

    made = make("2", Cluster(2, *[1] * 8, 2), lost, None)
    assert made.run()[0] is TerminationReason.COMPLETED
    _, first, *more = made.driver.console.warnings
    assert "room for 1 workers x 1 CPUs of 2: waiting for a node (1 s)" in first
    assert len(more) <= 1  # eight looks, 0.2 s apart
    assert len(Group.made) == 2


def test_an_elastic_run_goes_on_with_fewer(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "SPARE_WAIT_S", 0.4)

    def lost(group: Group, _: Any) -> Failure:
        group.usable = False
        return death()

    made = make("{min: 1, max: 2}", Cluster(2, 1), lost, None)
    assert made.run()[0] is TerminationReason.COMPLETED
    assert [group.size for group in Group.made] == [2, 1]


def test_an_elastic_run_grows_into_room_that_stays(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "GROW_AFTER_S", 0.05)
    monkeypatch.setattr(attempts, "LOOK_EVERY_S", 0.01)

    def watched(group: Group, watch: Callable[..., bool]) -> None:
        while not group.left:
            assert watch({0: Beat(0, 1, "here", 1, step=4)})
        group.run_dir.append_event("stop_seen", attempt=group.attempt, rank=0)

    made = make("{min: 1, max: 3}", Cluster(1, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3), watched, None)
    assert made.run()[0] is TerminationReason.COMPLETED
    assert [group.size for group in Group.made] == [1, 3]
    assert [a.reason for a in made.run_dir.attempts()] == ["RESIZED", "COMPLETED"]
    kinds = [e["status"] for _, e in made.run_dir.events() if e["kind"] == "status"]
    assert kinds == ["RUNNING", "RESIZING", "RUNNING"]


def test_a_worker_that_was_asked_to_end_is_a_preemption(make: Callable[..., Any]) -> None:
    def told(group: Group, _: Any) -> None:
        group.run_dir.append_event("stop_seen", attempt=group.attempt, rank=0)

    made = make("2", Cluster(2), told, None)
    assert made.run()[0] is TerminationReason.COMPLETED
    assert [a.reason for a in made.run_dir.attempts()] == ["PREEMPTED", "COMPLETED"]


def test_waiting_ends_with_a_stop_or_in_time(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make("2", Cluster(1))
    made.run_dir.request_stop()
    assert made.run()[0] is TerminationReason.STOP_REQUESTED
    made.run_dir.clear_stop()
    monkeypatch.setattr(attempts, "NODE_WAIT_S", 0.3)
    with pytest.raises(BackendUnavailable, match=r"no node came back in 0\.3 s.*resume"):
        made.run()
