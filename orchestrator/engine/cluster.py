"""A Ray cluster to run on: an embedded one started for the run, or one that is already there."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from orchestrator.errors import BackendUnavailable, UsageError

# No images are in it, and checkpoints neither; what user code of trainings may put there fits.
EMBEDDED_OBJECT_STORE_BYTES = 1 << 30
_ANSWER_S = 1.0
_KNOCK_S = 10.0


def local_resources() -> dict[str, float]:
    """CPUs this process may use (affinity respected); GPUs are not scheduled yet."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": 0.0}


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of every worker: thread counts are read by BLAS when NumPy is imported."""
    path = [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(part for part in path if part)),
        "PYTHONFAULTHANDLER": "1",
    }


@contextmanager
def connect(
    address: str | None,
    threads: int,
    *,
    batch: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[Mapping[str, float]]:
    """Connect to the cluster at `address`, or start an embedded one, and give its total resources.

    The embedded cluster ends with the block; `meanwhile` is done while it starts. Raises
    BackendUnavailable (exit 3) where there is no cluster at `address`.
    """
    # Read by Ray at import: our own logs name the rank, so Ray need not repeat them.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if batch:
        # Ray Data's actors make the core print a long "error" that is none, on the terminal.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # How soon a lost place is seen; a rank that ends is told of by its place.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    # Places are taken on nodes that have them: what is not there at once has been lost meanwhile.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # A secret of this cluster alone; without it Ray writes one to the home directory.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "orchestrator",
    }
    environment = worker_environment(threads)
    if address is None and batch:
        # The workers that Ray starts ahead inherit it; those of a runtime_env come 4 s later.
        os.environ.update(environment)
    else:
        options["runtime_env"] = {"env_vars": environment}
    if address is None:
        # A process per attempt that looks for nodes about to go; this one is here as long as we.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        if not batch:  # workers without our environment
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        options |= {
            "address": "local",
            "num_cpus": int(local_resources()["CPU"]),
            "include_dashboard": False,
            "object_store_memory": EMBEDDED_OBJECT_STORE_BYTES,
        }
    else:
        options["address"] = address
    # The one voice that log_to_driver=False leaves on. What it says of a dead worker, in ten lines,
    # the run says in one.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    beside = threading.Thread(target=meanwhile, name="meanwhile", daemon=True)
    beside.start()
    try:
        _knock(address)
        with _core_unheard() if batch else nullcontext():
            ray.init(**options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, OSError) as error:
        where = "embedded Ray" if address is None else f"Ray at {address}"
        raise BackendUnavailable(
            f"{where}: could not be reached: {_first_line(error)}; expected a running cluster. "
            "Hint: `ray status` tells whether one is up; leave out the address to start one here."
        ) from error
    beside.join()
    try:
        yield dict(ray.cluster_resources())
    finally:
        ray.shutdown()


@contextmanager
def _core_unheard() -> Iterator[None]:
    """Without file descriptor 2, on which Ray's core repeats the log level it was told."""
    sys.stderr.flush()
    terminal = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(nothing)
        os.close(terminal)


def _knock(address: str | None) -> None:
    """OSError where nobody listens at HOST:PORT; Ray would try for a quarter of an hour."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def free_places(cpus: int) -> list[str]:
    """Where workers of `cpus` CPUs each fit now: the id of a node for each, fullest nodes first.

    Counts what nobody holds on nodes that answer; Ray takes a node for alive for many seconds after
    it has gone.
    """
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    rooms = {name: int(free.get(name, {}).get("CPU", 0.0)) // cpus for name in nodes}
    alone = len(nodes) == 1
    return [
        name
        for name, room in sorted(rooms.items(), key=lambda item: (-item[1], item[0]))
        if room and (alone or _answers(nodes[name]))
        for _ in range(room)
    ]


def _answers(node: Mapping[str, Any]) -> bool:
    address = node["NodeManagerAddress"], int(node["NodeManagerPort"])
    try:
        with socket.create_connection(address, timeout=_ANSWER_S):
            return True
    except OSError:
        return False


def check_resources(resources: Mapping[str, float], workers: int, cpus_per_worker: int) -> None:
    """Refuse a request that can never be met; Ray would wait for it without end."""
    need, have = workers * cpus_per_worker, resources.get("CPU", 0.0)
    if need > have:
        fit = max(int(have) // cpus_per_worker, 1)
        raise UsageError(
            f"resources.workers: {workers} workers x {cpus_per_worker} CPUs are {need} CPUs; the "
            f"cluster has {have:g}. Hint: --set resources.workers={fit}"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
