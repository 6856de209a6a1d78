"""Parts of a table: whole or invisible, counted, in a folder that is this run's alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.errors import UsageError
from orchestrator.parts import Parts, claim, write_part


def rows(ids: range, bad: tuple[int, ...] = ()) -> pa.Table:
    return pa.table(
        {
            "id": list(ids),
            "path": [f"{i}.png" for i in ids],
            "status": ["quarantined" if i in bad else "ok" for i in ids],
            "error": ["broken" if i in bad else None for i in ids],
        }
    )


def test_parts_cover_the_manifest_once(tmp_path: Path) -> None:
    parts = Parts(tmp_path, inputs=10, rows_per_part=4)
    assert [list(parts.ids(index)) for index in range(len(parts))] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    assert parts.missing() == [0, 1, 2]
    write_part(parts.path(1), rows(parts.ids(1)), parts.ids(1))
    assert parts.missing() == [0, 2]


def test_counts_add_up_or_raise(tmp_path: Path) -> None:
    parts = Parts(tmp_path, inputs=6, rows_per_part=4)
    for index in range(2):
        write_part(parts.path(index), rows(parts.ids(index), bad=(1, 5)), parts.ids(index))
    assert parts.counts() == {"inputs": 6, "ok": 4, "quarantined": 2}
    assert parts.quarantine(10) == [
        {"path": "1.png", "error": "broken"},
        {"path": "5.png", "error": "broken"},
    ]
    assert parts.quarantine(1) == [{"path": "1.png", "error": "broken"}]
    with pytest.raises(RuntimeError, match=r"6 inputs|5 inputs"):
        Parts(tmp_path, inputs=5, rows_per_part=4).counts()


def test_a_part_with_other_rows_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(RuntimeError, match="expected the 4 rows from 4 on"):
        write_part(folder / "part-00001.parquet", rows(range(4)), range(4, 8))
    assert list(folder.iterdir()) == []


def test_claim_refuses_what_is_not_empty(tmp_path: Path) -> None:
    claim(tmp_path / "out", "one")
    with pytest.raises(UsageError, match="holds the table of run one"):
        claim(tmp_path / "out", "two")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is not empty"):
        claim(tmp_path / "mine", "one")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    with pytest.raises(UsageError, match="cannot be written"):
        claim(tmp_path / "mine" / "letter.txt" / "out", "one")


def test_release_undoes_a_claim(tmp_path: Path) -> None:
    release = claim(tmp_path / "a" / "b", "one")
    assert (tmp_path / "a" / "b" / "_owner.json").exists()
    release()
    assert not (tmp_path / "a").exists()
