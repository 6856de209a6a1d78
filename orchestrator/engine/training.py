"""The workers of a data-parallel training on Ray Train V2, without torch.

Ray Train finds a place for each worker, watches these and gives them back; what runs there, and
whether an attempt is tried again, is decided one level up (`orchestrator.place`,
`orchestrator.policy`): Ray's own budget cannot tell a bug from a dead machine, and its restarts
start all processes anew. Checkpoints and metrics go to the run directory, not through
`ray.train.report`, which is limited to one call per controller poll and forgets what it has not
registered when a worker hangs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import PreemptionError

from orchestrator.errors import BackendUnavailable
from orchestrator.heartbeat import Beat, Hang, HangDetector, kill_here, read_beats, write_stacks
from orchestrator.place import Orders, Place, read_ended
from orchestrator.plan import RunPlan
from orchestrator.policy import Failure, FailureKind
from orchestrator.store import RunDir
from orchestrator.worker import read_failures

_END_S = 30.0  # how long workers that were killed may take to be gone
_LEAVE_S = 10.0  # how long the places may take to be given back
_ECHO_S = 10.0  # how long the others may take to notice that a rank has died


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]  # Ray publishes no types
    """Tells each place who it is, in the words of torch's environment variables."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _ProcessGroupBackend


class _ProcessGroupBackend(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        nodes = worker_group.execute(_node_id)
        # On one machine nothing needs to listen on an outer interface.
        alone = len(set(nodes)) == 1
        address = "127.0.0.1" if alone else worker_group.execute_single(0, _address)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _set_environment,
                    {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(nodes[:rank].count(nodes[rank])),
                        "WORLD_SIZE": str(len(nodes)),
                        "MASTER_ADDR": address,
                    },
                )
                for rank in range(len(nodes))
            ]
        )


def _node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _address() -> str:
    return str(ray.util.get_node_ip_address())


def _set_environment(values: dict[str, str]) -> None:
    os.environ.update(values)


def _serve(config: dict[str, Any]) -> None:
    """Body of each Ray Train worker."""
    Place(
        RunDir(Path(config["run_dir"])),
        config["first"],
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        address=os.environ["MASTER_ADDR"],
        token=config["token"],
    ).serve()


class _EmbeddedTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Without the process that frees what a dead controller held: the whole cluster ends with the
    run, and each process takes a second of a core to start.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


