"""Checkpoints written in the background, one at a time, while training goes on.

`save` copies the state into buffers that are kept for the next one, and returns; a thread hashes,
writes, syncs and renames. What goes wrong there is raised by the next call of this class.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np

from orchestrator import checkpoint
from orchestrator.checkpoint import Snapshot
from orchestrator.errors import CheckpointError
from orchestrator.files import wait_for_space
from orchestrator.remote import AnyPath

__all__ = ["Saver"]

T = TypeVar("T")

_LONG_WAIT_S = 1.0
# The writer gives way to the training's own threads where there are fewer cores than threads: 12
# more make 70 / 1024 of their weight, so that a step beside a write loses less than a tenth to it.
_NICER = 12


class Saver:
    """Writes the checkpoints of one run into `directory`.

    Args:
        keep, keep_every, best: which ones stay, as `checkpoint.prune` says.
        before: called in the background before anything is written, for instance to sync events.
        written: called in the background with the path of each whole checkpoint.
        say: told what people should know: a long wait, a full disk.
        give_up: asked while the disk is full; True ends the wait with the error.
        waiting: called again and again while a call waits for the write before it.
    """

    def __init__(
        self,
        directory: AnyPath,
        *,
        keep: int,
        keep_every: int | None = None,
        best: tuple[str, Literal["max", "min"]] | None = None,
        before: Callable[[], None] = lambda: None,
        written: Callable[[AnyPath], None] = lambda path: None,
        say: Callable[[str], None] = lambda text: None,
        give_up: Callable[[], bool] = lambda: False,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = directory
        self._keeping: dict[str, Any] = {"keep": keep, "keep_every": keep_every, "best": best}
        self._before, self._written, self._say, self._give_up = before, written, say, give_up
        self._waiting = waiting
        self._buffers: dict[str, np.ndarray[Any, Any]] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._tidy = False
        self.writing: int | None = None  # the step that is being written

    def save(
        self,
        state: Any,
        *,
        step: int,
        epoch: int | None = None,
        metrics: dict[str, float] | None = None,
        attempt: int = 0,
    ) -> AnyPath:
        """Take a copy of `state` and write it in the background as `directory/<step:08d>`.

        Waits for the one that is being written, if any, and says so where that took over a second.
        Raises TypeError as `checkpoint.write`, CheckpointError of the save before this one.
        """
        started, earlier = time.monotonic(), self.writing
        self.wait()
        waited_s = time.monotonic() - started
        if waited_s > _LONG_WAIT_S:
            self._say(
                f"checkpoint of step {step} waited {waited_s:.1f} s for that of step {earlier} to "
                "be written; expected less time than between two of them"
            )
        if step < 0:
            raise ValueError(f"checkpoint: step is {step}; expected 0 or more.")
        snapshot = Snapshot.of(state, self._buffers)
        self._buffers = snapshot.arrays
        facts = {"step": step, "epoch": epoch, "metrics": metrics, "attempt": attempt}
        self.writing = step
        self._thread = threading.Thread(
            target=self._run, args=(snapshot, facts), name="checkpoint", daemon=True
        )
        self._thread.start()
        return self.directory / f"{step:08d}"

    def wait(self) -> None:
        """Return when everything that was saved is durable; raises what went wrong, once."""
        while self._thread is not None:
            self._thread.join(_LONG_WAIT_S)
            if self._thread.is_alive():
                self._waiting()
            else:
                self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, snapshot: Snapshot, facts: dict[str, Any]) -> None:
        try:
            with contextlib.suppress(OSError):
                thread = threading.get_native_id()
                nice = os.getpriority(os.PRIO_PROCESS, thread)
                os.setpriority(os.PRIO_PROCESS, thread, min(nice + _NICER, 19))
            self._write(snapshot, facts)
        except BaseException as error:
            self._error = error
        finally:
            self.writing = None

    def _write(self, snapshot: Snapshot, facts: dict[str, Any]) -> None:
        if not self._tidy:  # a writer that died between its rename and its prune left one more
            self._prune(None)
            self._tidy = True
        self._patiently(self._before)
        path = self._patiently(lambda: checkpoint.write_snapshot(self.directory, snapshot, **facts))
        self._patiently(lambda: self._written(path))
        self._prune(path)

    def _patiently(self, write: Callable[[], T]) -> T:
        return wait_for_space(write, say=self._say, give_up=self._give_up)

    def _prune(self, trusted: AnyPath | None) -> None:
        """Remove what need not stay; where that fails the new checkpoint matters more."""
        try:
            self._patiently(
                lambda: checkpoint.prune(self.directory, **self._keeping, trusted=trusted)
            )
        except (OSError, CheckpointError) as error:
            self._say(f"{self.directory}: old checkpoints could not be removed: {error}")
