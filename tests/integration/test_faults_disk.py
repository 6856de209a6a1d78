"""The disk of the checkpoints fills up, turns read-only, fails: what was saved stays, and the run
goes on with the same bits."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.checkpoint import latest

from .conftest import Started, cli, logged_steps, result_of, steps_in_mlflow, wait_for
from .faults import STEPS, changes, events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def mount(*arguments: str | Path) -> None:
    """`mount ...`; skips the test where that is not permitted."""
    done = subprocess.run(
        ["mount", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "test", disk)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """`folder` as a read-only disk."""
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_waited_for(
    home: Path, twelve: dict[str, Any], small_disk: Path, start: Callable[..., Started]
) -> None:
    command = start(
        *(home, "run", twelve["spec"], "--run-id", "full", "--json"),
        *changes(params__pause_s=0.5, storage=str(small_disk)),
    )
    run_dir = small_disk / "full"
    wait_for("a checkpoint", lambda: events(run_dir, "checkpoint"))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 12)):
                pass
        except OSError as error:
            assert error.errno == 28, error  # noqa: PT017  # no space left
    said = []
    assert command.process.stderr is not None
    for line in command.process.stderr:
        said.append(line)
        if "waiting for space" in line:
            break
    assert "waiting for space" in said[-1], said
    found = latest(run_dir / "checkpoints", lambda path, why: pytest.fail(f"{path}: {why}"))
    assert found is not None
    assert found.step >= 3
    filler.unlink()
    done = command.finish()
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert result["attempts"] == 1
    assert result["weights_sha256"] == twelve["weights_sha256"]
    assert steps_in_mlflow(result) == list(range(1, STEPS + 1))


def test_a_disk_that_cannot_be_written_ends_the_run_and_resume_goes_on(
    home: Path, twelve: dict[str, Any], tmp_path: Path, start: Callable[..., Started]
) -> None:
    """Read-only first, then one whose fsync fails."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc, which builds the fault of fsync, is not installed")
    fault, armed = tmp_path / "fsync_fault.so", tmp_path / "armed"
    source = Path(__file__).with_name("fsync_fault.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", fault, source, "-ldl"], check=True)
    run_dir = home / "unwritable"

    def saved() -> int:
        found = latest(run_dir / "checkpoints", lambda path, why: pytest.fail(f"{path}: {why}"))
        return 0 if found is None else found.step

    def refused(done: subprocess.CompletedProcess[str], words: str, step: int) -> None:
        assert done.returncode == 1, done.stderr
        result = result_of(done)
        assert result["status"] == "FAILED"
        assert words in result["message"], result["message"]
        assert "checkpoint" in result["message"]
        assert saved() == step

    command = start(
        *(home, "run", twelve["spec"], "--run-id", "unwritable", "--json"),
        *changes(params__pause_s=0.3),
    )
    wait_for("a checkpoint", lambda: events(run_dir, "checkpoint"))
    with read_only(run_dir / "artifacts" / "checkpoints"):
        before = saved()
        refused(command.finish(), "Read-only file system", before)
    armed.touch()
    broken = {"LD_PRELOAD": str(fault), "FSYNC_FAULT": str(armed)}
    refused(cli(home, "resume", "unwritable", "--json", **broken), "Input/output error", before)
    armed.unlink()
    done = cli(home, "resume", "unwritable", "--json", **broken)
    assert done.returncode == 0, done.stderr
    assert result_of(done)["weights_sha256"] == twelve["weights_sha256"]
    assert logged_steps(run_dir) == STEPS
