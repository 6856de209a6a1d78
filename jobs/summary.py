"""What the whole table of a classification says, in one pass over its parts."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs import evaluation, thumbnails
from jobs.reading import read_input
from orchestrator.files import atomic_write
from orchestrator.parts import Manifest, Parts
from tensorlib.vision.image import policy

if TYPE_CHECKING:
    from jobs.classify_images import Config

NAME = "classification.json"
_SHOWN = 24  # of the most and of the least confident, and of the bad ones that show pixels
_CLASSES = 40
_LABELS = 3


def summarize(config: Config, parts: Parts, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Write NAME, thumbnails and, with truth, evaluation.json into `folder`; gives metrics.

    Memory does not grow with the number of inputs.
    """
    weights = config.load_weights()
    seen = _Seen(config, list(weights.classes))
    for table in parts.tables(seen.columns, seen.schema):
        seen.add(table)
    part = lru_cache(maxsize=4)(manifest.rows)

    def read(number: int) -> bytes:
        rows = part(number // parts.rows_per_part)
        row = rows.slice(number % parts.rows_per_part, 1).to_pylist()[0]
        return read_input(row, config.hosts, config.column)

    most, least = seen.confident()
    pictures = folder / "thumbnails"
    good = thumbnails.write([row["id"] for row in (*most, *least)], read, pictures)
    shown = thumbnails.write_bad([row["id"] for row in seen.bad], read, pictures)
    for row in (*most, *least, *seen.bad):
        name = good.get(row["id"]) or shown.get(row["id"])
        row["thumbnail"] = f"thumbnails/{name}" if name else None
    classes = seen.histogram.most_common(_CLASSES)
    found: dict[str, Any] = {
        "classes": classes,
        "other_classes": sum(seen.histogram.values()) - sum(count for _, count in classes),
        "most_confident": most,
        "least_confident": least,
        "quarantine": seen.bad,
        "decoding": policy(config.exif, config.draft),
        "weights": {"model": weights.model.name, "sha256": weights.sha256},
    }
    metrics: dict[str, float] = {}
    if seen.confusion is not None:
        record = evaluation.record(str(weights.path), weights.classes, seen.confusion)
        record |= {"top_k": {"k": config.top_k, "right": seen.among}, "unknown": seen.unknown}
        _write(folder / "evaluation.json", record)
        kept = {k: v for k, v in record.items() if k not in ("confusion", "classes")}
        found["evaluation"] = kept | evaluation.worst(weights.classes, seen.confusion)
        if record["samples"]:
            metrics["val/accuracy"] = record["right"] / record["samples"]
            metrics[f"val/top{config.top_k}_accuracy"] = seen.among / record["samples"]
    _write(folder / NAME, found)
    return {"metrics": metrics} if metrics else {}


class _Seen:
    """What was seen of the table."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        self.top_k, self.truth = config.top_k, config.truth
        ranks = range(1, self.top_k + 1)
        self.columns = ["id", "path", "status", "error"]
        types = {"id": pa.int64(), "path": pa.string(), "status": pa.string(), "error": pa.string()}
        for name, kind in (("label", pa.string()), ("index", pa.int64()), ("prob", pa.float32())):
            types |= {f"{name}_{k}": kind for k in ranks}
        if self.truth:
            types["truth"] = pa.string()
        self.columns, self.schema = list(types), pa.schema(types)
        self.histogram: Counter[str] = Counter()
        self.bad: list[dict[str, Any]] = []
        self._most: list[tuple[float, int, dict[str, Any]]] = []
        self._least: list[tuple[float, int, dict[str, Any]]] = []
        self.index = {name: i for i, name in enumerate(evaluation.distinct(classes))}
        self.classes = len(classes)
        self.confusion = np.zeros((self.classes,) * 2, np.int64) if self.truth else None
        self.among = 0
        self.unknown: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        """The next part."""
        good = np.asarray(table["status"].to_pylist()) == "ok"
        for row in table.filter(pa.array(~good)).select(["id", "path", "error"]).to_pylist():
            if len(self.bad) < _SHOWN:
                self.bad.append(row)
        rows = table.filter(pa.array(good))
        self.histogram.update(rows["label_1"].to_pylist())
        scores, ids = rows["prob_1"].to_numpy(), rows["id"].to_numpy()
        # Ties go to the lower id; only candidates become Python objects.
        for i in np.lexsort((ids, -scores))[:_SHOWN]:
            self._offer(self._most, float(scores[i]), rows, int(i))
        for i in np.lexsort((ids, scores))[:_SHOWN]:
            self._offer(self._least, -float(scores[i]), rows, int(i))
        if self.confusion is not None:
            self._judge(rows)

    def _offer(self, heap: list[Any], score: float, rows: pa.Table, i: int) -> None:
        row = rows.slice(i, 1)
        number = row["id"][0].as_py()
        item = (score, -number)
        if len(heap) == _SHOWN and item <= heap[0][:2]:
            return
        labels = [
            [row[f"label_{k}"][0].as_py(), row[f"prob_{k}"][0].as_py()]
            for k in range(1, min(_LABELS, self.top_k) + 1)
        ]
        fact = {"id": number, "path": row["path"][0].as_py(), "labels": labels}
        push = heapq.heappushpop if len(heap) == _SHOWN else heapq.heappush
        push(heap, (*item, fact))

    def confident(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The most and the least confident inputs, the extreme ones first."""
        both = (sorted(heap, key=lambda item: item[:2]) for heap in (self._most, self._least))
        most, least = ([fact for _, _, fact in reversed(heap)] for heap in both)
        return [dict(row) for row in most], [dict(row) for row in least]

    def _judge(self, rows: pa.Table) -> None:
        assert self.confusion is not None
        order = np.stack([rows[f"index_{k}"].to_numpy() for k in range(1, self.top_k + 1)], 1)
        truths = rows["truth"].to_pylist()
        right = np.array([self._class(truth) for truth in truths], np.int64)
        known = right >= 0
        self.unknown.update(str(truths[i]) for i in np.flatnonzero(~known))
        np.add.at(self.confusion, (right[known], order[known, 0]), 1)
        self.among += int((order[known] == right[known, None]).sum())

    def _class(self, truth: str | None) -> int:
        """The class that a truth names, or whose number it is; -1 where there is none, or two."""
        if truth is None:
            return -1
        if truth in self.index:
            return self.index[truth]
        return int(truth) if truth.isdecimal() and int(truth) < self.classes else -1


def _write(path: Path, value: Any) -> None:
    atomic_write(path, (json.dumps(value, ensure_ascii=False) + "\n").encode())
