"""Killed workers, killed drivers, requests to stop: the run goes on and ends with the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import DIGITS, Started, cli, logged_steps, result_of, wait_for, worker_pid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def steps_in_mlflow(result: dict[str, Any], key: str = "train/loss") -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(result["tracking"]["uri"])
    return [p.step for p in client.get_metric_history(result["tracking"]["run_id"], key)]


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
    assert steps_in_mlflow(result) == list(range(1, 231))  # N4: none lost, none doubled
    report = (run_dir / "report.md").read_text()
    assert "WORKER_DIED" in report
    assert "rank 1" in report


def test_n7_a_stopped_worker_is_found_named_and_replaced(
    home: Path, digits: dict[str, Any], start: Callable[..., Started]
) -> None:
    """A pause of two seconds changes nothing; a rank that stays stopped costs a restart, no bit."""
    limit = "--set", "retry.hang_timeout_s=15"
    command = start(home, "run", DIGITS, "--run-id", "stuck", "--json", *limit)
    run_dir = home / "stuck"
    wait_for("step 30", lambda: logged_steps(run_dir) >= 30)
    paused = worker_pid(run_dir, rank=1)
    os.kill(paused, signal.SIGSTOP)
    time.sleep(2)
    os.kill(paused, signal.SIGCONT)
    wait_for("step 80", lambda: logged_steps(run_dir) >= 80)
    assert worker_pid(run_dir, rank=1) == paused  # no restart
    os.kill(paused, signal.SIGSTOP)
    done = command.finish()
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert (result["status"], result["attempts"]) == ("SUCCEEDED", 2)
    assert result["weights_sha256"] == digits["weights_sha256"]
    assert steps_in_mlflow(result) == list(range(1, 231))
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
    assert steps_in_mlflow(result) == list(range(1, 231))


def test_resume_after_the_driver_died(
    home: Path, digits: dict[str, Any], start: Callable[..., Started]
) -> None:
    command = start(home, "run", DIGITS, "--run-id", "orphan")
    run_dir = home / "orphan"
    wait_for("step 60", lambda: logged_steps(run_dir) >= 60)
    worker = worker_pid(run_dir, rank=0)
    os.kill(command.process.pid, signal.SIGKILL)
    command.process.communicate(timeout=30)
    wait_for("the worker's end", lambda: not Path(f"/proc/{worker}").exists(), 60)
    status = result_of(cli(home, "status", "orphan", "--json"))
    assert (status["status"], status["reason"]) == ("FAILED", "DRIVER_LOST")
    resumed = cli(home, "resume", "orphan", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert result_of(resumed)["weights_sha256"] == digits["weights_sha256"]


def test_ctrl_c_stops_within_ten_seconds(home: Path, start: Callable[..., Started]) -> None:
    command = start(home, "run", DIGITS, "--run-id", "interrupted", "--json")
    wait_for("step 10", lambda: logged_steps(home / "interrupted") >= 10)
    command.process.send_signal(signal.SIGINT)
    done = command.finish(20)
    assert done.returncode == 130, done.stderr
    assert result_of(done)["status"] == "STOPPED"
    assert "resume interrupted" in done.stdout + done.stderr
