"""Checkpoints that are whole or invisible: written beside, synced, sealed by a manifest, renamed.

    checkpoints/<step:08d>/tensors.safetensors   every array of the state
                           state.json            its structure, scalars and strings
                           manifest.json         step, metrics, size and sha256 of the other two

Behind a URI nothing can be renamed: there the manifest is written last, and names the other two.

A state is nested dicts, lists and tuples of numbers, strings, bytes, None and anything NumPy can
read (`__array__`). Arrays keep dtype and shape, 0-dim ones included; dict keys keep their type.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from orchestrator import tree
from orchestrator.errors import CheckpointError
from orchestrator.places import MANIFEST, path_of, place_of
from orchestrator.remote import AnyPath, RemoteError, RemotePath
from orchestrator.tree import weights_sha256

__all__ = [
    "Checkpoint",
    "Snapshot",
    "best",
    "latest",
    "load",
    "prune",
    "read_manifest",
    "weights_sha256",
    "write",
    "write_snapshot",
]

FORMAT = 1
TENSORS, STATE = "tensors.safetensors", "state.json"
_CHUNK_BYTES = 1 << 24

_DTYPES = {code: name for name, code in tree.SAFETENSORS.items()}

Where = str | os.PathLike[str] | RemotePath  # a path, or a place behind a URI


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint and its state (arrays are NumPy's)."""

    path: AnyPath
    step: int
    epoch: int | None
    metrics: dict[str, float]
    state: Any = field(repr=False)
    weights_sha256: str


@dataclass(frozen=True)
class Snapshot:
    """A state taken apart: its structure, and its arrays by name."""

    structure: Any
    arrays: dict[str, np.ndarray[Any, Any]]

    @classmethod
    def of(cls, state: Any, buffers: dict[str, np.ndarray[Any, Any]] | None = None) -> Snapshot:
        """Take `state` apart; with `buffers` its arrays are copied, into those that fit.

        Raises TypeError naming the key of a value that cannot be kept.
        """
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        structure = tree.encode(state, "", arrays)
        if buffers is None:
            return cls(structure, arrays)
        return cls(structure, {name: _copy(a, buffers.get(name)) for name, a in arrays.items()})


