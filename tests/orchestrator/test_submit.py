"""The last word on a run whose driver ended without one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import submit, supervise
from orchestrator.errors import OrchestratorError
from orchestrator.plan import RunPlan
from orchestrator.run import RunStatus, TerminationReason
from orchestrator.store import RunDir


class Said:
    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def progress(self, *_: Any, **__: Any) -> None: ...
    def close(self) -> None: ...


def crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def drive(make_plan: Callable[..., RunPlan]) -> Callable[..., Any]:
    """Drives a run in a child that is killed in its first attempt, or before there is a run."""

    def driven(made: bool = True, signals: tuple[int, ...] = ()) -> Any:
        plan = make_plan(run_id="toy-1")

        def work(_: object) -> None:
            if made:
                driver = submit._Driver(plan, RunDir.create(plan), Said())
                driver.begin_attempt(2)
                driver.run_dir.append_event("metrics", step=3, epoch=0, values={"loss": 1.0})
            for number in signals:
                os.kill(os.getppid(), number)
            crash()

        return submit._in_child(work, plan, Said())

    return driven


def test_a_driver_that_crashed_is_told(drive: Callable[..., Any], capsys: Any) -> None:
    run = drive()
    state = run.state()
    assert (state.status, state.reason) == (RunStatus.FAILED, TerminationReason.DRIVER_LOST)
    assert state.message == "the process that drove it ended with SIGKILL"
    (attempt,) = run.attempts()
    assert (attempt.reason, attempt.last_step) == ("DRIVER_LOST", 3)
    assert (run.path / "report.md").exists()
    assert "orchestrator sync toy-1" in capsys.readouterr().err


def test_one_that_was_asked_to_stop_has_stopped(drive: Callable[..., Any]) -> None:
    state = drive(signals=(signal.SIGTERM,)).state()
    assert (state.status, state.reason) == (RunStatus.STOPPED, TerminationReason.STOP_REQUESTED)


def test_before_there_is_a_run(drive: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OrchestratorError, match=r"toy-1: the process that makes it.*SIGKILL"):
        drive(made=False)
    monkeypatch.setattr(supervise, "IDLE_S", 0.1)
    with pytest.raises(KeyboardInterrupt):
        drive(made=False, signals=(signal.SIGTERM,))
