"""Checkpoints that are whole or invisible: written beside, synced, sealed by a manifest, renamed.

    checkpoints/<step:08d>/tensors.safetensors   every array of the state
                           state.json            its structure, scalars and strings
                           manifest.json         step, metrics, size and sha256 of the other two

A state is nested dicts, lists and tuples of numbers, strings, bytes, None and anything NumPy can
read (`__array__`). Arrays keep dtype and shape, 0-dim ones included; dict keys keep their type.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orchestrator import tree
from orchestrator.errors import CheckpointError
from orchestrator.files import fsync_directory
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
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_ABANDONED_S = 60.0
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint and its state (arrays are NumPy's)."""

    path: Path
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
    directory: str | os.PathLike[str],
    state: Any,
    *,
    step: int,
    epoch: int | None = None,
    metrics: dict[str, float] | None = None,
    attempt: int = 0,
) -> Path:
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
    directory: str | os.PathLike[str],
    snapshot: Snapshot,
    *,
    step: int,
    epoch: int | None = None,
    metrics: dict[str, float] | None = None,
    attempt: int = 0,
) -> Path:
    """`write` of a state that was taken apart already."""
    arrays = snapshot.arrays
    digest = weights_sha256(tree.decode(snapshot.structure, arrays))
    directory = Path(directory)
    final = directory / f"{step:08d}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        clean(directory)
        with _Temporary(directory, f"{step:08d}", attempt) as temporary:
            structure = {"format": FORMAT, "state": snapshot.structure}
            files = {
                TENSORS: _write_tensors(temporary / TENSORS, arrays),
                STATE: _write_json(temporary / STATE, structure),
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
            _write_json(temporary / MANIFEST, manifest)
            fsync_directory(temporary)
            _move_into_place(temporary, final)
            fsync_directory(directory)
    except OSError as error:
        need = sum(array.nbytes for array in arrays.values())
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "free some space" if full else "make the directory writable"
        raise CheckpointError(
            f"{final}: cannot be written: {error.strerror or error}; the state has {need} bytes, "
            f"the disk {_free_bytes(directory)} free. Hint: {cure}; earlier checkpoints are "
            "untouched and `orchestrator resume` continues from them."
        ) from error
    return final


def load(path: str | os.PathLike[str], *, verify: bool = True) -> Checkpoint:
    """Read a checkpoint; CheckpointError names the file and what is wrong with it."""
    path = Path(path)
    manifest = read_manifest(path)
    _check_sizes(path, manifest)
    if verify:
        for name, facts in manifest["files"].items():
            actual = _file_sha256(path / name)
            if actual != facts["sha256"]:
                raise CheckpointError(
                    f"{path / name}: is damaged: sha256 is {actual[:12]}..., expected "
                    f"{facts['sha256'][:12]}..."
                )
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, np.ndarray[Any, Any]] = load_file(path / TENSORS)
        structure = json.loads((path / STATE).read_bytes())["state"]
        state = tree.decode(structure, arrays)
    except Exception as error:  # safetensors raises its own types
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
    directory: str | os.PathLike[str], on_skip: Callable[[Path, str], None] | None = None
) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None. `on_skip(path, why)` hears of damaged ones."""
    for path in _steps(Path(directory)):
        try:
            return load(path)
        except CheckpointError as error:
            if on_skip is not None:
                on_skip(path, str(error))
    return None


def best(
    directory: str | os.PathLike[str], metric: tuple[str, Literal["max", "min"]] | None
) -> Checkpoint | None:
    """The checkpoint with the best value of `metric` that verifies, else the newest, or None."""
    if metric is not None:
        values: dict[Path, float] = {}
        for path in _steps(Path(directory)):
            try:
                value = read_manifest(path)["metrics"].get(metric[0])
            except CheckpointError:
                continue
            if value is not None and not math.isnan(value):
                values[path] = value
        while values:
            path = _best_of(values, metric[1])
            try:
                return load(path)
            except CheckpointError:
                del values[path]
    return latest(directory)


def _best_of(values: dict[Path, float], mode: Literal["max", "min"]) -> Path:
    """The path of the best value; of equal ones the newest."""
    sign = 1.0 if mode == "max" else -1.0
    return max(values, key=lambda path: (sign * values[path], path.name))


def prune(
    directory: str | os.PathLike[str],
    *,
    keep: int,
    keep_every: int | None = None,
    best: tuple[str, Literal["max", "min"]] | None = None,
    trusted: Path | None = None,
) -> list[Path]:
    """Remove all but the `keep` newest checkpoints, those of every `keep_every`-th step and the
    best one; gives what was removed.

    The newest one that verifies is never removed. `trusted` was just written and need not be read
    again. Damaged ones are removed once a good one is known, not before.
    """
    if keep < 1:
        raise ValueError(f"prune: keep is {keep}; expected 1 or more.")
    directory = Path(directory)
    if len(_steps(directory)) <= keep:
        return []
    whole: list[Path] = []
    values: dict[Path, float] = {}
    known_good = False
    for path in _steps(directory):
        try:
            manifest = read_manifest(path)
            _check_sizes(path, manifest)
            if not known_good and path != trusted:
                load(path)
        except CheckpointError:
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
    removed = [path for path in _steps(directory) if path not in kept]
    for path in removed:
        # Renamed first, so that a checkpoint half removed is never seen as one.
        doomed = directory / f".tmp-{path.name}-{os.getpid()}-removed-{time.time_ns()}"
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return removed


def read_manifest(path: Path) -> dict[str, Any]:
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


def clean(directory: Path) -> list[Path]:
    """Remove temporary directories whose writer is dead; gives what was removed."""
    removed = []
    for path in directory.glob(".tmp-*"):
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


# Files


def _write_tensors(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Write the safetensors format straight from the arrays' memory, hashing on the way.

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
    chunks = [len(text).to_bytes(8, "little") + text]
    return _write_file(path, (*chunks, *(tree.bytes_of(array) for _, array in ordered)))


def _write_json(path: Path, value: Any) -> dict[str, Any]:
    return _write_file(path, (json.dumps(value, indent=1).encode() + b"\n",))


def _write_file(path: Path, parts: tuple[bytes | memoryview, ...]) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_sizes(path: Path, manifest: dict[str, Any]) -> None:
    for name, facts in manifest["files"].items():
        try:
            actual = (path / name).stat().st_size
        except FileNotFoundError:
            raise CheckpointError(f"{path / name}: is missing.") from None
        if actual != facts["bytes"]:
            raise CheckpointError(
                f"{path / name}: has {actual} bytes, expected {facts['bytes']}; "
                f"it is {'truncated' if actual < facts['bytes'] else 'not what was written'}."
            )


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


def _steps(directory: Path) -> list[Path]:
    """Checkpoint directories, newest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [
        directory / name
        for name in sorted((n for n in names if n.isdigit()), key=int, reverse=True)
        if (directory / name).is_dir()
    ]


def _free_bytes(directory: Path) -> int:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return 0
