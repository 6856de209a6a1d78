"""What every training worker does, whoever started it: context, logs, job, last words.

python -m orchestrator.worker RUN_DIR ATTEMPT     # started at its place (orchestrator/place.py)
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from orchestrator.context import JobContext
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir, atomic_write_json


def main() -> int:
    """One rank, as the environment says; exit code 1 where the job raised."""
    threading.Thread(target=_end_with_place, name="place", daemon=True).start()
    run_dir, attempt = Path(sys.argv[1]), int(sys.argv[2])
    try:
        run_worker(
            RunDir(run_dir).plan(),
            run_dir,
            attempt=attempt,
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
        )
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end_with_place() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # the place is gone, and with it whoever could tell how this rank ended


def run_worker(
    plan: RunPlan, run_dir: Path, *, attempt: int, rank: int, world_size: int, local_rank: int
) -> None:
    """Run the job of `plan` as one rank. A failure is written to the attempt's directory first."""
    directory = RunDir(run_dir)
    _log_to(directory.logs_dir / f"rank-{rank}.log", f"attempt {attempt}, pid {os.getpid()}")
    context = JobContext.open(
        plan, directory, attempt=attempt, rank=rank, world_size=world_size, local_rank=local_rank
    )
    try:
        run_job(plan, context)
    except BaseException as error:
        record = {"rank": rank, "step": context.metrics.last_step, **describe(error)}
        try:
            atomic_write_json(directory.attempt_dir(attempt) / f"failure-rank-{rank}.json", record)
        except OSError as disk:
            print(f"the failure could not be noted: {disk}", file=sys.stderr)  # noqa: T201
        raise
    finally:
        context.close()


def run_job(plan: RunPlan, context: JobContext) -> None:
    """Validate the planned config with the job's own Config and call `run(config, ctx)`."""
    module = importlib.import_module(plan.job_module)
    module.run(module.Config.model_validate(plan.config), context)
    context.checkpoint.wait()
    if context.stop_seen:
        context.run_dir.append_event("stop_seen", rank=context.rank)


def describe(error: BaseException) -> dict[str, Any]:
    """Type, message, place, and whether the error only echoes the death of another rank."""
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1] if frames else None
    return {
        "type": type(error).__name__,
        "message": str(error),
        "where": f"{Path(place.filename).name}:{place.lineno} in {place.name}" if place else "?",
        # tensorlib.distributed raises DistributedError, a ConnectionError, when a peer is gone.
        "echo": isinstance(error, ConnectionError),
        # NonFiniteLoss among them: what is not finite would be so again.
        "not_finite": isinstance(error, FloatingPointError),
    }


def read_failures(attempt_dir: Path) -> list[dict[str, Any]]:
    """The last words of the ranks of an attempt, by rank."""
    paths = sorted(attempt_dir.glob("failure-rank-*.json"))
    return sorted((json.loads(path.read_text()) for path in paths), key=lambda r: int(r["rank"]))


def _log_to(path: Path, header: str) -> None:
    """Send this process's stdout and stderr, C level included, to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # Ray may have replaced the Python streams; these write where the descriptors point.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr.write(f"--- {header}\n")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread of the job must not keep the rank from ending
