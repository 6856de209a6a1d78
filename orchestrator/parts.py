"""The output of a batch job: one Parquet part for each slice of the manifest, whole or invisible.

A part is written to a temporary name and renamed, so a part that exists is finished; a restart does
the missing ones. Slices are fixed by the manifest alone, never by the number of workers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import UsageError
from orchestrator.store import atomic_write_json


@dataclass(frozen=True)
class Parts:
    """Parts of a manifest of `inputs` rows in `directory`, `rows_per_part` rows each."""

    directory: Path
    inputs: int
    rows_per_part: int

    def __len__(self) -> int:
        return -(-self.inputs // self.rows_per_part)

    def path(self, index: int) -> Path:
        return self.directory / f"part-{index:05d}.parquet"

    def missing(self) -> list[int]:
        """Parts that no process has committed yet."""
        return [index for index in range(len(self)) if not self.path(index).exists()]

    def ids(self, index: int) -> range:
        """The ids of part `index`: ids are positions in the manifest."""
        start = index * self.rows_per_part
        return range(start, min(start + self.rows_per_part, self.inputs))

    def counts(self) -> dict[str, int]:
        """inputs, ok and quarantined over the committed parts; checked to add up."""
        ok = quarantined = 0
        for index in range(len(self)):
            status = pq.read_table(self.path(index), columns=["status"])["status"]
            good = int(pc.sum(pc.equal(status, "ok")).as_py() or 0)
            ok, quarantined = ok + good, quarantined + len(status) - good
        if ok + quarantined != self.inputs:
            raise RuntimeError(
                f"output {self.directory}: {ok} ok + {quarantined} quarantined rows are not the "
                f"{self.inputs} inputs of the manifest"
            )
        return {"inputs": self.inputs, "ok": ok, "quarantined": quarantined}

    def quarantine(self, limit: int) -> list[dict[str, str]]:
        """path and reason of the first `limit` bad inputs, in manifest order."""
        found: list[dict[str, str]] = []
        for index in range(len(self)):
            table = pq.read_table(self.path(index), columns=["path", "status", "error"])
            bad = table.filter(pc.not_equal(table["status"], "ok"))
            found += bad.select(["path", "error"]).to_pylist()
            if len(found) >= limit:
                break
        return found[:limit]


def claim(directory: Path, run_id: str) -> Callable[[], None]:
    """Make `directory` the output of this run; returns what undoes it.

    Raises UsageError where it cannot be written, or holds anything else.
    """
    where = f"output {directory}"
    hint = "Hint: --output OTHER_FOLDER"
    owner = directory / "_owner.json"
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            holder = json.loads(owner.read_text())["run_id"] if owner.exists() else None
            what = f"holds the table of run {holder}" if holder else "is not empty"
            raise UsageError(f"{where}: {what}; expected a new or empty folder. {hint}")
        atomic_write_json(owner, {"run_id": run_id})
    except OSError as error:
        raise UsageError(
            f"{where}: cannot be written: {error.strerror}; expected a folder this user may write "
            f"to. {hint}"
        ) from error

    def release() -> None:
        owner.unlink(missing_ok=True)
        for path in made:
            path.rmdir()

    return release


def write_part(path: Path, table: pa.Table, ids: range) -> None:
    """Write one part and rename it into place. Raises where its rows are not exactly `ids`."""
    found = table["id"].to_pylist()
    if found != list(ids):
        raise RuntimeError(
            f"{path.name}: {len(found)} rows with ids {found[:3]}...; expected the {len(ids)} rows "
            f"from {ids.start} on that the manifest gives this part"
        )
    # The pid keeps a late writer of a lost attempt from touching a live one's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
