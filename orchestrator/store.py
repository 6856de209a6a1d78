"""The run directory: the truth about a run, which survives every process that writes to it.

    plan.json       what runs; written first and never again
    status.json     where it stands, replaced whole
    events.jsonl    what happened, one line each, only appended to
    lock  stop      the owner of the run; a request to stop it
    attempts/<n>/  logs/rank-<r>.log  checkpoints/<step:08d>/  artifacts/  report.{md,json,html}

A file that is replaced goes temporary file, fsync, rename, fsync of the directory, so a reader sees
the old or the new one. A line of events is one write to a file opened for appending.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.errors import OrchestratorError, RunExists, RunNotFound, UsageError, did_you_mean
from orchestrator.files import (
    atomic_write,
    atomic_write_json,
    fsync_directory,
    is_full,
    wait_for_space,
)
from orchestrator.plan import RunPlan

__all__ = [
    "Attempt",
    "RunDir",
    "StatusFile",
    "atomic_write",
    "atomic_write_json",
    "latest",
    "list_runs",
    "resolve_run",
]

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


class StatusFile(BaseModel):
    """Contents of status.json. Times are seconds since the epoch."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    status: str = "PENDING"
    reason: str | None = None
    message: str | None = None
    attempts: int = 0
    created_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    updated_at: float | None = None
    tracking: dict[str, Any] | None = None
    batch: dict[str, Any] | None = None
    weights_sha256: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL


@dataclass
class Attempt:
    """One try of a run. Times are milliseconds since the epoch, steps those that were logged."""

    number: int
    started: int
    ended: int | None = None
    reason: str | None = None
    message: str | None = None
    workers: int | None = None
    first_step: int | None = None
    last_step: int | None = None


