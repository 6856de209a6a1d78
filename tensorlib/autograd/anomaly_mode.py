"""Anomaly mode: backward stops at the first NaN and names the operation, and the line of the
user's code that recorded it.
"""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tensorlib.autograd import saved, tape
from tensorlib.errors import AutogradError

_PACKAGE = str(Path(__file__).parents[1])


class _State:
    """PyTorch's switch is one for all threads."""

    on = False
    check_nan = True


class _Running(threading.local):
    """The node whose backward is recorded now, under create_graph."""

    node: Any = None


state = _State()
running = _Running()


def watch() -> None:
    """Let the tape report new nodes while anomaly mode or saved-tensor hooks are on."""
    with lock:
        tape._watch = _seen if state.on or saved.users else None


lock = threading.Lock()


def _seen(node: Any, inputs: Any, results: Any) -> None:
    if state.on:
        node.metadata["traceback_"] = traceback.StackSummary.extract(
            traceback.walk_stack(sys._getframe(2)), lookup_lines=False
        )
        if running.node is not None:
            node.metadata["parent_"] = running.node
    saved.pack(node, inputs, results)


def place_of(node: Any) -> str:
    """Where the user's code recorded `node`: file, line and its text."""
    stack = (node.extra or {}).get("metadata", {}).get("traceback_")
    if stack is None:
        return "recorded outside of anomaly mode, so that its place is not known"
    for frame in stack:
        if not frame.filename.startswith(_PACKAGE):
            return f"recorded at {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    return "recorded by tensorlib itself"


def _chain(node: Any) -> str:
    """The place of a node and, for one that a backward recorded, of what it differentiates."""
    text = place_of(node)
    parent = (node.extra or {}).get("metadata", {}).get("parent_")
    if parent is not None:
        text += f"; previous calculation, whose backward this is: {parent.name()}, {_chain(parent)}"
    return text


def watched(call: Any) -> Any:
    """`call(node, gradient)` with checks of what comes out."""

    def checked(node: Any, gradient: Any) -> Any:
        name = node.name()
        before, running.node = running.node, node
        try:
            results = call(node, gradient)
        except Exception as error:
            error.add_note(f"Error detected in {name}, {_chain(node)}")
            raise
        finally:
            running.node = before
        if state.check_nan:
            for place, value in enumerate(results):
                array = getattr(value, "array", value)
                if array is not None and array.dtype.kind in "fcV" and np.isnan(array).any():
                    raise AutogradError(
                        name,
                        f"Function '{name}' returned nan values in its {place}th output; it was"
                        f" {_chain(node)}",
                    )
        return results

    return checked


class set_detect_anomaly:
    """Switch anomaly mode on or off, at once and, as a context manager, until its end.

    While it is on each operation notes where the user's code called it, and backward refuses to go
    past a NaN (unless `check_nan` is False). It makes both slower.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = state.on, state.check_nan
        self._wanted = bool(mode), check_nan
        self._switch(*self._wanted)

    def _switch(self, on: bool, check_nan: bool) -> None:
        state.on, state.check_nan = on, check_nan
        watch()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._switch(*self._before)


class detect_anomaly(set_detect_anomaly):
    """Anomaly mode as a context manager; warns that it costs time, as PyTorch's does."""

    def __init__(self, check_nan: bool = True) -> None:
        self._before = state.on, state.check_nan
        self._wanted = True, check_nan
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should"
            " only be enabled for debugging.",
            stacklevel=2,
        )

    def __enter__(self) -> None:
        self._switch(*self._wanted)


def is_anomaly_enabled() -> bool:
    """Whether anomaly mode is on."""
    return state.on


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly mode looks for NaN."""
    return state.check_nan
