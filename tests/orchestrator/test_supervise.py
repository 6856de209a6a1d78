"""The process that takes the signals, and its child: real processes, no Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import supervise
from orchestrator.errors import UsageError
from orchestrator.store import RunDir


def wait_until(condition: Callable[[], object], limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def driven(run_dir: RunDir, work: Callable[[threading.Event], None], *signals: int):
    return supervise.supervise(work, run_dir, list(signals))


def hang(_: threading.Event) -> None:
    threading.Event().wait(60)


def test_what_the_child_did_and_what_it_raised(run_dir: RunDir, capfd) -> None:
    fate = driven(run_dir, lambda _: run_dir.write_status(message="from the child"))
    assert (fate.error, fate.code) == (None, 0)
    assert run_dir.status().message == "from the child"

    def refuse(_: threading.Event) -> None:
        raise UsageError("resources: 9 CPUs")

    fate = driven(run_dir, refuse)
    assert isinstance(fate.error, UsageError)
    assert str(fate.error) == "resources: 9 CPUs"

    def crash(_: threading.Event) -> None:
        raise RuntimeError("a bug")

    assert driven(run_dir, crash).code == 1
    assert "RuntimeError: a bug" in capfd.readouterr().err
    assert driven(run_dir, lambda _: os.kill(os.getpid(), signal.SIGKILL)).code == -9


def test_a_signal_while_nothing_runs_ends_the_child_within_a_second(run_dir: RunDir, capfd) -> None:
    started = time.monotonic()
    fate = driven(run_dir, hang, signal.SIGTERM)
    assert fate.code == -9
    assert time.monotonic() - started < 5
    assert run_dir.stop_requested()
    assert "stopping" in capfd.readouterr().err


def test_a_second_signal_reaches_the_child(run_dir: RunDir) -> None:
    run_dir.write_status(status="RUNNING")

    def work(at_once: threading.Event) -> None:
        assert at_once.wait(20)

    fate = driven(run_dir, work, signal.SIGINT, signal.SIGINT)
    assert fate.code == 0


def test_a_child_that_does_not_listen_is_ended(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.write_status(status="RUNNING")
    monkeypatch.setattr(supervise, "URGENT_S", 0.3)
    assert driven(run_dir, hang, signal.SIGINT, signal.SIGINT).code == -9
    monkeypatch.setattr(supervise, "LONGEST_S", 0.3)
    assert driven(run_dir, hang, signal.SIGINT).code == -9


def test_nothing_of_the_childs_session_is_left(run_dir: RunDir) -> None:
    note = run_dir.path / "pid"

    def work(_: threading.Event) -> None:
        left = subprocess.Popen(["sleep", "60"], process_group=0)
        note.write_text(str(left.pid))

    assert driven(run_dir, work).code == 0
    wait_until(lambda: not alive(int(note.read_text())))


def test_the_child_ends_with_its_parent(run_dir: RunDir, tmp_path: Path) -> None:
    script = (
        "import os, sys, threading; from pathlib import Path\n"
        "from orchestrator import supervise; from orchestrator.store import RunDir\n"
        "def work(_):\n"
        "    Path(sys.argv[2]).write_text(str(os.getpid()))\n"
        "    threading.Event().wait(60)\n"
        "supervise.supervise(work, RunDir(sys.argv[1]), [])\n"
    )
    note = tmp_path / "child"
    parent = subprocess.Popen([sys.executable, "-c", script, str(run_dir.path), str(note)])
    try:
        wait_until(lambda: note.exists() and note.read_text())
        child = int(note.read_text())
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(child))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_signals_are_collected_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with supervise.interrupts() as seen:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: seen)
        assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
