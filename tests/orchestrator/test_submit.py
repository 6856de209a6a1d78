"""How many workers an attempt gets from a cluster that changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import submit
from orchestrator.errors import BackendUnavailable
from orchestrator.plan import RunPlan
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


@pytest.fixture
def driver(make_plan: Callable[..., RunPlan]) -> Callable[..., Any]:
    def make(workers: str) -> Any:
        plan = make_plan(f"resources.workers={workers}", "resources.cpus_per_worker=2")
        return submit._Driver(plan, RunDir.create(plan), Said())

    return make


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"),
    [("2", 4, 2), ("2", 64, 2), ("{min: 1, max: 4}", 2, 1), ("{min: 1, max: 4}", 7, 3),
     ("{min: 1, max: 4}", 64, 4)],
)  # fmt: skip
def test_as_many_as_there_is_room_for(
    driver: Callable[..., Any], workers: str, cpus: int, expected: int
) -> None:
    made = driver(workers)
    assert made._room(lambda: cpus) == expected
    assert made.console.warnings == []


def test_a_lost_node_is_waited_for_and_said(
    driver: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "WAITING_EVERY_S", 0.5)
    made, seen = driver("{min: 2, max: 4}"), iter([2, 2, 2, 2, 6])
    assert made._room(lambda: next(seen)) == 3
    first, *more = made.console.warnings
    assert first == ("the cluster has 2 CPUs; 2 workers x 2 CPUs need 4: waiting for a node (0 s)")
    assert len(more) == 1  # four looks, 0.2 s apart


def test_waiting_ends_with_a_stop_or_in_time(
    driver: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driver("2")
    made.run_dir.request_stop()
    assert made._room(lambda: 2) is None
    made.run_dir.clear_stop()
    monkeypatch.setattr(submit, "NODE_WAIT_S", 0.3)
    with pytest.raises(BackendUnavailable, match=r"no node came back in 0\.3 s.*resume"):
        made._room(lambda: 2)
