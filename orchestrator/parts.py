"""The output of a batch job: a part for each row group of the manifest, whole or invisible.

A part is written to a temporary name and renamed, so a part that exists is finished; a restart does
the missing ones. Parts are fixed by the manifest alone, never by the number of workers.

An input whose content an earlier one has too is not worked on: its row is a copy of that one's,
but for what the manifest says of it: id, path, truth. Where the earlier one is in another part, the
rows that were worked on wait in a hidden file until all are there; then `fill` makes the part of
them.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from orchestrator.errors import UsageError
from orchestrator.files import atomic_write
from orchestrator.store import atomic_write_json

Format = Literal["parquet", "csv", "jsonl"]
OWNER = "_owner.json"


@dataclass(frozen=True)
class Manifest:
    """The frozen list of inputs, with at least `id`, `path` and `duplicate_of`."""

    path: Path

    @property
    def metadata(self) -> pq.FileMetaData:
        """The Parquet file's own."""
        return pq.read_metadata(self.path)

    @property
    def facts(self) -> dict[str, str]:
        """What the job said about the inputs when it listed them; `sha256` is their digest."""
        found = self.metadata.metadata or {}
        return {k.decode(): v.decode() for k, v in found.items() if not k.startswith(b"ARROW")}

    def rows(self, part: int) -> pa.Table:
        """The inputs of a part."""
        with pq.ParquetFile(self.path) as file:
            return file.read_row_group(part)


