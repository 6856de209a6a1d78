"""A run kept in a bucket: its own directory may be lost, and a second driver is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import checkpoint, store, upload
from orchestrator.errors import (
    BackendUnavailable,
    OrchestratorError,
    RunExists,
    RunNotFound,
    UsageError,
)
from orchestrator.plan import RunPlan
from orchestrator.remote import RemotePath
from orchestrator.store import RunDir
from tests.orchestrator import stores
from tests.orchestrator.stores import FaultyFileSystem

STORAGE = "faulty://runs"


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    FaultyFileSystem.empty()
    monkeypatch.setattr(upload, "PUSH_EVERY_S", 0.01)
    yield
    FaultyFileSystem.empty()


@pytest.fixture
def kept(make_plan: Callable[..., RunPlan]) -> RunDir:
    """A run that is kept at STORAGE."""
    return RunDir.create(make_plan(f"storage={STORAGE}", run_id="r1"))


def fill(run: RunDir, attempt: int = 1) -> None:
    run.append_event("attempt", number=attempt, workers=1)
    for step in range(3):
        run.append_event("metrics", attempt=attempt, step=step, epoch=0, values={"loss": step})
    run.write_status(status="FAILED", attempts=attempt)


def lose(home: Path) -> None:
    shutil.rmtree(home)


def test_a_run_comes_back_from_the_bucket_alone(kept, home):
    with kept.lock():
        fill(kept)
        (kept.path / "tracking.json").write_text('{"offset": 5}')
        kept.artifacts_dir.joinpath("model.bin").write_bytes(b"\0" * 1000)
        kept.logs_dir.joinpath("rank-0.log").write_text("hello\n")
    events, status = kept.path.joinpath("events.jsonl").read_bytes(), kept.status()
    lose(home)
    assert upload.download(f"{STORAGE}/r1", home) == "r1"
    back = RunDir.open(home, "r1")
    assert back.path.joinpath("events.jsonl").read_bytes() == events
    assert (back.status(), back.metrics()) == (status, kept.metrics())
    assert back.plan() == kept.plan()
    assert back.path.joinpath("tracking.json").read_text() == '{"offset": 5}'
    assert back.artifacts_dir.joinpath("model.bin").stat().st_size == 1000
    assert back.logs_dir.joinpath("rank-0.log").read_text() == "hello\n"
    assert str(back.checkpoints_dir) == f"{STORAGE}/r1/checkpoints"
    with back.lock():
        pass  # and may be driven on


def test_it_comes_back_elsewhere_too(kept, home, tmp_path):
    with kept.lock():
        fill(kept)
    upload.download(f"{STORAGE}/r1", tmp_path / "elsewhere")
    plan = RunDir.open(tmp_path / "elsewhere", "r1").plan()
    assert plan.home == str(tmp_path / "elsewhere")
    assert plan.run_dir == str(tmp_path / "elsewhere" / "r1")
    assert plan.hash == kept.plan().hash


def test_events_go_in_pieces_and_each_is_sent_once_it_has_changed(kept, home, monkeypatch):
    monkeypatch.setattr(upload, "_PIECE_BYTES", 200)
    for i in range(10):
        kept.append_event("x", i=i, pad="y" * (10 * i))
        kept.sync_events()
    names = (kept.remote / "events").names()
    size = kept.path.joinpath("events.jsonl").stat().st_size
    assert names == [f"{start:015d}.jsonl" for start in range(0, size, 200)]
    FaultyFileSystem.calm()
    kept.append_event("last")
    kept.sync_events()
    assert sum(request.startswith("put") for request in FaultyFileSystem.requests) <= 2
    kept.sync_events()
    assert sum(request.startswith("put") for request in FaultyFileSystem.requests) <= 2
    other = RunDir(kept.path)  # a worker that starts later
    other.append_event("of a worker")
    other.sync_events()
    with kept.lock():
        pass
    events = kept.path.joinpath("events.jsonl").read_bytes()
    lose(home)
    upload.download(f"{STORAGE}/r1", home)
    assert kept.path.joinpath("events.jsonl").read_bytes() == events


def test_events_that_come_while_others_are_sent_are_in_their_place(kept, home, monkeypatch):
    monkeypatch.setattr(upload, "_PIECE_BYTES", 200)
    written = iter(range(40))

    def takes(path: str, size: int) -> int:
        if "/events/" in path and (i := next(written, None)) is not None:
            kept.append_event("meanwhile", i=i, pad="z" * (i % 7))
        return size

    FaultyFileSystem.takes = takes
    for i in range(5):
        kept.append_event("x", i=i)
        kept.sync_events()
    FaultyFileSystem.calm()
    kept.sync_events()
    with kept.lock():
        pass
    events = kept.path.joinpath("events.jsonl").read_bytes()
    lose(home)
    upload.download(f"{STORAGE}/r1", home)
    assert kept.path.joinpath("events.jsonl").read_bytes() == events


def test_what_led_to_a_checkpoint_is_in_the_bucket_before_it(kept, home):
    """The driver and its disk are gone before it sent anything but the plan."""
    from orchestrator.context import JobContext

    with kept.lock():
        pass
    context = JobContext(
        kept.plan(), RunDir(kept.path), attempt=1, rank=0, world_size=1, local_rank=0
    )
    seen = []
    FaultyFileSystem.takes = lambda path, size: (seen.append(path), size)[1]
    for step in range(1, 4):
        context.metrics.log({"loss": 1.0}, step=step)
        context.checkpoint.save({"model": [step]}, step=step)
        context.checkpoint.wait()
    first = {name: at for at, name in reversed(list(enumerate(seen)))}
    manifest = next(at for name, at in first.items() if name.endswith("00000001/manifest.json"))
    assert next(at for name, at in first.items() if "/events/" in name) < manifest
    lose(home)
    upload.download(f"{STORAGE}/r1", home)
    back = RunDir.open(home, "r1")
    assert [step for step, _, _ in back.metrics()["loss"]] == [1, 2, 3]
    assert back.checkpoints_dir.names() == ["00000002", "00000003"]
    path = [event["path"] for _, event in back.events() if event["kind"] == "checkpoint"]
    assert path[0] == f"{STORAGE}/r1/checkpoints/00000001"


def test_a_store_that_fails_once_at_any_request_of_a_save_costs_nothing(kept, monkeypatch):
    """The error is that of a moment: the writer waits, and everything is there."""
    from orchestrator import files
    from orchestrator.context import JobContext

    with kept.lock():
        pass
    monkeypatch.setattr(files.time, "sleep", lambda s: None)
    worker = RunDir(kept.path)
    context = JobContext(kept.plan(), worker, attempt=1, rank=0, world_size=1, local_rank=0)
    monkeypatch.setattr(context.checkpoint._saver, "_give_up", lambda: False)
    for step in range(1, 60):
        FaultyFileSystem.calm()

        def fails(number: int, request: str, at: int = step) -> None:
            if number == at:
                raise OSError("no route to host")

        FaultyFileSystem.fails = fails
        context.metrics.log({"loss": 1.0}, step=step)
        context.checkpoint.save({"model": [step]}, step=step)
        context.checkpoint.wait()
        requests = len(FaultyFileSystem.requests)
        FaultyFileSystem.calm()
        found = context.checkpoint.latest()
        assert found is not None
        assert found.step == step
        assert len(worker.checkpoints_dir.names()) <= 3
        if requests < step:
            break
    assert 20 < step < 59
    told = [event["step"] for _, event in kept.events() if event["kind"] == "checkpoint"]
    assert told == list(range(1, step + 1))


def test_a_node_that_does_not_share_the_directory_is_told(kept, tmp_path):
    worker = RunDir(tmp_path / "of another node")
    worker.path.mkdir()
    worker.remote = store.storage_of(kept.plan())
    worker.append_event("metrics", step=1, epoch=None, values={})
    with pytest.raises(OrchestratorError, match=r"has no plan\.json on .*all nodes share"):
        worker.sync_events()


def test_weights_of_a_run_in_a_bucket_are_brought_here(kept):
    from jobs.weights import resolve

    with kept.lock():
        pass
    written = {"model": {"w": [1.0, 2.0]}}
    checkpoint.write(kept.checkpoints_dir, written, step=4)
    path = Path(resolve("run:/r1"))
    assert path == kept.path / "checkpoints" / "00000004"
    assert checkpoint.load(path).state == written


# Owners


@pytest.fixture
def another(kept: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Do something as the process of another machine, which has its own home."""

    def act(do: Callable[[], Any]) -> Any:
        with monkeypatch.context() as there:
            there.setattr(upload, "_ME", "another")
            there.setattr(upload.socket, "gethostname", lambda: "elsewhere")
            there.setenv("ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
            return do()

    return act


def sent(run: RunDir) -> None:
    """Return once plan.json is in the bucket."""
    end = time.monotonic() + 30
    while not (run.remote / "status.json").exists():
        assert time.monotonic() < end


def test_two_runs_of_one_name(kept, another, make_plan):
    plan = make_plan(f"storage={STORAGE}", run_id="r1")
    elsewhere = plan.model_copy(update={"run_dir": plan.run_dir.replace("home", "elsewhere")})
    with pytest.raises(UsageError, match=r"r1 is owned by \d+@.*, which wrote 0 s ago"):
        another(lambda: RunDir.create(elsewhere))  # before its plan is there
    with kept.lock():
        sent(kept)
        with pytest.raises(RunExists, match=r"exists already and is owned by \d+@"):
            another(lambda: RunDir.create(elsewhere))
    assert not Path(elsewhere.run_dir).exists()
    with pytest.raises(RunExists, match="run r1 exists already; expected a new id"):
        another(lambda: RunDir.create(elsewhere))


def test_a_second_driver_is_refused_until_the_first_is_gone(
    kept, another, home, tmp_path, monkeypatch
):
    def resume() -> None:
        upload.download(f"{STORAGE}/r1", tmp_path / "elsewhere")
        with RunDir.open(tmp_path / "elsewhere", "r1").lock():
            pass

    with kept.lock():
        sent(kept)
        with pytest.raises(UsageError, match="is given up 60 s after its driver died"):
            another(resume)
    another(resume)
    kept.upload.claim()  # a driver that dies without a word
    with pytest.raises(UsageError, match="owned by"):
        another(resume)
    with kept.lock():  # here the lock of its directory tells that it is dead
        pass
    kept.upload.claim()
    monkeypatch.setattr(upload, "LEASE_S", 0.0)
    another(resume)


def test_a_directory_that_is_behind_the_bucket_is_not_driven_on(kept, another, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with kept.lock():
        fill(kept)

    def go_on() -> None:
        upload.download(f"{STORAGE}/r1", elsewhere)
        run = RunDir.open(elsewhere, "r1")
        with run.lock():
            fill(run, attempt=2)

    another(go_on)
    refused = pytest.raises(UsageError, match=rf"knows 1 attempts .* has 2.*resume {STORAGE}/r1")
    with refused, kept.lock():
        pass
    upload.download(f"{STORAGE}/r1", kept.path.parent)
    assert len(kept.attempts()) == 2
    with kept.lock():
        pass
    kept.write_status(attempts=3)
    upload.download(f"{STORAGE}/r1", kept.path.parent)  # what is here is newer
    assert kept.status().attempts == 3


def test_lines_that_a_crash_of_this_machine_lost_do_not_come_back(kept, home, monkeypatch):
    monkeypatch.setattr(upload, "_PIECE_BYTES", 100)
    with kept.lock():
        fill(kept)
    os.truncate(kept.path / "events.jsonl", 150)
    with RunDir(kept.path).lock():
        kept.append_event("after")
    events = kept.path.joinpath("events.jsonl").read_bytes()
    lose(home)
    upload.download(f"{STORAGE}/r1", home)
    assert kept.path.joinpath("events.jsonl").read_bytes() == events


def test_a_run_that_was_taken_over_stops(kept, another):
    said: list[str] = []
    kept.say = said.append
    with kept.lock():
        sent(kept)
        another(kept.upload._sign)
        end = time.monotonic() + 30
        while not kept.stop_requested():
            assert time.monotonic() < end
    assert any("was taken over by" in line and "elsewhere" in line for line in said)
    assert json.loads((kept.remote / "owner.json").read_bytes())["token"] == "another"


# A bucket that fails


def test_a_bucket_that_does_not_answer_holds_up_nothing_and_is_told_once(kept, home):
    said: list[str] = []
    kept.say = said.append

    def fails(number: int, request: str) -> None:
        raise OSError("no route to host")

    with kept.lock():
        sent(kept)
        FaultyFileSystem.fails = fails
        fill(kept)
        count = len(FaultyFileSystem.requests)
        end = time.monotonic() + 30
        while len(FaultyFileSystem.requests) < count + 5:
            assert time.monotonic() < end
        assert len(said) == 1
        assert "no route to host; trying again every" in said[0]
        FaultyFileSystem.calm()
    lose(home)
    upload.download(f"{STORAGE}/r1", home)
    assert kept.status().attempts == 1


def test_what_could_not_be_sent_at_the_end_is_told(kept):
    said: list[str] = []
    kept.say = said.append

    def fails(number: int, request: str) -> None:
        raise OSError("no route to host")

    with kept.lock():
        FaultyFileSystem.fails = fails
    assert f"stays in {kept.path}. Hint: orchestrator sync r1" in said[-1]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OSError("no route to host"), BackendUnavailable, "no route to host"),
        (PermissionError("AccessDenied"), UsageError, "Hint: give this process credentials"),
    ],
)
def test_a_run_that_cannot_be_kept_does_not_start(make_plan, home, error, kind, text):
    def fails(number: int, request: str) -> None:
        raise error

    FaultyFileSystem.fails = fails
    plan = make_plan(f"storage={STORAGE}", run_id="r2")
    with pytest.raises(kind, match=rf"^storage: {STORAGE}/r2.*{text}"):
        RunDir.create(plan)
    assert not Path(plan.run_dir).exists()
    with pytest.raises(kind, match=text):
        upload.download(f"{STORAGE}/r2", home)


