"""A batch job from its inputs to its table: the manifest, the missing parts, the counts.

A job with `ENGINE = "batch"` has

    Config                              with output, format, local, max_bad and `allowed_bad(n)`
    check(config)                       what could not work, said before anything is written
    write_manifest(config, path)        the inputs as Parquet, a row group for each part
    fingerprint(config)                 digest of what decides results besides inputs and params
    Worker(config, threads)             called with rows and `stop()`; gives rows, seconds by phase
    summarize(config, table, folder)    pictures and tables from the whole result; gives facts
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from orchestrator.errors import BackendUnavailable, OrchestratorError, UsageError
from orchestrator.files import DISK_WAIT_S, atomic_write_json, is_full, wait_for_space
from orchestrator.plan import RunPlan
from orchestrator.run import Run, RunStatus, TerminationReason
from orchestrator.store import RunDir, list_runs

if TYPE_CHECKING:
    from orchestrator.parts import Manifest, Parts

PHASES = ("read", "decode", "model", "write")
# Parts that a worker has in work: one is computed while the next one is read and decoded.
PARTS_IN_WORK = 2
_QUARANTINE_SHOWN = 1000
_SPEED_OVER_S = 30.0
_LOOKED_AT = 50


class Driver(Protocol):
    """What a batch job needs of the process that drives its run (`orchestrator.submit`)."""

    plan: RunPlan
    run_dir: RunDir

    @property
    def console(self) -> Any: ...
    def begin_attempt(self, workers: int) -> int: ...
    def end_attempt(self, number: int, reason: TerminationReason, message: str) -> None: ...
    def stop_wanted(self) -> bool: ...
    def pump(self) -> None: ...
    def cluster(self) -> AbstractContextManager[Mapping[str, float]]: ...
    def signals(self) -> AbstractContextManager[Mapping[str, float]]: ...


class PartLost(OrchestratorError):
    """A part that ended its worker again and again."""

    exit_code = 1


class Made(NamedTuple):
    """What became of a part: its inputs, how many are bad, seconds spent in each of PHASES."""

    inputs: int
    bad: int
    seconds: dict[str, float]


# -- before a run ----------------------------------------------------------------------------------


def create(plan: RunPlan) -> RunDir:
    """Claim the output folder and make the run directory: both or neither."""
    from orchestrator.parts import claim

    release = claim(output(plan), plan.run_id, plan.run_dir)
    try:
        return RunDir.create(plan)
    except BaseException:
        release()
        raise


def output(plan: RunPlan) -> Path:
    """Where a batch job writes its table: as asked, or among the run's artifacts."""
    return Path(plan.config["output"] or Path(plan.run_dir) / "artifacts" / "predictions")


def earlier(plan: RunPlan, named: bool = False) -> Run | None:
    """The run of the same command before this one, which is to be continued.

    With an output folder it is the one whose table is there. Without, it is the run that has this
    plan's id already, or, where the user did not name the run, the newest that did the same and
    has not ended well. Raises UsageError where the folder holds the table of another command, or
    inputs or weights have changed since.
    """
    from orchestrator.parts import owner

    folder = plan.config["output"]
    if folder is None:
        own = RunDir(plan.run_dir)
        if (own.path / "plan.json").exists():
            return Run(own) if not (_differences(own.plan(), plan) or _changes(own, plan)) else None
        return None if named else _unfinished(plan)
    holder = owner(Path(folder))
    if holder is None or not (holder[1] / "plan.json").exists():
        return None
    run = Run(RunDir(holder[1]))
    different = _differences(run.directory.plan(), plan) or _changes(run.directory, plan)
    if different:
        raise UsageError(
            f"output {folder}: holds the table of run {holder[0]}, but {'; '.join(different)}; "
            "expected the same command to continue it. Hint: --output OTHER_FOLDER"
        )
    return run


def _unfinished(plan: RunPlan) -> Run | None:
    """The newest run that did the same and has not ended well."""
    for run_dir in list_runs(plan.home)[:_LOOKED_AT]:
        run = Run(run_dir)
        with contextlib.suppress(OrchestratorError):
            if (
                run.status().terminal
                and run.status() is not RunStatus.SUCCEEDED
                and not _differences(run_dir.plan(), plan)
                and not _changes(run_dir, plan)
            ):
                return run
    return None


# What may differ between two commands without a difference in the table.
_FREE = ("batch_size", "local", "max_bad")