class RunDir:
    """Reads and writes the directory of one run. `attempt` is the number new events carry.

    Events and the status wait for `disk_wait_s` where the disk is full, telling `say`; those who
    only look at runs do not wait.
    """

    def __init__(self, path: str | os.PathLike[str], *, attempt: int = 0) -> None:
        self.path = Path(path)
        self.attempt = attempt
        self.disk_wait_s = 0.0
        self.say: Callable[[str], None] = _say
        self._guard = threading.Lock()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        """The run's id, which is the name of its directory."""
        return self.path.name

    # Making and finding

    @classmethod
    def create(cls, plan: RunPlan) -> RunDir:
        """Make the directory of a planned run, plan.json first.

        Raises RunExists when the run is there already (a directory that holds only the note of its
        submission is not), UsageError when the directory cannot be made or written.
        """
        run = cls(plan.run_dir)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run._write_plan_once(plan)
            run.logs_dir.mkdir(exist_ok=True)
            run._make_artifacts_dir()
            link = Path(plan.home) / plan.run_id
            if link != run.path and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(run.path, target_is_directory=True)
        except OSError as error:
            raise UsageError(
                f"{error.filename or run.path}: cannot be written: {error.strerror}; runs are kept "
                "there. Hint: set ORCHESTRATOR_HOME to a directory you may write to."
            ) from error
        run.write_status(created_at=time.time())
        return run

    def _make_artifacts_dir(self) -> None:
        """Checkpoints live among the artifacts, so that a tracker that shows those shows them."""
        (self.artifacts_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        if not self.checkpoints_dir.is_symlink():
            self.checkpoints_dir.symlink_to("artifacts/checkpoints")

    def _write_plan_once(self, plan: RunPlan) -> None:
        target = self.path / "plan.json"
        temporary = self.path / f".plan.json.{os.getpid()}.{threading.get_ident()}"
        try:
            with temporary.open("wb") as file:
                file.write(plan.model_dump_json(indent=2).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, refuses to replace: of two creators one wins.
            os.link(temporary, target)
        except FileExistsError:
            owned = f" and is owned by {self.owner()}, which is alive" if self.owner_alive() else ""
            cure = "choose another --run-id" if owned else f"`orchestrator resume {self.run_id}`"
            raise RunExists(
                f"{self.path}: run {self.run_id} exists already{owned}; expected a new id. "
                f"Hint: {cure}."
            ) from None
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(self.path)

    @classmethod
    def open(cls, home: str | os.PathLike[str], run_id: str) -> RunDir:
        """The directory of an existing run; RunNotFound names the closest id."""
        home = Path(home)
        path = home / run_id
        # An id is one name: it must not walk out of the home directory.
        if run_id not in {"", ".", ".."} and "/" not in run_id and _is_run(path):
            return cls(path)
        known = [run.run_id for run in list_runs(home)]
        close = did_you_mean(run_id, known)
        if close:
            hint = f"did you mean '{close}'?"
        elif known:
            hint = f"`orchestrator list` shows the {len(known)} runs there"
        else:
            hint = "there are no runs there yet; ORCHESTRATOR_HOME says where runs are kept"
        raise RunNotFound(f"{home}: there is no run '{run_id}'. Hint: {hint}.")

    # Plan and status

    def plan(self) -> RunPlan:
        """What runs."""
        path = self.path / "plan.json"
        try:
            return RunPlan.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunNotFound(f"{path}: is missing; the run has not started here yet.") from None
        except ValueError as error:
            raise UsageError(f"{path}: is not a plan: {str(error).splitlines()[0]}") from error

    def status(self) -> StatusFile:
        """What status.json says; PENDING while there is none."""
        path = self.path / "status.json"
        try:
            return StatusFile.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return StatusFile(run_id=self.run_id)
        except ValueError as error:
            raise UsageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error

    def write_status(self, **changes: Any) -> StatusFile:
        """Replace status.json with `changes` applied; unknown names are a ValueError."""
        with self._guard, self._exclusive("status.lock"):
            old = self.status().model_dump()
            new = StatusFile.model_validate({**old, **changes, "updated_at": time.time()})
            path = self.path / "status.json"
            self._patiently(lambda: atomic_write_json(path, new.model_dump()))
        return new

    def _patiently(self, write: Callable[[], None]) -> None:
        """Do `write`; after the disk was full for `disk_wait_s` nothing waits for it again."""
        limit_s = self.disk_wait_s
        try:
            wait_for_space(write, say=self.say, give_up=self.stop_requested, limit_s=limit_s)
        except Exception as error:
            if is_full(error):
                self.disk_wait_s = 0.0
            raise

    # Ownership

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the run while the block runs; UsageError names the other owner if there is one."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Someone who only looks (`owner_alive`) holds the lock for an instant.
            for _ in range(20):
                if _try_flock(descriptor, fcntl.LOCK_EX):
                    break
                time.sleep(0.01)
            else:
                raise UsageError(
                    f"{self.path}: run {self.run_id} is owned by {self.owner()}, which is alive; "
                    f"expected one owner. Hint: `orchestrator stop {self.run_id}` ends it."
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}@{socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def owner(self) -> str | None:
        """`pid@host` of the last owner."""
        try:
            return (self.path / "lock").read_text().strip() or None
        except FileNotFoundError:
            return None

    def owner_alive(self) -> bool:
        """Whether a living process owns the run."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not _try_flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    @contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # Events

    def append_event(self, kind: str, **fields: Any) -> None:
        """Add one line to events.jsonl, in one write. `attempt=` overrides the directory's own."""
        event = {"t": int(time.time() * 1000), "attempt": self.attempt, "kind": kind, **fields}
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        self._patiently(lambda: self._append_line(line))

    def _append_line(self, line: bytes) -> None:
        path = self.path / "events.jsonl"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # end the line that a killed writer left torn
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OrchestratorError(f"{path}: cannot be written: {error.strerror}.") from error

    def sync_events(self) -> None:
        """Make the events written so far survive a crash of the machine."""
        try:
            descriptor = os.open(self.path / "events.jsonl", os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def events(self, from_offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Whole events from a byte offset on, each with the offset behind it.

        The line that is being written, or that a killed writer left torn, is not given; a later
        call from the last offset gives it once it is whole.
        """
        try:
            file = (self.path / "events.jsonl").open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(from_offset)
            offset = from_offset
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # a torn line that a later writer ended
                if isinstance(event, dict):
                    yield offset, event

    def metrics(self) -> dict[str, list[tuple[int, float, int]]]:
        """All metrics: for each key its (step, value, milliseconds since the epoch), by step."""
        found: dict[str, list[tuple[int, float, int]]] = {}
        for _, event in self.metric_events():
            for key, value in event["values"].items():
                found.setdefault(key, []).append((event["step"], value, event["t"]))
        return {key: sorted(points) for key, points in found.items()}

    def metric_events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Metric events with the offset behind each, holding every (key, step) once.

        Steps that a restart ran again give the same numbers, so the first value of a step stays.
        What a worker of attempt n still wrote after attempt n + 1 had begun is not counted.
        """
        seen: set[tuple[str, int]] = set()
        for offset, event in self.fenced_events():
            if event["kind"] != "metrics":
                continue
            step = event["step"]
            new = {key: v for key, v in event["values"].items() if (key, step) not in seen}
            seen.update((key, step) for key in new)
            if new:
                yield offset, {**event, "values": new}

    def fenced_events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """`events()` without those of workers that outlived their attempt."""
        current = 0
        for offset, event in self.events():
            if event["kind"] == "attempt":
                current = max(current, event["number"])
            elif event["attempt"] < current and event["kind"] in {"metrics", "progress"}:
                continue
            yield offset, event

    def attempts(self) -> list[Attempt]:
        """The run's tries."""
        found: dict[int, Attempt] = {}
        for _, event in self.fenced_events():
            kind = event["kind"]
            if kind == "attempt":
                number = event["number"]
                found[number] = Attempt(number, event["t"], workers=event.get("workers"))
            elif kind == "attempt_end" and event["number"] in found:
                attempt = found[event["number"]]
                attempt.ended = event["t"]
                attempt.reason = event.get("reason")
                attempt.message = event.get("message")
            elif kind == "metrics" and event["attempt"] in found:
                attempt, step = found[event["attempt"]], event["step"]
                first, last = attempt.first_step, attempt.last_step
                attempt.first_step = step if first is None else min(step, first)
                attempt.last_step = step if last is None else max(step, last)
        return [found[number] for number in sorted(found)]

    # Requests to stop

    def request_stop(self) -> None:
        """Ask the run to end; it does so at its next step."""
        (self.path / "stop").touch()

    def stop_requested(self) -> bool:
        """Whether someone asked; one `stat`, cheap enough for each step."""
        return os.path.exists(f"{self.path}/stop")

    def clear_stop(self) -> None:
        """Forget the request, before a resume."""
        (self.path / "stop").unlink(missing_ok=True)

    # Places

    @property
    def logs_dir(self) -> Path:
        """Where `rank-<r>.log` files are."""
        return self.path / "logs"

    @property
    def checkpoints_dir(self) -> Path:
        """Where `<step:08d>` directories are."""
        return self.path / "checkpoints"

    @property
    def artifacts_dir(self) -> Path:
        """Where a job's finished outputs are."""
        return self.path / "artifacts"

    def attempt_dir(self, number: int) -> Path:
        """Directory of one attempt, made when it is not there."""
        path = self.path / "attempts" / str(number)
        path.mkdir(parents=True, exist_ok=True)
        return path

    # Submissions to a cluster

    def submission(self) -> dict[str, str] | None:
        """{"address", "submission_id"} of a run that was submitted to a cluster, else None."""
        try:
            value: dict[str, str] = json.loads((self.path / "submission.json").read_text())
        except FileNotFoundError:
            return None
        return value

    def write_submission(self, address: str, submission_id: str) -> None:
        """Note where the run was sent, making its directory."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            atomic_write_json(
                self.path / "submission.json",
                {"address": address, "submission_id": submission_id},
            )
        except OSError as error:
            raise UsageError(
                f"{self.path}: cannot be written: {error.strerror}. Hint: set ORCHESTRATOR_HOME "
                "to a directory you may write to."
            ) from error


def list_runs(home: str | os.PathLike[str]) -> list[RunDir]:
    """Runs under `home`, newest first."""
    try:
        runs = [RunDir(path) for path in Path(home).iterdir() if _is_run(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise UsageError(f"{home}: cannot be read: {error.strerror}.") from error
    return sorted(runs, key=lambda run: (_created_ns(run.path), run.run_id), reverse=True)


def latest(
    home: str | os.PathLike[str], engine: str = "training", status: str = "SUCCEEDED"
) -> RunDir:
    """The newest run of an engine in a status; what `run:/latest` means."""
    for run in list_runs(home):
        if (
            (run.path / "plan.json").exists()
            and run.status().status == status
            and run.plan().engine == engine
        ):
            return run
    raise RunNotFound(
        f"{home}: there is no {engine} run with status {status}. Hint: `orchestrator list` shows "
        "the runs there."
    )


def resolve_run(home: str | os.PathLike[str], uri: str) -> RunDir:
    """The run that `run:/ID` or `run:/latest` names."""
    run_id = uri.removeprefix("run:/")
    return latest(home) if run_id == "latest" else RunDir.open(home, run_id)


def _is_run(path: Path) -> bool:
    return (path / "plan.json").exists() or (path / "submission.json").exists()


def _created_ns(path: Path) -> int:
    for name in ("plan.json", "submission.json"):
        try:
            return (path / name).stat().st_mtime_ns
        except OSError:
            continue
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # a rank's log


def _try_flock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
