"""What the tests of faults share: a run of twelve steps, and proof that nothing of it is left."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

STEPS = 12

SPEC = """\
version: 1
name: twelve
job: tests.integration.dying_job
params:
  model: {name: small_cnn}
  data: {name: digits}
  optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
  epochs: 1
  batch_size: 128
resources: {workers: 2}
checkpoint: {every_steps: 3}
"""


def spec_file(folder: Path) -> Path:
    """A spec of twelve steps in `folder`."""
    path = folder / "twelve.yaml"
    path.write_text(SPEC)
    return path


def changes(**values: Any) -> list[str]:
    """Overrides for the command line: `params__die={5: [1]}` is `--set params.die={5: [1]}`."""
    found = []
    for name, value in values.items():
        found += ["--set", f"{name.replace('__', '.')}={json.dumps(value)}"]
    return found


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """The run's events of a kind, oldest first."""
    try:
        lines = (run_dir / "events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


class Left:
    """Whatever a command starts carries a mark in its environment; here is what still does."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.environment = {"FAULT_TEST_MARK": self.mark}
        self._segments = set(os.listdir("/dev/shm"))

    def processes(self) -> list[str]:
        """The command lines of the processes that live, but not of those that wait for a parent."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                marked = f"FAULT_TEST_MARK={self.mark}".encode() in (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if marked and state not in "ZX":
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def nothing(self) -> bool:
        """Whether no process and no segment of shared memory is left."""
        return not self.processes() and not set(os.listdir("/dev/shm")) - self._segments
