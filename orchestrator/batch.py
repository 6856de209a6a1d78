"""A batch job from its inputs to its table: the manifest, the missing parts, the counts."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import BackendUnavailable, UsageError
from orchestrator.parts import Parts, claim, write_part
from orchestrator.plan import RunPlan
from orchestrator.run import TerminationReason
from orchestrator.store import RunDir, atomic_write_json

if TYPE_CHECKING:
    import pyarrow as pa


class Driver(Protocol):
    """What a batch job needs of the process that drives its run (`orchestrator.submit`)."""

    plan: RunPlan
    run_dir: RunDir

    @property
    def console(self) -> Any: ...
    def begin_attempt(self, workers: int) -> int: ...
    def end_attempt(self, number: int, reason: TerminationReason, message: str) -> None: ...
    def stop_wanted(self) -> bool: ...
    def cluster(self) -> AbstractContextManager[Mapping[str, float]]: ...
    def signals(self) -> AbstractContextManager[Mapping[str, float]]: ...


def create(plan: RunPlan) -> RunDir:
    """Claim the output folder and make the run directory: both or neither."""
    release = claim(output(plan), plan.run_id)
    try:
        return RunDir.create(plan)
    except BaseException:
        release()
        raise


def output(plan: RunPlan) -> Path:
    """Where a batch job writes its table: as asked, or among the run's artifacts."""
    return Path(plan.config["output"] or Path(plan.run_dir) / "artifacts" / "predictions")


def run(driver: Driver, in_process: bool) -> tuple[TerminationReason, str]:
    """Make the parts that are missing, on Ray or `in_process`; gives why it ended."""
    plan, run_dir = driver.plan, driver.run_dir
    module = importlib.import_module(plan.job_module)
    config = module.Config.model_validate(plan.config)
    manifest = _manifest(run_dir, module, config)
    folder = output(plan)
    parts = Parts(folder, manifest.num_rows, config.rows_per_part)
    duplicates = sum(v is not None for v in manifest["duplicate_of"].to_pylist())
    run_dir.write_status(batch={"output": str(folder), "inputs": manifest.num_rows})
    number = driver.begin_attempt(1 if in_process else plan.spec.resources.max_workers)
    done = parts.inputs - sum(len(parts.ids(index)) for index in parts.missing())
    first, bad = done, 0
    try:
        with driver.signals() if in_process else driver.cluster() as total:
            started = time.monotonic()
            if in_process:
                results = _parts_here(module, config, manifest, parts)
            else:
                results = _parts_on_ray(plan, manifest, parts, total)
            for rows, bad_rows in results:
                done, bad = done + rows, bad + bad_rows
                speed = (done - first) / max(time.monotonic() - started, 1e-9)
                driver.console.progress(
                    "classify", done, len(manifest), "images", bad=bad, per_s=round(speed, 1)
                )
                if driver.stop_wanted():
                    driver.end_attempt(number, TerminationReason.STOP_REQUESTED, "")
                    return TerminationReason.STOP_REQUESTED, f"{done} of {len(manifest)} done"
    except (BackendUnavailable, UsageError):
        raise
    except Exception as error:
        message = _root_cause(error)
        driver.end_attempt(number, TerminationReason.JOB_ERROR, message)
        return TerminationReason.JOB_ERROR, message
    counts = parts.counts() | {"duplicates": duplicates}
    speed = (done - first) / max(time.monotonic() - started, 1e-9)
    quarantine = parts.quarantine(1000)
    atomic_write_json(run_dir.artifacts_dir / "quarantine.json", quarantine)
    run_dir.append_event("batch", counts=counts, images_per_s=round(speed, 2))
    run_dir.append_event(
        "metrics", step=0, epoch=None, values={k: float(v) for k, v in counts.items()}
    )
    run_dir.write_status(batch={"output": str(folder), **counts, "images_per_s": round(speed, 2)})
    reason, message = TerminationReason.COMPLETED, ""
    allowed = config.allowed_bad(counts["inputs"])
    if allowed is not None and counts["quarantined"] > allowed:
        reason = TerminationReason.TOO_MANY_BAD_INPUTS
        message = (
            f"{counts['quarantined']} of {counts['inputs']} inputs are quarantined; max_bad "
            f"{config.max_bad} allows {allowed}. The table is complete"
        )
    driver.end_attempt(number, reason, message)
    return reason, message


def _manifest(run_dir: RunDir, module: Any, config: Any) -> pa.Table:
    """The frozen list of inputs: made once, read again by every later attempt."""
    import pyarrow.parquet as pq

    path = run_dir.path / "manifest.parquet"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        pq.write_table(module.manifest(config), temporary)
        temporary.replace(path)
    return pq.read_table(path)


def _parts_on_ray(
    plan: RunPlan, manifest: pa.Table, parts: Parts, total: Mapping[str, float]
) -> Iterator[tuple[int, int]]:
    from orchestrator.engine import batch

    return batch.run_parts(plan, manifest, parts, total)


def _parts_here(
    module: Any, config: Any, manifest: pa.Table, parts: Parts
) -> Iterator[tuple[int, int]]:
    """The missing parts one by one in this process: (rows, bad rows) of each."""
    classifier = module.Classifier(config)
    for index in parts.missing():
        ids = parts.ids(index)
        rows = manifest.slice(ids.start, len(ids)).to_pydict()
        table = classifier(module.read(rows, config))
        write_part(parts.path(index), table, ids)
        yield len(ids), sum(status != "ok" for status in table["status"].to_pylist())


def _root_cause(error: BaseException) -> str:
    """The job's own words out of the layers an engine wraps around an exception."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    line = (str(error).strip().splitlines() or [""])[-1]
    return f"{type(error).__name__}: {line}"
