"""The events of a run as a spool: read in order, each metric point once, the position kept on disk.

Training appends to `events.jsonl` and never waits for a tracker. This reader can be killed and
started again anywhere: the offset is saved after a batch was accepted, and the points already
accepted are known from the part of the file before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.events import MetricReader
from orchestrator.store import RunDir, atomic_write_json


@dataclass(frozen=True)
class Point:
    """One value of one metric; `time_ms` is when it was logged, so that a replay is idempotent."""

    key: str
    value: float
    time_ms: int
    step: int


class Spool:
    """Unsent points of `run_dir`, and beside them the tracker's own facts (run id, addresses)."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._path: Path = run_dir.path / "tracking.json"
        self._reader = MetricReader(run_dir)
        self._unsent: list[tuple[int, list[Point]]] = []  # by event, with the offset behind it
        self.facts: dict[str, Any] = {"offset": 0}
        if self._path.exists():
            self.facts |= json.loads(self._path.read_text())

    def remember(self, **facts: Any) -> None:
        """Save facts about the tracker (atomically) so that another process goes on with them."""
        self.facts |= facts
        atomic_write_json(self._path, self.facts)

    def batches(self, size: int) -> Iterator[tuple[int, list[Point]]]:
        """Unsent points in lists of at most about `size`, each with the offset to `acknowledge`."""
        for offset, event in self._reader.new():
            if offset > self.facts["offset"]:
                self._unsent.append((offset, _points(event)))
        batch: list[Point] = []
        end = 0
        for offset, points in list(self._unsent):
            if len(batch) + len(points) > size and batch:
                yield end, batch
                batch = []
            batch += points
            end = offset
        if batch:
            yield end, batch

    def acknowledge(self, offset: int) -> None:
        """The tracker holds everything up to `offset`."""
        self.remember(offset=offset)
        self._unsent = [(end, points) for end, points in self._unsent if end > offset]

    def pending(self) -> int:
        """Points the tracker does not hold yet."""
        return sum(
            len(event["values"])
            for offset, event in self._run_dir.metric_events()
            if offset > self.facts["offset"]
        )


def _points(event: dict[str, Any]) -> list[Point]:
    return [Point(key, value, event["t"], event["step"]) for key, value in event["values"].items()]
