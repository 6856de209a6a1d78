"""What to do after a failure: pure functions over what was observed, tested as tables.

Each kind of failure has its own budget. The same exception at the same place and step twice in a
row is a bug that a third try will not cure, so it ends the run whatever the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.run import TerminationReason
from orchestrator.spec import ResourceSpec, RetrySpec

__all__ = [
    "Decision",
    "Failure",
    "FailureKind",
    "Resize",
    "Retry",
    "Stop",
    "decide",
    "resize",
    "start_size",
]

FailureKind = Literal["job_error", "not_finite", "worker_died", "hung", "preempted", "backend"]

# How long room has to be there before a run grows into it, which costs a start of its workers.
GROW_AFTER_S = 10.0
# How long a run that has lost workers waits for a spare place before it goes on with fewer.
SPARE_WAIT_S = 15.0
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
_WORDS: dict[FailureKind, tuple[str, TerminationReason]] = {
    "job_error": ("job errors", TerminationReason.JOB_ERROR),
    "not_finite": ("losses that are not finite", TerminationReason.NON_FINITE_LOSS),
    "hung": ("worker deaths", TerminationReason.WORKER_HUNG),
    "worker_died": ("worker deaths", TerminationReason.WORKER_DIED),
    "preempted": ("preemptions", TerminationReason.PREEMPTED),
    "backend": ("worker deaths", TerminationReason.BACKEND_UNAVAILABLE),
}


@dataclass(frozen=True)
class Failure:
    """How an attempt ended. `error` reads `Type: message`, `where` is the place in the code."""

    kind: FailureKind
    error: str
    where: str
    step: int | None
    attempt: int

    @property
    def reason(self) -> TerminationReason:
        """Why the attempt ended, in the words of a run."""
        return _WORDS[self.kind][1]

    def __str__(self) -> str:
        step = f" at step {self.step}" if self.step is not None else ""
        return f"{self.error} in {self.where}{step}"


@dataclass(frozen=True)
class Retry:
    """Start another attempt after `after_s` seconds."""

    after_s: float


@dataclass(frozen=True)
class Stop:
    """End the run; `reason` decides its status."""

    reason: TerminationReason
    message: str


Decision = Retry | Stop


@dataclass(frozen=True)
class Resize:
    """Save, and go on with `workers` workers."""

    workers: int


def resize(size: int, room: int, resources: ResourceSpec, stayed_s: float) -> Resize | None:
    """Whether an attempt of `size` workers is to go on with more while it runs well.

    It is where there has been room for more than `size` for a while, up to the most that the spec
    allows. A run shrinks only when it has lost workers, never to make room.

    Args:
        room: for how many workers the cluster has room, those that run among them.
        stayed_s: how long there has been just that much.
    """
    target = min(room, resources.max_workers)
    if target > size and stayed_s >= GROW_AFTER_S:
        return Resize(target)
    return None


def start_size(room: int, before: int, resources: ResourceSpec, waited_s: float) -> int | None:
    """With how many workers an attempt starts now; None: wait for more room.

    Takes the room there is, but waits SPARE_WAIT_S for as many workers as there were `before`: a
    spare node may come, and what has just ended is given back in a moment.
    """
    size = min(room, resources.max_workers)
    if size < resources.min_workers or (size < before and waited_s < SPARE_WAIT_S):
        return None
    return size


def decide(failures: Sequence[Failure], budgets: RetrySpec) -> Decision:
    """Retry or stop, given all failures of a run so far, oldest first.

    A hang and a failure of the backend (Ray itself) count against the budget of worker deaths. A
    retry is immediate where the attempt came further than the ones before it, and where it is the
    first of its kind; those after it wait 1, 2, 4 ... 30 s. A loss that is not finite would be so
    again, and ends the run. ValueError without a failure.
    """
    if not failures:
        raise ValueError("decide: no failures were given; expected at least one.")
    last = failures[-1]
    noun, reason = _WORDS[last.kind]
    if last.kind == "not_finite":
        return Stop(reason, str(last))
    if len(failures) > 1 and _same_bug(failures[-2], last):
        return Stop(
            TerminationReason.REPEATED_ERROR,
            f"{last}: the same error as in attempt {failures[-2].attempt}, so another attempt "
            "would end the same way",
        )
    same = [failure for failure in failures if _WORDS[failure.kind][0] == noun]
    allowed = {
        "job errors": budgets.errors,
        "worker deaths": budgets.worker_deaths,
        "preemptions": budgets.preemptions,
    }[noun]
    if len(same) > allowed:
        budget = noun.replace(" ", "_").removeprefix("job_")
        return Stop(reason, f"{last} ({len(same)} {noun}, retry.{budget} is {allowed})")
    return Retry(_delay_s(_in_place(failures, noun)))


def _same_bug(one: Failure, other: Failure) -> bool:
    return one.kind == other.kind == "job_error" and _bug(one) == _bug(other)


def _bug(failure: Failure) -> tuple[str, str, int | None]:
    # The message may hold addresses or times; the type does not.
    return failure.error.partition(":")[0], failure.where, failure.step


def _in_place(failures: Sequence[Failure], noun: str) -> int:
    """How many failures of a kind there were since the run last came further than before."""
    reached, new = -1, []
    for failure in failures:
        step = -1 if failure.step is None else failure.step
        new.append(step > reached)
        reached = max(reached, step)
    count = 0
    for failure, further in zip(reversed(failures), reversed(new), strict=True):
        count += _WORDS[failure.kind][0] == noun
        if further:
            break
    return count


def _delay_s(count: int) -> float:
    return min(_FIRST_DELAY_S * 2.0 ** (count - 2), _LONGEST_DELAY_S) if count > 1 else 0.0
