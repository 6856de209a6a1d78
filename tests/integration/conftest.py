"""Real parts: the command line in its own process, real Ray, real MLflow, real files."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .faults import spec_file

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "configs" / "train" / "digits.yaml"
COMMAND = [sys.executable, "-m", "orchestrator"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """The caller's environment without what would lead a run elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": binaries, "ORCHESTRATOR_HOME": str(home), **more}


def cli(
    home: Path, *arguments: str | Path, timeout_s: float = 240, **env: str
) -> subprocess.CompletedProcess[str]:
    """One `orchestrator` command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env=environment(home, **env),
        check=False,
    )


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object that is the last line of stdout."""
    assert done.stdout.strip(), done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 120) -> Any:
    """The first true value of `condition`; fails, naming `what`, when the time is up."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)
    return value


class Started:
    """An `orchestrator` command that runs beside the test."""

    def __init__(self, home: Path, *arguments: str | Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(home, **env),
            start_new_session=True,
        )

    def finish(self, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        out, err = self.process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out, err)

    def kill(self) -> None:
        """End the command and what it started in its own process group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate(timeout=30)


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    """Start commands that are ended with the test, whatever happened in it."""
    running: list[Started] = []

    def begin(home: Path, *arguments: str | Path, **env: str) -> Started:
        running.append(Started(home, *arguments, **env))
        return running[-1]

    yield begin
    for command in running:
        command.kill()


def logged_steps(run_dir: Path) -> int:
    """The highest training step in the run's events, 0 before the first."""
    try:
        lines = (run_dir / "events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    steps = [json.loads(line).get("step") or 0 for line in lines if '"train/loss"' in line]
    return max(steps, default=0)


def worker_pid(run_dir: Path, rank: int) -> int:
    """The process id a worker wrote at the head of its log."""
    header = (run_dir / "logs" / f"rank-{rank}.log").read_text().splitlines()
    return int([line for line in header if line.startswith("--- attempt")][-1].split("pid ")[1])


def steps_in_mlflow(result: dict[str, Any], key: str = "train/loss") -> list[int]:
    """The steps of a metric in the order in which MLflow has them."""
    from mlflow import MlflowClient

    client = MlflowClient(result["tracking"]["uri"])
    return [p.step for p in client.get_metric_history(result["tracking"]["run_id"], key)]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$ORCHESTRATOR_HOME of the runs that several tests look at."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def digits(home: Path) -> dict[str, Any]:
    """The demo's training, undisturbed: its JSON result, and what it printed."""
    done = cli(home, "run", DIGITS, "--run-id", "digits", "--json")
    assert done.returncode == 0, done.stderr
    return result_of(done) | {"stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture(scope="session")
def twelve(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Twelve steps, undisturbed: the JSON result, and the spec that repeats it."""
    spec = spec_file(tmp_path_factory.mktemp("twelve"))
    done = cli(home, "run", spec, "--run-id", "twelve", "--json")
    assert done.returncode == 0, done.stderr
    return result_of(done) | {"spec": spec}


@pytest.fixture(scope="session")
def digit_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The held-out digits as files, a corrupt and an empty one among them."""
    folder = tmp_path_factory.mktemp("digit-images")
    subprocess.run(
        [sys.executable, "-m", "jobs.data.digits", str(folder)], cwd=ROOT, check=True, timeout=60
    )
    return folder


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
