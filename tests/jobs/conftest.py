"""Jobs in this process, without Ray and MLflow: a plan, a run directory, ranks in threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import config, plan
from orchestrator.context import JobContext
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir
from orchestrator.submit import preflight
from orchestrator.worker import run_job
from tensorlib import Generator, random
from tensorlib.distributed import Communicator, ThreadCommunicator

LIMIT_S = 60


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunPlan]:
    """The plan of a job with `params`; what else a spec says goes by keyword."""
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    made = 0

    def make(job: str, params: dict[str, Any], **spec: Any) -> RunPlan:
        nonlocal made
        made += 1
        path = tmp_path / f"spec-{made}.yaml"
        whole = {"version": 1, "name": f"run-{made}", "job": job, "params": params, **spec}
        path.write_text(yaml.safe_dump(whole))
        return plan.plan(config.load(path), run_id=f"run-{made}")

    return make


@pytest.fixture
def run_here(planned: Callable[..., RunPlan]) -> Callable[..., RunDir]:
    """A job from its check to its end in this process; gives the run directory."""

    def run(job: str, params: dict[str, Any], **spec: Any) -> RunDir:
        made = planned(job, params, **spec)
        preflight(made)
        run_dir = RunDir.create(made)
        run_job(made, context_of(made, run_dir))
        return run_dir

    return run


def context_of(
    made: RunPlan, run_dir: RunDir, rank: int = 0, world_size: int = 1, attempt: int = 1
) -> JobContext:
    """What one rank of an attempt sees."""
    directory = RunDir(run_dir.path)
    return JobContext(
        made, directory, attempt=attempt, rank=rank, world_size=world_size, local_rank=rank
    )


def on_ranks(
    made: RunPlan,
    run_dir: RunDir,
    world_size: int,
    work: Callable[[JobContext, Communicator], Any],
    attempt: int = 1,
) -> list[Any]:
    """`work(ctx, group)` on ranks in threads, each with random numbers of its own; by rank."""
    group = ThreadCommunicator.group(world_size, LIMIT_S)

    def rank(number: int) -> Any:
        random.draw_from(Generator())
        ctx = context_of(made, run_dir, number, world_size, attempt)
        try:
            return work(ctx, group[number])
        except BaseException:
            group[number].close()  # the others learn of it at once
            raise

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(rank, number) for number in range(world_size)]
        return [future.result(LIMIT_S) for future in futures]
