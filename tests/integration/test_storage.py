"""A run goes on wherever its files are: on a disk mounted elsewhere, or in a bucket alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator import stores

from .conftest import DIGITS, ROOT, cli, environment, logged_steps, result_of, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

# Another number of workers and other checkpoints than the demo's, and the same bits.
OTHERWISE = ("checkpoint.every_steps=30", "resources.workers=1")
STEPS = 230


@contextmanager
def started(home: Path, *overrides: str, **env: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The run's id and its process: one worker in the driver itself, without Ray."""
    command = [sys.executable, "-m", "jobs.train_classifier", str(DIGITS), *OTHERWISE, *overrides]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(home, **env)
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate(timeout=30)


def kill_between_checkpoints(run_dir: Path, process: subprocess.Popen[str]) -> None:
    wait_for("step 34", lambda: logged_steps(run_dir) >= 34, 30)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert logged_steps(run_dir) < STEPS


def steps_in_mlflow(home: Path, result: dict[str, Any]) -> list[int]:
    from mlflow import MlflowClient

    assert result["tracking"]["uri"] == f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(result["tracking"]["uri"])
    points = client.get_metric_history(result["tracking"]["run_id"], "train/loss")
    return [point.step for point in points]


def test_a_run_goes_on_where_its_disk_was_mounted_elsewhere(
    digits: dict[str, Any], tmp_path: Path
) -> None:
    old, new = tmp_path / "disk" / "home", tmp_path / "mounted" / "here"
    with started(old) as (run_id, process):
        kill_between_checkpoints(old / run_id, process)
    assert cli(old, "sync", run_id).returncode == 0  # MLflow knows the run
    new.parent.mkdir()
    old.rename(new)
    done = cli(new, "resume", run_id, "--json")
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert result["run_dir"] == str(new / run_id)
    assert result["weights_sha256"] == digits["weights_sha256"]
    assert steps_in_mlflow(new, result) == list(range(1, STEPS + 1))
    assert "where the runs were kept before" in done.stderr
    assert not old.exists()


def test_a_run_goes_on_from_its_bucket_alone(digits: dict[str, Any], tmp_path: Path) -> None:
    first = tmp_path / "first"
    with stores.s3_server() as server:
        uri = stores.s3_uri(server, "team/runs")
        env = stores.CREDENTIALS
        with started(first, f"storage={uri}", **env) as (run_id, process):
            kill_between_checkpoints(first / run_id, process)
        assert os.listdir(first / run_id / "checkpoints") == []
        base, _, query = uri.partition("?")
        place = f"{base}/{run_id}?{query}"
        # Elsewhere it would be given up a minute after its driver died (test_upload.py).
        shutil.rmtree(first)
        done = cli(first, "resume", place, "--json", **env)
        assert done.returncode == 0, done.stderr
        result = result_of(done)
        assert (result["status"], result["attempts"]) == ("SUCCEEDED", 2)
        assert result["weights_sha256"] == digits["weights_sha256"]
        assert steps_in_mlflow(first, result) == list(range(1, STEPS + 1))
        shutil.rmtree(first)
        again = cli(first, "resume", place, **env)
        assert again.returncode == 2
        assert "has succeeded already" in again.stderr
