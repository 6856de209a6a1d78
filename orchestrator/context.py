"""JobContext: all that a job's code sees of the orchestrator.

A job is `run(config, ctx)`. The same context serves a worker on a cluster and one process without
Ray (`orchestrator.submit.run_here`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import IO, Any

from orchestrator import checkpoint as checkpoints
from orchestrator.checkpoint import Checkpoint
from orchestrator.errors import NonFiniteLoss, OrchestratorError, did_you_mean
from orchestrator.files import DISK_WAIT_S, wait_for_space
from orchestrator.heartbeat import WAITING_FOR_SPACE, Heartbeat
from orchestrator.plan import RunPlan
from orchestrator.remote import AnyPath
from orchestrator.saver import Saver
from orchestrator.store import RunDir, storage_of

__all__ = ["Artifacts", "Checkpoints", "JobContext", "Metrics"]

_PROGRESS_EVERY_S = 0.2


class Metrics:
    """Numbers over steps. Rank 0 writes them to the run directory; other ranks only check them.

    Each call is a sign of life: after the first step, silence for `retry.hang_timeout_s` is a hang.
    """

    def __init__(
        self, run_dir: RunDir, rank: int, move: Callable[..., None] = lambda **_: None
    ) -> None:
        self._run_dir = run_dir
        self._rank = rank
        self._move = move
        self._next_progress = 0.0
        self.last_step: int | None = None
        self.last_epoch: int | None = None
        self.last_values: dict[str, float] = {}
        self._of_step: dict[str, float] = {}

    def log(self, values: Mapping[str, Any], *, step: int, epoch: int | None = None) -> None:
        """Record `values` at `step`; TypeError names a key whose value is no number.

        Raises NonFiniteLoss, which ends the run, where a value whose key ends in `loss` is NaN or
        infinite: what follows would be worth nothing.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"metrics.log: step is {step!r}; expected a whole number from 0 on.")
        numbers = {key: _number(key, value) for key, value in values.items()}
        self._of_step = self.of(step) | numbers
        self.last_step = step
        self.last_epoch = epoch if epoch is not None else self.last_epoch
        self.last_values.update(numbers)
        if self._rank == 0:
            self._run_dir.append_event("metrics", step=step, epoch=epoch, values=numbers)
        self._move(step=step)
        for key, number in numbers.items():
            if key.endswith("loss") and not math.isfinite(number):
                raise NonFiniteLoss(
                    f"metrics.log: {key} is {number} at step {step}; expected a finite number. "
                    "Hint: `orchestrator resume` continues from the last checkpoint, for example "
                    "after the job was changed to clip gradients"
                )

    def of(self, step: int) -> dict[str, float]:
        """What was logged at `step`, where that is the last one that was logged."""
        return dict(self._of_step) if step == self.last_step else {}

    def progress(
        self, done: int, total: int, unit: str, *, phase: str = "train", **info: float
    ) -> None:
        """Say how far the job is; at most five times a second reach the progress bar.

        `info` are numbers shown beside it, such as `loss=0.31`.
        """
        self._move(phase=phase)
        now = time.monotonic()
        if self._rank == 0 and (now >= self._next_progress or done == total):
            self._next_progress = now + _PROGRESS_EVERY_S
            self._run_dir.append_event(
                "progress", phase=phase, done=done, total=total, unit=unit, info=info
            )


