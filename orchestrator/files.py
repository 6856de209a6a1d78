"""Replacing files so that each holds all of the new content, or all of the old."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "DISK_WAIT_S",
    "atomic_write",
    "atomic_write_json",
    "fsync_directory",
    "is_full",
    "wait_for_space",
]

T = TypeVar("T")

# How long a run waits for space on a full disk before it fails.
DISK_WAIT_S = 600.0
_SAY_EVERY_S = 10.0
_LOOK_EVERY_S = 0.5


def atomic_write(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: afterwards it holds all of it, or is as it was before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write` of `value` as indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, text.encode(errors="surrogateescape"))


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk has no space left (not that it is broken)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def wait_for_space(
    write: Callable[[], T],
    *,
    say: Callable[[str], None],
    give_up: Callable[[], bool],
    limit_s: float = DISK_WAIT_S,
) -> T:
    """What `write` gives; while its disk is full it is called again, for at most `limit_s`.

    Says so at once and then every ten seconds. Other errors, and that of a full disk once the time
    is up or `give_up` says so, are raised.
    """
    started, next_line = time.monotonic(), 0.0
    while True:
        try:
            return write()
        except Exception as error:
            waited_s = time.monotonic() - started
            if not is_full(error) or waited_s >= limit_s or give_up():
                raise
            if waited_s >= next_line:
                next_line = waited_s + _SAY_EVERY_S
                say(f"waiting for space ({waited_s:.0f} of at most {limit_s:.0f} s): {error}")
        time.sleep(_LOOK_EVERY_S)
