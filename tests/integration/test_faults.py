"""Killed workers, killed drivers, requests to stop: the run goes on and ends with the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import (
    DIGITS,
    Started,
    cli,
    logged_steps,
    result_of,
    steps_in_mlflow,
    wait_for,
    worker_pid,
)
from .faults import STEPS, Left, changes, events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def every_step(count: int) -> list[int]:
    return list(range(1, count + 1))


def test_n1_a_killed_worker_costs_a_restart_and_not_a_bit(
    home: Path, digits: dict[str, Any], start: Callable[..., Started]
) -> None:
    command = start(home, "run", DIGITS, "--run-id", "killed", "--json")
    run_dir = home / "killed"
    wait_for("step 80", lambda: logged_steps(run_dir) >= 80)
    os.kill(worker_pid(run_dir, rank=1), signal.SIGKILL)
    done = command.finish()
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert result["status"] == "SUCCEEDED"
    assert result["attempts"] == 2
    assert result["weights_sha256"] == digits["weights_sha256"]
    assert result["metrics"] == digits["metrics"]
    assert steps_in_mlflow(result) == every_step(230)  # N4: none lost, none doubled
    report = (run_dir / "report.md").read_text()
    assert "WORKER_DIED" in report
    assert "rank 1" in report


def test_n7_a_stopped_worker_is_found_named_and_replaced(
    home: Path, digits: dict[str, Any], start: Callable[..., Started]
) -> None:
    """A pause of 5 seconds changes nothing; a rank that stays stopped costs a restart, no bit."""
    limit = "--set", "retry.hang_timeout_s=15"
    command = start(home, "run", DIGITS, "--run-id", "stuck", "--json", *limit)
    run_dir = home / "stuck"
    wait_for("step 30", lambda: logged_steps(run_dir) >= 30)
    paused = worker_pid(run_dir, rank=1)
    os.kill(paused, signal.SIGSTOP)
    time.sleep(5)
    os.kill(paused, signal.SIGCONT)
    wait_for("step 80", lambda: logged_steps(run_dir) >= 80)
    assert worker_pid(run_dir, rank=1) == paused  # no restart
    os.kill(paused, signal.SIGSTOP)
    done = command.finish()
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert (result["status"], result["attempts"]) == ("SUCCEEDED", 2)
    assert result["weights_sha256"] == digits["weights_sha256"]
    assert steps_in_mlflow(result) == every_step(230)
    report = (run_dir / "report.md").read_text()
    assert "WORKER_HUNG" in report
    assert "rank 1 is stopped" in report
    stacks = (run_dir / "attempts" / "1" / "rank-0.stacks").read_text()
    assert "most recent call first" in stacks
    assert not Path(f"/proc/{paused}").exists()


def test_n6_a_bug_is_not_tried_again(home: Path, tmp_path: Path) -> None:
    """A job error ends the run at once, with the error's own words and exit code 1."""
    spec = tmp_path / "broken.yaml"
    spec.write_text(
        "version: 1\nname: broken\njob: tests.integration.broken_job\nresources: {workers: 2}\n"
        "retry: {errors: 5}\n"
    )
    done = cli(home, "run", spec, "--run-id", "broken", "--json")
    assert done.returncode == 1, done.stderr
    result = result_of(done)
    assert result["status"] == "FAILED"
    assert result["reason"] == "REPEATED_ERROR"
    assert result["attempts"] == 2  # of six allowed ones: the same error at the same step is a bug
    assert "the seventh step" in result["message"]
    assert "Traceback" not in done.stderr
    assert "the seventh step" in cli(home, "logs", "broken", "--rank", "0").stdout


def test_stop_saves_and_resume_ends_with_the_same_bits(
    home: Path, digits: dict[str, Any], start: Callable[..., Started]
) -> None:
    command = start(home, "run", DIGITS, "--run-id", "stopped", "--json")
    run_dir = home / "stopped"
    wait_for("step 10", lambda: logged_steps(run_dir) >= 10)  # `stop` takes seconds to start
    assert cli(home, "stop", "stopped").returncode == 0
    done = command.finish(60)
    assert done.returncode == 130, done.stderr
    assert result_of(done)["status"] == "STOPPED"
    resumed = cli(home, "resume", "stopped", "--json")
    assert resumed.returncode == 0, resumed.stderr
    result = result_of(resumed)
    assert result["weights_sha256"] == digits["weights_sha256"]
    assert steps_in_mlflow(result) == every_step(230)


