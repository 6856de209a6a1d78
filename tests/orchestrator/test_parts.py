"""Parts of a table: whole or invisible, counted, in a folder that is this run's alone."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import UsageError
from orchestrator.parts import Manifest, Parts, claim, owner


def manifest(tmp_path: Path, duplicate_of: list[int | None], size: int = 4) -> Manifest:
    """A manifest whose row groups are the parts."""
    count = len(duplicate_of)
    table = pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "path": [f"{i}.png" for i in range(count)],
            "duplicate_of": pa.array(duplicate_of, pa.int64()),
        }
    )
    with pq.ParquetWriter(tmp_path / "manifest.parquet", table.schema) as writer:
        writer.write_table(table, row_group_size=size)
        writer.add_key_value_metadata({"sha256": "abc"})
    return Manifest(tmp_path / "manifest.parquet")


def found(rows: pa.Table, bad: tuple[int, ...] = ()) -> pa.Table:
    """What a job finds for the inputs that are no copies."""
    ids = [row["id"] for row in rows.to_pylist() if row["duplicate_of"] is None]
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "path": [f"{i}.png" for i in ids],
            "status": ["quarantined" if i in bad else "ok" for i in ids],
            "prob_1": pa.array([None if i in bad else i / 7 for i in ids], pa.float32()),
            "error": pa.array(["broken" if i in bad else None for i in ids], pa.string()),
        }
    )


def filled(listed: Manifest, parts: Parts, bad: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """The whole table, its parts made in reverse."""
    for index in reversed(parts.missing()):
        rows = listed.rows(index)
        parts.commit(index, rows, found(rows, bad))
    parts.fill(listed)
    return [row for index in range(len(parts)) for row in parts.read(index).to_pylist()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_parts_cover_the_manifest_once(tmp_path: Path, out: Path) -> None:
    listed = manifest(tmp_path, [None] * 10)
    parts = Parts.of(listed, out, "parquet")
    assert [list(parts.ids(index)) for index in range(len(parts))] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    assert parts.missing() == [0, 1, 2]
    parts.commit(1, listed.rows(1), found(listed.rows(1)))
    assert parts.missing() == parts.waiting() == [0, 2]
    assert listed.facts["sha256"] == "abc"


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_every_input_has_its_row_and_copies_those_of_the_first(
    tmp_path: Path, out: Path, kind: Any
) -> None:
    listed = manifest(tmp_path, [None, None, 0, None, 1, None, 1, 3, 0, 5, None, 5])
    parts = Parts.of(listed, out, kind)
    rows = filled(listed, parts, bad=(1, 10))
    assert [row["id"] for row in rows] == list(range(12))
    assert [row["path"] for row in rows] == [f"{i}.png" for i in range(12)]
    first = [0, 1, 0, 3, 1, 5, 1, 3, 0, 5, 10, 5]
    expected = [None if i in (1, 10) else np.float32(i / 7) for i in first]
    assert [None if r["prob_1"] is None else np.float32(r["prob_1"]) for r in rows] == expected
    assert [row["error"] == "broken" for row in rows] == [value is None for value in expected]
    assert parts.counts() == {"inputs": 12, "ok": 8, "quarantined": 4}
    assert [row["path"] for row in parts.quarantine(10)] == ["1.png", "4.png", "6.png", "10.png"]
    assert parts.quarantine(1) == [{"path": "1.png", "error": "broken"}]
    assert sorted(path.name for path in out.iterdir()) == [f"part-0000{i}.{kind}" for i in range(3)]


def test_copies_wait_until_what_they_copy_is_there(tmp_path: Path, out: Path) -> None:
    listed = manifest(tmp_path, [None, None, None, None, 0, None])
    parts = Parts.of(listed, out, "parquet")
    parts.commit(1, listed.rows(1), found(listed.rows(1), bad=(5,)))
    assert (parts.missing(), parts.waiting()) == ([0], [0, 1])  # a restart does part 0 alone
    assert parts.bad_beside([0]) == 1
    assert not parts.path(1).exists()
    assert len(filled(listed, parts, bad=(1, 2))) == 6
    assert parts.waiting() == []
    assert [parts.bad_beside(missing) for missing in ([], [0], [0, 1])] == [3, 1, 0]


def test_counts_add_up_or_raise(tmp_path: Path, out: Path) -> None:
    listed = manifest(tmp_path, [None] * 6)
    filled(listed, Parts.of(listed, out, "parquet"))
    with pytest.raises(RuntimeError, match=r"6 ok \+ 0 quarantined rows are not the 5 inputs"):
        Parts(out, inputs=5, rows_per_part=4).counts()


def test_a_part_with_other_rows_is_refused_and_leaves_nothing(tmp_path: Path, out: Path) -> None:
    listed = manifest(tmp_path, [None] * 8)
    parts = Parts.of(listed, out, "parquet")
    with pytest.raises(RuntimeError, match="expected the 4 that the manifest gives"):
        parts.commit(1, listed.rows(1), found(listed.rows(0)))
    assert list(out.iterdir()) == []


def test_a_part_is_whole_or_invisible(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = manifest(tmp_path, [None] * 4)
    parts = Parts.of(listed, out, "csv")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        parts.commit(0, listed.rows(0), found(listed.rows(0)))
    assert list(out.iterdir()) == []


def test_csv_keeps_odd_names(tmp_path: Path, out: Path) -> None:
    listed = manifest(tmp_path, [None])
    names = pa.array(['a,b "c"\nd=\\xff'])
    rows = listed.rows(0).set_column(1, "path", names)
    for kind in ("csv", "jsonl"):
        parts = Parts.of(listed, out, kind)  # type: ignore[arg-type]
        parts.commit(0, rows, found(rows))
        assert parts.read(0, ["path"])["path"].to_pylist() == names.to_pylist()


def test_json_lines_have_null_for_nan(tmp_path: Path, out: Path) -> None:
    listed = manifest(tmp_path, [None])
    rows = listed.rows(0)
    nan = pa.array([[float("nan"), 1.5]], pa.list_(pa.float32(), 2))
    parts = Parts.of(listed, out, "jsonl")
    parts.commit(0, rows, found(rows).append_column("features", nan))
    assert json.loads(parts.path(0).read_text(), parse_constant=pytest.fail)["features"] == [
        None,
        1.5,
    ]


def test_claim_refuses_what_is_not_empty(tmp_path: Path) -> None:
    claim(tmp_path / "out", "one", "/runs/one")
    assert owner(tmp_path / "out") == ("one", Path("/runs/one"))
    with pytest.raises(UsageError, match="holds the table of run one"):
        claim(tmp_path / "out", "two", "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is not empty"):
        claim(tmp_path / "mine", "one", "")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    with pytest.raises(UsageError, match="cannot be written"):
        claim(tmp_path / "mine" / "letter.txt" / "out", "one", "")


def test_release_undoes_a_claim(tmp_path: Path) -> None:
    release = claim(tmp_path / "a" / "b", "one", "")
    assert (tmp_path / "a" / "b" / "_owner.json").exists()
    release()
    assert not (tmp_path / "a").exists()
