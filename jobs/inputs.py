"""What `inputs` may name, and the frozen list that becomes of it: the manifest.

| `inputs` | gives |
|---|---|
| a folder | every file below it, hidden ones left out |
| a path with `*`, `?`, `[` or `**` | the files that match |
| `.txt` | a path or URI a line, relative to the list's folder; empty lines are left out |
| `.csv`, `.tsv` | those in a column |
| `.parquet` | those in a column, or the images in it: bytes, or a struct with `bytes` and `path` |
| `.tar` | the images in a shard (WebDataset), in their order; a pattern of shards too |
| any other file | that file |

Each may be a URI: `file://`; `s3://`, `gs://` by pyarrow, others where fsspec has a driver,
`http(s)://` (single files) where the host is in `hosts`. Order: a folder's by name, bytewise; a
list's as it is written.

The manifest is a Parquet file written as a stream: an id for each input, where its bytes are, the
first input of equal content. Row group i is part i of the table.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from jobs.config import Part
from jobs.listing import (
    TABLES,
    Entry,
    LeftOut,
    digest_of,
    entries,
    kind_of,
    shown,
)
from jobs.reading import read_input, scheme, size_of
from orchestrator.errors import UsageError
from tensorlib.vision.image import MAX_FILE_BYTES, ImageError

if TYPE_CHECKING:
    import pyarrow as pa

_PIECE = 1 << 13  # rows of the manifest that are in memory at a time
_LARGEST_PART = 1024
_PARTS = 100  # so that a restart, which loses the parts in work, loses little


class InputsConfig(Part):
    """Which images.

    Args:
        inputs: see the table of `jobs.inputs`.
        column: of a CSV or Parquet file.
        truth: the right class of each image: `folder` for the name of the folder below `inputs`
            that it is in, the name of a column, or the ending of a tar member (`cls`).
        hosts: from which http(s) may be read; only where inputs may be there.
    """

    inputs: str
    column: str | None = None
    truth: str | None = None
    hosts: tuple[str, ...] = ()
    rows_per_part: int | None = Field(default=None, ge=1)

    @field_validator("inputs")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return value if scheme(value) else str(Path(os.path.expanduser(value)).absolute())

    @model_validator(mode="after")
    def _only_what_counts(self) -> InputsConfig:
        kind = kind_of(self.inputs)
        if self.column is not None and kind not in TABLES:
            raise ValueError(f"column: {self.inputs} has no columns; expected .csv or .parquet")
        if kind in (".csv", ".tsv") and self.column is None:
            raise ValueError(f"column: {self.inputs} is a table; expected the column of paths")
        over_http = scheme(self.inputs) in ("http", "https") or kind in (".txt", *TABLES)
        if self.hosts and not over_http:
            raise ValueError(
                f"hosts: {', '.join(self.hosts)}, but of {self.inputs} nothing is read over "
                "http(s); expected a list, a table, or an http(s) URI"
            )
        if self.truth == "folder" and kind != "folder":
            raise ValueError(f"truth: {self.inputs} is no folder; expected one of folders")
        if self.truth and self.truth != "folder" and kind not in (*TABLES, ".tar"):
            raise ValueError(
                f"truth: {self.truth!r}, but {self.inputs} is no table; expected 'folder'"
            )
        return self


def check(config: InputsConfig) -> None:
    """Say now, with a look at the first input, what could not be listed. Raises UsageError.

    Formats go by content, so a file of any name may be an image.
    """
    first = next(entries(config, LeftOut()), None)
    if first is None:
        raise UsageError(f"{config.inputs}: no inputs; expected at least one image")
    if first.kind == "parquet" and config.hosts:
        raise UsageError(
            f"hosts: {', '.join(config.hosts)}, but {config.inputs} holds the images itself; "
            "expected a column of URIs"
        )


def write_manifest(config: InputsConfig, path: Path) -> dict[str, Any]:
    """List the inputs into the Parquet file `path`; gives facts about them, which it holds too.

    Memory is bounded by the names of the largest folder, a page of a Parquet file of images, and 40
    bytes an input. Raises UsageError.
    """
    import pyarrow.parquet as pq

    listed, out = path.with_suffix(".listed"), LeftOut()
    sizes, inodes = _list(config, listed, out)
    first = _first_of_equal(config, listed, sizes, inodes)
    count = len(sizes)
    if count == 0:
        raise UsageError(f"{config.inputs}: no inputs; expected at least one image")
    duplicates = int((first >= 0).sum())
    facts: dict[str, Any] = {
        "inputs": count,
        "duplicates": duplicates,
        "http_not_compared": out.http,
        "hidden_left_out": out.hidden,
        "no_images_left_out": out.beside,
    }
    rows = config.rows_per_part or part_size(count)
    digest, start = hashlib.sha256(), 0
    temporary = path.with_suffix(".tmp")
    with pq.ParquetFile(listed) as source:
        writer = pq.ParquetWriter(temporary, _schema())
        waiting: pa.Table | None = None
        for batch in source.iter_batches(_PIECE):
            table = _numbered(batch, start, first)
            for piece in table.to_batches():
                digest.update(_canonical(piece))
            start += batch.num_rows
            waiting = table if waiting is None else _joined(waiting, table)
            whole = waiting.num_rows - waiting.num_rows % rows
            if whole:
                writer.write_table(waiting.slice(0, whole), row_group_size=rows)
                waiting = waiting.slice(whole)
        if waiting is not None and waiting.num_rows:
            writer.write_table(waiting, row_group_size=rows)
        facts["sha256"] = digest.hexdigest()
        writer.add_key_value_metadata({name: str(value) for name, value in facts.items()})
        writer.close()
    temporary.replace(path)
    listed.unlink()
    return facts


def part_size(inputs: int) -> int:
    """Rows of a part: a hundredth of the inputs, at least 16, at most 1024."""
    return min(max(16, inputs // _PARTS // 16 * 16), _LARGEST_PART)


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.int64()),
            ("path", pa.string()),
            ("kind", pa.string()),
            ("source", pa.binary()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("truth", pa.string()),
            ("duplicate_of", pa.int64()),
        ]
    )


def _numbered(batch: pa.RecordBatch, start: int, first: np.ndarray) -> pa.Table:
    import pyarrow as pa

    ids = np.arange(start, start + batch.num_rows)
    equal = first[start : start + batch.num_rows]
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns["id"] = pa.array(ids)
    columns["duplicate_of"] = pa.array(equal, mask=equal < 0)
    return pa.table([columns[name] for name in _schema().names], schema=_schema())


def _joined(one: pa.Table, other: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([one, other]) if one.num_rows else other


def _canonical(piece: pa.RecordBatch) -> bytes:
    """What the manifest's digest is taken of: everything but how Parquet holds it."""
    names = ("source", "offset", "size", "truth", "duplicate_of")
    rows = zip(*(piece.column(name).to_pylist() for name in names), strict=True)
    return b"".join(b"%s\0%r\n" % (source, rest) for source, *rest in rows)


