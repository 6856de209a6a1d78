"""Decisions after failures, as a table."""

from __future__ import annotations

import pytest

from orchestrator import policy
from orchestrator.policy import Failure, Resize, Retry, Stop
from orchestrator.run import TerminationReason
from orchestrator.spec import ResourceSpec, RetrySpec, WorkerRange


def error(step: int | None = 1, text: str = "ValueError: x", where: str = "a.py:1", n: int = 1):
    return Failure("job_error", text, where, step, n)


def died(step: int | None = 1, n: int = 1):
    return Failure("worker_died", "rank 1 died: SIGKILL", "worker process", step, n)


def preempted(n: int = 1):
    return Failure("preempted", "node went away", "node", 3, n)


def backend(n: int = 1):
    return Failure("backend", "RaySystemError: x", "Ray Train", None, n)


def hung(n: int = 1):
    return Failure("hung", "WorkerHung: rank 1 did not move on", "worker process", 3, n)


def not_finite(n: int = 1):
    return Failure("not_finite", "NonFiniteLoss: train/loss is nan", "a.py:1", 3, n)


BUDGET = RetrySpec(errors=2, worker_deaths=2, preemptions=3)
NONE = RetrySpec(errors=0, worker_deaths=0, preemptions=0)

# (failures, budgets, seconds until the retry or the reason to stop)
TABLE = [
    ([error()], BUDGET, 0.0),
    ([error()], NONE, "JOB_ERROR"),
    ([error()], RetrySpec(), "JOB_ERROR"),
    ([died()], RetrySpec(), 0.0),
    ([died()], NONE, "WORKER_DIED"),
    ([preempted()], NONE, "PREEMPTED"),
    ([backend()], NONE, "BACKEND_UNAVAILABLE"),
    ([backend()], BUDGET, 0.0),
    # the same error at the same place and step twice is a bug
    ([error(5), error(5)], BUDGET, "REPEATED_ERROR"),
    ([error(5, "ValueError: at 0x1"), error(5, "ValueError: at 0x2")], BUDGET, "REPEATED_ERROR"),
    ([error(None), error(None)], BUDGET, "REPEATED_ERROR"),
    ([error(5), error(6)], BUDGET, 0.0),  # it came further
    ([error(5), error(6), error(6, "KeyError: x")], RetrySpec(errors=9), 1.0),
    ([died(step) for step in range(12)], RetrySpec(worker_deaths=12), 0.0),
    ([died(3), died(3), died(3), died(4)], RetrySpec(worker_deaths=12), 0.0),
    ([died(4), died(3), died(3), died(4)], RetrySpec(worker_deaths=12), 4.0),
    ([died(None), died(None)], BUDGET, 1.0),
    ([error(5), error(5, "KeyError: x")], BUDGET, 1.0),
    ([error(5), error(5, where="b.py:2")], BUDGET, 1.0),
    ([error(5), died(), error(5)], BUDGET, 1.0),  # not in a row
    # a death at the same step is no exception of the job
    ([died(5), died(5)], BUDGET, 1.0),
    ([died(1), died(2), died(3)], BUDGET, "WORKER_DIED"),
    # budgets are separate
    ([died(1), died(2), error(3)], BUDGET, 0.0),
    ([died(1), died(2), preempted()], BUDGET, 0.0),
    ([preempted(), preempted(), preempted()], BUDGET, 2.0),
    ([preempted()] * 4, BUDGET, "PREEMPTED"),
    # but Ray's own failures count as deaths
    ([died(1), backend(), died(2)], BUDGET, "WORKER_DIED"),
    ([died(1), died(2), backend()], BUDGET, "BACKEND_UNAVAILABLE"),
    # and so do hangs
    ([hung()], BUDGET, 0.0),
    ([died(1), hung(), died(2)], BUDGET, "WORKER_DIED"),
    ([died(1), died(2), hung()], BUDGET, "WORKER_HUNG"),
    # what is not finite would be so again
    ([not_finite()], BUDGET, "NON_FINITE_LOSS"),
    # waiting grows and has a limit
    ([preempted()] * 9, RetrySpec(preemptions=10), 30.0),
]


@pytest.mark.parametrize(("failures", "budgets", "expected"), TABLE)
def test_decide(failures, budgets, expected):
    decision = policy.decide(failures, budgets)
    if isinstance(expected, float):
        assert decision == Retry(expected)
    else:
        assert isinstance(decision, Stop)
        assert decision.reason is TerminationReason(expected)
        assert failures[-1].error in decision.message


ELASTIC = ResourceSpec(workers=WorkerRange(min=2, max=4))
FIXED = ResourceSpec(workers=2)


@pytest.mark.parametrize(
    ("size", "room", "resources", "stayed_s", "expected"),
    [
        (2, 4, ELASTIC, 10.0, Resize(4)),
        (2, 9, ELASTIC, 10.0, Resize(4)),  # no more than the spec says
        (2, 3, ELASTIC, 60.0, Resize(3)),
        (2, 4, ELASTIC, 9.9, None),  # it has to stay
        (3, 2, ELASTIC, 60.0, None),  # shrinks only when workers are lost
        (2, 2, ELASTIC, 60.0, None),
        (2, 9, FIXED, 60.0, None),
    ],
)
def test_resize(size, room, resources, stayed_s, expected):
    assert policy.resize(size, room, resources, stayed_s) == expected


@pytest.mark.parametrize(
    ("room", "before", "resources", "waited_s", "expected"),
    [
        (2, 0, FIXED, 0.0, 2),
        (64, 0, FIXED, 0.0, 2),
        (1, 0, FIXED, 1e9, None),
        (3, 0, ELASTIC, 0.0, 3),  # the first attempt takes what there is
        (64, 0, ELASTIC, 0.0, 4),
        (1, 0, ELASTIC, 1e9, None),
        (3, 4, ELASTIC, 14.9, None),  # a lost worker is waited for
        (3, 4, ELASTIC, 15.0, 3),
        (4, 4, ELASTIC, 0.0, 4),
        (4, 2, ELASTIC, 0.0, 4),
    ],
)
def test_start_size(room, before, resources, waited_s, expected):
    assert policy.start_size(room, before, resources, waited_s) == expected


def test_the_message_names_the_budget():
    stop = policy.decide([died(7)], NONE)
    assert isinstance(stop, Stop)
    assert stop.message.endswith("at step 7 (1 worker deaths, retry.worker_deaths is 0)")
    stop = policy.decide([error(7)], NONE)
    assert isinstance(stop, Stop)
    assert "retry.errors is 0" in stop.message


def test_reasons_of_attempts():
    reasons = [f.reason.value for f in (error(), died(), preempted(), backend())]
    assert reasons == ["JOB_ERROR", "WORKER_DIED", "PREEMPTED", "BACKEND_UNAVAILABLE"]


def test_no_failures_is_a_mistake():
    with pytest.raises(ValueError, match="at least one"):
        policy.decide([], BUDGET)
