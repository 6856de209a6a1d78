"""Batch jobs on Ray Data: read in tasks, classify in actors.

One block is one part from end to end (`batch_size=None`), so a part is committed by the call that
holds all its rows and Ray may place, retry and reorder blocks as it likes.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from orchestrator.parts import Parts, write_part
from orchestrator.plan import RunPlan

# Readers wait for disks; a share of one CPU keeps them running beside full actors.
TASK_CPUS = 0.1
CPUS_LEFT_FOR_TASKS = 0.5


def _read(rows: dict[str, Any], module: str, config: Mapping[str, Any]) -> dict[str, Any]:
    job = importlib.import_module(module)
    return {**job.read(rows, job.Config.model_validate(config)), "part": rows["part"]}


class _Classify:
    """The job's classifier in an actor; it commits its parts, so tables stay off the wire."""

    def __init__(self, module: str, config: Mapping[str, Any], parts: Parts) -> None:
        job = importlib.import_module(module)
        self._classify = job.Classifier(job.Config.model_validate(config))
        self._parts = parts

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        index = int(rows.pop("part")[0])
        table = self._classify(rows)
        write_part(self._parts.path(index), table, self._parts.ids(index))
        bad = sum(status != "ok" for status in table["status"].to_pylist())
        return {"rows": np.array([table.num_rows]), "bad": np.array([bad])}


def run_parts(
    plan: RunPlan, manifest: pa.Table, parts: Parts, cluster: Mapping[str, float]
) -> Iterator[tuple[int, int]]:
    """Run the missing parts; yields (rows, bad rows) as each is committed, in no fixed order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = plan.spec.resources
    missing = parts.missing()
    if not missing:
        return
    blocks = []
    for index in missing:
        rows = manifest.slice(parts.ids(index).start, parts.rows_per_part)
        blocks.append(rows.append_column("part", pa.array([index] * rows.num_rows)))
    workers = min(resources.max_workers, len(missing))
    room = (cluster.get("CPU", 1.0) - CPUS_LEFT_FOR_TASKS) / workers
    job = {"module": plan.job_module, "config": plan.config}
    results = (
        ray.data.from_arrow(blocks)
        .map_batches(_read, batch_size=None, fn_kwargs=job, num_cpus=TASK_CPUS)
        .map_batches(
            _Classify,
            batch_size=None,
            fn_constructor_kwargs={**job, "parts": parts},
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=min(float(resources.cpus_per_worker), room),
        )
    )
    for block in results.iter_batches(batch_size=None, prefetch_batches=0):
        for rows, bad in zip(block["rows"], block["bad"], strict=True):
            yield int(rows), int(bad)