def _list(config: InputsConfig, path: Path, out: LeftOut) -> tuple[np.ndarray, np.ndarray]:
    """The inputs without ids in a Parquet file; their sizes and inodes, -1 where unknown.

    It holds digests of contents, too, where they are known.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema().remove(7).remove(0)  # ids and duplicates come later
    schema = schema.append(pa.field("digest", pa.binary()))
    sizes, inodes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    with pq.ParquetWriter(path, schema) as writer, ThreadPoolExecutor(16) as pool:
        for batch in _in_pieces(entries(config, out)):
            _add_sizes(batch, pool, out)
            writer.write_table(
                pa.table(
                    [
                        pa.array([shown(e.path) for e in batch], pa.string()),
                        pa.array([e.kind for e in batch], pa.string()),
                        pa.array([e.source or e.path for e in batch], pa.binary()),
                        pa.array([e.offset for e in batch], pa.int64()),
                        pa.array([e.size for e in batch], pa.int64()),
                        pa.array([e.truth for e in batch], pa.string()),
                        pa.array([e.digest for e in batch], pa.binary()),
                    ],
                    schema=schema,
                )
            )
            sizes.append(np.array([-1 if e.size is None else e.size for e in batch], np.int64))
            inodes.append(np.array([-1 if e.inode is None else e.inode for e in batch], np.int64))
    return np.concatenate(sizes), np.concatenate(inodes)


def _add_sizes(batch: list[Entry], pool: ThreadPoolExecutor, out: LeftOut) -> None:
    """Ask the stores for the sizes of objects that a list names, many at a time."""
    unknown = [i for i, e in enumerate(batch) if e.kind == "uri" and e.size is None]
    uris = [os.fsdecode(batch[i].source or batch[i].path) for i in unknown]
    for i, uri, size in zip(unknown, uris, pool.map(size_of, uris), strict=True):
        batch[i] = batch[i]._replace(size=size)
        out.http += scheme(uri) in ("http", "https")


def _in_pieces(found: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for entry in found:
        batch.append(entry)
        if len(batch) == _PIECE:
            yield batch
            batch = []
    if batch:
        yield batch


# -- equal contents --------------------------------------------------------------------------------


def _first_of_equal(
    config: InputsConfig, listed: Path, sizes: np.ndarray, inodes: np.ndarray
) -> np.ndarray:
    """For each input the first of equal content, -1 for none.

    Only inputs of equal size are read, and of hard links one. An input that cannot be read has no
    equals.
    """
    first = np.full(len(sizes), -1, np.int64)
    order = np.lexsort((inodes, sizes))
    same_size = np.zeros(len(sizes), bool)
    equal = sizes[order][1:] == sizes[order][:-1]
    same_size[1:] |= equal
    same_size[:-1] |= equal
    candidates = order[same_size & (sizes[order] > 0) & (sizes[order] <= MAX_FILE_BYTES)]
    if not len(candidates):
        return first
    # hard links: the digest of one stands for all
    links = (inodes[candidates][1:] == inodes[candidates][:-1]) & (inodes[candidates][1:] >= 0)
    read = np.append(True, ~links)
    group = np.cumsum(read) - 1
    chosen = np.sort(candidates[read])
    digests = _digests(config, listed, chosen)[np.searchsorted(chosen, candidates[read])][group]
    known = digests.any(1)
    kinds = np.unique(digests[known], axis=0, return_inverse=True)[1].reshape(-1)
    ids = candidates[known]
    lowest = np.full(int(kinds.max(initial=-1)) + 1, len(sizes), np.int64)
    np.minimum.at(lowest, kinds, ids)
    first[ids] = np.where(lowest[kinds] == ids, -1, lowest[kinds])
    return first


def _digests(config: InputsConfig, listed: Path, chosen: np.ndarray) -> np.ndarray:
    """uint64 [N, 2] of the contents of chosen inputs, zeros where one cannot be read."""
    import pyarrow.parquet as pq

    found = np.zeros((len(chosen), 2), np.uint64)

    def digest(rows: list[dict[str, Any]]) -> bytes:
        return b"".join(_digest(row, config) for row in rows)

    start = 0
    columns = ["kind", "source", "offset", "size", "digest"]
    with pq.ParquetFile(listed) as file, ThreadPoolExecutor(4) as pool:
        for batch in file.iter_batches(_PIECE, columns=columns):
            low, high = np.searchsorted(chosen, (start, start + batch.num_rows))
            rows = batch.take(chosen[low:high] - start).to_pylist()
            pieces = pool.map(digest, (rows[i : i + 256] for i in range(0, len(rows), 256)))
            found[low:high] = np.frombuffer(b"".join(pieces), np.uint64).reshape(-1, 2)
            start += batch.num_rows
    return found


def _digest(row: dict[str, Any], config: InputsConfig) -> bytes:
    if row["digest"] is not None:
        return bytes(row["digest"])
    try:
        return digest_of(read_input(row, config.hosts))
    except ImageError:
        return bytes(16)
