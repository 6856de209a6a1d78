"""The reader of events that feeds a tracker: each point once, through every interruption (N4)."""

from __future__ import annotations

from pathlib import Path

from orchestrator.store import RunDir
from orchestrator.tracking.spool import Spool


def write(run: RunDir, steps: range, attempt: int) -> None:
    run.append_event("attempt", number=attempt, workers=2)
    for step in steps:
        values = {"loss": 1 / step, "accuracy": float(step)}
        run.append_event("metrics", step=step, epoch=0, values=values, attempt=attempt)


def send_all(run: RunDir, size: int, stop_after: int | None = None) -> list[tuple[str, int]]:
    """What a tracker would get from a fresh reader that may die before acknowledging."""
    spool, sent = Spool(run), []
    for n, (offset, batch) in enumerate(spool.batches(size)):
        if n == stop_after:
            break
        sent += [(point.key, point.step) for point in batch]
        spool.acknowledge(offset)
    return sent


def test_n4_each_point_once_whatever_interrupts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write(run, range(1, 20), attempt=1)
    sent = send_all(run, size=7, stop_after=2)
    write(run, range(11, 31), attempt=2)  # restarted from step 10
    while new := send_all(run, size=7, stop_after=1):
        sent += new
    assert len(sent) == len(set(sent))
    assert set(sent) == {(key, step) for key in ("loss", "accuracy") for step in range(1, 31)}
    assert Spool(run).pending() == 0


def test_batches_hold_about_their_size(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write(run, range(1, 101), attempt=1)
    sizes = [len(batch) for _, batch in Spool(run).batches(50)]
    assert sum(sizes) == 200
    assert max(sizes) <= 50


def test_facts_survive_the_process(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    Spool(run).remember(run_id="abc", uri="sqlite:///x.db")
    again = Spool(run)
    assert (again.facts["run_id"], again.facts["offset"]) == ("abc", 0)


def test_points_keep_the_time_they_were_logged(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write(run, range(1, 3), attempt=1)
    times = {event["t"] for _, event in run.events() if event["kind"] == "metrics"}
    assert {point.time_ms for _, batch in Spool(run).batches(10) for point in batch} <= times