def _copy(array: np.ndarray[Any, Any], buffer: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    if buffer is None or buffer.dtype != array.dtype or buffer.shape != array.shape:
        return array.copy()
    np.copyto(buffer, array)
    return buffer


def write(
    directory: Where,
    state: Any,
    *,
    step: int,
    epoch: int | None = None,
    metrics: dict[str, float] | None = None,
    attempt: int = 0,
) -> AnyPath:
    """Write `state` as `directory/<step:08d>` and give that path.

    Afterwards the checkpoint is complete and durable; killed at any moment before, what was there
    is untouched. Raises TypeError naming the key of a value that cannot be kept, CheckpointError
    when the disk refuses (nothing half-written stays).
    """
    if step < 0:
        raise ValueError(f"checkpoint: step is {step}; expected 0 or more.")
    snapshot = Snapshot.of(state)
    return write_snapshot(
        directory, snapshot, step=step, epoch=epoch, metrics=metrics, attempt=attempt
    )


def write_snapshot(
    directory: Where,
    snapshot: Snapshot,
    *,
    step: int,
    epoch: int | None = None,
    metrics: dict[str, float] | None = None,
    attempt: int = 0,
) -> AnyPath:
    """`write` of a state that was taken apart already."""
    arrays = snapshot.arrays
    digest = weights_sha256(tree.decode(snapshot.structure, arrays))
    place, final = place_of(directory), path_of(directory) / f"{step:08d}"
    try:
        with place.writing(step, attempt) as write_file:
            structure = {"format": FORMAT, "state": snapshot.structure}
            files = {
                TENSORS: write_file(TENSORS, _tensors(arrays)),
                STATE: write_file(STATE, _json(structure)),
            }
            manifest = {
                "format": FORMAT,
                "step": step,
                "epoch": epoch,
                "metrics": metrics or {},
                "attempt": attempt,
                "created_at": time.time(),
                "weights_sha256": digest,
                "files": files,
            }
            manifest["seal"] = _seal(manifest)
            write_file(MANIFEST, _json(manifest))
    except OSError as error:
        need = sum(array.nbytes for array in arrays.values())
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "free some space" if full else "make the directory writable"
        if isinstance(error, RemoteError):
            cure = "see that the storage answers and may be written"
        raise CheckpointError(
            f"{final}: cannot be written: {error.strerror or error}; the state has {need} bytes"
            f"{place.room()}. Hint: {cure}; earlier checkpoints are untouched and `orchestrator "
            "resume` continues from them."
        ) from error
    return final


def load(path: Where, *, verify: bool = True) -> Checkpoint:
    """Read a checkpoint; CheckpointError names the file and what is wrong with it."""
    path = path_of(path)
    manifest = read_manifest(path)
    _check_sizes(path, manifest)
    facts = manifest["files"]
    try:
        with _Reader(path, TENSORS, facts, verify) as reader:
            arrays = _read_tensors(reader)
        with _Reader(path, STATE, facts, verify) as reader:
            structure = json.loads(reader.read(facts[STATE]["bytes"]))["state"]
        state = tree.decode(structure, arrays)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a file that was never ours makes of it
        raise CheckpointError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    return Checkpoint(
        path=path,
        step=manifest["step"],
        epoch=manifest["epoch"],
        metrics=manifest["metrics"],
        state=state,
        weights_sha256=manifest["weights_sha256"],
    )


def latest(
    directory: Where, on_skip: Callable[[AnyPath, str], None] | None = None
) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None. `on_skip(path, why)` hears of damaged ones.

    Raises CheckpointError where a store behind a URI does not answer.
    """
    for path in _steps(directory):
        try:
            return load(path)
        except CheckpointError as error:
            _raise_if_unread(error)
            if on_skip is not None:
                on_skip(path, str(error))
    return None


def best(directory: Where, metric: tuple[str, Literal["max", "min"]] | None) -> Checkpoint | None:
    """The checkpoint with the best value of `metric` that verifies, else the newest, or None."""
    if metric is not None:
        values: dict[AnyPath, float] = {}
        for path in _steps(directory):
            try:
                value = read_manifest(path)["metrics"].get(metric[0])
            except CheckpointError as error:
                _raise_if_unread(error)
                continue
            if value is not None and not math.isnan(value):
                values[path] = value
        while values:
            path = _best_of(values, metric[1])
            try:
                return load(path)
            except CheckpointError as error:
                _raise_if_unread(error)
                del values[path]
    return latest(directory)


def _best_of(values: dict[AnyPath, float], mode: Literal["max", "min"]) -> AnyPath:
    """The path of the best value; of equal ones the newest."""
    sign = 1.0 if mode == "max" else -1.0
    best: AnyPath = max(values, key=lambda path: (sign * values[path], path.name))
    return best


def prune(
    directory: Where,
    *,
    keep: int,
    keep_every: int | None = None,
    best: tuple[str, Literal["max", "min"]] | None = None,
    trusted: AnyPath | None = None,
) -> list[AnyPath]:
    """Remove all but the `keep` newest checkpoints, those of every `keep_every`-th step and the
    best one; gives what was removed.

    The newest one that verifies is never removed. `trusted` was just written and need not be read
    again. Damaged ones are removed once a good one is known, not before.
    """
    if keep < 1:
        raise ValueError(f"prune: keep is {keep}; expected 1 or more.")
    found = place_of(directory).steps()
    if trusted is not None and trusted not in found:  # a listing may lag behind
        found = [trusted, *found]
    if len(found) <= keep:
        return []
    whole: list[AnyPath] = []
    values: dict[AnyPath, float] = {}
    known_good = False
    for path in found:
        try:
            manifest = read_manifest(path)
            _check_sizes(path, manifest)
            if not known_good and path != trusted:
                load(path)
        except CheckpointError as error:
            _raise_if_unread(error)
            continue
        known_good = True
        whole.append(path)
        value = manifest["metrics"].get(best[0]) if best else None
        if value is not None and not math.isnan(value):
            values[path] = value
    if not whole:
        return []
    kept = set(whole[:keep])
    if keep_every:
        kept.update(path for path in whole if int(path.name) % keep_every == 0)
    if best and values:
        kept.add(_best_of(values, best[1]))
    removed = [path for path in found if path not in kept]
    for path in removed:
        place_of(directory).remove(path)
    return removed


def read_manifest(path: AnyPath) -> dict[str, Any]:
    """The manifest of a checkpoint; CheckpointError when it is missing or not one."""
    file = path / MANIFEST
    try:
        data = file.read_bytes()
        manifest: dict[str, Any] = json.loads(data)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: is missing; the checkpoint is not whole.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    try:
        sound = (
            manifest["format"] == FORMAT
            and manifest["seal"] == _seal(manifest)
            and data.endswith(b"}\n")
            and isinstance(manifest["step"], int)
            and (manifest["epoch"] is None or isinstance(manifest["epoch"], int))
            and isinstance(manifest["metrics"], dict)
            and isinstance(manifest["weights_sha256"], str)
            and set(manifest["files"]) == {TENSORS, STATE}
            and all({"bytes", "sha256"} <= set(facts) for facts in manifest["files"].values())
            and not any("/" in facts.get("object", "") for facts in manifest["files"].values())
            and manifest["step"] == int(path.name)
        )
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(
            f"{file}: is damaged, or is no manifest of format {FORMAT} for this directory."
        )
    return manifest


def _seal(manifest: dict[str, Any]) -> str:
    """sha256 of all a manifest says, so that a flipped bit in it is seen too."""
    said = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


# Files


def _steps(directory: Where) -> list[AnyPath]:
    """Checkpoints, newest first; CheckpointError where a store does not list them."""
    try:
        return place_of(directory).steps()
    except RemoteError as error:
        raise CheckpointError(str(error)) from error


def _raise_if_unread(error: CheckpointError) -> None:
    """A store that does not answer says nothing about what it holds: no older one stands in."""
    if isinstance(error.__cause__, RemoteError):
        raise error


def _tensors(arrays: dict[str, np.ndarray[Any, Any]]) -> list[bytes | memoryview]:
    """The safetensors format straight from the arrays' memory.

    `safetensors.numpy.save_file` holds a second copy of everything and neither hashes nor syncs.
    """
    # Widest elements first keeps all of them aligned, as the format's own writer does.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {}
    offset = 0
    for name, array in ordered:
        header[name] = {
            "dtype": tree.SAFETENSORS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return [head, *(tree.bytes_of(array) for _, array in ordered)]


def _read_tensors(reader: _Reader) -> dict[str, np.ndarray[Any, Any]]:
    """What `_tensors` made; `safetensors.numpy.load_file` neither reads a stream nor hashes."""
    length = int.from_bytes(reader.read(8), "little")
    header = json.loads(reader.read(length))
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    position = 0
    for name, facts in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = facts["data_offsets"]
        dtype = np.dtype(_DTYPES[facts["dtype"]])
        if start != position or end - start != math.prod(facts["shape"]) * dtype.itemsize:
            raise ValueError(f"{name} is said to have bytes {start} to {end}")
        arrays[name] = np.empty(facts["shape"], dtype)
        reader.fill(tree.bytes_of(arrays[name]))
        position = end
    return arrays


def _json(value: Any) -> list[bytes | memoryview]:
    return [json.dumps(value, indent=1).encode() + b"\n"]


def _at(path: AnyPath, name: str, facts: dict[str, Any]) -> AnyPath:
    """Where a file of a checkpoint is."""
    return path / str(facts.get("object", name))


class _Reader:
    """A file of a checkpoint, read once from its beginning to its end and hashed on the way.

    Leaving the block raises CheckpointError where its sha256 is not that of the manifest.
    """

    def __init__(self, path: AnyPath, name: str, files: dict[str, Any], verify: bool) -> None:
        self.path, self.facts, self.verify = _at(path, name, files[name]), files[name], verify
        self.left: int = self.facts["bytes"]
        self.digest = hashlib.sha256()

    def __enter__(self) -> _Reader:
        try:
            self.stream = self.path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self.stream:
            if isinstance(error, OSError):
                away = isinstance(self.path, RemotePath)
                cause = RemoteError(str(error), transient=True) if away else error
                raise CheckpointError(f"{self.path}: cannot be read: {error}") from cause
            if not self.verify:
                return
            while self.left:  # a file that makes no sense is most likely a damaged one
                self.read(min(self.left, _CHUNK_BYTES))
            actual, expected = self.digest.hexdigest(), self.facts["sha256"]
            if actual != expected:
                raise CheckpointError(
                    f"{self.path}: is damaged: sha256 is {actual[:12]}..., expected "
                    f"{expected[:12]}..."
                )

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError(f"{size} bytes are wanted and {self.left} left")
        data = bytearray(size)
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, target: memoryview) -> None:
        """Read as many bytes as `target` has."""
        while len(target):
            chunk = target[:_CHUNK_BYTES]
            got = self.stream.readinto(chunk)
            if not got:
                raise EOFError(f"it ends {self.left} bytes early")
            if self.verify:
                self.digest.update(chunk[:got])
            self.left -= got
            target = target[got:]


def _check_sizes(path: AnyPath, manifest: dict[str, Any]) -> None:
    for name, facts in manifest["files"].items():
        file = _at(path, name, facts)
        try:
            actual = file.stat().st_size
        except FileNotFoundError:
            raise CheckpointError(f"{file}: is missing.") from None
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error
        if actual != facts["bytes"]:
            raise CheckpointError(
                f"{file}: has {actual} bytes, expected {facts['bytes']}; "
                f"it is {'truncated' if actual < facts['bytes'] else 'not what was written'}."
            )
