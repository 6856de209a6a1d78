"""Where a running command speaks: talk and progress on stderr, so that stdout is the result."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Console"]

_LINE_EVERY_S = 5.0


class Console:
    """Talk of one command.

    Args:
        quiet: only warnings are shown.
        first_line: printed on stdout before anything else is said; a run's id.
    """

    def __init__(self, *, quiet: bool = False, first_line: str | None = None) -> None:
        self._quiet = quiet
        self._first_line = first_line
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._next_line: dict[str, float] = {}
        self._ended: set[str] = set()

    def begin(self) -> None:
        """Print the first line, once."""
        if self._first_line is not None:
            print(self._first_line, flush=True)
            self._first_line = None

    def say(self, text: str) -> None:
        """One line of talk."""
        self.begin()
        if not self._quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """One line that must be seen."""
        self.begin()
        self._print(f"warning: {text}")

    def progress(self, phase: str, done: float, total: float, unit: str, **info: Any) -> None:
        """How far `phase` is: a bar on a terminal, else a line every few seconds and at its end.

        `info` is shown beside it; `info={...}` may hold it as one mapping.
        """
        self.begin()
        if self._quiet:
            return
        details = {**info.pop("info", {}), **info}
        text = " ".join(f"{key} {_short(value)}" for key, value in details.items())
        if sys.stderr.isatty():
            self._show_bar(phase, done, total, unit, text)
        else:
            self._show_line(phase, done, total, unit, text)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _show_bar(self, phase: str, done: float, total: float, unit: str, text: str) -> None:
        if self._bar is None:
            from rich.console import Console as RichConsole
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=RichConsole(stderr=True),
            )
            self._bar.start()
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total, unit=unit, text=text)
        self._bar.update(self._tasks[phase], completed=done, total=total, unit=unit, text=text)

    def _show_line(self, phase: str, done: float, total: float, unit: str, text: str) -> None:
        now = time.monotonic()
        ended = done >= total
        if ended and phase in self._ended:
            return
        if not ended and now < self._next_line.get(phase, 0.0):
            return
        (self._ended.add if ended else self._ended.discard)(phase)
        self._next_line[phase] = now + _LINE_EVERY_S
        share = f" ({100 * done / total:.0f} %)" if total else ""
        self._print(f"{phase}: {done:g} of {total:g} {unit}{share} {text}".rstrip())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