class Checkpoints:
    """Saved states of the run. Rank 0 writes; every rank reads the same."""

    def __init__(
        self,
        plan: RunPlan,
        run_dir: RunDir,
        rank: int,
        metrics: Metrics,
        move: Callable[..., None] = lambda **_: None,
    ) -> None:
        self._spec = plan.spec.checkpoint
        self._run_dir = run_dir
        self._rank = rank
        self._metrics = metrics
        self._last_save_s = time.monotonic()
        self._best_missed = False
        self._saver = Saver(
            run_dir.checkpoints_dir,
            keep=self._spec.keep,
            keep_every=self._spec.keep_every,
            best=self._spec.best_metric(),
            before=run_dir.sync_events,  # what led here must not be newer than the checkpoint
            written=self._announce,
            say=self._say,
            give_up=run_dir.stop_requested,
            waiting=lambda: move(phase="checkpoint"),
        )

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, verified, or None. Damaged ones are skipped and told.

        Waits for the one that this rank is writing.
        """
        self.wait()
        return wait_for_space(
            lambda: checkpoints.latest(self._run_dir.checkpoints_dir, self._skipped),
            say=self._say,
            give_up=self._run_dir.stop_requested,
        )

    def _skipped(self, path: AnyPath, why: str) -> None:
        print(f"checkpoint skipped: {why}", file=sys.stderr, flush=True)  # noqa: T201  # rank's log
        if self._rank == 0:
            self._run_dir.append_event("checkpoint_skipped", path=str(path), why=why)

    def due(self, step: int, epoch_end: bool = False, *, epoch: int | None = None) -> bool:
        """Whether the spec wants a checkpoint after `step` steps.

        `epoch_end` says that an epoch has just ended, `epoch` how many have; left out, it is one
        more than the last `epoch` that was logged. By minutes only rank 0's clock counts, which
        the other ranks do not know: a job that talks between ranks before it saves lets them agree
        first, as with `should_stop`.
        """
        if epoch_end:
            self._look_for_best()
        if self._due_by_epoch(epoch_end, epoch):
            return True
        every, minutes = self._spec.every_steps, self._spec.every_minutes
        if every is not None and step > 0 and step % every == 0:
            return True
        if minutes is None or self._rank != 0:
            return False
        return time.monotonic() - self._last_save_s >= 60 * minutes

    def _look_for_best(self) -> None:
        """Say, once, that `checkpoint.best` names what nobody logs: nothing would be best."""
        best, known = self._spec.best_metric(), self._metrics.last_values
        if self._rank != 0 or best is None or best[0] in known or self._best_missed:
            return
        self._best_missed = True
        close = did_you_mean(best[0], known)
        hint = f" Hint: did you mean '{close}'?" if close else ""
        self._say(
            f"checkpoint.best: {best[0]} was not logged by the end of an epoch, so that no "
            f"checkpoint is kept as the best one; expected one of {', '.join(sorted(known))}.{hint}"
        )

    def _due_by_epoch(self, epoch_end: bool, epoch: int | None) -> bool:
        every = self._spec.every_epochs
        if every is None or not epoch_end:
            return False
        if every == 1:
            return True
        if epoch is None:
            logged = self._metrics.last_epoch
            if logged is None:
                raise ValueError(
                    f"checkpoint.due: the spec wants one every {every} epochs and no epoch was "
                    "given or logged; expected due(step, epoch_end=True, epoch=N)."
                )
            epoch = logged + 1
        return epoch % every == 0

    def save(
        self,
        state: Any,
        *,
        step: int,
        epoch: int | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> AnyPath | None:
        """Take a copy of `state` and write it in the background; None on ranks other than 0.

        The copy takes as much memory as the state. Gives the path it will have once it is whole;
        what `keep`, `keep_every` and `best` do not hold goes then. Without `metrics` what was
        logged at the same `step` stands for the state: not what earlier weights reached, since
        the best checkpoint is chosen by it. Raises CheckpointError where the save before this one
        could not be written.
        """
        if self._rank != 0:
            return None
        self._last_save_s = time.monotonic()
        values = (
            self._metrics.of(step)
            if metrics is None
            else {key: _number(key, value) for key, value in metrics.items()}
        )
        return self._saver.save(
            state, step=step, epoch=epoch, metrics=values, attempt=self._run_dir.attempt
        )

    def wait(self) -> None:
        """Return when everything saved is durable; raises CheckpointError where it is not."""
        self._saver.wait()

    def _announce(self, path: AnyPath) -> None:
        manifest = checkpoints.read_manifest(path)
        shown = path.relative_to(self._run_dir.path) if isinstance(path, Path) else path
        self._run_dir.append_event(
            "checkpoint",
            step=manifest["step"],
            path=str(shown),
            sha256=manifest["weights_sha256"],
        )

    def _say(self, text: str) -> None:
        """A line for the rank's log, and for the terminal unless that disk is full as well."""
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)  # noqa: T201
        with contextlib.suppress(OrchestratorError):
            RunDir(self._run_dir.path, attempt=self._run_dir.attempt).append_event(
                "warning", text=text
            )


