"""events.jsonl: what happened in a run, one line each, only appended to."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError

__all__ = ["Attempt", "EventLog"]


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


class EventLog:
    """The events in a directory. `attempt` is the number that new ones carry."""

    path: Path
    attempt: int

    def _patiently(self, write: Callable[[], None]) -> None:
        """Do `write`; a log that may wait for a full disk does so."""
        write()

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
        """Metric events with the offset behind each, holding every (key, step) once."""
        return MetricReader(self).new()

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


class MetricReader:
    """Metric events as they come, every (key, step) once: each `new` reads on from the last.

    Steps that a restart ran again give the same numbers, so the first value of a step stays. What a
    worker of attempt n still wrote after attempt n + 1 had begun is not counted.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._offset = self._attempt = 0
        self._seen: set[tuple[str, int]] = set()

    def new(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What was written since the last call, each with the offset behind it."""
        for offset, event in self._log.events(self._offset):
            self._offset = offset
            if event["kind"] == "attempt":
                self._attempt = max(self._attempt, event["number"])
            if event["kind"] != "metrics" or event["attempt"] < self._attempt:
                continue
            step = event["step"]
            new = {key: v for key, v in event["values"].items() if (key, step) not in self._seen}
            self._seen.update((key, step) for key in new)
            if new:
                yield offset, {**event, "values": new}
