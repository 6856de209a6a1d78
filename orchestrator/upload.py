"""A run directory kept at the run's storage URI too: `orchestrator resume URI` needs no more.

    <storage>/<run id>/plan.json status.json tracking.json ...   as in the run directory
                       events/<first byte>.jsonl                 events.jsonl in pieces
                       owner.json                                who drives the run, and since when
                       checkpoints/<step>/                       written by the workers themselves
                       artifacts/ logs/                          once the run has ended

The local directory stays the truth while its driver lives; what is here is at most a few seconds
older, and never lacks an event that a checkpoint here came after.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import (
    BackendUnavailable,
    OrchestratorError,
    RunExists,
    RunNotFound,
    UsageError,
)
from orchestrator.files import atomic_write
from orchestrator.remote import RemoteError, RemotePath

if TYPE_CHECKING:
    from orchestrator.store import RunDir

__all__ = ["Upload", "download"]

PUSH_EVERY_S = 5.0
# A driver that has not written for so long is gone, or cut off from the storage.
LEASE_S = 60.0
_PIECE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 24
_NOT_SENT = {"events.jsonl", "lock", "stop", "status.lock", "upload.lock"}
_ME = uuid.uuid4().hex


class Upload:
    """Keeps `run` at `place`."""

    def __init__(self, run: RunDir, place: RemotePath) -> None:
        self.run, self.place = run, place
        self._sent: dict[str, tuple[int, int]] = {}
        self._events_sent: int | None = None
        self._told = False

    # Owning

    def claim(self, *, new: bool = False) -> None:
        """Become the run's owner there.

        Two that claim in the same instant may both believe they did; the next `push` of one of them
        finds out. Raises RunExists, UsageError, BackendUnavailable, each naming the place.
        """
        with _explained():
            self.place.check_bucket()
            if new and (self.place / "plan.json").exists():
                raise RunExists(
                    f"{self.place}: run {self.run.run_id} exists already{self._by_whom()}; "
                    f"expected a new id. Hint: `orchestrator resume {self.place}`, or another "
                    "--run-id."
                )
            owner = self._owner()
            age_s = time.time() - owner.get("at", 0.0)
            if owner and owner["token"] != _ME and age_s < LEASE_S and not self._was_here(owner):
                raise UsageError(
                    f"{self.place}: run {self.run.run_id} is owned by {owner['owner']}, which "
                    f"wrote {age_s:.0f} s ago; expected one owner. Hint: it is given up "
                    f"{LEASE_S:.0f} s after its driver died."
                )
            if not new:
                self._compare()
            self._sign()

    def _owner(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self.place / "owner.json").read_bytes())
        except FileNotFoundError:
            return {}
        return value

    def _by_whom(self) -> str:
        owner = self._owner()
        return f" and is owned by {owner['owner']}" if owner else ""

    def _was_here(self, owner: dict[str, Any]) -> bool:
        """Whether the last owner used this very directory, whose lock we hold: so it is dead."""
        host = str(owner["owner"]).partition("@")[2]
        return host == socket.gethostname() and owner["path"] == str(self.run.path)

    def _sign(self) -> None:
        note = {
            "owner": f"{os.getpid()}@{socket.gethostname()}",
            "path": str(self.run.path),
            "token": _ME,
            "at": time.time(),
        }
        (self.place / "owner.json").write_bytes(json.dumps(note).encode())

    def _compare(self) -> None:
        """Refuse to go on from a directory that is older than what is there."""
        try:
            there = json.loads((self.place / "status.json").read_bytes())["attempts"]
        except FileNotFoundError:
            return
        here = self.run.status().attempts
        if there > here:
            raise UsageError(
                f"{self.run.path}: knows {here} attempts of run {self.run.run_id}; {self.place} "
                f"has {there}. Hint: `orchestrator resume {self.place}` takes those."
            )
        # Lines that this machine lost in a crash would stand behind its new ones.
        size = _size(self.run.path / "events.jsonl")
        for name in (self.place / "events").names():
            if int(name.partition(".")[0]) >= max(size, 1):
                (self.place / "events" / name).remove()

    def give_up(self) -> None:
        """No longer own the run there. Raises OSError."""
        (self.place / "owner.json").remove()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Own the run there while the block runs, sending what changes every few seconds."""
        self.claim()
        ended = threading.Event()
        thread = threading.Thread(target=self._keep, args=(ended,), name="upload", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            try:
                self.push(everything=True)
                self.give_up()
            except (OSError, OrchestratorError) as error:
                self.run.say(
                    f"storage: {error}; what is not there yet stays in {self.run.path}. Hint: "
                    f"orchestrator sync {self.run.run_id} sends it"
                )

    def _keep(self, ended: threading.Event) -> None:
        while True:
            try:
                self.push()
                self._told = False
            except (OSError, OrchestratorError) as error:
                if not self._told:
                    self._told = True
                    self.run.say(f"storage: {error}; trying again every {PUSH_EVERY_S:g} s")
            if ended.wait(PUSH_EVERY_S):
                return

    # Sending

    def push(self, *, everything: bool = False) -> None:
        """Send events, then files that changed. OSError; UsageError where another took the run."""
        owner = self._owner()
        if owner and owner["token"] != _ME:
            self.run.request_stop()
            raise UsageError(
                f"{self.place}: run {self.run.run_id} was taken over by {owner['owner']}; stopping"
            )
        self.events()
        folders = ("", "logs", "artifacts") if everything else ("",)
        for folder in folders:
            self._send_folder(folder, deep=folder != "")
        self._sign()

    def events(self) -> None:
        """Send what events.jsonl has grown by. Raises OSError."""
        with self.run._exclusive("upload.lock"):  # a later piece must not be replaced by an older
            self._send_events()

    def _send_events(self) -> None:
        path = self.run.path / "events.jsonl"
        if self._events_sent is None:
            known = [int(name.partition(".")[0]) for name in (self.place / "events").names()]
            self._events_sent = max(known, default=0)
        size = _size(path)  # it grows meanwhile, and only the last piece may be short
        if size <= self._events_sent:
            return
        with path.open("rb") as file:
            for start in range(
                self._events_sent // _PIECE_BYTES * _PIECE_BYTES, size, _PIECE_BYTES
            ):
                file.seek(start)
                piece = file.read(min(_PIECE_BYTES, size - start))
                (self.place / "events" / f"{start:015d}.jsonl").write_bytes(piece)
        self._events_sent = size

    def _send_folder(self, folder: str, *, deep: bool) -> None:
        root = self.run.path / folder
        hidden = self.run.path / "artifacts" / "checkpoints"
        for path in sorted(root.rglob("*") if deep else root.glob("*")):
            name = path.relative_to(self.run.path).as_posix()
            skipped = name in _NOT_SENT or path.name.startswith(".") or hidden in path.parents
            if skipped or not path.is_file():
                continue
            facts = path.stat()
            now = (facts.st_mtime_ns, facts.st_size)
            if self._sent.get(name) != now:
                _send(path, self.place, name)
                self._sent[name] = now


def download(uri: str, home: Path) -> str:
    """Bring the run at `uri` under `home` and give its id.

    A directory that is there already stays as it is unless the storage knows of more attempts.
    Raises RunNotFound, UsageError, BackendUnavailable.
    """
    from orchestrator.store import RunDir

    place = RemotePath.of(uri)
    run = RunDir(home / place.name)
    with _explained():
        try:
            plan = (place / "plan.json").read_bytes()
        except FileNotFoundError:
            place.check_bucket()
            raise RunNotFound(
                f"{place}: there is no run; expected plan.json under it. Hint: the URI ends in the "
                "run's id."
            ) from None
        if (run.path / "plan.json").exists():
            there = json.loads((place / "status.json").read_bytes())["attempts"]
            if there <= run.status().attempts:
                return run.run_id
            if run.owner_alive():
                raise UsageError(f"{run.path}: is owned by {run.owner()}, which is alive.")
        run.path.mkdir(parents=True, exist_ok=True)
        pieces: list[tuple[str, bytes]] = []
        for name, _ in place.walk():
            top = name.partition("/")[0]
            if top == "events":
                pieces.append((name, (place / name).read_bytes()))
            elif top not in ("checkpoints", "owner.json", "plan.json") and ".." not in name:
                target = run.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(target, (place / name).read_bytes())
        atomic_write(run.path / "events.jsonl", b"".join(data for _, data in sorted(pieces)))
        run._make_artifacts_dir()
        atomic_write(run.path / "plan.json", plan)  # last: without it there is no run here
    if run.remote != place:
        raise UsageError(
            f"{place}: its plan says that it is kept at {run.remote}; expected the same place."
        )
    return run.run_id


@contextmanager
def _explained() -> Iterator[None]:
    """A storage that refuses is a mistake of the spec, one that does not answer is unavailable."""
    try:
        yield
    except RemoteError as error:
        kind = BackendUnavailable if error.transient else UsageError
        raise kind(f"storage: {error}") from error
    except (KeyError, ValueError) as error:
        if isinstance(error, OrchestratorError):
            raise
        raise UsageError(f"storage: what is kept there cannot be read: {error}") from error


def _send(path: Path, place: RemotePath, name: str) -> None:
    target = place
    for part in name.split("/"):
        target = target / part

    def parts(put: Any) -> None:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                put(chunk)

    target.write(parts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
