"""A place and its orders: real rank processes of the toy job, no Ray."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.heartbeat import read_beats
from orchestrator.place import Orders, Place, read_ended
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir

WAITING = """
import time
from pydantic import BaseModel
ENGINE = "training"
class Config(BaseModel):
    how: str = "wait"
def run(config, ctx):
    if config.how == "fail":
        raise ValueError("no such label")
    ctx.metrics.log({"loss": 1.0}, step=1)
    while config.how == "wait" and not ctx.should_stop:
        time.sleep(0.01)
"""


def wait_until(condition: Callable[[], object], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def start(
    toyjobs: Path, make_plan: Callable[..., RunPlan]
) -> Iterator[Callable[..., tuple[RunDir, Orders, threading.Thread]]]:
    started = []

    def begin(how: str) -> tuple[RunDir, Orders, threading.Thread]:
        (toyjobs / "waiting.py").write_text(WAITING)
        plan = make_plan(f"params={{how: {how}}}", job="waiting", run_id=how)
        run_dir = RunDir.create(plan)
        orders = Orders(run_dir, 1)
        place = Place(run_dir, 1, 0, 1, 0, "127.0.0.1", "secret")
        thread = threading.Thread(target=place.serve)
        thread.start()
        started.append((orders, thread))
        return run_dir, orders, thread

    yield begin
    for orders, thread in started:
        orders.leave()
        thread.join(20)
        assert not thread.is_alive()


def test_attempts_follow_each_other_in_new_processes(start: Callable[..., tuple]) -> None:
    run_dir, orders, _ = start("wait")

    def attempt(number: int, end: Callable[[int], None], code: int) -> int:
        directory = run_dir.attempt_dir(number)
        orders.start(number)
        wait_until(lambda: (beat := read_beats(directory).get(0)) and beat.step == 1)
        end(number)
        wait_until(lambda: read_ended(directory) == {0: code})
        return read_beats(directory)[0].pid

    killed = attempt(1, orders.kill, -9)
    returned = attempt(2, orders.ask_to_leave, 0)
    assert len({killed, returned, os.getpid()}) == 3


def test_a_rank_that_fails_says_so_and_ends(start: Callable[..., tuple]) -> None:
    run_dir, orders, _ = start("fail")
    orders.start(1)
    directory = run_dir.attempt_dir(1)
    wait_until(lambda: read_ended(directory) == {0: 1})
    assert "no such label" in (directory / "failure-rank-0.json").read_text()
    assert (run_dir.logs_dir / "rank-0.log").read_text().count("Traceback") == 1


def test_a_rank_does_not_outlive_its_place(start: Callable[..., tuple]) -> None:
    run_dir, orders, thread = start("wait")
    orders.start(1)
    directory = run_dir.attempt_dir(1)
    wait_until(lambda: read_beats(directory))
    pid = read_beats(directory)[0].pid
    orders.leave()
    thread.join(20)
    assert not Path(f"/proc/{pid}").exists()
