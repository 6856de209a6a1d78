"""A training from its first attempt to its last: room on the cluster, failures, growth.

Decisions are `orchestrator.policy`'s; what a cluster is, `orchestrator.engine`'s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from orchestrator import policy
from orchestrator.errors import BackendUnavailable
from orchestrator.heartbeat import WAITING_FOR_SPACE, Beat
from orchestrator.plan import RunPlan
from orchestrator.run import RunStatus, TerminationReason
from orchestrator.store import RunDir

if TYPE_CHECKING:
    from orchestrator.engine.training import WorkerGroup

# How long a run waits for the nodes it needs, and how often it says what it waits for.
NODE_WAIT_S = 1800.0
WAITING_EVERY_S = 10.0
# How often the cluster is asked whether there is room to grow.
LOOK_EVERY_S = 1.0

Ending = tuple[TerminationReason, str]


class Talk(Protocol):
    """Where a run speaks: `orchestrator.cli.console.Console`, or a test's list."""

    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


class Driver(Protocol):
    """What the attempts need of the process that drives the run (`orchestrator.submit`)."""

    plan: RunPlan
    run_dir: RunDir
    token: str

    @property
    def console(self) -> Talk: ...
    def begin_attempt(self, workers: int) -> int: ...
    def end_attempt(self, number: int, reason: TerminationReason, message: str) -> None: ...
    def set_status(
        self, status: RunStatus, reason: TerminationReason | None, message: str | None
    ) -> None: ...
    def stop_wanted(self) -> bool: ...
    def stopped_early(self) -> bool: ...
    def watch(self, beats: Mapping[int, Beat]) -> bool: ...
    def pump(self) -> None: ...
    def pause(self, seconds: float) -> None: ...


class Cluster(Protocol):
    """`orchestrator.engine.cluster`."""

    def free_places(self, cpus: int) -> list[str]: ...


