"""`orchestrator submit` to a Ray that was started separately, token authentication on."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import DIGITS, Head, answers, cli, logged_steps, result_of, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_submit_status_logs(head: Head, tmp_path: Path) -> None:
    home, env = tmp_path / "home", {"RAY_AUTH_TOKEN": head.token}
    assert answers(head, None) == 401
    done = cli(
        home, "submit", DIGITS, "--address", head.address, "--run-id", "far", "--json", **env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "far"
    logs = cli(home, "logs", "far", "--follow", **env)
    assert logs.returncode == 0, logs.stderr
    assert "100 %" in logs.stdout
    status = result_of(cli(home, "status", "far", "--json", **env))
    assert status["status"] == "SUCCEEDED"
    assert status["metrics"]["val/accuracy"] >= 0.95
    assert cli(home, "report", "far", **env).returncode == 0


def test_stop_from_afar(head: Head, tmp_path: Path) -> None:
    home, env = tmp_path / "home", {"RAY_AUTH_TOKEN": head.token}
    longer = ("--set", "params.epochs=1000")
    done = cli(
        home, "submit", DIGITS, *longer, "--address", head.address, "--run-id", "long", **env
    )
    assert done.returncode == 0, done.stderr
    wait_for("step 20", lambda: logged_steps(home / "long") >= 20)
    assert result_of(cli(home, "status", "long", "--json", **env))["status"] == "RUNNING"
    stopped = cli(home, "stop", "long", **env)
    assert stopped.returncode == 0, stopped.stderr

    def ended() -> bool:
        return bool(result_of(cli(home, "status", "long", "--json", **env))["status"] == "STOPPED")

    wait_for("the stop", ended, 60)
    assert list((home / "long" / "checkpoints").iterdir())  # what was learnt is saved


def test_a_wrong_token_is_one_line(head: Head, tmp_path: Path) -> None:
    done = cli(
        tmp_path,
        *("submit", DIGITS, "--address", head.address, "--run-id", "refused"),
        RAY_AUTH_TOKEN="0" * 64,
    )
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "token" in done.stderr
    assert not (tmp_path / "refused").exists()


def test_more_cpus_than_the_cluster_has(head: Head, tmp_path: Path) -> None:
    """Known only on the cluster: the run fails there at once instead of waiting for ever."""
    home, env = tmp_path / "home", {"RAY_AUTH_TOKEN": head.token}
    many = ("--set", "resources.workers=64")
    done = cli(home, "submit", DIGITS, *many, "--address", head.address, "--run-id", "many", **env)
    assert done.returncode == 0, done.stderr
    logs = cli(home, "logs", "many", "--follow", **env)
    assert "64 workers x 1" in logs.stdout
    assert result_of(cli(home, "status", "many", "--json", **env))["status"] == "FAILED"
