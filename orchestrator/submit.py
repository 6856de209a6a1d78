"""From a plan to a finished run: the run directory, the engine, decisions about failures."""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from orchestrator import batch, report, supervise
from orchestrator.attempts import Attempts
from orchestrator.context import JobContext
from orchestrator.errors import BackendUnavailable, OrchestratorError, UsageError
from orchestrator.files import DISK_WAIT_S, is_full
from orchestrator.heartbeat import Beat
from orchestrator.plan import RunPlan, find_job
from orchestrator.run import Run, RunStatus, TerminationReason
from orchestrator.store import RunDir
from orchestrator.tracking.mlflow import Mirror
from orchestrator.worker import run_job

# How long workers may take to come to the end of their step after a stop was asked for, how long
# they may then write a checkpoint, and how long the tracker may take after that.
STOP_GRACE_S = 6.0
SAVE_GRACE_S = 60.0
STOPPED_TRACKER_S = 3.0


class Talk(Protocol):
    """Where a run speaks: `orchestrator.cli.console.Console`, or a test's list."""

    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def progress(self, phase: str, done: float, total: float, unit: str, **info: Any) -> None: ...
    def close(self) -> None: ...


def execute(plan: RunPlan, *, console: Talk) -> Run:
    """Run `plan` to its end, workers on Ray. Ctrl-C and SIGTERM stop it.

    Raises UsageError before anything is written where inputs, outputs or resources are wrong;
    afterwards the run's own status tells what happened.
    """

    def work(at_once: threading.Event) -> None:
        preflight(plan)
        _Driver(plan, _create(plan), console, at_once).drive()

    return _in_child(work, plan, console)


def resume(
    home: str | os.PathLike[str], run_id: str, *, console: Talk, as_in: RunPlan | None = None
) -> Run:
    """Continue a run that failed, was stopped or lost its driver, from its last good checkpoint.

    Args:
        as_in: of a batch job, the plan of the same command given again, with other workers perhaps.
    """
    run_dir = RunDir.open(home, run_id)
    plan = run_dir.plan()
    if as_in is not None:
        plan = batch.continued(plan, as_in)
    elif run_dir.status().status == RunStatus.SUCCEEDED.value:
        raise UsageError(
            f"{run_id}: has succeeded already; expected a failed, stopped or interrupted run. "
            f"Hint: orchestrator report {run_id}"
        )

    def work(at_once: threading.Event) -> None:
        _Driver(plan, RunDir.open(home, run_id), console, at_once).drive(again=True)

    return _in_child(work, plan, console)


def _in_child(work: Callable[[threading.Event], None], plan: RunPlan, console: Talk) -> Run:
    """Drive a run in another process; this one takes the signals and has the last word.

    KeyboardInterrupt where a signal came before there was a run.
    """
    run_dir = RunDir(plan.run_dir)

    def closing(at_once: threading.Event) -> None:
        try:
            work(at_once)
        finally:
            console.close()

    with supervise.interrupts() as signals:
        fate = supervise.supervise(closing, run_dir, signals)
        if fate.error is not None:
            raise fate.error
        how = signal.Signals(-fate.code).name if fate.code < 0 else f"exit code {fate.code}"
        if not (run_dir.path / "plan.json").exists():
            if signals:
                raise KeyboardInterrupt
            raise OrchestratorError(f"{plan.run_id}: the process that makes it ended with {how}.")
        if fate.code:
            lost = None if signals else f"the process that drove it ended with {how}"
            try:
                _settle(run_dir, lost)
            except OSError as error:
                raise OrchestratorError(
                    f"{run_dir.path}: cannot be written: {error.strerror}, so that how the run "
                    f"ended ({lost or 'stopped'}) is not noted there. Hint: orchestrator resume "
                    f"{plan.run_id} once it can"
                ) from error
    return Run(run_dir)


def _settle(run_dir: RunDir, lost: str | None) -> None:
    """The last word on a run whose driver ended without one: it was stopped, or `lost`."""
    with run_dir.lock():
        driver = _Driver(run_dir.plan(), run_dir, _Stderr(), threading.Event())
        status = run_dir.status()
        if not status.terminal:
            reason = TerminationReason.DRIVER_LOST if lost else TerminationReason.STOP_REQUESTED
            message = lost or "stopped without waiting for its workers"
            run_dir.attempt = status.attempts
            if any(attempt.ended is None for attempt in run_dir.attempts()[-1:]):
                driver.end_attempt(status.attempts, reason, message)
            driver.set_status(reason.status, reason, message, ended_at=time.time())
        driver.console.warn(
            f"MLflow was not told how the run ended. Hint: orchestrator sync {run_dir.run_id}"
        )
        report.build(run_dir)


