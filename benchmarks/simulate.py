"""Goodput of the failure policies at 16,384 workers, simulated with published rates of faults.

    python -m benchmarks.simulate            # ten seconds; the same numbers every time

Nodes fail as a Poisson process. What happens then is decided by `orchestrator.policy` itself:
`decide` (try again, and when, or stop), `start_size` (wait for a spare or go on with fewer workers)
and `resize` (grow again). Goodput is the work kept, as a share of what all workers would do in the
same time if nothing ever failed and no checkpoint was written.

Sources:
    [L] Llama Team, The Llama 3 Herd of Models, arXiv:2407.21783, section 3.3.4 and table 5: 419
        unexpected interruptions in 54 days on 16,384 GPUs (8 a node), 78 % of them confirmed or
        suspected hardware; more than 90 % effective training time.
    [K] Kokolis et al., Revisiting Reliability in Large-Scale Machine Learning Research Clusters,
        HPCA 2025, arXiv:2410.21680: 6.50 failures per 1000 node-days on RSC-1, 2.34 on RSC-2.
    [Y] Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974.
    [D] Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, FGCS
        22(3), 2006: equations 20 (expected time with exponential failures) and 37 (the optimum).

Assumed, for want of a source: a node is back a day after it was lost; idle spares do not fail.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator import policy
from orchestrator.spec import ResourceSpec, RetrySpec, WorkerRange

DAY_S = 86400.0
WORKERS_PER_NODE, NODES = 8, 2048
# Failures per 1000 node-days.
LLAMA3 = 419 / 54 / NODES * 1000
RATES = {"Llama 3 [L]": LLAMA3, "RSC-1 [K]": 6.50, "RSC-2 [K]": 2.34}
# Measured (docs/training.md): a worker's death is seen by its sockets, another attempt soon begins.
DEATH_SEEN_S = 2.0


@dataclass(frozen=True)
class Scenario:
    """A run and its cluster. Times in seconds.

    Args:
        per_1000_node_days: failures of 1000 nodes in a day.
        interval_s: training between two checkpoints.
        stall_s: what a checkpoint costs the training.
        durable_s: how long after that it can be relied on.
        restart_s: from a retry to the first step: places, processes, loading, connecting.
        elastic: whether the run goes on with fewer workers.
        shards: parts of the global batch per worker of the full run; None: cut as needed (`fast`).
        hardware: share of failures that take the node away for `repair_s`.
        hung: share of failures in which a worker falls silent instead of dying.
    """

    per_1000_node_days: float = LLAMA3
    interval_s: float = 600.0
    stall_s: float = 1.0
    durable_s: float = 60.0
    restart_s: float = 60.0
    nodes: int = NODES
    spares: int = 16
    elastic: bool = False
    shards: int | None = 1
    hardware: float = 0.78
    hung: float = 0.05
    repair_s: float = DAY_S
    days: float = 54.0
    retry: RetrySpec = field(default_factory=lambda: RetrySpec(worker_deaths=10**6))

    @property
    def mtbf_s(self) -> float:
        """Mean time between failures of the whole run."""
        return DAY_S * 1000 / self.per_1000_node_days / self.nodes

    def speed(self, nodes: int) -> float:
        """Of `nodes` nodes, as a share of the full run's. A step lasts as long as the shards of the
        worker that has most of them."""
        if self.shards is None:
            return nodes / self.nodes
        workers = self.nodes * WORKERS_PER_NODE
        return self.shards / math.ceil(self.shards * workers / (nodes * WORKERS_PER_NODE))


@dataclass
class Outcome:
    """Where the time of a run went, in seconds; the parts add up to the whole."""

    kept: float = 0.0
    slower: float = 0.0  # steps with fewer workers
    redone: float = 0.0  # work after the last durable checkpoint
    stalled: float = 0.0  # by checkpoints
    restarting: float = 0.0
    waiting: float = 0.0  # for nodes
    failures: int = 0
    stopped: str | None = None

    @property
    def total_s(self) -> float:
        return self.kept + self.slower + self.redone + self.stalled + self.restarting + self.waiting

    @property
    def goodput(self) -> float:
        return self.kept / self.total_s


class _Cluster:
    """Nodes that are up, and when the others come back."""

    def __init__(self, nodes: int) -> None:
        self.up = nodes
        self._back: list[float] = []

    def lose(self, back_at_s: float) -> None:
        self.up -= 1
        heapq.heappush(self._back, back_at_s)

    def advance(self, now_s: float) -> None:
        while self._back and self._back[0] <= now_s:
            heapq.heappop(self._back)
            self.up += 1

    def next_back_s(self) -> float:
        return self._back[0] if self._back else math.inf


def simulate(scenario: Scenario, seed: int = 0) -> Outcome:
    """One run of `scenario.days`, or to where the policy stops it."""
    random = np.random.default_rng(seed)
    full = scenario.nodes * WORKERS_PER_NODE
    workers = WorkerRange(min=full // 2, max=full) if scenario.elastic else full
    resources = ResourceSpec(workers=workers)
    cluster, out, end_s = (
        _Cluster(scenario.nodes + scenario.spares),
        Outcome(),
        scenario.days * DAY_S,
    )
    failures: list[policy.Failure] = []
    now_s, before = 0.0, full
    while now_s < end_s:
        size, waited_s = _start(cluster, resources, before, now_s, end_s)
        out.waiting += waited_s
        now_s += waited_s
        if size is None:
            break
        before = size
        nodes = size // WORKERS_PER_NODE
        fails_s = random.exponential(DAY_S * 1000 / scenario.per_1000_node_days / nodes)
        start_s = min(scenario.restart_s, fails_s, end_s - now_s)
        out.restarting += start_s
        now_s += start_s
        if start_s == scenario.restart_s:
            left_s = min(fails_s - start_s, end_s - now_s)
            grows = _grows(cluster, resources, size, now_s, left_s)
            left_s = min(left_s, grows)
            # A run that grows, or comes to its end, saves first; one that fails does not.
            _train(scenario, nodes, left_s, out, saved=left_s < fails_s - start_s)
            now_s += left_s
            if left_s == grows:
                cluster.advance(now_s)
                continue
        if now_s >= end_s:
            break
        cluster.advance(now_s)
        out.failures += 1
        if random.random() < scenario.hardware:
            cluster.lose(now_s + scenario.repair_s)
        hung = random.random() < scenario.hung
        failures.append(
            policy.Failure(
                kind="hung" if hung else "worker_died",
                error="WorkerDied: simulated",
                where="worker process",
                step=int(out.kept + out.redone),
                attempt=len(failures) + 1,
            )
        )
        decision = policy.decide(failures, scenario.retry)
        seen_s = scenario.retry.hang_timeout_s if hung else DEATH_SEEN_S
        if isinstance(decision, policy.Stop):
            out.stopped = f"day {now_s / DAY_S:.1f}: {decision.message}"
            break
        pause_s = min(seen_s + decision.after_s, end_s - now_s)
        out.restarting += pause_s
        now_s += pause_s
        cluster.advance(now_s)
    return out


def _start(
    cluster: _Cluster, resources: ResourceSpec, before: int, now_s: float, end_s: float
) -> tuple[int | None, float]:
    """Workers of the next attempt and how long it waited for them; None: the time was up."""
    waited_s = 0.0
    while True:
        cluster.advance(now_s + waited_s)
        size = policy.start_size(cluster.up * WORKERS_PER_NODE, before, resources, waited_s)
        if size is not None:
            return size, waited_s
        if now_s + waited_s >= end_s:
            return None, waited_s
        steps = [cluster.next_back_s() - now_s, end_s - now_s]
        if waited_s < policy.SPARE_WAIT_S:
            steps.append(policy.SPARE_WAIT_S)
        waited_s = min(steps)


def _grows(
    cluster: _Cluster, resources: ResourceSpec, size: int, now_s: float, left_s: float
) -> float:
    """After how long the policy lets the run grow; inf: not in `left_s`."""
    back_s = 0.0 if cluster.up * WORKERS_PER_NODE > size else cluster.next_back_s() - now_s
    at_s = back_s + policy.GROW_AFTER_S
    if at_s >= left_s or not resources.elastic:
        return math.inf
    cluster.advance(now_s + at_s)
    room = cluster.up * WORKERS_PER_NODE
    grown = policy.resize(size, room, resources, stayed_s=policy.GROW_AFTER_S)
    return math.inf if grown is None else at_s


def _train(scenario: Scenario, nodes: int, time_s: float, out: Outcome, *, saved: bool) -> None:
    """Book `time_s` of training that ends with a failure, or with its state saved."""
    cycle_s = scenario.interval_s + scenario.stall_s
    stalls = int((time_s + 1e-9) // cycle_s)
    durable = int(max(time_s - scenario.durable_s, 0.0) // cycle_s)
    trained_s = time_s - stalls * scenario.stall_s
    over_s = max(time_s - stalls * cycle_s - scenario.interval_s, 0.0)  # within a stall
    trained_s -= over_s
    kept_s = trained_s if saved else durable * scenario.interval_s
    speed = scenario.speed(nodes)
    out.stalled += stalls * scenario.stall_s + over_s
    out.kept += kept_s * speed
    out.slower += kept_s * (1 - speed)
    out.redone += trained_s - kept_s


def expected_goodput(interval_s: float, stall_s: float, restart_s: float, mtbf_s: float) -> float:
    """Goodput with exponential failures that may also strike while restarting [D, eq. 20]."""
    per_interval = (
        mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + stall_s) / mtbf_s)
    )
    return interval_s / per_interval


def young_s(stall_s: float, mtbf_s: float) -> float:
    """The interval that loses least, to first order [Y]."""
    return math.sqrt(2 * stall_s * mtbf_s)


def daly_s(stall_s: float, mtbf_s: float) -> float:
    """The same to a higher order, for checkpoints shorter than twice the MTBF [D, eq. 37]."""
    ratio = stall_s / (2 * mtbf_s)
    if ratio >= 1:
        return mtbf_s
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s


def mean(scenario: Scenario, runs: int = 4) -> Outcome:
    """Several runs added up."""
    total = Outcome()
    for seed in range(runs):
        one = simulate(scenario, seed)
        for name in ("kept", "slower", "redone", "stalled", "restarting", "waiting", "failures"):
            setattr(total, name, getattr(total, name) + getattr(one, name))
        total.stopped = total.stopped or one.stopped
    return total


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def main() -> None:
    base = Scenario()
    print(f"{NODES * WORKERS_PER_NODE} workers, {WORKERS_PER_NODE} a node; goodput in %")
    rows = []
    for name, rate in RATES.items():
        scenario = replace(base, per_1000_node_days=rate)
        out = mean(scenario)
        rows.append(
            [name, f"{rate:.2f}", f"{scenario.mtbf_s / 3600:.2f}", percent(out.goodput)]
            + [percent(getattr(out, part) / out.total_s) for part in ("redone", "stalled")]
            + [percent((out.restarting + out.waiting) / out.total_s)]
        )
    head = ["rate", "failures per 1000 node-days", "MTBF h", "goodput", "redone", "stalled", "down"]
    table(head, rows)

    intervals = (60.0, 300.0, 600.0, 1800.0, 3600.0)
    for stall_s in (1.0, 30.0):
        rows = []
        for restart_s in (10.0, 60.0, 600.0):
            row = [f"{restart_s:g}"]
            for interval_s in intervals:
                some = replace(
                    base, interval_s=interval_s, stall_s=stall_s, restart_s=restart_s, durable_s=0.0
                )
                down_s = restart_s + DEATH_SEEN_S + 0.05 * base.retry.hang_timeout_s
                exact = expected_goodput(interval_s, stall_s, down_s, some.mtbf_s)
                row.append(f"{percent(mean(some).goodput)} ({percent(exact)})")
            rows.append(row)
        young, daly = young_s(stall_s, base.mtbf_s), daly_s(stall_s, base.mtbf_s)
        best = f"Young {young:.0f} s, Daly {daly:.0f} s"
        print(
            f"\nA checkpoint stalls {stall_s:g} s; best interval: {best}. In brackets: [D, eq. 20]"
        )
        table(["restart s \\ interval s", *(f"{value:g}" for value in intervals)], rows)

    rows = []
    for spares in (0, 8, 16, 32):
        row = [str(spares)]
        for elastic, shards in ((False, 1), (True, 1), (True, 8), (True, None)):
            row.append(
                percent(mean(replace(base, spares=spares, elastic=elastic, shards=shards)).goodput)
            )
        rows.append(row)
    print("\nSpare nodes, and going on with fewer workers (a lost node is back after a day)")
    table(["spares", "fixed", "elastic, 1 shard a worker", "8 shards", "fast"], rows)

    short = simulate(replace(base, retry=RetrySpec()))
    print(f"\nWith the default budgets the run ends on {short.stopped}")


if __name__ == "__main__":
    main()
