"""Run: what its directory says about it, from outside and at any time."""

from __future__ import annotations

import threading

import pytest

from orchestrator.errors import RunNotFound, UsageError
from orchestrator.run import Run, RunStatus, TerminationReason, exit_code, json_safe
from orchestrator.store import RunDir


def test_every_reason_gives_a_terminal_status():
    for reason in TerminationReason:
        assert reason.status.terminal
    assert TerminationReason.COMPLETED.status is RunStatus.SUCCEEDED
    assert TerminationReason.STOP_REQUESTED.status is RunStatus.STOPPED
    assert not RunStatus.RESTARTING.terminal


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("COMPLETED", 0),
        ("JOB_ERROR", 1),
        ("REPEATED_ERROR", 1),
        ("WORKER_DIED", 1),
        ("TOO_MANY_BAD_INPUTS", 1),
        ("BACKEND_UNAVAILABLE", 3),
        ("STOP_REQUESTED", 130),
    ],
)
def test_exit_codes(run_dir, reason, code):
    status = TerminationReason(reason).status
    run_dir.write_status(status=status.value, reason=reason)
    assert exit_code(Run(run_dir).state()) == code


def test_a_run_that_is_being_made_is_pending(run_dir, home):
    assert Run.open(home, "toy-1").status() is RunStatus.PENDING


def test_a_lost_driver_is_told_with_the_cure(run_dir):
    with run_dir.lock():
        run_dir.write_status(status="RUNNING")
        assert Run(run_dir).status() is RunStatus.RUNNING
    state = Run(run_dir).state()
    assert (state.status, state.reason) == (RunStatus.FAILED, TerminationReason.DRIVER_LOST)
    assert "orchestrator resume toy-1" in (state.message or "")


def test_wait_has_a_limit_and_says_what_it_waited_for(run_dir):
    with run_dir.lock():
        run_dir.write_status(status="RUNNING")
        with pytest.raises(TimeoutError, match="toy-1: is RUNNING after 0"):
            Run(run_dir).wait(0)
        timer = threading.Timer(0.05, lambda: run_dir.write_status(status="SUCCEEDED"))
        timer.start()
        assert Run(run_dir).wait(30) is RunStatus.SUCCEEDED
        timer.join()


def test_stop_is_for_runs_that_run(run_dir):
    with run_dir.lock():
        run_dir.write_status(status="RUNNING")
        Run(run_dir).stop()
        assert run_dir.stop_requested()
        run_dir.write_status(status="STOPPED")
    with pytest.raises(UsageError, match="has ended already"):
        Run(run_dir).stop()


def test_logs_of_all_ranks_or_one(run_dir):
    run_dir.write_status(status="SUCCEEDED")
    for rank in (0, 2, 10):
        (run_dir.logs_dir / f"rank-{rank}.log").write_text(f"a{rank}\nb\xff{rank}")
    run = Run(run_dir)
    assert [line for line in run.logs() if "[rank 10]" in line] == [
        "[rank 10] a10",
        "[rank 10] bÿ10",
    ]
    assert list(run.logs(2)) == ["a2", "bÿ2"]
    with pytest.raises(UsageError, match="no log of rank 1; ranks: 0, 2, 10"):
        list(run.logs(1))


def test_logs_are_followed_to_the_end_of_the_run(run_dir):
    path = run_dir.logs_dir / "rank-0.log"
    seen: list[str] = []
    got_first = threading.Event()

    def read() -> None:
        for line in Run(run_dir).logs(follow=True):
            seen.append(line)
            got_first.set()

    with run_dir.lock():
        run_dir.write_status(status="RUNNING")
        path.write_text("one\nhalf")
        reader = threading.Thread(target=read)
        reader.start()
        assert got_first.wait(10)
        with path.open("a") as file:
            file.write(" a line\nlast")
        run_dir.write_status(status="SUCCEEDED")
        reader.join(10)
    assert not reader.is_alive()
    assert seen == ["[rank 0] one", "[rank 0] half a line", "[rank 0] last"]


def test_the_public_object_of_a_training(run_dir):
    run_dir.append_event("attempt", number=1, workers=2)
    for step, loss in ((1, 2.0), (2, 1.5)):
        run_dir.append_event("metrics", attempt=1, step=step, epoch=0, values={"loss": loss})
    run_dir.append_event("checkpoint", step=2, path="checkpoints/00000002", sha256="abc")
    run_dir.write_status(status="SUCCEEDED", reason="COMPLETED", tracking={"run_id": "m"})
    result = Run(run_dir).result()
    assert {k: result[k] for k in ("run_id", "status", "attempts", "metrics")} == {
        "run_id": "toy-1",
        "status": "SUCCEEDED",
        "attempts": 1,
        "metrics": {"loss": 1.5},
    }
    assert result["weights_sha256"] == "abc"
    assert result["tracking"] == {"run_id": "m"}
    assert result["run_dir"] == str(run_dir.path)


def test_the_public_object_of_a_classification(make_plan):
    run_dir = RunDir.create(make_plan(run_id="b", job="batch"))
    counts = {"output": "/o", "inputs": 5, "ok": 3, "quarantined": 2, "duplicates": 1}
    run_dir.write_status(status="SUCCEEDED", batch=counts | {"images_per_s": 3.0})
    result = Run(run_dir).result()
    assert {key: result[key] for key in counts} == counts
    assert "metrics" not in result


def test_a_submitted_run_without_a_plan_here(home):
    run_dir = RunDir(home / "sub")
    run_dir.write_submission("http://head:8265", "sub")
    result = Run.open(home, "sub").result()
    assert result["status"] == "PENDING"
    assert result["submission"]["address"] == "http://head:8265"
    with pytest.raises(RunNotFound, match="has not started here yet"):
        run_dir.plan()


def test_artifacts_are_files(run_dir):
    (run_dir.artifacts_dir / "a").mkdir()
    (run_dir.artifacts_dir / "a" / "x.png").write_bytes(b"")
    assert Run(run_dir).artifacts() == [run_dir.artifacts_dir / "a" / "x.png"]


def test_json_safe_keeps_what_json_cannot_say():
    assert json_safe({"a": [float("nan"), 1.0], "b": (float("-inf"), "x", None)}) == {
        "a": ["nan", 1.0],
        "b": ["-inf", "x", None],
    }
