"""Where checkpoints are: a directory, in which a rename makes one visible, or a place behind a URI,
in which its manifest does, written last.

A place lists its checkpoints, lets one be written (whole, or not at all), and removes.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from orchestrator.files import fsync_directory, write_file
from orchestrator.remote import AnyPath, RemoteError, RemotePath, is_uri

__all__ = ["MANIFEST", "LocalPlace", "Place", "RemotePlace", "Write", "path_of", "place_of"]

MANIFEST = "manifest.json"
_ABANDONED_S = 60.0

Bytes = bytes | memoryview
Write = Callable[[str, Iterable[Bytes]], dict[str, Any]]


class Place(Protocol):
    """Checkpoints of one run."""

    def steps(self) -> list[AnyPath]:
        """Paths of the checkpoints, newest first; whole or not."""
        ...

    def writing(self, step: int, attempt: int) -> Any:
        """A block with a function `write(name, parts)` that gives {"bytes", "sha256"}.

        The manifest is written last. Leaving the block makes the checkpoint visible and durable;
        an error in it leaves what was there.
        """
        ...

    def remove(self, path: AnyPath) -> None:
        """Remove a checkpoint so that half of it is never seen as one."""
        ...

    def room(self) -> str:
        """How much fits, in words that end a sentence; none where there is no end."""
        ...


def path_of(path: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """A path, or a place behind a URI."""
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    return RemotePath.of(text) if is_uri(text) else Path(text)


def place_of(directory: str | os.PathLike[str] | RemotePath) -> Place:
    """The checkpoints under `directory`."""
    path = path_of(directory)
    return RemotePlace(path) if isinstance(path, RemotePath) else LocalPlace(path)


class LocalPlace:
    """A directory of a file system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def steps(self) -> list[AnyPath]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        paths = (self.directory / name for name in _newest_first(names))
        return [path for path in paths if path.is_dir()]

    @contextmanager
    def writing(self, step: int, attempt: int) -> Iterator[Write]:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.clean()
        name = f"{step:08d}"
        with _Temporary(self.directory, name, attempt) as temporary:
            yield lambda file, parts: write_file(temporary / file, parts)
            fsync_directory(temporary)
            _move_into_place(temporary, self.directory / name)
            fsync_directory(self.directory)

    def remove(self, path: AnyPath) -> None:
        # Renamed first, so that a checkpoint half removed is never seen as one.
        doomed = self.directory / f".tmp-{path.name}-{os.getpid()}-removed-{time.time_ns()}"
        (self.directory / path.name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def clean(self) -> list[Path]:
        """Remove temporary directories whose writer is dead; gives what was removed."""
        removed = []
        for path in self.directory.glob(".tmp-*"):
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
        return removed

    def room(self) -> str:
        try:
            return f", the disk {shutil.disk_usage(self.directory).free} free"
        except OSError:
            return ", the disk 0 free"


class RemotePlace:
    """A place without rename, sync and locks: objects have names of their own, and the manifest,
    which is replaced whole, says which of them are the checkpoint.

    A name holds its attempt: what a dead writer left goes when a later attempt, or the same, writes
    its next checkpoint, and a writer that outlived its attempt removes nothing of its successors.
    """

    def __init__(self, directory: RemotePath) -> None:
        self.directory = directory

    def steps(self) -> list[AnyPath]:
        return [self.directory / name for name in _newest_first(self.directory.names())]

    @contextmanager
    def writing(self, step: int, attempt: int) -> Iterator[Write]:
        self._clean(attempt)
        final = self.directory / f"{step:08d}"
        mark = f"{attempt:04d}-{uuid.uuid4().hex[:12]}"
        written: list[str] = []

        def write(name: str, parts: Iterable[Bytes]) -> dict[str, Any]:
            if name != MANIFEST:
                written.append(f"{mark}.{name}")
                return {**_write_object(final / written[-1], parts), "object": written[-1]}
            facts = _write_object(final / name, parts)
            self._drop(final, attempt, keep={MANIFEST, *written})
            return facts

        yield write

    def remove(self, path: AnyPath) -> None:
        place = self.directory / path.name
        (place / MANIFEST).remove()
        place.remove()

    def room(self) -> str:
        return ""

    def _clean(self, attempt: int) -> None:
        """Remove what writers of this attempt and those before left without a manifest."""
        for name in _newest_first(self.directory.names()):
            place = self.directory / name
            if not (place / MANIFEST).exists():
                self._drop(place, attempt, keep=set())
                if not place.names():  # where directories are real
                    place.remove()

    def _drop(self, place: RemotePath, attempt: int, keep: set[str]) -> None:
        for name in place.names():
            number = name.partition("-")[0]
            if name not in keep and number.isdigit() and int(number) <= attempt:
                with suppress(RemoteError):  # it costs space, no more; the next one tries again
                    (place / name).remove()


def _write_object(path: RemotePath, parts: Iterable[Bytes]) -> dict[str, Any]:
    """Write an object and look whether all of it is there: a store may have taken a part only."""
    digest, size = hashlib.sha256(), 0

    def send(put: Callable[[Any], Any]) -> None:
        nonlocal size
        for part in parts:
            digest.update(part)
            put(part)
            size += len(part)

    path.write(send)
    try:
        there = path.stat().st_size
    except FileNotFoundError:
        there = -1
    if there != size:
        has = "is not there" if there < 0 else f"has {there} bytes"
        raise RemoteError(f"{path}: {has} after {size} were written", transient=True)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _newest_first(names: Iterable[str]) -> list[str]:
    return sorted((name for name in names if name.isdigit()), key=int, reverse=True)


class _Temporary:
    """A directory beside the checkpoints, locked while its writer lives, gone after a failure."""

    def __init__(self, directory: Path, name: str, attempt: int) -> None:
        stem = f".tmp-{name}-{os.getpid()}-{attempt}-{time.time_ns()}"
        self.path = directory / stem

    def __enter__(self) -> Path:
        self.path.mkdir()
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        return self.path

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    """No one holds its lock, and its writer is gone (a pid may have been given to another)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        age_s = time.time() - os.fstat(descriptor).st_mtime
    except OSError:
        return False
    finally:
        os.close(descriptor)
    parts = path.name.split("-")
    pid = int(parts[2]) if len(parts) > 2 and parts[2].isdigit() else 0
    return age_s > _ABANDONED_S or not (pid and os.path.exists(f"/proc/{pid}"))


def _move_into_place(temporary: Path, final: Path) -> None:
    """Rename; where a checkpoint of this step is there already, exchange the two in one step."""
    if not final.exists():
        temporary.rename(final)
        return
    exchange = 2  # RENAME_EXCHANGE
    at_cwd = -100
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(temporary), os.fsencode(final)
    if (
        hasattr(libc, "renameat2")
        and libc.renameat2(at_cwd, names[0], at_cwd, names[1], exchange) == 0
    ):
        return
    # File systems without an exchange: a crash between the two renames loses this step only.
    aside = temporary.with_name(f"{temporary.name}-old")
    final.rename(aside)
    temporary.rename(final)
    shutil.rmtree(aside, ignore_errors=True)
