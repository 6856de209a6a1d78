"""Nodes that are cut off, lost, replaced and added: the run goes on, with the same bits."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import (
    COMMAND,
    ROOT,
    environment,
    logged_steps,
    result_of,
    steps_in_mlflow,
    wait_for,
    worker_pid,
)
from .faults import STEPS, changes, events
from .nodes import Nodes, unavailable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if reason := unavailable():
        pytest.skip(reason)
    # Ray's sockets live below it, and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        made = Nodes(Path(folder), 3)
        try:
            yield made
        finally:
            made.down()


class Driven:
    """A run on the cluster, driven from node 1; what it says is in a file."""

    def __init__(self, nodes: Nodes, home: Path, name: str, *arguments: str | Path) -> None:
        self.run_dir = home / name
        self.said = home / f"{name}.stderr"
        command = [*nodes.inside(1), *COMMAND, "run", *map(str, arguments)]
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, "--run-id", name, "--address", nodes.cluster, "--json"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
                env=environment(home, **nodes.variables()),
                start_new_session=True,
            )

    def reaches(self, step: int, limit_s: float = 60) -> None:
        wait_for(f"step {step}", lambda: logged_steps(self.run_dir) >= step, limit_s)

    def begins(self, attempt: int, limit_s: float) -> None:
        """Waits for the first step of an attempt."""

        def seen() -> bool:
            return any(e["attempt"] >= attempt for e in events(self.run_dir, "metrics"))

        wait_for(f"attempt {attempt}", seen, limit_s)

    def says(self, text: str) -> int:
        return self.said.read_text().count(text)

    def finish(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, self.said.read_text()
        return result_of(subprocess.CompletedProcess([], 0, out, ""))


@pytest.fixture
def drive(nodes: Nodes, home: Path) -> Iterator[Callable[..., Driven]]:
    driven: list[Driven] = []

    def begin(name: str, *arguments: str | Path) -> Driven:
        driven.append(Driven(nodes, home, name, *arguments))
        return driven[-1]

    yield begin
    for run in driven:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            run.process.communicate(timeout=60)


def test_an_elastic_run_grows_when_a_node_comes(
    nodes: Nodes, drive: Callable[..., Driven], twelve: dict[str, Any]
) -> None:
    nodes.start(1)
    workers = changes(resources__workers={"min": 1, "max": 2}, params__pause_s=2.5)
    run = drive("grows", twelve["spec"], *workers)
    run.reaches(1)
    nodes.start(2)
    result = run.finish()
    assert result["weights_sha256"] == twelve["weights_sha256"]
    assert steps_in_mlflow(result) == list(range(1, STEPS + 1))
    assert [e["workers"] for e in events(run.run_dir, "attempt")] == [1, 2]
    assert [e["reason"] for e in events(run.run_dir, "attempt_end")] == ["RESIZED", "COMPLETED"]
    assert "RESIZING" in [e["status"] for e in events(run.run_dir, "status")]


def test_a_node_is_cut_off_lost_and_replaced(
    nodes: Nodes, drive: Callable[..., Driven], twelve: dict[str, Any]
) -> None:
    """Cut off for 5 seconds: no restart. Lost: a spare takes its place within 45 seconds. Lost
    again, with no spare: the run waits, says so, and goes on when a node comes; a slow link then.
    """
    nodes.start(3)  # after the test above there are 1 and 2

    def remote(run: Driven) -> int:
        """A node that works for the run, but not the head."""
        found = {nodes.of(worker_pid(run.run_dir, rank)) for rank in (0, 1)}
        return max(found)

    run = drive("nodes", twelve["spec"], *changes(params__pause_s=0.7, retry__worker_deaths=2))
    run.reaches(2)
    first = remote(run)
    nodes.cut(first)
    time.sleep(5)  # the fault itself
    nodes.heal(first)
    run.reaches(4)
    assert len(events(run.run_dir, "attempt")) == 1
    nodes.kill(first)
    run.begins(2, limit_s=45)
    second = remote(run)
    assert second != first
    nodes.kill(second)
    wait_for("two lines", lambda: run.says("waiting for a node") >= 2, 40)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(nodes.start, first)
        run.begins(3, limit_s=60)
        started.result()
    nodes.slow(first, "2mbit")
    result = run.finish()
    nodes.slow(first, None)
    assert result["attempts"] == 3
    assert result["weights_sha256"] == twelve["weights_sha256"]
    assert steps_in_mlflow(result) == list(range(1, STEPS + 1))
