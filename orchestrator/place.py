"""A worker's place on the cluster: it runs one rank of each attempt, in a process of its own.

The engine holds the places (an actor of Ray Train each) for as long as their group lives. So an
attempt that failed is tried again in new processes at the same places, which takes a second where
new places take ten; how a process ended is known by its exit code; and the driver can end a rank on
any machine. Orders and answers are files of the run directory, which all of them see:

    attempts/<first>/order.json       {"attempt": 3, "kill": false}; attempt null: leave the place
    attempts/<n>/leave                the job is to save and return (read by its context)
    attempts/<n>/master.json          where rank 0 of attempt n listens
    attempts/<n>/ended-rank-<r>.json  {"rank": r, "code": -9}: exit code, or minus the signal
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.files import atomic_write_json, wait_for_space
from orchestrator.store import RunDir

__all__ = ["Orders", "Place", "read_ended"]

_LOOK_EVERY_S = 0.05
_LOOK_RARELY_S = 0.2  # while a rank trains there is nothing to hurry for


class Orders:
    """The driver's side: what the places of a group are to do. `first` is its first attempt."""

    def __init__(self, run_dir: RunDir, first: int) -> None:
        self._run_dir = run_dir
        self._path = run_dir.attempt_dir(first) / "order.json"

    def start(self, attempt: int) -> None:
        """Run the ranks of this attempt; those of the one before have ended."""
        self._give(attempt)

    def ask_to_leave(self, attempt: int) -> None:
        """Have the ranks of this attempt save and return, as at a stop."""
        (self._run_dir.attempt_dir(attempt) / "leave").touch()

    def kill(self, attempt: int) -> None:
        """End the ranks of this attempt, if they have not ended."""
        self._give(attempt, kill=True)

    def leave(self) -> None:
        """Give the places back."""
        self._give(None)

    def _give(self, attempt: int | None, kill: bool = False) -> None:
        atomic_write_json(self._path, {"attempt": attempt, "kill": kill})


@dataclass
class Place:
    """One of the `world_size` places of a group. `address` is where rank 0 can be reached."""

    run_dir: RunDir
    first: int
    rank: int
    world_size: int
    local_rank: int
    address: str
    token: str

    def serve(self) -> None:
        """Follow the orders until they say to leave; no rank outlives this call."""
        path = self.run_dir.attempt_dir(self.first) / "order.json"
        running: subprocess.Popen[bytes] | None = None
        begun, waiting = 0, False
        try:
            while True:
                order = _read(path)
                if order is not None and order["attempt"] is None:
                    return
                if order is not None and order["attempt"] > begun:
                    begun, waiting = order["attempt"], True
                    if self.rank == 0:
                        self._meet(begun)
                if order is not None and order["kill"]:
                    waiting = False
                    if running is not None:
                        running.kill()
                if waiting and (master := _read(self._file(begun, "master.json"))) is not None:
                    running, waiting = self._start(begun, master), False
                if running is not None and (code := running.poll()) is not None:
                    self._tell(begun, code)
                    _close(running)
                    running = None
                time.sleep(_LOOK_EVERY_S if running is None else _LOOK_RARELY_S)
        finally:
            if running is not None:
                running.kill()
                running.wait()
                _close(running)

    def _file(self, attempt: int, name: str) -> Path:
        return self.run_dir.attempt_dir(attempt) / name

    def _meet(self, attempt: int) -> None:
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            port = int(probe.getsockname()[1])
        self._write(attempt, "master.json", {"address": self.address, "port": port})

    def _start(self, attempt: int, master: dict[str, Any]) -> subprocess.Popen[bytes]:
        values = {
            "RANK": self.rank,
            "LOCAL_RANK": self.local_rank,
            "WORLD_SIZE": self.world_size,
            "MASTER_ADDR": master["address"],
            "MASTER_PORT": master["port"],
            "TENSORLIB_DIST_TOKEN": self.token,
            # What the engine made importable here, a working_dir for instance.
            "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        }
        command = [sys.executable, "-m", "orchestrator.worker", str(self.run_dir.path)]
        return subprocess.Popen(
            [*command, str(attempt)],
            stdin=subprocess.PIPE,  # its end tells the rank that its place is gone
            env={**os.environ, **{name: str(value) for name, value in values.items()}},
        )

    def _tell(self, attempt: int, code: int) -> None:
        self._write(attempt, f"ended-rank-{self.rank}.json", {"rank": self.rank, "code": code})

    def _write(self, attempt: int, name: str, value: dict[str, Any]) -> None:
        wait_for_space(
            lambda: atomic_write_json(self._file(attempt, name), value),
            say=self.run_dir.say,
            give_up=self.run_dir.stop_requested,
        )


def read_ended(attempt_dir: Path) -> dict[int, int]:
    """The exit code of each rank that has ended, minus the number of the signal that ended it."""
    found = {}
    for path in attempt_dir.glob("ended-rank-*.json"):
        record = _read(path)
        if record is not None:
            found[int(record["rank"])] = int(record["code"])
    return found


def _close(ended: subprocess.Popen[bytes]) -> None:
    assert ended.stdin is not None
    ended.stdin.close()


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(FileNotFoundError):
        value: dict[str, Any] = json.loads(path.read_bytes())
        return value
    return None