def test_resume_after_the_driver_died(
    home: Path, digits: dict[str, Any], start: Callable[..., Started]
) -> None:
    left = Left()
    command = start(home, "run", DIGITS, "--run-id", "orphan", **left.environment)
    run_dir = home / "orphan"
    wait_for("step 60", lambda: logged_steps(run_dir) >= 60)
    os.kill(command.process.pid, signal.SIGKILL)
    command.process.communicate(timeout=30)
    wait_for("the end of all it started", left.nothing, 60)
    status = result_of(cli(home, "status", "orphan", "--json"))
    assert (status["status"], status["reason"]) == ("FAILED", "DRIVER_LOST")
    resumed = cli(home, "resume", "orphan", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert result_of(resumed)["weights_sha256"] == digits["weights_sha256"]


def test_a_name_in_use_is_refused_and_ctrl_c_stops_within_ten_seconds(
    home: Path, twelve: dict[str, Any], start: Callable[..., Started]
) -> None:
    slow = changes(params__pause_s=1)
    command = start(home, "run", twelve["spec"], "--run-id", "interrupted", "--json", *slow)
    wait_for("step 1", lambda: logged_steps(home / "interrupted") >= 1)
    owner = (home / "interrupted" / "lock").read_text().strip()
    for arguments in (
        ("run", twelve["spec"], "--run-id", "interrupted"),
        ("resume", "interrupted"),
    ):
        refused = cli(home, *arguments)
        assert refused.returncode == 2
        assert f"owned by {owner}, which is alive" in refused.stderr
    command.process.send_signal(signal.SIGINT)
    done = command.finish(10)
    assert done.returncode == 130, done.stderr
    assert result_of(done)["status"] == "STOPPED"
    assert "resume interrupted" in done.stdout + done.stderr


def test_a_worker_is_killed_at_every_step(home: Path, twelve: dict[str, Any]) -> None:
    """At the first, the last and each between: the same bits, each step once, back at once."""
    die = {step: [step % 2] for step in every_step(STEPS)}
    done = cli(
        *(home, "run", twelve["spec"], "--run-id", "every-step", "--json"),
        *changes(params__die=die, retry__worker_deaths=STEPS),
    )
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert result["weights_sha256"] == twelve["weights_sha256"]
    assert steps_in_mlflow(result) == every_step(STEPS)
    assert len(list((home / "every-step").glob("died-*"))) == STEPS
    ends = events(home / "every-step", "attempt_end")
    assert [end["reason"] for end in ends] == ["WORKER_DIED"] * STEPS + ["COMPLETED"]
    assert all("was killed by SIGKILL" in end["message"] for end in ends[:-1])
    assert len(list((home / "every-step").glob("attempts/*/order.json"))) == 1  # the same places
    steps = [e for e in events(home / "every-step", "metrics") if "train/loss" in e["values"]]
    for number in range(1, STEPS + 1):
        last = [e for e in steps if e["attempt"] == number][-1]
        first = next(e for e in steps if e["attempt"] > number)
        assert last["step"] - first["step"] < 3  # at most what is between two checkpoints
        assert first["t"] - last["t"] < 15_000


def test_retries_used_up_end_the_run_and_all_it_started(
    home: Path, twelve: dict[str, Any], start: Callable[..., Started]
) -> None:
    """First Ray's own process dies, with the place of a worker, then the worker twice."""
    left = Left()
    command = start(
        *(home, "run", twelve["spec"], "--run-id", "used-up", "--json"),
        *changes(params__die={8: [1], 9: [0]}, params__pause_s=0.2, retry__worker_deaths=2),
        **left.environment,
    )
    run_dir = home / "used-up"
    wait_for("step 2", lambda: logged_steps(run_dir) >= 2)
    worker = worker_pid(run_dir, rank=1)
    place = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(place, signal.SIGKILL)
    wait_for("step 9", lambda: logged_steps(run_dir) >= 9)
    wait_for("the last failure", lambda: (run_dir / "died-9-0").exists())
    done = command.finish(20)
    assert done.returncode == 1, done.stderr
    wait_for("the end of all it started", left.nothing, 5)
    result = result_of(done)
    assert (result["status"], result["reason"]) == ("FAILED", "WORKER_DIED")
    assert "rank 0 was killed by SIGKILL" in result["message"]
    assert "retry.worker_deaths is 2" in result["message"]
    assert "its Ray process is gone" in events(run_dir, "attempt_end")[0]["message"]
    resumed = cli(home, "resume", "used-up", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert result_of(resumed)["weights_sha256"] == twelve["weights_sha256"]


@pytest.mark.parametrize("moment", ["connects", "starts workers"])
def test_sigterm_twice_before_the_first_step(
    home: Path, twelve: dict[str, Any], start: Callable[..., Started], moment: str
) -> None:
    left, name = Left(), moment.split()[0]
    command = start(home, "run", twelve["spec"], "--run-id", name, "--json", **left.environment)
    if moment == "connects":  # Ray's core is about to take SIGTERM for itself
        wait_for("the raylet", lambda: any("/raylet " in line for line in left.processes()))
    else:
        wait_for("the attempt", lambda: events(home / name, "attempt"))
    asked = time.monotonic()
    command.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    command.process.send_signal(signal.SIGTERM)
    done = command.finish(20)
    assert time.monotonic() - asked < 10
    assert done.returncode == 130, done.stderr
    assert result_of(done)["status"] == "STOPPED"
    wait_for("the end of all it started", left.nothing, 5)
    if moment == "connects":
        return
    resumed = cli(home, "resume", name, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert result_of(resumed)["weights_sha256"] == twelve["weights_sha256"]
