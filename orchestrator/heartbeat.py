"""Signs of life of each rank, and what to make of their absence.

A thread of every worker notes twice a second that the process runs, which step and phase it is in,
and how often it moved on (a step logged, progress told, a request to stop looked for). The driver
reads these notes: a process that notes nothing is stopped or gone, and where no rank moves on after
the first step, the attempt has hung.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

__all__ = ["Beat", "Hang", "HangDetector", "Heartbeat", "kill_here", "read_beats", "write_stacks"]

BEAT_EVERY_S = 0.5
WAITING_FOR_SPACE = "waiting for space"  # the phase of a rank whose disk is full
# Written in place, at one size: a note needs no space on a disk that has become full.
_RECORD_BYTES = 512
_STACKS_WAIT_S = 3.0


@dataclass(frozen=True)
class Beat:
    """The last note of a rank. `born` is the process's start in clock ticks since boot."""

    rank: int
    pid: int
    host: str
    born: int
    beats: int = 0
    moves: int = 0
    step: int | None = None
    phase: str = "start"
    patient: bool = False
    ended: bool = False


class Heartbeat:
    """The worker's side: notes into `attempts/<n>/rank-<r>.alive` from a thread."""

    def __init__(self, directory: Path, rank: int, stacks: IO[str]) -> None:
        self._directory, self._stacks = directory, stacks
        pid = os.getpid()
        self._beat = Beat(rank, pid, socket.gethostname(), _born(pid) or 0)
        self._path = directory / f"rank-{rank}.alive"
        self._over = threading.Event()
        self._moves, self._phase = 0, "start"
        self._step: int | None = None
        self._patient = False
        self._dumped = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; a note is there when this returns."""
        self._path.write_bytes(b" " * _RECORD_BYTES)
        self._note()
        self._thread.start()

    def move(self, step: int | None = None, phase: str | None = None) -> None:
        """The rank moved on; costs two assignments."""
        self._moves += 1
        if step is not None:
            self._step = step
        if phase is not None:
            self._phase = phase

    @contextlib.contextmanager
    def patient(self, phase: str) -> Iterator[None]:
        """Until the block ends, moving on is not expected of the rank."""
        self.move(phase=phase)
        self._patient = True
        try:
            yield
        finally:
            self._patient = False
            self.move()

    def close(self) -> None:
        """The rank has ended in an orderly way, which is no silence."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(BEAT_EVERY_S):
            self._note()
            if not self._dumped and (self._directory / "dump").exists():
                self._dumped = True
                faulthandler.dump_traceback(self._stacks, all_threads=True)
        self._beat = replace(self._beat, ended=True)
        self._note()

    def _note(self) -> None:
        self._beat = replace(
            self._beat,
            beats=self._beat.beats + 1,
            moves=self._moves,
            step=self._step,
            phase=self._phase[:40],
            patient=self._patient,
        )
        record = json.dumps(asdict(self._beat)).encode().ljust(_RECORD_BYTES)
        with contextlib.suppress(OSError):
            # Opened each time: other nodes see what a shared file system has been told by `close`.
            descriptor = os.open(self._path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, record, 0)
            finally:
                os.close(descriptor)


