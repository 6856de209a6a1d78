"""Signs of life, hangs, stacks: notes of real processes, and the detector as a table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.heartbeat import (
    Beat,
    Hang,
    HangDetector,
    kill_here,
    read_beats,
    write_stacks,
)

WORKER = """
import faulthandler, signal, sys, time
from pathlib import Path
from orchestrator.heartbeat import Heartbeat

directory, rank = Path(sys.argv[1]), int(sys.argv[2])
stacks = (directory / f"rank-{rank}.stacks").open("a")
faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
heart = Heartbeat(directory, rank, stacks)
heart.start()
heart.move(step=7, phase="train")

def waits_for_ever():
    time.sleep(600)

if sys.argv[3] == "end":
    heart.close()
else:
    waits_for_ever()
"""


def wait_for(condition, limit_s=20.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def worker(tmp_path: Path):
    """Start rank r in a process of its own."""
    started = []

    def start(rank: int, how: str = "wait") -> subprocess.Popen:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(rank), how]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def test_notes_say_where_a_rank_is_and_that_it_ended(tmp_path: Path, worker) -> None:
    process, ended = worker(0), worker(1, "end")
    ended.wait(20)
    wait_for(lambda: read_beats(tmp_path).get(0, Beat(0, 0, "", 0)).step == 7)
    beats = read_beats(tmp_path)
    assert (beats[0].pid, beats[0].phase, beats[0].ended) == (process.pid, "train", False)
    assert beats[1].ended
    before = beats[0].beats
    wait_for(lambda: read_beats(tmp_path)[0].beats > before + 1)


def test_n7_a_hang_explains_itself(tmp_path: Path, worker) -> None:
    """The stack of a rank that waits, the name of one that is stopped; then both can be ended."""
    waiting, stopped = worker(0), worker(1)
    wait_for(lambda: {r for r, b in read_beats(tmp_path).items() if b.step == 7} == {0, 1})
    os.kill(stopped.pid, signal.SIGSTOP)
    beats = read_beats(tmp_path)
    wait_for(lambda: Path(f"/proc/{stopped.pid}/stat").read_text().split()[2] == "T")
    places = write_stacks(tmp_path, beats)
    assert places[0].endswith("waits_for_ever"), places
    assert "is stopped" in places[1]
    assert "waits_for_ever" in (tmp_path / "rank-0.stacks").read_text()
    assert "no stack can be read" in (tmp_path / "rank-1.stacks").read_text()
    assert kill_here(beats) == []
    assert waiting.wait(10) == stopped.wait(10) == -signal.SIGKILL


def test_only_the_process_that_wrote_a_note_is_killed(tmp_path: Path, worker) -> None:
    process = worker(0)
    wait_for(lambda: 0 in read_beats(tmp_path))
    beat = read_beats(tmp_path)[0]
    other = replace(beat, born=beat.born + 1)  # the pid was given to another process
    assert kill_here({0: other, 1: replace(beat, host="elsewhere", rank=1)}) == [
        replace(beat, host="elsewhere", rank=1)
    ]
    assert process.poll() is None


BASE = Beat(0, 1, "here", 1)


def looks(*rounds: tuple[float, list[Beat]]) -> list[Hang | None]:
    """What a detector with a limit of 10 s says at these times about these notes."""
    now = 0.0
    detector = HangDetector(10.0, clock=lambda: now)
    said = []
    for at, beats in rounds:
        now = at
        said.append(detector.look({beat.rank: beat for beat in beats}))
    return said


def beat(rank: int, beats: int, moves: int, step: int | None, ended: bool = False) -> Beat:
    return replace(BASE, rank=rank, pid=rank + 1, beats=beats, moves=moves, step=step, ended=ended)


def test_a_rank_without_notes_is_silent() -> None:
    said = looks(
        (0, [beat(0, 1, 1, None), beat(1, 1, 1, None)]),
        (9, [beat(0, 9, 1, None), beat(1, 1, 1, None)]),
        (10, [beat(0, 10, 1, None), beat(1, 1, 1, None)]),
    )
    assert said == [None, None, Hang((1,), True, 10.0, None)]


def test_a_pause_shorter_than_the_limit_is_no_hang() -> None:
    said = looks(
        (0, [beat(0, 1, 1, 3)]), (9, [beat(0, 1, 1, 3)]), (11, [beat(0, 2, 2, 4)]),
        (20, [beat(0, 2, 2, 4)]),
    )  # fmt: skip
    assert said == [None] * 4


def test_the_first_step_may_take_its_time_the_second_may_not() -> None:
    said = looks((0, [beat(0, 1, 1, None)]), (60, [beat(0, 60, 1, None)]))
    assert said == [None, None]
    said = looks(
        (0, [beat(0, 1, 1, 5), beat(1, 1, 1, 4)]), (10, [beat(0, 20, 1, 5), beat(1, 20, 1, 4)])
    )
    assert said == [None, Hang((1,), False, 10.0, 5)]  # the one that is behind


def test_ranks_that_returned_are_not_silent() -> None:
    said = looks((0, [beat(0, 1, 1, 5, True)]), (99, [beat(0, 1, 1, 5, True)]))
    assert said == [None, None]


def test_long_work_that_was_announced_is_no_hang() -> None:
    works = replace(beat(0, 1, 5, 9), patient=True)
    said = looks(
        (0, [works]), (99, [replace(works, beats=99)]),
        (108, [beat(0, 108, 6, 9)]), (119, [beat(0, 119, 6, 9)]),
    )  # fmt: skip
    assert said == [None, None, None, Hang((0,), False, 10.0, 9)]
