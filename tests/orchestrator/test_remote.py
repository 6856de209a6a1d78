"""Checkpoints in a bucket: whole or invisible, whatever a store without renames does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import checkpoint, files
from orchestrator.errors import CheckpointError, UsageError
from orchestrator.remote import RemoteError, RemotePath, is_uri, uri_problem
from orchestrator.saver import Saver
from tests.orchestrator import stores
from tests.orchestrator.stores import FaultyFileSystem, Killed


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with stores.s3_server() as server:
        yield server


@pytest.fixture(params=["file", "memory", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RemotePath:
    """An empty prefix in each kind of store."""
    if request.param == "file":
        uri = (tmp_path / "store" / "runs").as_uri()
    elif request.param == "memory":
        uri = f"memory://{tmp_path.name}/runs"
    else:
        stores.set_credentials(monkeypatch)
        uri = stores.s3_uri(request.getfixturevalue("s3"), f"{tmp_path.name}/runs")
    return RemotePath.of(uri) / "checkpoints"


@pytest.fixture
def faulty() -> Iterator[RemotePath]:
    """A prefix in the store that fails as it is told."""
    FaultyFileSystem.empty()
    yield RemotePath.of("faulty://runs") / "checkpoints"
    FaultyFileSystem.empty()


def state(step: int) -> dict[str, Any]:
    return {"model": {"w": np.full(700, float(step)), "b": np.zeros(0)}, "n": step, "t": (1, b"x")}


def write(directory: Any, step: int, attempt: int = 1, **more: Any) -> Any:
    return checkpoint.write(directory, state(step), step=step, attempt=attempt, **more)


def newest(directory: Any) -> tuple[int | None, list[str]]:
    """Step of the newest good checkpoint, and what was said of the others."""
    said: list[str] = []
    found = checkpoint.latest(directory, lambda path, why: said.append(why))
    if found is not None:
        assert (found.state["model"]["w"] == found.step).all()
        assert found.state["n"] == found.step
        assert found.weights_sha256 == checkpoint.weights_sha256(found.state)
    return (None if found is None else found.step), said


def steps(directory: RemotePath) -> list[int]:
    return [int(name) for name in directory.names()]


# Every store


def test_a_checkpoint_comes_back(place):
    path = write(place, 7, epoch=2, metrics={"loss": 0.5})
    assert str(path) == f"{place.uri}/00000007"
    found = checkpoint.load(path)
    assert (found.step, found.epoch, found.metrics) == (7, 2, {"loss": 0.5})
    assert found.state["t"] == (1, b"x")
    assert found.weights_sha256 == checkpoint.weights_sha256(state(7))
    assert newest(place) == (7, [])
    assert newest(place / "nowhere") == (None, [])


def test_the_newest_stay_and_the_best(place):
    for step, value in enumerate([1.0, 9.0, 3.0, 4.0], 1):
        write(place, step, metrics={"m": value})
    removed = checkpoint.prune(place, keep=1, best=("m", "max"))
    assert sorted(path.name for path in removed) == ["00000001", "00000003"]
    assert steps(place) == [2, 4]
    best = checkpoint.best(place, ("m", "max"))
    assert best is not None
    assert best.step == 2


def test_the_same_step_again_replaces_the_old_one(place):
    write(place, 3)
    write(place, 3, attempt=2)
    assert newest(place) == (3, [])
    assert len((place / "00000003").names()) == 3  # nothing of the first is left


@pytest.mark.parametrize("damage", ["no manifest", "a manifest cut", "no data", "other data"])
def test_a_damaged_one_is_passed_over_and_told(place, damage):
    write(place, 1)
    path = write(place, 2)
    (data,) = (path / name for name in path.names() if name.endswith("safetensors"))
    if damage == "no manifest":
        (path / "manifest.json").remove()
    elif damage == "a manifest cut":
        manifest = path / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:-9])
    elif damage == "no data":
        data.remove()
    else:
        data.write_bytes(data.read_bytes()[:-1] + b"?")
    step, said = newest(place)
    assert step == 1
    (line,) = said
    assert line.startswith(f"{path}/")
    assert any(word in line for word in ("missing", "damaged", "cannot be read"))
    write(place, 2, attempt=2)  # the run goes on and writes it again
    assert newest(place) == (2, [])


def test_what_a_dead_writer_left_goes_and_what_a_living_one_writes_stays(place):
    write(place, 1)
    left, later = place / "00000002" / "0001-dead.tensors", place / "00000003" / "0003-x.tensors"
    for path in (left, later):
        path.write_bytes(b"half")
    write(place, 4, attempt=2)
    assert steps(place) == [1, 3, 4]  # that of attempt 3 is none of our business
    assert newest(place) == (4, [])


def test_a_hostile_manifest_is_not_followed(place):
    path = write(place, 1)
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["files"]["state.json"]["object"] = "../secret"
    manifest["seal"] = checkpoint._seal(manifest)
    (path / "manifest.json").write_bytes(json.dumps(manifest).encode() + b"}\n"[1:])
    with pytest.raises(CheckpointError, match="is no manifest of format 1"):
        checkpoint.load(path)


def test_large_objects_go_in_parts(s3, tmp_path, monkeypatch):
    stores.set_credentials(monkeypatch)
    place = RemotePath.of(stores.s3_uri(s3, tmp_path.name))
    big = {"model": np.arange(3_000_000, dtype=np.float64)}  # 24 MB: S3 takes parts of 5 MB and up
    found = checkpoint.load(checkpoint.write(place, big, step=1))
    np.testing.assert_array_equal(found.state["model"], big["model"])


# A store that fails


def raising(at: int, error: BaseException, *, for_ever: bool = False) -> Callable[[int, str], None]:
    def fails(number: int, request: str) -> None:
        if number == at or (for_ever and number > at):
            raise error

    return fails


def save_and_prune(place: RemotePath, step: int, attempt: int) -> None:
    path = write(place, step, attempt)
    checkpoint.prune(place, keep=1, trusted=path)


@pytest.mark.parametrize(
    ("new", "error"), [(2, Killed()), (1, Killed()), (2, OSError(5, "it broke"))]
)
def test_ended_at_any_request_the_newest_is_this_one_or_the_last(faulty, new, error):
    """Killed, or refused once, at the n-th request, for every n; then the next attempt goes on."""
    dead = isinstance(error, Killed)
    for at in range(1, 200):
        FaultyFileSystem.empty()
        save_and_prune(faulty, 1, attempt=1)
        FaultyFileSystem.calm()
        FaultyFileSystem.fails = raising(at, error, for_ever=dead)
        try:
            save_and_prune(faulty, new, attempt=2)
        except (Killed, CheckpointError, OSError):
            pass
        count = len(FaultyFileSystem.requests)
        FaultyFileSystem.calm()
        step, _ = newest(faulty)
        assert step in (1, new)
        assert len(steps(faulty)) <= 2
        save_and_prune(faulty, 3, attempt=3)
        assert newest(faulty) == (3, [])
        assert steps(faulty) == [3]
        assert len(FaultyFileSystem.store) == 3
        if count < at:
            break
    assert 15 < at < 199


def test_an_upload_kept_in_part_is_seen_before_the_manifest_is_written(faulty):
    write(faulty, 1)
    FaultyFileSystem.takes = lambda path, size: size - 1 if "tensors" in path else size
    with pytest.raises(CheckpointError, match=r"has \d+ bytes after \d+ were written"):
        write(faulty, 2)
    FaultyFileSystem.calm()
    step, said = newest(faulty)
    assert step == 1
    assert "manifest.json: is missing; the checkpoint is not whole" in said[0]


def test_a_listing_that_lags_behind_costs_no_checkpoint(faulty):
    """The new one is not shown yet, and one that is gone still is."""
    first = write(faulty, 1)
    old = FaultyFileSystem().ls(faulty.key)
    second = write(faulty, 2)
    FaultyFileSystem.lists = lambda found: old
    checkpoint.prune(faulty, keep=1, trusted=second)
    assert not (first / "manifest.json").exists()
    third = write(faulty, 3)
    checkpoint.prune(faulty, keep=1, trusted=third)
    FaultyFileSystem.calm()
    assert newest(faulty) == (3, [])


def test_a_writer_that_outlived_its_attempt_takes_nothing_away(faulty):
    write(faulty, 1, attempt=1)
    write(faulty, 4, attempt=2)
    checkpoint.prune(faulty, keep=1)
    late = write(faulty, 2, attempt=1)
    checkpoint.prune(faulty, keep=1, trusted=late)
    assert newest(faulty) == (4, [])
    assert steps(faulty) == [4]


def test_a_store_that_does_not_answer_is_waited_for(faulty, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(files.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    told: list[str] = []
    saver = Saver(faulty, keep=1, say=told.append)
    FaultyFileSystem.fails = lambda number, request: raising(1, OSError(5, "no route"))(
        1 if now[0] < 3 else 2, request
    )
    saver.save(state(1), step=1)
    saver.wait()
    FaultyFileSystem.calm()
    assert newest(faulty) == (1, [])
    assert now[0] == 3.0
    assert told[0].startswith("waiting for the storage (0 of at most 600 s): faulty://runs/checkp")
    assert all("no route" in line for line in told)


def test_a_store_that_does_not_answer_is_not_taken_for_an_empty_or_damaged_one(faulty):
    write(faulty, 1)
    write(faulty, 2)
    FaultyFileSystem.calm()
    newest(faulty)
    requests = len(FaultyFileSystem.requests)
    assert requests > 5
    for at in range(1, requests + 2):
        FaultyFileSystem.calm()
        FaultyFileSystem.fails = raising(at, OSError(5, "no route"))
        if at <= requests:
            with pytest.raises(CheckpointError, match="no route"):
                newest(faulty)
        else:
            assert newest(faulty) == (2, [])


@pytest.mark.parametrize("error", [PermissionError(13, "AccessDenied"), OSError("NO_SUCH_BUCKET")])
def test_a_store_that_refuses_is_not_waited_for(faulty, error):
    FaultyFileSystem.fails = raising(1, error, for_ever=True)
    saver = Saver(faulty, keep=1)
    saver.save(state(1), step=1)
    with pytest.raises(CheckpointError, match=r"cannot be (listed|written): .*Hint: (give|make)"):
        saver.wait()


def test_a_slow_store_holds_up_no_step(faulty):
    gate = threading.Event()
    FaultyFileSystem.fails = lambda number, request: gate.wait(30) and None
    saver = Saver(faulty, keep=1)
    saver.save(state(1), step=1)  # returns
    assert saver.writing == 1
    gate.set()
    saver.wait()
    assert newest(faulty) == (1, [])


# What may be written in a spec


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/runs", "gs://bucket", "file:///tmp/x", "memory://x", "sftp://me@host/runs",
     "abfs://container@account.dfs.core.windows.net/x", "s3://b/x?region=eu-west-1"],
)  # fmt: skip
def test_a_place_that_can_be_named(uri):
    assert is_uri(uri)
    assert uri_problem(uri) is None


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s33://bucket/runs", r"knows the scheme 's33'.* did you mean 's3'"),
        ("s3://key:word@bucket/runs", "holds credentials"),
        ("s3://bucket?secret_key=x", "holds credentials"),
        ("s3:///runs", "names no bucket"),
    ],
)
def test_a_place_that_cannot(uri, problem, make_plan):
    with pytest.raises(UsageError, match=rf"storage: .*{problem}"):
        make_plan(f"storage={uri}")


def test_a_bucket_that_is_not_there(s3, monkeypatch):
    stores.set_credentials(monkeypatch)
    uri = stores.s3_uri(s3, "runs").replace("//bucket/", "//other/")
    place = RemotePath.of(uri)
    with pytest.raises(RemoteError, match=r"there is no bucket 'other'.* Hint: make the bucket"):
        place.check_bucket()
    with pytest.raises(CheckpointError, match=r"s3://other/runs/00000001.*Hint: make the bucket"):
        write(place, 1)


def test_a_driver_that_is_not_installed(monkeypatch):
    with pytest.raises(UsageError, match=r"^sftp://host/x: cannot be opened: .*paramiko"):
        RemotePath.of("sftp://host/x").exists()