def continued(old: RunPlan, new: RunPlan) -> RunPlan:
    """`old` as the command `new` wants it run: its workers, and what the table does not show."""
    config = old.config | {name: new.config[name] for name in _FREE if name in new.config}
    spec = old.spec.model_copy(update={"resources": new.spec.resources})
    return old.model_copy(update={"config": config, "spec": spec, "address": new.address})


def settled(run: Run, plan: RunPlan) -> bool:
    """Whether `run` leaves the same command, planned anew, nothing to do: its table is whole and
    has no more bad rows than that command allows.
    """
    from orchestrator.parts import Manifest, Parts

    counts = run.directory.status().batch
    if run.status() is not RunStatus.SUCCEEDED or counts is None:
        return False
    manifest = Manifest(run.path / "manifest.parquet")
    parts = Parts.of(manifest, output(run.directory.plan()), plan.config["format"])
    return not parts.waiting() and not too_many_bad(plan, counts)


def too_many_bad(plan: RunPlan, counts: Mapping[str, int]) -> str:
    """Why the counts of a whole table are too bad for the plan's `max_bad`, or nothing."""
    config = importlib.import_module(plan.job_module).Config.model_validate(plan.config)
    allowed = config.allowed_bad(counts["inputs"])
    if allowed is None or counts["quarantined"] <= allowed:
        return ""
    return (
        f"{counts['quarantined']} of {counts['inputs']} inputs are quarantined; max_bad "
        f"{config.max_bad} allows {allowed}. The table is complete"
    )


def _differences(old: RunPlan, new: RunPlan) -> list[str]:
    if old.job_module != new.job_module:
        return [f"its job is {old.job_module}, not {new.job_module}"]
    names = (old.config.keys() | new.config.keys()) - set(_FREE)
    return [
        f"its {name} is {old.config.get(name)!r}, not {new.config.get(name)!r}"
        for name in sorted(names)
        if old.config.get(name) != new.config.get(name)
    ]


def _changes(run_dir: RunDir, plan: RunPlan) -> list[str]:
    """What has changed under the same names since the run began."""
    module = importlib.import_module(plan.job_module)
    config = module.Config.model_validate(plan.config)
    recorded = run_dir.status().weights_sha256
    if recorded is not None and recorded != module.fingerprint(config):
        return ["the weights or their class names have changed since"]
    manifest = run_dir.path / "manifest.parquet"
    if not manifest.exists():
        return []
    from orchestrator.parts import Manifest

    again = run_dir.path / f".manifest.{os.getpid()}.parquet"
    try:
        digest = module.write_manifest(config, again)["sha256"]
    finally:
        again.unlink(missing_ok=True)
    if digest != Manifest(manifest).facts["sha256"]:
        return ["the inputs have changed since"]
    return []


# -- a run -----------------------------------------------------------------------------------------


def run(driver: Driver, in_process: bool) -> tuple[TerminationReason, str]:
    """Make the parts that are missing, on Ray or in this process; gives why it ended."""
    plan = driver.plan
    module = importlib.import_module(plan.job_module)
    config = module.Config.model_validate(plan.config)
    in_process = in_process or config.local
    number = driver.begin_attempt(1 if in_process else plan.spec.resources.max_workers)
    try:
        with _pumped(driver), driver.signals() if in_process else _nothing():
            reason, message = _work(driver, module, config, number, in_process)
    except (BackendUnavailable, UsageError) as error:
        driver.end_attempt(number, TerminationReason.JOB_ERROR, str(error))
        raise
    except Exception as error:
        cause = _root_cause(error)
        reason, message = TerminationReason.JOB_ERROR, _one_line(cause)
        if driver.stop_wanted():
            reason, message = TerminationReason.STOP_REQUESTED, ""
        elif is_full(cause):
            reason = TerminationReason.DISK_FULL
        elif isinstance(cause, PartLost):
            reason = TerminationReason.WORKER_DIED
    driver.end_attempt(number, reason, message)
    return reason, message