def read_beats(directory: Path) -> dict[int, Beat]:
    """The last note of each rank of an attempt."""
    found = {}
    for path in directory.glob("rank-*.alive"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            beat = Beat(**json.loads(path.read_bytes()))
            found[beat.rank] = beat
    return found


@dataclass(frozen=True)
class Hang:
    """Ranks that hold an attempt up: `silent` ones noted nothing, else no rank moved on."""

    ranks: tuple[int, ...]
    silent: bool
    after_s: float
    step: int | None


class HangDetector:
    """Told of all notes again and again; says when there is a hang. Pure but for its clock."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._beats: dict[int, Beat] = {}
        self._beat_at: dict[int, float] = {}
        self._moved_at = clock()

    def look(self, beats: Mapping[int, Beat]) -> Hang | None:
        """A hang, or None. Ranks that ended in an orderly way are left out of it.

        What counts is when this detector saw a change, so clocks of other machines do not matter.
        """
        now = self._clock()
        for rank, beat in beats.items():
            old = self._beats.get(rank)
            if old is None or (old.beats, old.pid) != (beat.beats, beat.pid):
                self._beat_at[rank] = now
            if old is None or beat.patient or (old.moves, old.ended) != (beat.moves, beat.ended):
                self._moved_at = now
        self._beats = dict(beats)
        living = {rank: beat for rank, beat in beats.items() if not beat.ended}
        steps = [beat.step for beat in living.values() if beat.step is not None]
        last = max(steps, default=None)
        silent = [r for r in sorted(living) if now - self._beat_at[r] >= self._timeout_s]
        if silent:
            return Hang(tuple(silent), True, self._timeout_s, last)
        # The first step may compile for a minute; silence counts from its end on.
        if steps and now - self._moved_at >= self._timeout_s:
            behind = min(steps)
            ranks = tuple(r for r in sorted(living) if living[r].step in (None, behind))
            return Hang(ranks, False, self._timeout_s, last)
        return None


def write_stacks(directory: Path, beats: Mapping[int, Beat]) -> dict[int, str]:
    """Have every rank write its stacks to `rank-<r>.stacks`; gives where each of them stands.

    A process that is stopped cannot: it is named as stopped, in the file and here.
    """
    (directory / "dump").touch()  # read by the ranks of other machines
    sizes, places = {}, {}
    for rank, beat in beats.items():
        path = directory / f"rank-{rank}.stacks"
        state = _state(beat)
        if beat.ended:
            places[rank] = "has returned"
        elif state in ("T", "t"):
            places[rank] = f"is stopped (pid {beat.pid}, SIGSTOP)"
        elif state == "gone":
            places[rank] = f"is gone (pid {beat.pid})"
        else:
            sizes[rank] = path.stat().st_size if path.exists() else 0
            if state is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(beat.pid, signal.SIGUSR1)
            continue
        with contextlib.suppress(OSError), path.open("a") as file:
            file.write(f"rank {rank} {places[rank]}; no stack can be read\n")
    end = time.monotonic() + _STACKS_WAIT_S
    while sizes and time.monotonic() < end:
        time.sleep(0.1)
        for rank, size in list(sizes.items()):
            path = directory / f"rank-{rank}.stacks"
            text = path.read_bytes()[size:].decode(errors="replace") if path.exists() else ""
            if place := _innermost(text):
                places[rank] = f"is in {place}"
                del sizes[rank]
    places |= {rank: f"does not answer (pid {beats[rank].pid})" for rank in sizes}
    return places


def kill_here(beats: Mapping[int, Beat]) -> list[Beat]:
    """SIGKILL the ranks that run on this machine; gives those that run elsewhere."""
    elsewhere = []
    for beat in beats.values():
        if beat.ended:
            continue
        state = _state(beat)
        if state is None:
            elsewhere.append(beat)
        elif state != "gone":
            with contextlib.suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGKILL)
    return elsewhere


def _state(beat: Beat) -> str | None:
    """R, S, T ... of the process, "gone" where it has ended, None where it runs elsewhere."""
    if beat.host != socket.gethostname() or sys.platform != "linux":
        return None
    try:
        text = Path(f"/proc/{beat.pid}/stat").read_text()
    except OSError:
        return "gone"
    return text.rpartition(")")[2].split()[0] if _born(beat.pid) == beat.born else "gone"


def _born(pid: int) -> int | None:
    """Start of a process in clock ticks since boot: with the pid it names one process only."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _innermost(dump: str) -> str | None:
    """The innermost frame of the thread that runs the job, else of the main thread (the last)."""
    threads = dump.split("(most recent call first):")[1:]
    if not threads:
        return None
    job = next((text for text in threads if " in run_job\n" in text), threads[-1])
    frame = re.search(r'File "([^"]*)", line (\d+) in (\S+)', job)
    return f"{Path(frame[1]).name}:{frame[2]} {frame[3]}" if frame else None
