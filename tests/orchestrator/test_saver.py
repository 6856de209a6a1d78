"""Checkpoints in the background: a copy is taken, one is written at a time, errors come back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator import checkpoint, files
from orchestrator.errors import CheckpointError
from orchestrator.saver import Saver

ROOT = Path(__file__).parents[2]
DISK_FAULT = ROOT.parent / "shared" / "faults" / "disk_fault.c"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for checkpoints that is not there yet."""
    return tmp_path / "checkpoints"


def names(place: Path) -> list[str]:
    return sorted(os.listdir(place))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is synced, so that no checkpoint becomes whole, before it is set."""
    event = threading.Event()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (event.wait(30), fsync(fd)))
    return event


def test_the_state_is_that_of_the_call_and_not_of_the_write(place, gate):
    saver = Saver(place, keep=2)
    weights = np.zeros(3)
    path = saver.save({"model": {"w": weights, "t": weights[::-1]}}, step=1)
    weights += 1
    assert not path.exists()
    assert saver.writing == 1
    gate.set()
    saver.wait()
    assert saver.writing is None
    loaded = checkpoint.load(path)
    assert loaded.state["model"]["w"].tolist() == [0, 0, 0]
    assert loaded.weights_sha256 == checkpoint.weights_sha256(loaded.state)


def test_buffers_are_used_again_where_they_fit(place):
    saver = Saver(place, keep=3)
    taken = []
    for step, size in ((1, 3), (2, 3), (3, 4)):
        saver.save({"w": np.full(size, step), "d": np.ones(2, "i2")}, step=step)
        taken.append(saver._buffers["w"])
        saver.wait()
    assert taken[0] is taken[1]
    assert taken[1] is not taken[2]
    found = [checkpoint.load(place / f"{step:08d}").state["w"].tolist() for step in (1, 2, 3)]
    assert found == [[1] * 3, [2] * 3, [3] * 4]


def test_one_write_at_a_time_and_a_long_wait_is_told(place, gate, monkeypatch):
    monkeypatch.setattr("orchestrator.saver._LONG_WAIT_S", 0.05)
    told: list[str] = []
    saver = Saver(place, keep=2, say=told.append)
    saver.save({"w": np.ones(2)}, step=1)
    threading.Timer(0.2, gate.set).start()
    saver.save({"w": np.ones(2)}, step=2)
    assert (place / "00000001").exists()
    (line,) = told
    assert line.startswith("checkpoint of step 2 waited 0.")
    assert "for that of step 1 to be written" in line
    saver.wait()


@pytest.mark.parametrize(
    ("keep", "keep_every", "best", "left"),
    [
        (1, None, None, [6]),
        (2, None, None, [5, 6]),
        (1, 3, None, [3, 6]),
        (1, None, "best", [2, 6]),
        (2, 3, "best", [2, 3, 5, 6]),
    ],
)
def test_never_more_than_one_too_many_on_the_disk(place, monkeypatch, keep, keep_every, best, left):
    """The newest, the best, those of every `keep_every`-th step, and the one being written."""
    seen: list[int] = []
    fsync = os.fsync

    def counting(descriptor: int) -> None:
        for_ever = [n for n in names(place) if keep_every and n.isdigit() and not int(n) % 3]
        seen.append(len(names(place)) - len(for_ever))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counting)
    by = ("val/accuracy", "max")
    saver = Saver(place, keep=keep, keep_every=keep_every, best=by if best else None)
    for step, accuracy in enumerate([0.1, 0.9, 0.2, 0.3, 0.4, 0.5], 1):
        saver.save({"w": np.ones(2)}, step=step, metrics={"val/accuracy": accuracy})
    saver.wait()
    assert max(seen) == keep + (best is not None) + 1
    assert names(place) == [f"{step:08d}" for step in left]


def test_what_a_dead_writer_left_counts_too(place, monkeypatch):
    """It died between its rename and its prune; the next one makes room before it writes."""
    for step in (1, 2, 3):
        checkpoint.write(place, [step], step=step)
    most: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (most.append(len(names(place))), fsync(fd)))
    saver = Saver(place, keep=2)
    saver.save([4], step=4)
    saver.wait()
    assert max(most) == 3
    assert names(place) == ["00000003", "00000004"]


def test_the_state_is_checked_by_the_call_itself(place):
    saver = Saver(place, keep=1)
    with pytest.raises(TypeError, match="model is function"):
        saver.save({"model": names}, step=1)
    with pytest.raises(ValueError, match="step is -1"):
        saver.save({}, step=-1)
    saver.wait()
    assert not place.exists()


# A full disk


class Disk:
    """Refuses `times` writes with `code`, then takes them."""

    def __init__(self, times: int, code: int = errno.ENOSPC) -> None:
        self.left, self.code, self.calls = times, code, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            try:
                raise OSError(self.code, os.strerror(self.code))
            except OSError as error:
                raise CheckpointError("it cannot be written") from error
        return "done"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes by sleeping only."""
    now = [100.0]
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(files.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def patiently(disk: Disk, told: list[str], stop: Callable[[], bool] = lambda: False) -> str:
    return files.wait_for_space(disk, say=told.append, give_up=stop, limit_s=60)


def test_a_full_disk_is_waited_for_and_told_every_ten_seconds(clock):
    told: list[str] = []
    assert patiently(Disk(50), told) == "done"
    assert clock[0] == 125.0
    assert [line[:42] for line in told] == [
        "waiting for space (0 of at most 60 s): it ",
        "waiting for space (10 of at most 60 s): it",
        "waiting for space (20 of at most 60 s): it",
    ]


def test_the_wait_has_a_limit(clock):
    with pytest.raises(CheckpointError):
        patiently(Disk(1000), [])
    assert clock[0] == 160.0


def test_a_request_to_stop_ends_the_wait(clock):
    disk = Disk(1000)
    with pytest.raises(CheckpointError):
        patiently(disk, [], lambda: clock[0] >= 105)
    assert clock[0] == 105.0


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_broken_disk_is_not_waited_for(clock, code):
    disk = Disk(1, code)
    with pytest.raises(CheckpointError):
        patiently(disk, [])
    assert disk.calls == 1


# A disk that fails below Python (shared/faults/disk_fault.c), in a process of its own

CHILD = """
import sys, numpy as np
from pathlib import Path
from orchestrator import files, saver
files.DIRECT_FROM_BYTES, files._BUFFER_BYTES = int(sys.argv[4]), 4096
saver.wait_for_space.__kwdefaults__["limit_s"] = 0.0
s = saver.Saver(Path(sys.argv[1]), keep=1, say=lambda text: print(text, file=sys.stderr))
for step in range(int(sys.argv[2]), int(sys.argv[3])):
    s.save({"model": np.full(2000, float(step))}, step=step)
    s.wait()
    print(step, flush=True)
"""


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The injector, compiled."""
    compiler = shutil.which("gcc")
    if compiler is None or not DISK_FAULT.exists():
        pytest.skip(f"gcc or {DISK_FAULT} is not there")
    library = tmp_path_factory.mktemp("fault") / "disk_fault.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(DISK_FAULT), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return library


def child(
    place: Path,
    first: int,
    end: int,
    fault: Path | None = None,
    *,
    direct_from_bytes: int = files.DIRECT_FROM_BYTES,
    **settings: str,
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if fault is not None:
        environment |= {"LD_PRELOAD": str(fault), "DF_PATH": str(place), **settings}
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(place), str(first), str(end), str(direct_from_bytes)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"DF_ENOSPC_AFTER": "9000"}, "No space left on device"),
        ({"DF_EIO_AFTER": "9000"}, "Input/output error"),
        ({"DF_FSYNC_FAIL": "2"}, "Input/output error"),
    ],
)
def test_a_failing_disk_leaves_the_old_checkpoint_and_the_next_run_goes_on(
    place, fault, settings, why
):
    assert child(place, 1, 2).returncode == 0
    failed = child(place, 2, 3, fault, **settings)
    assert failed.returncode == 1
    assert "00000002: cannot be written: " + why in failed.stderr
    assert names(place) == ["00000001"]
    found = checkpoint.latest(place)
    assert found is not None
    assert found.step == 1
    assert child(place, 2, 3).returncode == 0
    assert names(place) == ["00000002"]


def test_killed_at_each_write_fsync_and_rename_of_the_thread(place, fault, tmp_path):
    log, how = tmp_path / "log", {"direct_from_bytes": 0}  # small files: test_checkpoint.py
    assert child(place, 1, 2).returncode == 0
    assert child(place, 2, 3, fault, DF_LOG=str(log), **how).returncode == 0
    points = len(log.read_text().splitlines())
    assert points >= 10  # writes, fsyncs, renames and unlinks of one checkpoint
    damaged: list[str] = []
    for at in range(1, points + 1):
        shutil.rmtree(place)
        assert child(place, 1, 2).returncode == 0
        assert child(place, 2, 3, fault, DF_KILL_AT=f"any:{at}", **how).returncode == -9
        found = checkpoint.latest(place, lambda path, why: damaged.append(why))
        assert found is not None
        assert found.step in (1, 2)
        assert (found.state["model"] == found.step).all()
        assert damaged == []
        assert len(names(place)) <= 2