def _work(
    driver: Driver, module: Any, config: Any, attempt: int, in_process: bool
) -> tuple[TerminationReason, str]:
    from orchestrator.parts import Parts

    plan, run_dir = driver.plan, driver.run_dir
    manifest = _manifest(driver, module, config)
    folder = output(plan)
    parts = Parts.of(manifest, folder, config.format)
    run_dir.write_status(batch={"output": str(folder), "inputs": parts.inputs})
    missing = parts.missing()
    progress = _Progress(driver, parts, missing)
    job = (plan, run_dir.path, attempt, manifest, parts)
    if missing:
        with _nothing() if in_process else driver.cluster() as total:
            progress.begin()
            for made in _here(job, missing) if in_process else _on_ray(job, missing, total):
                progress.add(made)
                if driver.stop_wanted():
                    left = parts.inputs - progress.done
                    if left:
                        return TerminationReason.STOP_REQUESTED, f"{left} inputs are left"
    parts.fill(manifest)
    facts = manifest.facts
    counts = parts.counts() | {"duplicates": int(facts["duplicates"])}
    quarantine = parts.quarantine(_QUARANTINE_SHOWN)
    atomic_write_json(run_dir.artifacts_dir / "quarantine.json", quarantine)
    if not folder.is_relative_to(run_dir.path):
        link = run_dir.artifacts_dir / "predictions"
        link.unlink(missing_ok=True)
        link.symlink_to(folder, target_is_directory=True)
    found = module.summarize(config, parts, manifest, run_dir.artifacts_dir)
    speeds = {
        "images_per_s": round(progress.speed(), 2),
        "steady_images_per_s": progress.steady(),
        "phases": progress.phases(),
    }
    run_dir.append_event("batch", counts=counts, **speeds)
    values = {k: float(v) for k, v in counts.items()} | found.get("metrics", {})
    run_dir.append_event("metrics", step=0, epoch=None, values=values)
    run_dir.write_status(
        batch={
            "output": str(folder),
            **counts,
            **speeds,
            **{key: value for key, value in found.items() if key != "metrics"},
        }
    )
    if message := too_many_bad(plan, counts):
        if parts.inputs == 1:  # its reason says more than the count
            message = " ".join("{path}: {error}".format_map(quarantine[0]).split())
        return TerminationReason.TOO_MANY_BAD_INPUTS, message
    return TerminationReason.COMPLETED, ""


def _manifest(driver: Driver, module: Any, config: Any) -> Manifest:
    """The frozen list of inputs: made once, read again by every later attempt."""
    from orchestrator.parts import Manifest

    run_dir = driver.run_dir
    path = run_dir.path / "manifest.parquet"
    recorded, now = run_dir.status().weights_sha256, module.fingerprint(config)
    if recorded is not None and recorded != now:
        raise UsageError(
            f"{run_dir.run_id}: the weights or their class names have changed since it began, "
            f"sha256 {recorded[:12]}... "
            f"then, {now[:12]}... now; expected the same ones"
        )
    run_dir.write_status(weights_sha256=now)
    if not path.exists():
        facts = module.write_manifest(config, path)
        run_dir.append_event("data", facts={"source": config.inputs, **facts})
    return Manifest(path)


class _Progress:
    """How far the work is, and how fast."""

    def __init__(self, driver: Driver, parts: Parts, missing: list[int]) -> None:
        self.driver, self.inputs = driver, parts.inputs
        self.done = self.first = parts.inputs - sum(len(parts.ids(index)) for index in missing)
        self.bad = parts.bad_beside(missing)  # of a run that is continued
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.started = time.monotonic()
        self.last = self.started
        self.recent: deque[tuple[float, int]] = deque()
        self.warm: tuple[float, int] | None = None  # when the first part was done

    def begin(self) -> None:
        """Now workers start."""
        self.started = self.last = time.monotonic()
        self.recent.append((self.started, self.done))

    def add(self, made: Made) -> None:
        """A part is done."""
        self.done += made.inputs
        self.bad += made.bad
        for phase, seconds in made.seconds.items():
            self.seconds[phase] += seconds
        now = self.last = time.monotonic()
        self.warm = self.warm or (now, self.done)
        self.recent.append((now, self.done))
        while len(self.recent) > 2 and now - self.recent[0][0] > _SPEED_OVER_S:
            self.recent.popleft()
        since, done = self.recent[0]
        per_s = (self.done - done) / max(now - since, 1e-9)
        info: dict[str, Any] = {"bad": self.bad, "per_s": round(per_s, 1)}
        if not sys.stderr.isatty():  # a bar tells by itself
            info["left"] = f"{(self.inputs - self.done) / max(per_s, 1e-9):.0f} s"
        self.driver.console.progress("classify", self.done, self.inputs, "images", **info)

    def speed(self) -> float:
        """Images per second of this attempt, the start of its workers included."""
        return (self.done - self.first) / max(self.last - self.started, 1e-9)

    def steady(self) -> float | None:
        """Images per second from the first part on."""
        since, done = self.warm or (self.last, self.done)
        return (self.done - done) / (self.last - since) if self.last > since else None

    def phases(self) -> dict[str, dict[str, float]]:
        """Seconds in each phase over all workers, and images per second of it."""
        images = self.done - self.first
        return {
            phase: {"seconds": round(s, 3), "images_per_s": round(images / s, 1) if s else 0.0}
            for phase, s in self.seconds.items()
        }


