"""Sums over a data set that are the same to the bit for any number of workers, and what they say
about a classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tensorlib
from jobs.sources import SizedDataset
from orchestrator.context import JobContext
from tensorlib.distributed import Communicator
from tensorlib.utils.data import DataLoader

Judge = Callable[[Any], tuple[Sequence[float], Any]]


def over(
    ctx: JobContext,
    group: Communicator,
    dataset: SizedDataset,
    judge: Judge,
    sums: int,
    counts: tuple[int, ...] = (0,),
    *,
    batch_size: int,
    loader_threads: int = 0,
    collate: Callable[[Any], Any] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of what `judge` says about parts of `dataset`, over all ranks; without gradients.

    The parts are the same whatever the number of ranks, and rank r judges every world-size-th one
    from r on; so each sample is judged once, in the same company.

    Args:
        judge: gets a batch of at most `batch_size` samples; returns `sums` floats, and whole
            numbers of the shape `counts`.

    Returns:
        The floats, added in the order of the parts, and the whole numbers.
    """
    world, rank = group.world_size, group.rank
    starts = range(0, len(dataset), batch_size)
    parts = [list(range(start, min(start + batch_size, len(dataset)))) for start in starts]
    loader = DataLoader(
        dataset, batch_sampler=parts[rank::world], num_workers=loader_threads, collate_fn=collate
    )
    rows = np.zeros((len(parts), sums))
    counted = np.zeros(counts, np.int64)
    with tensorlib.no_grad():
        for number, batch in enumerate(loader):
            floats, whole = judge(batch)
            rows[rank + number * world] = floats
            counted += whole
            done = min(len(dataset), (number + 1) * world * batch_size)
            ctx.metrics.progress(done, len(dataset), "samples", phase="evaluate")
    if world > 1:
        group.all_reduce(rows)
        group.all_reduce(counted)
    total = np.zeros(sums)
    for row in rows:
        total += row
    return total, counted


def distinct(names: Sequence[str]) -> list[str]:
    """Class names of which no two are equal: two of ImageNet's are cranes."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} (class {i})" for i, name in enumerate(names)]


def record(weights: str, classes: Sequence[str], confusion: NDArray[np.int64]) -> dict[str, Any]:
    """Counts of a judged classifier, so that they can be added up.

    Args:
        confusion: [classes, classes], samples of a class (row) that were given another (column).
    """
    each, right = confusion.sum(1), np.diag(confusion)
    rows = _by_class(classes, confusion)
    return {
        "weights": weights,
        "samples": int(each.sum()),
        "right": int(right.sum()),
        "classes": {row.pop("class"): row for row in rows},
        "confusion": confusion.tolist(),
    }


def worst(
    classes: Sequence[str], confusion: NDArray[np.int64], pairs: int = 20, shown: int = 100
) -> dict[str, Any]:
    """For readers: the most frequent confusions, and the classes with the fewest right."""
    names = distinct(classes)
    wrong = confusion - np.diag(np.diag(confusion))
    places = np.argsort(-wrong, axis=None, kind="stable")[:pairs]
    found = [divmod(int(place), len(names)) for place in places]
    rows = _by_class(classes, confusion)
    rows.sort(key=lambda row: row["right"] / row["samples"] if row["samples"] else 2.0)
    return {
        "confused": [
            {"truth": names[i], "predicted": names[j], "count": int(wrong[i, j])}
            for i, j in found
            if wrong[i, j]
        ],
        "classes": rows[:shown],
        "class_count": len(rows),
    }


def _by_class(classes: Sequence[str], confusion: NDArray[np.int64]) -> list[dict[str, Any]]:
    each, said, right = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    return [
        {
            "class": name,
            "samples": int(each[i]),
            "right": int(right[i]),
            "predicted": int(said[i]),
        }
        for i, name in enumerate(distinct(classes))
        if each[i] or said[i]
    ]