class _Stderr:
    """Talk of the process that takes the signals, beside that of the one that drives the run."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def progress(self, *_: Any, **__: Any) -> None: ...
    def close(self) -> None: ...


def submit_remote(plan: RunPlan, address: str) -> Run:
    """Send `plan` to the Ray cluster whose dashboard is at `address`; returns when accepted."""
    from orchestrator.engine import jobs

    run_dir = RunDir(plan.run_dir)
    if run_dir.path.exists():
        raise UsageError(f"{plan.run_id}: a run of this id is there already. Hint: --run-id OTHER")
    run_dir.write_submission(address, plan.run_id)
    try:
        jobs.submit(plan, address)
    except BaseException:
        # Nothing half-written: the cluster never took it.
        (run_dir.path / "submission.json").unlink(missing_ok=True)
        run_dir.path.rmdir()
        raise
    return Run(run_dir)


def preflight(plan: RunPlan) -> None:
    """The job's own check of its inputs, before anything is started or written."""
    module = find_job(plan.job_module)
    check: Callable[[Any], None] | None = getattr(module, "check", None)
    if check is None:
        return
    try:
        check(module.Config.model_validate(plan.config))
    except OrchestratorError:
        raise
    except (ValueError, OSError, LookupError, RuntimeError, TypeError) as error:
        raise UsageError(str(error) or repr(error)) from error


def run_here(plan: RunPlan, *, console: Talk) -> Run:
    """The same job with one worker in this process, without Ray: `python -m jobs.X spec.yaml`."""
    preflight(plan)
    run_dir = _create(plan)
    _Driver(plan, run_dir, console).drive(in_process=True)
    return Run(run_dir)


def _create(plan: RunPlan) -> RunDir:
    """Check the outputs and make the run directory: both or neither."""
    if plan.engine != "batch":
        return RunDir.create(plan)
    return batch.create(plan)


