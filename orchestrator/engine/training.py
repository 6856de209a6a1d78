"""One attempt of a data-parallel training on Ray Train V2, without torch.

Ray Train places the workers, watches them and tears them down; restarts are decided one level up
(`orchestrator.policy`), because Ray's own budget cannot tell a bug from a dead machine. Checkpoints
and metrics go to the run directory, not through `ray.train.report`, which is limited to one call
per controller poll and forgets what it has not registered when a worker hangs.
"""

from __future__ import annotations

import os
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.errors import BackendUnavailable
from orchestrator.heartbeat import Beat, Hang, HangDetector, kill_here, read_beats, write_stacks
from orchestrator.plan import RunPlan
from orchestrator.policy import Failure
from orchestrator.store import RunDir
from orchestrator.worker import read_failures, run_worker

_END_S = 30.0  # how long Ray Train may take to notice that workers were killed


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]  # Ray publishes no types
    """Gives each worker torch's environment variables; the job's own library does the rest."""

    token: str = ""

    @property
    def backend_cls(self) -> type[Backend]:
        return _ProcessGroupBackend


class _ProcessGroupBackend(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        nodes = worker_group.execute(_node_id)
        # On one machine nothing needs to listen on an outer interface.
        master = "127.0.0.1" if len(set(nodes)) == 1 else None
        address, port = worker_group.execute_single(0, _rendezvous, master)
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
                        "MASTER_PORT": str(port),
                        "TENSORLIB_DIST_TOKEN": backend_config.token,
                    },
                )
                for rank in range(len(nodes))
            ]
        )


def _node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _rendezvous(address: str | None) -> tuple[str, int]:
    address = address or ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((address, 0))
        return address, int(probe.getsockname()[1])


def _set_environment(values: dict[str, str]) -> None:
    os.environ.update(values)


def _worker(config: dict[str, Any]) -> None:
    """Body of each Ray Train worker."""
    plan = RunPlan.model_validate_json(config["plan"])
    run_worker(
        plan,
        Path(config["run_dir"]),
        attempt=config["attempt"],
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
    )


def run_attempt(
    plan: RunPlan,
    run_dir: RunDir,
    attempt: int,
    workers: int,
    *,
    watch: Callable[[Mapping[int, Beat]], bool],
    token: str,
) -> Failure | None:
    """Train once with `workers` on the connected cluster; None when all workers returned.

    `watch` is called about five times a second in this thread with the last notes of the ranks;
    where it returns False the attempt is abandoned (its workers are killed) and None is returned as
    well: the caller knows why. A rank that is silent for `retry.hang_timeout_s` ends the attempt; the
    stacks of all ranks are in the attempt's directory then.
    """
    resources = plan.spec.resources
    trainer = DataParallelTrainer(
        _worker,
        train_loop_config={
            "plan": plan.model_dump_json(),
            "run_dir": str(run_dir.path),
            "attempt": attempt,
        },
        backend_config=ProcessGroupConfig(token=token),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            resources_per_worker={"CPU": resources.cpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name=f"{plan.run_id}-{attempt}",
            storage_path=str(run_dir.attempt_dir(attempt) / "ray_train"),
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    box: list[BaseException | None] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            box.append(error)
        else:
            box.append(None)

    # In a thread, so that Ray leaves SIGINT alone and this thread can watch.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    directory = run_dir.attempt_dir(attempt)
    detector = HangDetector(plan.spec.retry.hang_timeout_s)
    while thread.is_alive():
        beats = read_beats(directory)
        if not watch(beats):
            return None
        hang = detector.look(beats)
        if hang is not None:
            return _end_hang(hang, directory, attempt, thread)
        thread.join(0.2)
    error = box[0]
    return None if error is None else classify(error, run_dir, attempt, workers)


def _end_hang(hang: Hang, directory: Path, attempt: int, thread: threading.Thread) -> Failure:
    """Write all stacks, kill the ranks, and say who held the attempt up and where it stands."""
    beats = read_beats(directory)
    places = write_stacks(directory, beats)
    elsewhere = kill_here(beats)
    thread.join(_END_S)
    what = "gave no sign of life" if hang.silent else "did not move on"
    ranks = ", ".join(map(str, hang.ranks))
    stand = "; ".join(f"rank {rank} {place}" for rank, place in sorted(places.items()))
    error = (
        f"WorkerHung: rank {ranks} {what} for {hang.after_s:g} s: {stand}. "
        f"Stacks: {directory}/rank-*.stacks"
    )
    if thread.is_alive():  # another attempt would run beside these workers
        left = ", ".join(f"rank {b.rank} (pid {b.pid} on {b.host})" for b in elsewhere) or "some"
        raise BackendUnavailable(
            f"{error}. Its workers did not end in {_END_S:g} s: {left}. Hint: orchestrator resume "
            f"{directory.parent.parent.name}, once they are gone"
        )
    return Failure(
        kind="hung",
        error=error,
        where="worker process",
        step=hang.step,
        attempt=attempt,
    )


def classify(error: BaseException, run_dir: RunDir, attempt: int, world_size: int) -> Failure:
    """Say what ended an attempt: the job's own error, a dead worker, or the engine.

    A survivor's broken connection is an echo of a death, so it never counts as the job's error.
    """
    workers: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    records = read_failures(run_dir.attempt_dir(attempt))
    step = max((record["step"] for record in records if record["step"] is not None), default=None)
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
    if workers or records:
        dead = sorted(rank for rank, cause in workers.items() if _is_death(cause))
        # Ray may tell of the survivor's broken connection first; the dead rank is the silent one.
        told = {int(record["rank"]) for record in records}
        ranks = dead or sorted(set(range(world_size)) - told)
        named = ", ".join(map(str, ranks)) or "unknown"
        return Failure(
            kind="worker_died",
            error=f"WorkerDied: rank {named}: the process was killed or crashed",
            where="worker process",
            step=step,
            attempt=attempt,
        )
    return Failure(
        kind="backend", error=_last_line(error), where="Ray Train", step=None, attempt=attempt
    )


def _is_death(cause: BaseException) -> bool:
    cause = getattr(cause, "health_check_failure", cause)
    return isinstance(cause, ray.exceptions.RayActorError)


def _last_line(error: BaseException) -> str:
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
