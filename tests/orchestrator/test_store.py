"""The run directory: atomic files, one owner, events that survive torn writes and zombies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator import store
from orchestrator.errors import OrchestratorError, RunExists, RunNotFound, UsageError
from orchestrator.store import RunDir


def test_create_lays_out_the_directory(make_plan, home):
    made = make_plan(run_id="toy-1")
    run = RunDir.create(made)
    assert run.path == home / "toy-1"
    assert run.plan() == made
    assert run.status().status == "PENDING"
    for name in ("logs", "checkpoints", "artifacts"):
        assert (run.path / name).is_dir()


def test_a_run_is_made_once(make_plan):
    made = make_plan(run_id="toy-1")
    run = RunDir.create(made)
    before = (run.path / "plan.json").read_bytes()
    with pytest.raises(RunExists, match=r"run toy-1 exists already; .*orchestrator resume toy-1"):
        RunDir.create(made)
    with run.lock(), pytest.raises(RunExists, match=rf"is owned by {os.getpid()}@"):
        RunDir.create(made)
    assert (run.path / "plan.json").read_bytes() == before
    assert not list(run.path.glob(".plan*"))


def test_the_note_of_a_submission_is_no_run_yet(make_plan):
    made = make_plan(run_id="toy-1")
    noted = RunDir(made.run_dir)
    noted.write_submission("http://head:8265", "toy-1")
    run = RunDir.create(made)
    assert run.submission() == {"address": "http://head:8265", "submission_id": "toy-1"}
    assert run.plan() == made


def test_an_unwritable_home_is_one_clear_error(make_plan, home):
    home.write_text("a file where the directory should be")
    with pytest.raises(UsageError, match=r"cannot be written.*Hint: set ORCHESTRATOR_HOME"):
        RunDir.create(make_plan())
    assert home.read_text() == "a file where the directory should be"


def test_storage_elsewhere_is_found_from_home(make_plan, home, tmp_path):
    run = RunDir.create(make_plan("storage=other", run_id="toy-1"))
    assert run.path == tmp_path / "other" / "toy-1"
    assert RunDir.open(home, "toy-1").plan().run_id == "toy-1"
    assert [r.run_id for r in store.list_runs(home)] == ["toy-1"]


@pytest.mark.parametrize("run_id", ["", ".", "..", "../home/toy-1", "toy-1/checkpoints", "toy-2"])
def test_open_finds_only_runs(run_dir, home, run_id):
    with pytest.raises(RunNotFound, match="there is no run"):
        RunDir.open(home, run_id)


def test_open_suggests_the_closest(run_dir, home):
    with pytest.raises(RunNotFound, match="did you mean 'toy-1'"):
        RunDir.open(home, "toy-2")
    with pytest.raises(RunNotFound, match="there are no runs there yet"):
        RunDir.open(home / "nowhere", "toy-2")


# Status


def test_status_changes_are_kept(run_dir):
    run_dir.write_status(status="RUNNING", attempts=1)
    run_dir.write_status(batch={"inputs": 3})
    status = run_dir.status()
    assert (status.status, status.attempts, status.batch) == ("RUNNING", 1, {"inputs": 3})
    assert not list(run_dir.path.glob(".status*"))


def test_a_misspelt_status_name_is_an_error(run_dir):
    with pytest.raises(ValueError, match="atempts"):
        run_dir.write_status(atempts=1)
    assert run_dir.status().attempts == 0


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x"
    store.atomic_write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.glob(".x*")] == []


def test_readers_see_whole_files_while_a_writer_is_killed(run_dir):
    code = (
        "from orchestrator.store import RunDir\n"
        f"run = RunDir({str(run_dir.path)!r})\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    run.write_status(status='RUNNING', attempts=n, message='x' * 10000)\n"
        "    if n == 3: print('ready', flush=True)\n"
    )
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        for _ in range(200):
            assert run_dir.status().message == "x" * 10000
        child.kill()
        child.wait()
        child.stdout.close()
        assert run_dir.status().attempts >= 3


# Ownership


def test_one_owner(run_dir):
    assert not run_dir.owner_alive()
    with run_dir.lock():
        assert run_dir.owner_alive()
        with (
            pytest.raises(UsageError, match=rf"owned by {os.getpid()}@.*orchestrator stop toy-1"),
            RunDir(run_dir.path).lock(),
        ):
            pass
        assert run_dir.owner_alive()
    assert not run_dir.owner_alive()


def test_a_killed_owner_frees_the_run(run_dir):
    code = (
        "import time\nfrom orchestrator.store import RunDir\n"
        f"with RunDir({str(run_dir.path)!r}).lock():\n"
        "    print('owned', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"owned\n"
        assert run_dir.owner_alive()
        assert (run_dir.owner() or "").startswith(f"{child.pid}@")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert not run_dir.owner_alive()
    with run_dir.lock():
        pass


# Events


def test_events_come_back_with_offsets(run_dir):
    run_dir.attempt = 2
    run_dir.append_event("checkpoint", step=3, path="x\ny")
    run_dir.append_event("artifact", path="p", attempt=7)
    events = list(run_dir.events())
    assert [e["kind"] for _, e in events] == ["checkpoint", "artifact"]
    assert [e["attempt"] for _, e in events] == [2, 7]
    assert list(run_dir.events(events[0][0])) == events[1:]
    assert abs(events[0][1]["t"] / 1000 - time.time()) < 60


def test_a_torn_last_line_waits_until_it_is_whole(run_dir):
    run_dir.append_event("a")
    path = run_dir.path / "events.jsonl"
    with path.open("ab") as file:
        file.write(b'{"t":1,"attempt":0,"kind":"b"')
    (first,) = run_dir.events()
    assert list(run_dir.events(first[0])) == []
    with path.open("ab") as file:
        file.write(b"}\n")
    assert [e["kind"] for _, e in run_dir.events(first[0])] == ["b"]


def test_a_line_torn_by_a_dead_writer_costs_only_itself(run_dir):
    run_dir.append_event("a")
    with (run_dir.path / "events.jsonl").open("ab") as file:
        file.write(b'{"t":1,"att')
    run_dir.append_event("c")
    events = list(run_dir.events())
    assert [e["kind"] for _, e in events] == ["a", "c"]
    assert events[-1][0] == (run_dir.path / "events.jsonl").stat().st_size


def test_writers_do_not_tear_each_others_lines(run_dir):
    code = (
        "import sys\nfrom orchestrator.store import RunDir\n"
        f"run = RunDir({str(run_dir.path)!r})\n"
        "for i in range(200): run.append_event('x', who=sys.argv[1], i=i, pad='y' * 500)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(w)]) for w in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    seen = [(e["who"], e["i"]) for _, e in run_dir.events()]
    assert sorted(seen) == sorted((w, i) for w in "01" for i in range(200))


def test_a_disk_that_takes_only_half_a_line_is_an_error(run_dir, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(OrchestratorError, match=r"events\.jsonl: .*No space left"):
        run_dir.append_event("x", pad="y" * 100)
    monkeypatch.undo()
    run_dir.append_event("after")
    assert [e["kind"] for _, e in run_dir.events()] == ["after"]


def log(run: RunDir, attempt: int, step: int, **values: float) -> None:
    run.append_event("metrics", attempt=attempt, step=step, epoch=None, values=values)


def test_a_metric_logged_is_never_lost_or_doubled(run_dir):
    run_dir.append_event("attempt", number=1, workers=2)
    for step in (1, 2, 3):
        log(run_dir, 1, step, loss=float(step))
    run_dir.append_event("attempt", number=2, workers=2)
    for step in (2, 3, 4):
        log(run_dir, 2, step, loss=float(step), extra=0.0)
    metrics = run_dir.metrics()
    assert [(s, v) for s, v, _ in metrics["loss"]] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert [s for s, _, _ in metrics["extra"]] == [2, 3, 4]


def test_what_a_zombie_writes_does_not_count(run_dir):
    run_dir.append_event("attempt", number=1, workers=2)
    log(run_dir, 1, 1, loss=1.0)
    run_dir.append_event("attempt", number=2, workers=2)
    log(run_dir, 1, 2, loss=666.0)
    log(run_dir, 2, 2, loss=2.0)
    assert [(s, v) for s, v, _ in run_dir.metrics()["loss"]] == [(1, 1.0), (2, 2.0)]


def test_nan_survives(run_dir):
    log(run_dir, 0, 1, loss=float("nan"), big=float("inf"))
    assert repr(run_dir.metrics()["loss"][0][1]) == "nan"
    assert run_dir.metrics()["big"][0][1] == float("inf")


def test_attempts_from_events(run_dir):
    run_dir.append_event("attempt", number=1, workers=2)
    log(run_dir, 1, 0, loss=1.0)
    log(run_dir, 1, 5, loss=1.0)
    run_dir.append_event("attempt_end", number=1, reason="WORKER_DIED", message="rank 1", step=5)
    run_dir.append_event("attempt", number=2, workers=3)
    first, second = run_dir.attempts()
    assert (first.number, first.workers, first.reason, first.message) == (
        1,
        2,
        "WORKER_DIED",
        "rank 1",
    )
    assert (first.first_step, first.last_step) == (0, 5)
    assert (second.workers, second.ended, second.first_step) == (3, None, None)


# Stopping, listing


def test_a_stop_is_asked_seen_and_forgotten(run_dir):
    assert not run_dir.stop_requested()
    run_dir.request_stop()
    assert RunDir(run_dir.path).stop_requested()
    run_dir.clear_stop()
    run_dir.clear_stop()
    assert not run_dir.stop_requested()


def test_runs_newest_first_and_latest(make_plan, home):
    for i, (job, status) in enumerate(
        [("toy", "SUCCEEDED"), ("toy", "SUCCEEDED"), ("toy", "FAILED"), ("batch", "SUCCEEDED")]
    ):
        run = RunDir.create(make_plan(run_id=f"r{i}", job=job))
        run.write_status(status=status)
        os.utime(run.path / "plan.json", (1000 + i, 1000 + i))
    (home / "crash").mkdir()
    (home / "note.txt").write_text("no run")
    assert [run.run_id for run in store.list_runs(home)] == ["r3", "r2", "r1", "r0"]
    assert store.latest(home).run_id == "r1"
    assert store.latest(home, engine="batch").run_id == "r3"
    assert store.resolve_run(home, "run:/latest").run_id == "r1"
    assert store.resolve_run(home, "run:/r0").run_id == "r0"
    with pytest.raises(RunNotFound, match=r"shows those there are \(4\)"):
        store.resolve_run(home, "run:/r9")
    with pytest.raises(RunNotFound, match="no batch run with status FAILED"):
        store.latest(home, engine="batch", status="FAILED")


def test_no_runs(tmp_path):
    assert store.list_runs(tmp_path / "nowhere") == []


def test_damaged_files_are_named(run_dir):
    (run_dir.path / "plan.json").write_text("{")
    with pytest.raises(UsageError, match=r"plan\.json: is not a plan"):
        run_dir.plan()
    (run_dir.path / "status.json").write_text(json.dumps({"foo": 1}))
    with pytest.raises(UsageError, match=r"status\.json: cannot be read"):
        run_dir.status()


def test_a_note_of_a_submission_needs_a_writable_home(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="ORCHESTRATOR_HOME"):
        RunDir(Path(tmp_path / "file" / "run")).write_submission("http://h:1", "x")