class _Driver:
    """One process's attempt to bring a run to its end. The run directory holds all its state."""

    def __init__(
        self,
        plan: RunPlan,
        run_dir: RunDir,
        console: Talk,
        at_once: threading.Event | None = None,
    ) -> None:
        self.plan, self.run_dir, self.console = plan, run_dir, console
        run_dir.disk_wait_s, run_dir.say = DISK_WAIT_S, console.warn
        self.interrupts: list[int] = []
        self.token = secrets.token_hex(16)
        self._offset = 0
        self._stop_seen: float | None = None
        self._abandoned = False
        self._at_once = at_once or threading.Event()

    def drive(self, in_process: bool = False, again: bool = False) -> None:
        """Own the run and bring it to its end; `again`: continue it."""
        with self.run_dir.lock():
            if again:
                preflight(self.plan)
                self.run_dir.clear_stop()
            self._drive(in_process)

    def _drive(self, in_process: bool) -> None:
        plan, run_dir = self.plan, self.run_dir
        run_dir.attempt = run_dir.status().attempts
        self._offset = max((offset for offset, _ in run_dir.events()), default=0)
        self.set_status(RunStatus.PENDING, None, None, started_at=time.time(), ended_at=None)
        mirror = Mirror(plan, run_dir, self.console.warn)
        mirror.start()
        reason, message = TerminationReason.BACKEND_UNAVAILABLE, "did not start"
        try:
            if plan.engine == "batch":
                reason, message = batch.run(self, in_process)
            elif in_process:
                reason, message = self._train_here()
            else:
                reason, message = self._train()
        except BackendUnavailable as error:
            reason, message = TerminationReason.BACKEND_UNAVAILABLE, str(error)
        except KeyboardInterrupt:
            reason, message = TerminationReason.STOP_REQUESTED, "interrupted"
        except UsageError as error:
            # Known only once the cluster answered; the run exists, so its status says it too.
            self._end(mirror, TerminationReason.JOB_ERROR, str(error))
            raise
        except OrchestratorError as error:
            if not is_full(error):
                raise
            reason, message = TerminationReason.DISK_FULL, str(error)
        self._end(mirror, reason, message)

    # -- training -------------------------------------------------------------------------------

    def _train(self) -> tuple[TerminationReason, str]:
        from orchestrator.engine import cluster

        with self.cluster():
            return Attempts(self, cluster).run()

    def _train_here(self) -> tuple[TerminationReason, str]:
        number = self.begin_attempt(1)
        context = JobContext.open(
            self.plan, self.run_dir, attempt=number, rank=0, world_size=1, local_rank=0
        )
        ended = threading.Event()
        pump = threading.Thread(target=self._pump_until, args=(ended,), daemon=True)
        pump.start()
        try:
            with self.signals():
                run_job(self.plan, context)
        except Exception as error:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
            reason = TerminationReason.JOB_ERROR
            if isinstance(error, FloatingPointError):  # as on Ray
                reason = TerminationReason.NON_FINITE_LOSS
            self.end_attempt(number, reason, message)
            return reason, message
        finally:
            ended.set()
            pump.join()
            self.pump()
            context.close()
        stopped = self.stopped_early()
        reason = TerminationReason.STOP_REQUESTED if stopped else TerminationReason.COMPLETED
        self.end_attempt(number, reason, "")
        return reason, ""

    def _pump_until(self, ended: threading.Event) -> None:
        while not ended.wait(0.2):
            self.pump()

    def stopped_early(self) -> bool:
        """Whether a rank saw the request to stop; one that came too late changes nothing."""
        return self._abandoned or any(
            event["kind"] == "stop_seen" and event["attempt"] == self.run_dir.attempt
            for _, event in self.run_dir.events()
        )

    # -- attempts, signals, status --------------------------------------------------------------

    def begin_attempt(self, workers: int) -> int:
        number = self.run_dir.status().attempts + 1
        self.run_dir.attempt = number
        self.run_dir.attempt_dir(number)
        self.run_dir.append_event("attempt", number=number, workers=workers)
        self.set_status(RunStatus.RUNNING, None, None, attempts=number)
        return number

    def end_attempt(self, number: int, reason: TerminationReason, message: str) -> None:
        steps = [e["step"] for _, e in self.run_dir.events() if e["kind"] == "metrics"]
        self.run_dir.append_event(
            "attempt_end",
            number=number,
            reason=reason.value,
            message=message,
            step=max(steps, default=None),
        )

    def set_status(
        self, status: RunStatus, reason: TerminationReason | None, message: str | None, **more: Any
    ) -> None:
        self.run_dir.write_status(
            status=status.value, reason=reason.value if reason else None, message=message, **more
        )
        self.run_dir.append_event(
            "status",
            status=status.value,
            reason=reason.value if reason else None,
            message=message,
        )

    def _end(self, mirror: Mirror, reason: TerminationReason, message: str) -> None:
        self.pump()
        status = reason.status
        try:
            self.set_status(status, reason, message or None, ended_at=time.time())
            limit_s = STOPPED_TRACKER_S if status is RunStatus.STOPPED else None
            pending = mirror.finish(status, limit_s)
            if pending:
                self.console.warn(
                    f"tracking: {pending} metric points are not in MLflow yet; they are in "
                    f"{self.run_dir.path}. Hint: orchestrator sync {self.plan.run_id}"
                )
            report.build(self.run_dir)
        except (OSError, OrchestratorError) as error:
            if not is_full(error):
                raise
            self.console.warn(
                f"{self.run_dir.path}: the disk is full, so that the run ended as {status} "
                f"({message or reason}) could not be noted. Hint: free some space, then "
                f"orchestrator resume {self.plan.run_id}"
            )

    def watch(self, beats: Mapping[int, Beat]) -> bool:
        """Called while workers run; False when they are not to be waited for after a stop: they
        have nothing to save yet, had their time, or somebody insists.
        """
        self.pump()
        if self.stop_wanted():
            now = time.monotonic()
            self._stop_seen = self._stop_seen or now
            saving = any(beat.phase == "checkpoint" for beat in beats.values())
            grace_s = STOP_GRACE_S + (SAVE_GRACE_S if saving else 0.0)
            idle = all(beat.step is None for beat in beats.values())
            late = now - self._stop_seen > grace_s
            self._abandoned = idle or late or self._at_once.is_set()
        return not self._abandoned

    def stop_wanted(self) -> bool:
        return bool(self.interrupts) or self.run_dir.stop_requested()

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stop_wanted():
            time.sleep(0.1)

    @contextmanager
    def cluster(self) -> Iterator[Mapping[str, float]]:
        """Ray, big enough for the run; from here on signals are ours, not Ray's."""
        from orchestrator.engine import cluster

        resources = self.plan.spec.resources
        workers, cpus = resources.min_workers, resources.cpus_per_worker
        where = f"Ray at {self.plan.address}" if self.plan.address else "an embedded Ray"
        upto = f" to {resources.max_workers}" if resources.elastic else ""
        self.console.say(f"starting {workers}{upto} workers on {where}")
        batch = self.plan.engine == "batch"

        def load() -> None:
            """Import what is needed once the cluster is there."""
            importlib.import_module(f"orchestrator.engine.{'batch' if batch else 'training'}")

        with (
            cluster.connect(self.plan.address, cpus, batch=batch, meanwhile=load) as total,
            self.signals(),
        ):
            # A run that goes on may wait for a node that it had.
            if self.plan.address is None or self.run_dir.status().attempts == 0:
                cluster.check_resources(total, workers, cpus)
            yield total

    @contextmanager
    def signals(self) -> Iterator[Mapping[str, float]]:
        """Ctrl-C and SIGTERM ask for a stop; a second one does not wait for the workers."""

        def ask(number: int, frame: object) -> None:
            self.interrupts.append(number)
            self.run_dir.request_stop()
            if len(self.interrupts) > 1:
                raise KeyboardInterrupt
            self.console.say("stopping: the workers save their state (once more: at once)")

        if threading.current_thread() is not threading.main_thread():
            yield {}
            return
        previous = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield {}
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def pump(self) -> None:
        """Show what the workers wrote since the last look."""
        for offset, event in self.run_dir.events(self._offset):
            self._offset = offset
            if event["kind"] == "progress":
                self.console.progress(
                    event["phase"], event["done"], event["total"], event["unit"], **event["info"]
                )
            elif event["kind"] == "warning":
                self.console.warn(event["text"])
            elif event["kind"] == "checkpoint_skipped":
                self.console.warn(f"checkpoint {event['path']} is passed over: {event['why']}")
