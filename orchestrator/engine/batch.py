"""Batch jobs on Ray Data: actors that make parts.

What goes through Ray are the numbers of parts and what became of them. An actor reads the inputs
of its part, decodes the next part while the model computes this one, and commits the table. So no
reader can be starved by actors, images never fill the object store, and Ray may place, retry and
reorder parts as it likes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from orchestrator.batch import PARTS_IN_WORK, PHASES, Job, Made, PartWorker


class _Worker:
    """A `PartWorker` in an actor."""

    def __init__(self, job: Job) -> None:
        self._work = PartWorker(*job)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        made = self._work(int(rows["part"][0]))
        numbers = {"inputs": made.inputs, "bad": made.bad}
        return {
            **{name: np.array([value]) for name, value in numbers.items()},
            **{phase: np.array([made.seconds.get(phase, 0.0)]) for phase in PHASES},
        }


def run_parts(job: Job, missing: list[int], cluster: Mapping[str, float]) -> Iterator[Made]:
    """Run the missing parts; yields what became of each as it is committed, in no fixed order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A pool grows while all of its actors have PARTS_IN_WORK parts; by default it waits for more.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised here anyway
    resources = job[0].spec.resources
    least = min(resources.min_workers, len(missing))
    most = min(resources.max_workers, len(missing))
    room = cluster.get("CPU", 1.0) / least
    # Unlike from_arrow, from_blocks starts no task for each block.
    results = ray.data.from_blocks([pa.table({"part": [index]}) for index in missing]).map_batches(
        _Worker,
        batch_size=None,
        fn_constructor_kwargs={"job": job},
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=PARTS_IN_WORK,
            max_concurrent_calls_per_actor=PARTS_IN_WORK,
            enable_true_multi_threading=True,
        ),
        num_cpus=min(float(resources.cpus_per_worker), room),
    )
    for block in results.iter_batches(batch_size=None, prefetch_batches=0):
        for i in range(len(block["inputs"])):
            seconds = {phase: float(block[phase][i]) for phase in PHASES}
            yield Made(int(block["inputs"][i]), int(block["bad"][i]), seconds)
