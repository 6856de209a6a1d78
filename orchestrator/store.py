"""The run directory: the truth about a run, which survives every process that writes to it.

    plan.json       what runs; written first and never again
    status.json     where it stands, replaced whole
    events.jsonl    what happened, one line each, only appended to
    lock  stop      the owner of the run; a request to stop it
    attempts/<n>/  logs/rank-<r>.log  checkpoints/<step:08d>/  artifacts/  report.{md,json,html}

With a URI as `storage` its checkpoints are there, and a copy of the rest (orchestrator/upload.py).
A file that is replaced goes temporary file, fsync, rename, fsync of the directory, so a reader sees
the old or the new one. A line of events is one write to a file opened for appending.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import OrchestratorError, RunExists, RunNotFound, UsageError, did_you_mean
from orchestrator.events import Attempt, EventLog
from orchestrator.files import (
    atomic_write,
    atomic_write_json,
    fsync_directory,
    is_full,
    wait_for_space,
)
from orchestrator.plan import RunPlan
from orchestrator.remote import AnyPath, RemotePath, is_uri
from orchestrator.upload import Upload

__all__ = [
    "Attempt",
    "RunDir",
    "StatusFile",
    "atomic_write",
    "atomic_write_json",
    "latest",
    "list_runs",
    "resolve_run",
    "storage_of",
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


class RunDir(EventLog):
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

    # Storage behind a URI

    @cached_property
    def remote(self) -> RemotePath | None:
        """Where the run is kept besides this directory; None where its plan names no URI."""
        if not (self.path / "plan.json").exists():
            return None
        return storage_of(self.plan())

    @cached_property
    def upload(self) -> Upload | None:
        """What keeps it there."""
        return None if self.remote is None else Upload(self, self.remote)

    def sync_events(self) -> None:
        """Make the events written so far survive a crash of the machine, and its loss."""
        super().sync_events()
        if self.upload is None:
            return
        if not (self.path / "plan.json").exists():
            raise OrchestratorError(
                f"{self.path}: has no plan.json on {socket.gethostname()}, so the metrics of this "
                "rank would not reach the run's driver; expected a directory that all nodes share. "
                "Hint: put ORCHESTRATOR_HOME on a shared disk."
            )
        try:
            self.upload.events()
        except OSError as error:
            raise OrchestratorError(f"{self.path / 'events.jsonl'}: {error}") from error

    # Making and finding

    @classmethod
    def create(cls, plan: RunPlan) -> RunDir:
        """Make the directory of a planned run, plan.json first.

        Raises RunExists when the run is there already (a directory that holds only the note of its
        submission is not), UsageError when the directory cannot be made or written.
        """
        run = cls(plan.run_dir)
        run.remote = storage_of(plan)
        if run.upload is not None:
            run.upload.claim(new=True)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run._write_plan_once(plan)
            run.logs_dir.mkdir(exist_ok=True)
            run._make_artifacts_dir()
            link = Path(plan.home) / plan.run_id
            if link != run.path and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(run.path, target_is_directory=True)
        except BaseException as error:
            if run.upload is not None:
                with suppress(OSError):
                    run.upload.give_up()
            if not isinstance(error, OSError):
                raise
            raise UsageError(
                f"{error.filename or run.path}: cannot be written: {error.strerror}; runs are kept "
                "there. Hint: set ORCHESTRATOR_HOME, or the spec's storage, to a directory you may "
                "write to."
            ) from error
        run.write_status(created_at=time.time())
        return run

    def _make_artifacts_dir(self) -> None:
        """Checkpoints live among the artifacts, so that a tracker that shows those shows them."""
        (self.artifacts_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        if not (self.path / "checkpoints").is_symlink():
            (self.path / "checkpoints").symlink_to("artifacts/checkpoints")

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
            hint = f"`orchestrator list` shows those there are ({len(known)})."
        else:
            hint = "there are no runs there yet; ORCHESTRATOR_HOME says where runs are kept."
        raise RunNotFound(f"{home}: there is no run '{run_id}'. Hint: {hint}")

    # Plan and status

    def plan(self) -> RunPlan:
        """What runs. Its `run_dir` and `home` are where the directory is found now: a disk may have
        been mounted elsewhere, or the run brought from its storage, since it was planned."""
        path = self.path / "plan.json"
        try:
            plan = RunPlan.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunNotFound(f"{path}: is missing; the run has not started here yet.") from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"{path}: is not a plan: {key}{': ' * bool(key)}{first['msg']}; expected what was "
                f"written there when the run began. Hint: its logs are in {self.logs_dir}"
            ) from error
        here = self.path.absolute()
        if plan.run_dir == str(here):
            return plan
        return plan.model_copy(update={"run_dir": str(here), "home": str(here.parent)})

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
            with nullcontext() if self.upload is None else self.upload.keeping():
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
    def checkpoints_dir(self) -> AnyPath:
        """Where `<step:08d>` directories are."""
        return (self.path if self.remote is None else self.remote) / "checkpoints"

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
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"{home}: cannot be read: {error.strerror}; expected the directory that runs are kept "
            "in. Hint: ORCHESTRATOR_HOME names it"
        ) from error
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


def storage_of(plan: RunPlan) -> RemotePath | None:
    """Where a run is kept besides its directory; None where its spec names no URI."""
    storage = plan.spec.storage
    return RemotePath.of(storage) / plan.run_id if storage and is_uri(storage) else None


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
