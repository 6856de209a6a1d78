"""`orchestrator submit` to a Ray that was started separately, token authentication on."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import DIGITS, cli, environment, logged_steps, result_of, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Head:
    address: str
    token: str


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def answers(head: Head, token: str | None) -> int:
    """The HTTP status of the jobs page; 0 while nobody listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=2) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    gcs, dashboard, client = free_ports(3)
    token = secrets.token_hex(32)
    found = Head(f"http://127.0.0.1:{dashboard}", token)
    ray = str(Path(sys.executable).parent / "ray")
    options = {
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-agent-listen-port": 0,
        "metrics-export-port": 0,
    }
    # Ray's sockets live below its temporary directory, and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        command = [ray, "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--temp-dir={folder}", *(f"--{k}={v}" for k, v in options.items())]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment(Path(folder), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token),
            start_new_session=True,
        )
        try:
            wait_for("the Ray head", lambda: answers(found, token) == 200, 90)
            yield found
        finally:
            process.terminate()
            process.wait(60)


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
