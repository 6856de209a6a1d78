"""The simulation of the failure policies against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import simulate
from benchmarks.simulate import Scenario, daly_s, expected_goodput, young_s
from orchestrator.spec import RetrySpec

CALM = Scenario(hardware=0.0, hung=0.0, durable_s=0.0)


def test_without_failures_only_checkpoints_cost():
    out = simulate.simulate(replace(CALM, per_1000_node_days=1e-9, interval_s=99.0, stall_s=1.0))
    assert out.failures == 0
    assert out.goodput == pytest.approx(
        (54 * 86400 - 60) / (54 * 86400) * 0.99, abs=2e-5
    )  # the start of the first attempt is not training


@pytest.mark.parametrize(
    ("rate", "interval_s", "stall_s", "restart_s"),
    [(3.79, 600, 30, 60), (3.79, 3600, 1, 600), (20, 300, 60, 900), (60, 200, 5, 300)],
)
def test_rigid_runs_match_daly(rate, interval_s, stall_s, restart_s):
    scenario = replace(
        CALM,
        per_1000_node_days=rate,
        interval_s=interval_s,
        stall_s=stall_s,
        restart_s=restart_s,
        days=300 / rate,
    )
    out = simulate.mean(scenario, runs=8)
    expected = expected_goodput(
        interval_s, stall_s, restart_s + simulate.DEATH_SEEN_S, scenario.mtbf_s
    )
    assert out.failures > 4000
    assert out.goodput == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize(("stall_s", "mtbf_s"), [(1, 11000), (30, 11000), (300, 11000), (60, 900)])
def test_the_best_interval_is_dalys_and_near_youngs(stall_s, mtbf_s):
    grid = np.geomspace(10, 20000, 20000)
    goodput = [expected_goodput(interval, stall_s, 60, mtbf_s) for interval in grid]
    best = grid[int(np.argmax(goodput))]
    assert daly_s(stall_s, mtbf_s) == pytest.approx(best, rel=0.01)
    assert young_s(stall_s, mtbf_s) == pytest.approx(best, rel=1.5 * math.sqrt(stall_s / mtbf_s))
    assert young_s(2, 100) == 20
    assert daly_s(500, 200) == 200


def test_a_run_that_must_wait_for_its_one_node():
    """Up for a mean day, down for a day, then a start: the renewal theorem gives the goodput."""
    scenario = Scenario(
        per_1000_node_days=1000,
        nodes=1,
        spares=0,
        hardware=1.0,
        hung=0.0,
        interval_s=60,
        stall_s=0.0,
        durable_s=0.0,
        restart_s=0.0,
        days=2000,
    )
    out = simulate.mean(scenario, runs=3)
    assert out.goodput == pytest.approx(0.5, rel=0.05)
    assert out.waiting == pytest.approx(out.failures * 86400, rel=0.001)


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("spares", [0, 3])
@pytest.mark.parametrize("shards", [1, 8, None])
def test_the_parts_add_up_to_the_time(elastic, spares, shards):
    scenario = Scenario(elastic=elastic, spares=spares, shards=shards, hung=0.3, days=20)
    out = simulate.simulate(scenario, seed=1)
    assert out.total_s == pytest.approx(20 * 86400, abs=0.01)
    parts = (out.kept, out.slower, out.redone, out.stalled, out.restarting, out.waiting)
    assert min(parts) >= 0
    assert out.failures > 5
    assert (out.slower > 0) == (elastic and spares == 0) or spares == 3


def test_speed_with_fewer_nodes():
    assert replace(CALM, shards=1).speed(2047) == 0.5  # some worker has two shards
    assert replace(CALM, shards=8).speed(2047) == pytest.approx(8 / 9)
    assert replace(CALM, shards=8).speed(1820) == pytest.approx(8 / 10)
    assert replace(CALM, shards=None).speed(2047) == pytest.approx(2047 / 2048)
    assert replace(CALM, shards=8).speed(2048) == 1


def test_going_on_with_fewer_is_better_than_waiting():
    none = Scenario(spares=0, days=20)
    wait, one, eight, fast = (
        simulate.simulate(replace(none, elastic=elastic, shards=shards)).goodput
        for elastic, shards in ((False, 1), (True, 1), (True, 8), (True, None))
    )
    assert wait < one < eight < fast


def test_the_policy_of_the_product_decides():
    out = simulate.simulate(replace(CALM, retry=RetrySpec(worker_deaths=2)))
    assert out.failures == 3
    assert "3 worker deaths, retry.worker_deaths is 2" in (out.stopped or "")


def test_published_rates():
    assert Scenario().mtbf_s == pytest.approx(54 * 86400 / 419)
    rsc1 = replace(CALM, per_1000_node_days=simulate.RATES["RSC-1 [K]"])
    assert rsc1.mtbf_s / 3600 == pytest.approx(1.8, abs=0.01)
