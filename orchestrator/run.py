"""Run: one execution of a plan, seen through its directory by whoever asks."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.store import Attempt, RunDir

__all__ = ["Attempt", "Run", "RunState", "RunStatus", "TerminationReason", "exit_code", "json_safe"]

_POLL_S = 0.2
# A run that is being set up has no owner yet.
_START_GRACE_S = 10.0


class RunStatus(StrEnum):
    """Where a run stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    RESIZING = "RESIZING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED)


class TerminationReason(StrEnum):
    """Why a run, or an attempt of it, ended. `.status` is what that makes of the run."""

    COMPLETED = "COMPLETED"
    JOB_ERROR = "JOB_ERROR"
    REPEATED_ERROR = "REPEATED_ERROR"
    NON_FINITE_LOSS = "NON_FINITE_LOSS"
    WORKER_DIED = "WORKER_DIED"
    WORKER_HUNG = "WORKER_HUNG"
    PREEMPTED = "PREEMPTED"
    RESIZED = "RESIZED"
    STOP_REQUESTED = "STOP_REQUESTED"
    DRIVER_LOST = "DRIVER_LOST"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    TOO_MANY_BAD_INPUTS = "TOO_MANY_BAD_INPUTS"
    DISK_FULL = "DISK_FULL"

    @property
    def status(self) -> RunStatus:
        """The status of a run that ended for this reason."""
        if self is TerminationReason.COMPLETED:
            return RunStatus.SUCCEEDED
        if self is TerminationReason.STOP_REQUESTED:
            return RunStatus.STOPPED
        return RunStatus.FAILED


@dataclass(frozen=True)
class RunState:
    """A status and its reason, as of now."""

    status: RunStatus
    reason: TerminationReason | None
    message: str | None


def exit_code(state: RunState) -> int:
    """0 succeeded, 3 backend unavailable, 130 stopped, else 1."""
    if state.status is RunStatus.SUCCEEDED:
        return 0
    if state.status is RunStatus.STOPPED:
        return 130
    return 3 if state.reason is TerminationReason.BACKEND_UNAVAILABLE else 1


class Run:
    """A run, read from its directory; works while it runs and ever after."""

    def __init__(self, directory: RunDir) -> None:
        self.directory = directory

    @classmethod
    def open(cls, home: str | os.PathLike[str], run_id: str) -> Run:
        """The run of this id; RunNotFound names the closest."""
        return cls(RunDir.open(home, run_id))

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.directory.run_id

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    def state(self) -> RunState:
        """Status, reason and message. A run whose owner is gone is FAILED with DRIVER_LOST."""
        file = self.directory.status()
        status = RunStatus(file.status)
        reason = TerminationReason(file.reason) if file.reason else None
        if status.terminal or self.directory.owner_alive():
            return RunState(status, reason, file.message)
        if status is RunStatus.PENDING and (
            self.directory.submission() is not None
            or time.time() - (file.updated_at or time.time()) < _START_GRACE_S
        ):
            return RunState(status, reason, file.message)
        # The owner may have ended between the two looks.
        again = self.directory.status()
        if RunStatus(again.status).terminal:
            return self.state()
        owner = self.directory.owner()
        return RunState(
            RunStatus.FAILED,
            TerminationReason.DRIVER_LOST,
            f"the process that drove it ({owner or 'unknown'}) is gone while it was {status}; "
            f"`orchestrator resume {self.run_id}` continues from the last checkpoint",
        )

    def status(self) -> RunStatus:
        """Where the run stands now."""
        return self.state().status

    def wait(self, timeout_s: float) -> RunStatus:
        """Wait for the end; TimeoutError after `timeout_s`, naming the status it was in."""
        end = time.monotonic() + timeout_s
        while not (status := self.status()).terminal:
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"run {self.run_id}: is {status} after {timeout_s} s of waiting."
                )
            time.sleep(_POLL_S)
        return status

    def stop(self) -> None:
        """Ask the run to end at its next step; UsageError when it has ended already."""
        status = self.status()
        if status.terminal:
            raise UsageError(f"run {self.run_id}: has ended already ({status}); nothing to stop.")
        self.directory.request_stop()

    def logs(self, rank: int | None = None, *, follow: bool = False) -> Iterator[str]:
        """Lines the workers wrote, led by `[rank r]` when all ranks are shown.

        With `follow` new lines are given as they come, until the run ends.
        """
        offsets: dict[Path, int] = {}
        while True:
            ended = self.status().terminal  # before reading, so that the last lines are read
            for path in self._log_files(rank):
                label = f"[{path.stem.replace('-', ' ')}] " if rank is None else ""
                with path.open("rb") as file:
                    file.seek(offsets.get(path, 0))
                    for line in file:
                        if not line.endswith(b"\n") and follow and not ended:
                            break
                        offsets[path] = offsets.get(path, 0) + len(line)
                        yield label + line.decode(errors="replace").rstrip("\r\n")
            if not follow or ended:
                return
            time.sleep(_POLL_S)

    def _log_files(self, rank: int | None) -> list[Path]:
        found = {
            int(path.stem.split("-")[1]): path
            for path in self.directory.logs_dir.glob("rank-*.log")
            if path.stem.split("-")[1].isdigit()
        }
        if rank is None:
            return [path for _, path in sorted(found.items())]
        if rank not in found and self.status().terminal:
            known = ", ".join(map(str, sorted(found))) or "none"
            raise UsageError(f"run {self.run_id}: has no log of rank {rank}; ranks: {known}.")
        return [found[rank]] if rank in found else []

    def artifacts(self) -> list[Path]:
        """Finished outputs of the job."""
        root = self.directory.artifacts_dir
        return sorted(
            path
            for path in root.rglob("*")
            if path.is_file() and not path.is_relative_to(root / "checkpoints")
        )

    def attempts(self) -> list[Attempt]:
        """The run's tries, from its events."""
        return self.directory.attempts()

    def last_metrics(self) -> dict[str, float]:
        """The value at the highest step of each metric."""
        return {key: points[-1][1] for key, points in self.directory.metrics().items()}

    def weights_sha256(self) -> str | None:
        """Digest of the final weights, or of the newest checkpoint's while there are none."""
        file = self.directory.status()
        if file.weights_sha256 is not None:
            return file.weights_sha256
        digest = None
        for _, event in self.directory.events():
            if event["kind"] == "checkpoint":
                digest = event["sha256"]
        return digest

    def result(self) -> dict[str, Any]:
        """The public JSON object of the run; its names are a contract."""
        state, file = self.state(), self.directory.status()
        head = {
            "run_id": self.run_id,
            "status": str(state.status),
            "reason": str(state.reason) if state.reason else None,
            "message": state.message,
            "run_dir": str(self.path),
            "attempts": len(self.attempts()) or file.attempts,
        }
        if not (self.path / "plan.json").exists():
            return head | {"submission": self.directory.submission()}
        if self.directory.plan().engine == "batch":
            batch = file.batch or {}
            names = ("output", "inputs", "ok", "quarantined", "duplicates")
            return head | {name: batch.get(name) for name in names}
        return head | {
            "metrics": json_safe(self.last_metrics()),
            "weights_sha256": self.weights_sha256(),
            "tracking": file.tracking,
        }


def json_safe(value: Any) -> Any:
    """`value` with NaN and infinities as text: JSON knows neither, and dropping them would hide."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value