class WorkerGroup:
    """Places on the connected cluster, for attempts from `first` on.

    Args:
        nodes: the node of each place; what Ray believes of a node that has just gone is old.
        token: a secret of the run, which its ranks show each other.
    """

    def __init__(
        self, plan: RunPlan, run_dir: RunDir, first: int, nodes: Sequence[str], token: str
    ) -> None:
        self.size = len(nodes)
        self._plan, self._run_dir = plan, run_dir
        self._orders = Orders(run_dir, first)
        self._attempt = first
        self._lost = False
        trainer = (_EmbeddedTrainer if plan.address is None else DataParallelTrainer)(
            _serve,
            train_loop_config={"run_dir": str(run_dir.path), "first": first, "token": token},
            backend_config=ProcessGroupConfig(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.size,
                resources_per_worker={"CPU": plan.spec.resources.cpus_per_worker},
                label_selector=[{"ray.io/node-id": node} for node in nodes],
            ),
            run_config=ray.train.RunConfig(
                name=f"{plan.run_id}-{first}",
                storage_path=str(run_dir.attempt_dir(first) / "ray_train"),
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )
        self._error: BaseException | None = None

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                self._error = error

        # In a thread, so that Ray leaves SIGINT alone and the main thread can watch.
        self._thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether all places are still held."""
        return self._thread.is_alive()

    @property
    def usable(self) -> bool:
        """Whether another attempt can run in the same places."""
        return self.alive and not self._lost

    def close(self, wait: bool = True) -> None:
        """Give the places back. Where a machine is gone, Ray takes longer than this waits."""
        self._orders.leave()
        self._thread.join(_LEAVE_S if wait else 0)

    def ask_to_leave(self) -> None:
        """Have the ranks save and return, as at a stop."""
        self._orders.ask_to_leave(self._attempt)

    def run(self, attempt: int, watch: Callable[[Mapping[int, Beat]], bool]) -> Failure | None:
        """Run the job once in all ranks; None when all of them returned.

        `watch` is called about five times a second in this thread with the last notes of the ranks;
        where it returns False the ranks are killed and None is returned as well: the caller knows
        why. A rank that is silent for `retry.hang_timeout_s` ends the attempt; the stacks of all
        ranks are in the attempt's directory then.
        """
        self._attempt = attempt
        directory = self._run_dir.attempt_dir(attempt)
        detector = HangDetector(self._plan.spec.retry.hang_timeout_s)
        failed_at: float | None = None
        kept: dict[int, int] | None = None  # who had failed before the others were killed
        self._orders.start(attempt)
        while len(ended := read_ended(directory)) < self.size and self.alive:
            beats = read_beats(directory)
            if not watch(beats):
                self._kill(attempt)
                return None
            if failed_at is None and any(ended.values()):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > _ECHO_S:
                if kept is None:  # they do not talk to the dead one, as in a long step
                    kept = {rank: code for rank, code in ended.items() if code}
                    self._orders.kill(attempt)
            elif failed_at is None and (hang := detector.look(beats)) is not None:
                return self._end_hang(hang, directory, attempt)
            self._thread.join(0.1)
        if len(ended) == self.size and not any(ended.values()):
            return None
        dead = kept or {rank: code for rank, code in ended.items() if code}
        records = read_failures(directory)
        told = {int(record["rank"]) for record in records}
        # Ranks that live and lost each other: a link or a node is in doubt, and so are its places.
        self._lost = all(record["echo"] for record in records) and dead.keys() <= told
        return classify(self._error, self._run_dir, attempt, self.size, dead)

    def _kill(self, attempt: int) -> bool:
        """End all ranks of an attempt; whether they are gone now."""
        directory = self._run_dir.attempt_dir(attempt)
        self._orders.kill(attempt)
        kill_here(read_beats(directory))
        end = time.monotonic() + _END_S
        while self.alive and time.monotonic() < end:
            if len(read_ended(directory)) >= len(read_beats(directory)):
                return True
            self._thread.join(0.1)
        return not self.alive

    def _end_hang(self, hang: Hang, directory: Path, attempt: int) -> Failure:
        """Write all stacks, kill the ranks, and say who held the attempt up and where it stands."""
        beats = read_beats(directory)
        places = write_stacks(directory, beats)
        what = "gave no sign of life" if hang.silent else "did not move on"
        ranks = ", ".join(map(str, hang.ranks))
        stand = "; ".join(f"rank {rank} {place}" for rank, place in sorted(places.items()))
        error = (
            f"WorkerHung: rank {ranks} {what} for {hang.after_s:g} s: {stand}. "
            f"Stacks: {directory}/rank-*.stacks"
        )
        if not self._kill(attempt):  # another attempt would run beside these workers
            ended = read_ended(directory)
            left = [
                f"rank {beat.rank} (pid {beat.pid} on {beat.host})"
                for beat in beats.values()
                if beat.rank not in ended
            ]
            raise BackendUnavailable(
                f"{error}. Its workers did not end in {_END_S:g} s: {', '.join(left)}. Hint: "
                f"orchestrator resume {self._plan.run_id}, once they are gone"
            )
        return Failure(
            kind="hung",
            error=error,
            where="worker process",
            step=hang.step,
            attempt=attempt,
        )


def classify(
    error: BaseException | None,
    run_dir: RunDir,
    attempt: int,
    world_size: int,
    dead: Mapping[int, int],
) -> Failure:
    """Say what ended an attempt: the job's own error, a dead worker, a lost machine, or the engine.

    A survivor's broken connection is an echo of a death, so it never counts as the job's error.

    Args:
        error: what Ray Train raised, None while the places are held.
        dead: the ranks that failed first, each with its exit code or minus the signal.
    """
    records = read_failures(run_dir.attempt_dir(attempt))
    step = next((a.last_step for a in run_dir.attempts() if a.number == attempt), None)
    own = [record for record in records if not record["echo"]]
    if own:
        first = own[0]
        return Failure(
            kind="not_finite" if first.get("not_finite") else "job_error",
            error=f"{first['type']}: {first['message']}",
            where=f"{first['where']} (rank {first['rank']})",
            step=first["step"],
            attempt=attempt,
        )
    told = {int(record["rank"]) for record in records}
    silent = {rank: code for rank, code in dead.items() if rank not in told}
    kind: FailureKind
    workers: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    if isinstance(error, PreemptionError):
        kind, text, where = "preempted", f"Preempted: {_last_line(error)}", "cluster"
    elif silent:
        ways = "; ".join(f"rank {rank} {_how(code)}" for rank, code in sorted(silent.items()))
        kind, text, where = "worker_died", f"WorkerDied: {ways}", "worker process"
    elif workers or records:
        lost = sorted(rank for rank, cause in workers.items() if _is_death(cause))
        # Ray may tell of the survivor's broken connection first; the dead rank is the silent one.
        ranks = lost or sorted(set(range(world_size)) - told)
        text = f"WorkerDied: rank {_join(ranks)}: its machine or its Ray process is gone"
        if not ranks:
            text = f"{records[0]['type']}: {records[0]['message']}"
        kind, where = "worker_died", "worker process"
    else:
        assert error is not None
        kind, text, where = "backend", _last_line(error), "Ray Train"
        step = None
    return Failure(kind=kind, error=text, where=where, step=step, attempt=attempt)


def _how(code: int) -> str:
    """An exit code in words, as of `subprocess`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _join(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def _is_death(cause: BaseException) -> bool:
    cause = getattr(cause, "health_check_failure", cause)
    return isinstance(cause, ray.exceptions.RayActorError)


def _last_line(error: BaseException) -> str:
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