@dataclass(frozen=True)
class Parts:
    """Parts of a manifest of `inputs` rows in `directory`, `rows_per_part` rows each."""

    directory: Path
    inputs: int
    rows_per_part: int
    format: Format = "parquet"

    @classmethod
    def of(cls, manifest: Manifest, directory: Path, kind: Format) -> Parts:
        """The parts of a manifest: its row groups."""
        metadata = manifest.metadata
        return cls(directory, metadata.num_rows, metadata.row_group(0).num_rows, kind)

    def __len__(self) -> int:
        return -(-self.inputs // self.rows_per_part)

    def path(self, index: int) -> Path:
        return self.directory / f"part-{index:05d}.{self.format}"

    def waiting_path(self, index: int) -> Path:
        """Where the rows of a part wait for those of other parts."""
        return self.directory / f".part-{index:05d}.waiting.parquet"

    def missing(self) -> list[int]:
        """Parts whose inputs are not all worked on."""
        names = set(os.listdir(self.directory))
        return [
            index
            for index in range(len(self))
            if self.path(index).name not in names and self.waiting_path(index).name not in names
        ]

    def waiting(self) -> list[int]:
        """Parts that lack copies of rows of others."""
        names = set(os.listdir(self.directory))
        return [index for index in range(len(self)) if self.path(index).name not in names]

    def ids(self, index: int) -> range:
        """The ids of part `index`: ids are positions in the manifest."""
        start = index * self.rows_per_part
        return range(start, min(start + self.rows_per_part, self.inputs))

    def commit(self, index: int, rows: pa.Table, found: pa.Table) -> None:
        """Write what was found for those inputs of a part that are no copies.

        Args:
            rows: the part's inputs, of the manifest.
            found: a row for each of them without `duplicate_of`, in their order.
        """
        own = rows.filter(pc.is_null(rows["duplicate_of"]))
        if found["id"].to_pylist() != own["id"].to_pylist():
            raise RuntimeError(
                f"part {index}: {found.num_rows} rows with ids {found['id'].to_pylist()[:3]}...; "
                f"expected the {own.num_rows} that the manifest gives this part"
            )
        first = rows["duplicate_of"].drop_null()
        if len(first) and pc.min(first).as_py() < self.ids(index).start:
            atomic_write(self.waiting_path(index), _encoded(found, "parquet"))
        else:
            self._write(index, rows, found)

    def fill(self, manifest: Manifest) -> None:
        """Make the parts that waited for others, which must all be worked on."""
        worked = lru_cache(maxsize=64)(self._worked)
        for index in self.waiting():
            rows = manifest.rows(index)
            pieces = [pq.read_table(self.waiting_path(index))]
            first = np.unique(rows["duplicate_of"].drop_null().to_numpy())
            first = first[first < self.ids(index).start]
            for part in np.unique(first // self.rows_per_part):
                table = worked(int(part), pieces[0].schema)
                wanted = pa.array(first[first // self.rows_per_part == part])
                pieces.append(table.filter(pc.is_in(table["id"], wanted)))
            self._write(index, rows, pa.concat_tables(pieces))
            self.waiting_path(index).unlink()

    def _worked(self, index: int, schema: pa.Schema) -> pa.Table:
        """The rows of a part that were worked on, whether the part is whole or waits."""
        waiting = self.waiting_path(index)
        return pq.read_table(waiting) if waiting.exists() else self.read(index, schema=schema)

    def _write(self, index: int, rows: pa.Table, found: pa.Table) -> None:
        """A part, whose rows are those of `found` with what `rows` say of each: id, path, truth."""
        source = pc.coalesce(rows["duplicate_of"], rows["id"])
        table = found.take(pc.index_in(source, value_set=found["id"]))
        for name in set(table.column_names) & set(rows.column_names):
            table = table.set_column(table.schema.get_field_index(name), name, rows[name])
        atomic_write(self.path(index), _encoded(table, self.format))

    def read(
        self, index: int, columns: list[str] | None = None, schema: pa.Schema | None = None
    ) -> pa.Table:
        """A part, or some columns of it.

        Args:
            schema: what text stands for; without it a column of CSV that is all digits is numbers.
        """
        path = self.path(index)
        if self.format == "parquet":
            return pq.read_table(path, columns=columns)
        if self.format == "jsonl":
            with path.open(encoding="utf-8") as file:
                table = pa.Table.from_pylist([json.loads(line) for line in file], schema)
            return table.select(columns) if columns else table
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types=schema or _CSV_TYPES,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def tables(self, columns: list[str], schema: pa.Schema | None = None) -> Iterator[pa.Table]:
        """Some columns of each part, in order."""
        for index in range(len(self)):
            yield self.read(index, columns, schema)

    def counts(self) -> dict[str, int]:
        """inputs, ok and quarantined over the committed parts; checked to add up."""
        ok = quarantined = 0
        for table in self.tables(["status"]):
            good = int(pc.sum(pc.equal(table["status"], "ok")).as_py() or 0)
            ok, quarantined = ok + good, quarantined + table.num_rows - good
        if ok + quarantined != self.inputs:
            raise RuntimeError(
                f"output {self.directory}: {ok} ok + {quarantined} quarantined rows are not the "
                f"{self.inputs} inputs of the manifest"
            )
        return {"inputs": self.inputs, "ok": ok, "quarantined": quarantined}

    def bad_beside(self, missing: list[int]) -> int:
        """Quarantined rows of all parts but the `missing` ones, of those that wait too."""
        bad = 0
        for index in sorted(set(range(len(self))) - set(missing)):
            waiting, columns = self.waiting_path(index), ["status"]
            whole = not waiting.exists()
            table = self.read(index, columns) if whole else pq.read_table(waiting, columns=columns)
            bad += int(pc.sum(pc.not_equal(table["status"], "ok")).as_py() or 0)
        return bad

    def quarantine(self, limit: int) -> list[dict[str, str]]:
        """path and reason of the first `limit` bad inputs, in manifest order."""
        found: list[dict[str, str]] = []
        for table in self.tables(["path", "status", "error"]):
            bad = table.filter(pc.not_equal(table["status"], "ok"))
            found += bad.select(["path", "error"]).to_pylist()
            if len(found) >= limit:
                break
        return found[:limit]


_CSV_TYPES = {name: pa.string() for name in ("path", "status", "error")}


def _encoded(table: pa.Table, kind: Format) -> bytes:
    buffer = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, buffer)
    elif kind == "csv":
        pyarrow.csv.write_csv(table, buffer)
    else:
        for row in table.to_pylist():
            buffer.write(json.dumps(_no_nan(row), ensure_ascii=False).encode() + b"\n")
    return buffer.getvalue()


def _no_nan(value: Any) -> Any:
    """`value` with null for NaN, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _no_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_no_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def claim(directory: Path, run_id: str, run_dir: str) -> Callable[[], None]:
    """Make `directory` the output of this run; returns what undoes it.

    Raises UsageError where it cannot be written, or holds anything else.
    """
    where = f"output {directory}"
    hint = "Hint: --output OTHER_FOLDER"
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            holder = owner(directory)
            what = f"holds the table of run {holder[0]}" if holder else "is not empty"
            raise UsageError(f"{where}: {what}; expected a new or empty folder. {hint}")
        atomic_write_json(directory / OWNER, {"run_id": run_id, "run_dir": run_dir})
    except OSError as error:
        raise UsageError(
            f"{where}: cannot be written: {error.strerror}; expected a folder this user may write "
            f"to. {hint}"
        ) from error

    def release() -> None:
        (directory / OWNER).unlink(missing_ok=True)
        for path in made:
            path.rmdir()

    return release


def owner(directory: Path) -> tuple[str, Path] | None:
    """The run whose table a folder holds: its id and directory. None where it is nobody's."""
    try:
        found = json.loads((directory / OWNER).read_text())
        return str(found["run_id"]), Path(found["run_dir"])
    except (OSError, ValueError, KeyError):
        return None
