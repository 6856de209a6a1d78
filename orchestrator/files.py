"""Replacing files so that each holds all of the new content, or all of the old; large ones, whose
bytes do not pass through the page cache."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "DISK_WAIT_S",
    "atomic_write",
    "atomic_write_json",
    "fsync_directory",
    "is_full",
    "wait_for_space",
    "write_file",
]

T = TypeVar("T")

# How long a run waits for space on a full disk before it fails.
DISK_WAIT_S = 600.0
_SAY_EVERY_S = 10.0
_LOOK_EVERY_S = 0.5
# From here on a file is written past the page cache: of the two seconds of CPU that 1 GiB costs
# through it, a tenth is left (benchmarks/checkpoint.py). The buffer is a multiple of any block.
DIRECT_FROM_BYTES = 1 << 24
_BUFFER_BYTES = 1 << 22
_NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)  # how a file system without it answers


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


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write `parts` one behind the other to a new file, durably; gives {"bytes", "sha256"}.

    Raises OSError, and leaves a file of unknown content then.
    """
    digest, size = hashlib.sha256(), 0
    parts = list(parts)
    if sum(map(len, parts)) >= DIRECT_FROM_BYTES:
        return _write_direct(path, parts)
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _write_direct(path: Path, parts: list[bytes | memoryview]) -> dict[str, Any]:
    """`write_file` with O_DIRECT through one aligned buffer, where the file system has it.

    Copies, hashes and writes leave the interpreter to the training's threads.
    """
    import numpy as np

    digest, size = hashlib.sha256(), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_DIRECT, 0o644)
    except OSError as error:
        if error.errno not in _NO_DIRECT:
            raise
        descriptor = os.open(path, flags, 0o644)
    try:
        buffer, filled = np.frombuffer(mmap.mmap(-1, _BUFFER_BYTES), np.uint8), 0
        for part in parts:
            source = np.frombuffer(part, np.uint8) if len(part) else buffer[:0]
            while len(source):
                some = min(len(source), _BUFFER_BYTES - filled)
                np.copyto(buffer[filled : filled + some], source[:some])
                source, filled = source[some:], filled + some
                if filled == _BUFFER_BYTES:
                    digest.update(buffer.data)
                    _write_all(descriptor, buffer.data)
                    size, filled = size + filled, 0
        if filled:
            digest.update(buffer[:filled].data)
            _through_the_cache(descriptor)  # the rest is no multiple of a block
            _write_all(descriptor, buffer[:filled].data)
            size += filled
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _write_all(descriptor: int, data: memoryview) -> None:
    while len(data):
        try:
            data = data[os.write(descriptor, data) :]
        except OSError as error:
            # A block is larger than thought, or a short write left an odd place.
            if error.errno not in _NO_DIRECT or not _through_the_cache(descriptor):
                raise


def _through_the_cache(descriptor: int) -> bool:
    """Turn O_DIRECT off; False where it was off."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & os.O_DIRECT:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return True


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


def _may_pass(error: BaseException) -> bool:
    """Whether the same write may succeed later: a full disk, a store that does not answer."""
    inner: BaseException | None = error
    while inner is not None:
        if getattr(inner, "transient", False):
            return True
        inner = inner.__cause__
    return is_full(error)


def wait_for_space(
    write: Callable[[], T],
    *,
    say: Callable[[str], None],
    give_up: Callable[[], bool],
    limit_s: float = DISK_WAIT_S,
) -> T:
    """What `write` gives; while its disk is full, or its store does not answer, it is called again,
    for at most `limit_s`.

    Says so at once and then every ten seconds. Other errors, and that of a full disk once the time
    is up or `give_up` says so, are raised.
    """
    started, next_line = time.monotonic(), 0.0
    while True:
        try:
            return write()
        except Exception as error:
            waited_s = time.monotonic() - started
            if not _may_pass(error) or waited_s >= limit_s or give_up():
                raise
            if waited_s >= next_line:
                next_line = waited_s + _SAY_EVERY_S
                what = "space" if is_full(error) else "the storage"
                say(f"waiting for {what} ({waited_s:.0f} of at most {limit_s:.0f} s): {error}")
        time.sleep(_LOOK_EVERY_S)