@contextmanager
def _pumped(driver: Driver) -> Iterator[None]:
    """What workers say is shown while the block runs."""
    ended = threading.Event()

    def pump() -> None:
        while not ended.wait(0.2):
            driver.pump()

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _nothing() -> Iterator[Mapping[str, float]]:
    yield {}


# -- workers ---------------------------------------------------------------------------------------

Job = tuple[RunPlan, Path, int, "Manifest", "Parts"]


class PartWorker:
    """Makes parts: hands their inputs to the job's worker and commits what it gives.

    Calls come from PARTS_IN_WORK threads.
    """

    def __init__(
        self, plan: RunPlan, run_dir: Path, attempt: int, manifest: Manifest, parts: Parts
    ) -> None:
        module = importlib.import_module(plan.job_module)
        self.manifest, self.parts, self.retry = manifest, parts, plan.spec.retry
        self.run_dir = RunDir(run_dir, attempt=attempt)
        self.tries = self.run_dir.attempt_dir(attempt)
        config = module.Config.model_validate(plan.config)
        self.worker = module.Worker(config, plan.spec.resources.cpus_per_worker)

    def __call__(self, index: int) -> Made:
        import pyarrow.compute as pc

        tries = self.tries / f"part-{index:05d}.tries"
        self._count(index, tries)
        rows = self.manifest.rows(index)
        own = rows.filter(pc.is_null(rows["duplicate_of"]))
        found, seconds = self.worker(own, self.run_dir.stop_requested)
        started = time.monotonic()
        wait_for_space(
            lambda: self.parts.commit(index, rows, found),
            say=self._say,
            give_up=self.run_dir.stop_requested,
            limit_s=DISK_WAIT_S,
        )
        tries.unlink(missing_ok=True)
        bad = int(pc.sum(pc.not_equal(found["status"], "ok")).as_py() or 0)
        return Made(rows.num_rows, bad, {**seconds, "write": time.monotonic() - started})

    def close(self) -> None:
        """End what the worker started."""
        self.worker.close()

    def _count(self, index: int, tries: Path) -> None:
        """Ray gives the part of a dead worker to another, for ever: here it ends.

        A line of `tries` is the process that began the part; who commits it removes the file.
        """
        with contextlib.suppress(OSError):  # a full disk: the part will say so
            descriptor = os.open(tries, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            os.close(descriptor)
        began = len(tries.read_text().splitlines()) if tries.exists() else 1
        if began > self.retry.worker_deaths + 1:
            ids = self.parts.ids(index)
            raise PartLost(
                f"part {index} (inputs {ids.start} to {ids.stop - 1}): its worker ended "
                f"{began - 1} times; retry.worker_deaths is {self.retry.worker_deaths}"
            )

    def _say(self, text: str) -> None:
        with contextlib.suppress(OrchestratorError):
            self.run_dir.append_event("warning", text=text)


def _here(job: Job, missing: list[int]) -> Iterator[Made]:
    """The missing parts in this process."""
    work = PartWorker(*job)
    running: deque[Future[Made]] = deque()
    try:
        with ThreadPoolExecutor(PARTS_IN_WORK) as pool:
            for index in missing:
                if len(running) == PARTS_IN_WORK:
                    yield running.popleft().result()
                running.append(pool.submit(work, index))
            while running:
                yield running.popleft().result()
    finally:
        work.close()


def _on_ray(job: Job, missing: list[int], total: Mapping[str, float]) -> Iterator[Made]:
    from orchestrator.engine import batch

    return batch.run_parts(job, missing, total)


def _root_cause(error: BaseException) -> BaseException:
    """The job's own error out of the layers an engine wraps around it."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        if is_full(error) or isinstance(error, PartLost):
            return error
        error = inner
    return error


def _one_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [""])[-1]
    return line if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {line}"
