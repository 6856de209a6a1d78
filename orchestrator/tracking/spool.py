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
        self.facts: dict[str, Any] = {"offset": 0}
        if self._path.exists():
            self.facts |= json.loads(self._path.read_text())

    def remember(self, **facts: Any) -> None:
        """Save facts about the tracker (atomically) so that another process goes on with them."""
        self.facts |= facts
        atomic_write_json(self._path, self.facts)

    def batches(self, size: int) -> Iterator[tuple[int, list[Point]]]:
        """Unsent points in lists of at most about `size`, each with the offset to `acknowledge`."""
        batch: list[Point] = []
        end = int(self.facts["offset"])
        for offset, event in self._run_dir.metric_events():
            if offset <= self.facts["offset"]:
                continue
            values = event["values"]
            if len(batch) + len(values) > size and batch:
                yield end, batch
                batch = []
            batch += [Point(k, v, event["t"], event["step"]) for k, v in values.items()]
            end = offset
        if batch:
            yield end, batch

    def acknowledge(self, offset: int) -> None:
        """The tracker holds everything up to `offset`."""
        self.remember(offset=offset)

    def pending(self) -> int:
        """Points the tracker does not hold yet."""
        return sum(len(batch) for _, batch in self.batches(1000))