def test_a_run_that_is_not_there(home, monkeypatch):
    with pytest.raises(
        RunNotFound, match=r"faulty://runs/r9: there is no run; expected plan\.json"
    ):
        upload.download(f"{STORAGE}/r9", home)
    assert not (home / "r9").exists()


def test_a_directory_that_is_there_gives_the_claim_back(make_plan):
    plan = make_plan(f"storage={STORAGE}", run_id="r3")
    Path(plan.run_dir).mkdir(parents=True)
    (Path(plan.run_dir) / "plan.json").write_text("{}")
    with pytest.raises(RunExists):
        RunDir.create(plan)
    assert not (RemotePath.of(STORAGE) / "r3").exists()


def test_s3_end_to_end(make_plan, home, tmp_path, monkeypatch):
    stores.set_credentials(monkeypatch)
    with stores.s3_server() as server:
        uri = stores.s3_uri(server, "a/b")
        run = RunDir.create(make_plan(f"storage={uri}", run_id="r1"))
        with run.lock():
            fill(run)
        lose(home)
        base, _, query = uri.partition("?")
        assert upload.download(f"{base}/r1?{query}", home) == "r1"
        assert RunDir.open(home, "r1").metrics() == run.metrics()
        with pytest.raises(UsageError, match=r"s3://other/r4.*Hint: make the bucket first"):
            RunDir.create(make_plan(f"storage={uri.replace('bucket/a/b', 'other')}", run_id="r4"))


def test_a_batch_job_keeps_its_table_in_a_directory(make_plan):
    with pytest.raises(UsageError, match="a batch job keeps its table in a directory"):
        make_plan(f"storage={STORAGE}", job="batch")


def test_runs_that_moved_are_found_where_they_are(make_plan, home, tmp_path):
    RunDir.create(make_plan(run_id="r1"))
    home.rename(tmp_path / "mounted elsewhere")
    plan = RunDir.open(tmp_path / "mounted elsewhere", "r1").plan()
    assert plan.home == str(tmp_path / "mounted elsewhere")
    assert plan.run_dir == str(tmp_path / "mounted elsewhere" / "r1")