class Attempts:
    """The attempts of one run on a connected cluster."""

    def __init__(self, driver: Driver, cluster: Cluster) -> None:
        self.driver, self.cluster = driver, cluster
        self.plan, self.run_dir = driver.plan, driver.run_dir
        self._group: WorkerGroup | None = None
        self._size = 0  # of the last attempt
        self._forget_room()

    def run(self) -> Ending:
        """Attempts until one ends well, a stop is asked for, or the policy says stop."""
        failures: list[policy.Failure] = []
        in_order = False
        try:
            while True:
                ending = self._attempt(failures)
                if ending is not None:
                    in_order = True
                    return ending
        finally:
            # Ray is shut down next; its core ends the process where a thread still talks to it.
            self._leave(wait=in_order)

    def _attempt(self, failures: list[policy.Failure]) -> Ending | None:
        """One attempt; how the run ended, or None where it goes on."""
        from orchestrator.engine.training import WorkerGroup

        driver = self.driver
        group, nodes = self._group, None
        if group is None or not group.usable:
            self._leave()
            nodes = self._places()
            if nodes is None:
                return TerminationReason.STOP_REQUESTED, "stopped while it waited for nodes"
            self._size = len(nodes)
        number = driver.begin_attempt(self._size)
        if nodes is not None:
            group = WorkerGroup(self.plan, self.run_dir, number, nodes, driver.token)
        assert group is not None
        self._group = group
        self._forget_room()
        failure = group.run(number, self._watch)
        driver.pump()
        if failure is None and not driver.stopped_early():
            driver.end_attempt(number, TerminationReason.COMPLETED, "")
            return TerminationReason.COMPLETED, ""
        if failure is None and driver.stop_wanted():
            driver.end_attempt(number, TerminationReason.STOP_REQUESTED, "")
            return TerminationReason.STOP_REQUESTED, ""
        if failure is None and self._grow is not None:
            text = f"from {self._size} to {self._grow.workers} workers"
            driver.end_attempt(number, TerminationReason.RESIZED, text)
            driver.console.say(f"attempt {number}: saved; going on {text}")
            driver.set_status(RunStatus.RESIZING, TerminationReason.RESIZED, text)
            self._leave()
            self._size = self._grow.workers  # waited for: the places just left are free in a moment
            return None
        if failure is None:
            failure = policy.Failure(
                "preempted", "Preempted: a worker was asked to end (SIGTERM)", "worker process",
                self._step(number), number,
            )  # fmt: skip
        failures.append(failure)
        driver.end_attempt(number, failure.reason, str(failure))
        if driver.stop_wanted():
            return TerminationReason.STOP_REQUESTED, "stopped while a worker was failing"
        decision = policy.decide(failures, self.plan.spec.retry)
        if isinstance(decision, policy.Stop):
            return decision.reason, decision.message
        driver.console.warn(
            f"attempt {number}: {failure.error}; trying again from the last good checkpoint"
        )
        driver.set_status(RunStatus.RESTARTING, failure.reason, str(failure))
        driver.pause(decision.after_s)
        return None

    def _step(self, number: int) -> int | None:
        return next((a.last_step for a in self.run_dir.attempts() if a.number == number), None)

    def _leave(self, wait: bool = True) -> None:
        if self._group is not None:
            self._group.close(wait)
            self._group = None

    # -- room -----------------------------------------------------------------------------------

    def _places(self) -> list[str] | None:
        """A node for each worker of the next attempt.

        While there is less room than it needs (a node was lost, another run holds it), waits and
        says so; None where a stop was asked for. BackendUnavailable after NODE_WAIT_S.
        """
        resources = self.plan.spec.resources
        least, per = resources.min_workers, resources.cpus_per_worker
        began, next_line = time.monotonic(), 0.0
        while True:
            places = self.cluster.free_places(per)
            waited_s = time.monotonic() - began
            size = policy.start_size(len(places), self._size, resources, waited_s)
            if size is not None:
                return places[:size]
            if self.driver.stop_wanted():
                return None
            wanted = max(least, self._size)
            text = f"the cluster has room for {len(places)} workers x {per} CPUs of {wanted}"
            if waited_s >= NODE_WAIT_S:
                raise BackendUnavailable(
                    f"{text}, and no node came back in {NODE_WAIT_S:g} s. Hint: orchestrator "
                    f"resume {self.plan.run_id} when there are enough"
                )
            if waited_s >= next_line and waited_s > 1:  # what just ended is given back by then
                next_line = waited_s + WAITING_EVERY_S
                self.driver.console.warn(f"{text}: waiting for a node ({waited_s:.0f} s)")
            time.sleep(0.2)

    def _forget_room(self) -> None:
        """Before an attempt: what was seen of the cluster during the last one."""
        self._began = self._next_line = time.monotonic()
        self._grow: policy.Resize | None = None
        self._room_since = self._room_seen = 0.0
        self._room = 0

    def _watch(self, beats: Mapping[int, Beat]) -> bool:
        """Called while workers run; False to abandon them."""
        now = time.monotonic()
        if not beats and now - self._next_line >= WAITING_EVERY_S:
            self._next_line = now
            self.driver.console.warn(
                f"waiting for {self._size} workers to start ({now - self._began:.0f} s)"
            )
        full = [rank for rank, beat in sorted(beats.items()) if beat.phase == WAITING_FOR_SPACE]
        if full and now - self._next_line >= WAITING_EVERY_S:
            self._next_line = now
            ranks = ", ".join(map(str, full))
            self.driver.console.warn(f"rank {ranks}: waiting for space: {self.run_dir.path}")
        resources = self.plan.spec.resources
        growing = resources.elastic and self._size < resources.max_workers and self._grow is None
        trains = any(beat.step is not None for beat in beats.values())
        if growing and trains and now - self._room_seen >= LOOK_EVERY_S:
            self._room_seen = now
            room = self._size + len(self.cluster.free_places(resources.cpus_per_worker))
            if room != self._room:
                self._room, self._room_since = room, now
            stayed_s = now - self._room_since
            self._grow = policy.resize(self._size, room, resources, stayed_s)
            if self._grow is not None:
                self.driver.console.say(
                    f"room for {self._grow.workers} workers: the {self._size} that run save first"
                )
                assert self._group is not None
                self._group.ask_to_leave()
        return self.driver.watch(beats)