class Artifacts:
    """Finished outputs: pictures, tables, models."""

    def __init__(self, run_dir: RunDir, rank: int) -> None:
        self._run_dir = run_dir
        self._rank = rank

    def path(self, name: str) -> Path:
        """Where to write the artifact `name`; its directory is made."""
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not parts.name:
            raise ValueError(f"artifacts.path: {name!r}; expected a relative path without '..'.")
        path = self._run_dir.artifacts_dir / parts
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, path: str | os.PathLike[str]) -> None:
        """Record a file that was written; FileNotFoundError when it was not."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"artifacts.add: {path}: there is no such file; write it first."
            )
        if self._rank == 0:
            base = self._run_dir.path
            shown = path.relative_to(base) if path.is_relative_to(base) else path
            self._run_dir.append_event("artifact", path=str(shown))


class JobContext:
    """Who this worker is and what it may use.

    `shards` is the number of parts that every global batch is cut into, the same for all attempts
    of a run with `determinism: exact`; `world_size` may differ between attempts.
    """

    def __init__(
        self,
        plan: RunPlan,
        run_dir: RunDir,
        *,
        attempt: int,
        rank: int,
        world_size: int,
        local_rank: int,
    ) -> None:
        run_dir.attempt = attempt
        run_dir.disk_wait_s = DISK_WAIT_S
        run_dir.remote = storage_of(plan)  # plan.json itself may not be seen from this node
        self.plan = plan
        self.run_dir = run_dir
        self.run_id = plan.run_id
        self.attempt = attempt
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank
        self.seed = plan.spec.seed
        self.determinism = plan.spec.determinism
        self.shards = plan.shards or world_size
        self.threads = plan.spec.resources.cpus_per_worker
        self._heartbeat: Heartbeat | None = None
        self.metrics = Metrics(run_dir, rank, self._move)
        self.checkpoint = Checkpoints(plan, run_dir, rank, self.metrics, self._move)
        self.artifacts = Artifacts(run_dir, rank)
        self.stop_seen = False  # what `should_stop` last said; the run's status depends on it
        self._terminated = threading.Event()
        self._leave = f"{run_dir.path}/attempts/{attempt}/leave"  # orchestrator/place.py
        self._stacks: IO[str] | None = None
        self._old_handler: Any = None

    @classmethod
    def open(
        cls,
        plan: RunPlan,
        run_dir: RunDir | str | os.PathLike[str],
        *,
        attempt: int,
        rank: int,
        world_size: int,
        local_rank: int,
    ) -> JobContext:
        """The context of one worker. From now on SIGUSR1 dumps stacks and SIGTERM asks to stop."""
        directory = RunDir(os.fspath(run_dir))
        context = cls(
            plan,
            directory,
            attempt=attempt,
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
        )
        context._listen()
        return context

    @property
    def should_stop(self) -> bool:
        """Whether to save and return: someone ran `orchestrator stop`, SIGTERM came, or the run
        goes on with another number of workers.

        Ranks may see it at different steps; a job that talks between ranks lets them agree first.
        """
        self._move()
        self.stop_seen = (
            self._terminated.is_set()
            or self.run_dir.stop_requested()
            or os.path.exists(self._leave)
        )
        return self.stop_seen

    def _move(self, step: int | None = None, phase: str | None = None) -> None:
        if self._heartbeat is not None:
            self._heartbeat.move(step, phase)

    def _say(self, text: str) -> None:
        """What the run directory says while it waits for a full disk: no silence, but no step."""
        self._move(phase=WAITING_FOR_SPACE)
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    @contextlib.contextmanager
    def long_work(self, phase: str) -> Iterator[None]:
        """Work without a sign of life, such as drawing: no hang, as long as the process lives."""
        if self._heartbeat is None:
            yield
            return
        with self._heartbeat.patient(phase):
            yield

    def record_data(self, **facts: Any) -> None:
        """State on what data the run works (path, count, hash ...); the report shows it."""
        if self.rank == 0:
            self.run_dir.append_event("data", facts=facts)

    def close(self) -> None:
        """Let a checkpoint that is being written become whole; give back signal handlers and files.

        Raises nothing: `checkpoint.wait()` is where a save that failed is told.
        """
        try:
            self.checkpoint.wait()
        except Exception as error:
            self.checkpoint._say(f"the last checkpoint was not written: {error}")
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._stacks is not None:
            faulthandler.unregister(signal.SIGUSR1)
            self._stacks.close()
            self._stacks = None
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None

    def _listen(self) -> None:
        directory = self.run_dir.attempt_dir(self.attempt)
        self._stacks = (directory / f"rank-{self.rank}.stacks").open("a")
        self.run_dir.say = self._say
        self._heartbeat = Heartbeat(directory, self.rank, self._stacks)
        self._heartbeat.start()
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._terminated.set()


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool | str | bytes):
        raise TypeError(f"metrics: {key!r} is {value!r}; expected a number.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metrics: {key!r} is {type(value).__name__}; expected a number."
        ) from error
