"""MLflow away, late or back again: no metric is lost and none is doubled (N4)."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from .conftest import DIGITS, cli, environment, free_ports, result_of, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def healthy(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_n4_a_run_without_its_tracker_is_replayed_later(tmp_path: Path) -> None:
    home = tmp_path / "home"
    uri = f"http://127.0.0.1:{free_ports(1)[0]}"
    run = ("run", DIGITS, "--run-id", "early", "--set", f"tracking.uri={uri}")
    done = cli(home, *run, "--set", "params.epochs=2", "--json")
    assert done.returncode == 0, done.stderr  # the tracker's absence is no failure
    assert "orchestrator sync early" in done.stderr
    assert cli(home, "sync", "early").returncode == 3

    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", uri.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    server = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for("the MLflow server", lambda: healthy(uri), 120)
        for _ in range(2):  # a second replay adds nothing
            synced = cli(home, "sync", "early", "--json")
            assert synced.returncode == 0, synced.stderr
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        run_id = result_of(cli(home, "status", "early", "--json"))["tracking"]["run_id"]
        history = client.get_metric_history(run_id, "train/loss")
        assert [point.step for point in history] == list(range(1, 47))
        assert client.get_run(run_id).info.status == "FINISHED"
        assert {"loss_curve.png", "checkpoints"} <= {
            item.path for item in client.list_artifacts(run_id)
        }
    finally:
        server.terminate()
        server.wait(60)
