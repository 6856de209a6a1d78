"""Classify a folder of images: one row for each file, the bad ones with a reason.

    orchestrator classify FOLDER --weights run:/latest
    orchestrator run configs/classify/resnet50.yaml --set params.inputs=FOLDER
    python -m jobs.classify_images SPEC.yaml          # in this process

The model always computes `batch_size` images, padded where fewer are left, and a part of the table
holds the same inputs whatever the number of workers: so a prediction never depends on how many
workers there were, nor on a restart.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

import tensorlib
from jobs.config import Part
from jobs.weights import Weights, load, resolve
from orchestrator.errors import UsageError
from tensorlib.vision.datasets import IMAGE_EXTENSIONS
from tensorlib.vision.image import ImageError, decode

ENGINE = "batch"


class Config(Part):
    """`params` of a classification.

    `max_bad` is how many inputs may be quarantined, a number or a share such as "0.1%", before the
    run counts as failed; null allows all of them. The table is complete either way.
    """

    inputs: Path
    weights: str
    model: str | None = None
    labels: Path | None = None
    top_k: int = Field(default=5, ge=1)
    output: Path | None = None
    batch_size: int = Field(default=16, ge=1)
    rows_per_part: int = Field(default=64, ge=1)
    max_bad: int | str | None = None

    @field_validator("weights")
    @classmethod
    def _resolve(cls, value: str) -> str:
        return resolve(value)

    @field_validator("inputs", "labels", "output")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("max_bad")
    @classmethod
    def _share_or_number(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, str):
            share = value.removesuffix("%")
            if share == value or not share.replace(".", "", 1).isdigit() or float(share) > 100:
                raise ValueError(
                    f"{value!r}; expected a number of images or a share such as '0.1%'"
                )
        elif value is not None and value < 0:
            raise ValueError(f"{value}; expected 0 or more")
        return value

    def allowed_bad(self, inputs: int) -> int | None:
        """How many of `inputs` may be quarantined; None for any number."""
        if isinstance(self.max_bad, str):
            return int(float(self.max_bad.removesuffix("%")) / 100 * inputs)
        return self.max_bad

    def load_weights(self) -> Weights:
        """The model's weights with their class names and preprocessing (cached)."""
        return load(Path(self.weights), self.model, self.labels)


def check(config: Config) -> None:
    """Say now what could not work later: inputs, weights that do not fit, too many labels asked."""
    list_files(config.inputs)
    loaded = config.load_weights()
    loaded.build()
    if config.top_k > len(loaded.classes):
        raise UsageError(
            f"top_k: {config.top_k} labels of a model with {len(loaded.classes)} classes; expected "
            f"at most as many. Hint: --top-k {len(loaded.classes)}"
        )


def list_files(inputs: Path) -> list[str]:
    """Every regular file below a folder, hidden ones left out, in the order of their names.

    A file that is no image is an input like any other and ends in the quarantine. Raises
    UsageError for a missing folder and for one without any image.
    """
    if inputs.is_file():
        return [str(inputs)]
    if not inputs.is_dir():
        raise UsageError(f"{inputs}: no such folder; expected a folder with images")
    found: list[str] = []
    for folder, subfolders, names in os.walk(inputs):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    if not any(path.lower().endswith(IMAGE_EXTENSIONS) for path in found):
        raise UsageError(
            f"{inputs}: {len(found)} files, none of them an image; expected files ending in "
            f"{', '.join(IMAGE_EXTENSIONS)}"
        )
    return sorted(found)


def manifest(config: Config) -> pa.Table:
    """The frozen list of inputs: id (position), path, file (name in bytes), first equal file."""
    paths = list_files(config.inputs)
    return pa.table(
        {
            "id": pa.array(range(len(paths)), pa.int64()),
            "path": pa.array([_shown(path) for path in paths], pa.string()),
            "file": pa.array([os.fsencode(path) for path in paths], pa.binary()),
            "duplicate_of": pa.array(_duplicates(paths), pa.int64()),
        }
    )


def read(rows: Mapping[str, Sequence[Any]], config: Config) -> dict[str, Any]:
    """Decode a part's files to uint8 [N, H, W, C]; a bad file leaves zeros and a reason."""
    preset = config.load_weights().preset
    size, channels = preset.crop_size, len(preset.mean)
    count = len(rows["id"])
    found: dict[str, Any] = {
        "id": np.asarray(rows["id"]),
        "path": np.asarray(rows["path"], dtype=object),
        "image": np.zeros((count, size, size, channels), np.uint8),
        "error": np.full(count, "", dtype=object),
        "width": np.zeros(count, np.int64),
        "height": np.zeros(count, np.int64),
        "rotated": np.zeros(count, np.bool_),
    }
    for i, file in enumerate(rows["file"]):
        try:
            decoded = decode(os.fsdecode(file), mode=preset.mode)
        except (ImageError, OSError) as error:
            found["error"][i] = " ".join(str(error).split())
            continue
        found["image"][i] = preset.to_uint8(decoded.image)
        found["width"][i], found["height"][i] = decoded.width, decoded.height
        found["rotated"][i] = decoded.rotated
    return found


class Classifier:
    """The model, in a worker that stays: decoded rows in, rows of the table out."""

    def __init__(self, config: Config) -> None:
        loaded = config.load_weights()
        self.config, self.classes, self.preset = config, loaded.classes, loaded.preset
        self.module = loaded.build()

    def __call__(self, rows: Mapping[str, Any]) -> pa.Table:
        errors = list(rows["error"])
        good = [i for i, error in enumerate(errors) if not error]
        probabilities = self.probabilities(np.asarray(rows["image"])[good])
        # Ties go to the lower index, whatever the sort.
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.config.top_k]
        row_of = {i: n for n, i in enumerate(good)}

        def column(values: Any, kind: pa.DataType) -> pa.Array:
            """A value for each good row, null for the quarantined ones."""
            picked = [values[row_of[i]] if i in row_of else None for i in range(len(errors))]
            return pa.array(picked, kind)

        table: dict[str, pa.Array] = {
            "id": pa.array(rows["id"], pa.int64()),
            "path": pa.array(list(rows["path"]), pa.string()),
            "status": pa.array(["quarantined" if e else "ok" for e in errors], pa.string()),
        }
        for k in range(self.config.top_k):
            index = order[:, k]
            probability = np.take_along_axis(probabilities, order[:, k : k + 1], 1)[:, 0]
            table[f"label_{k + 1}"] = column([self.classes[i] for i in index], pa.string())
            table[f"index_{k + 1}"] = column(index.tolist(), pa.int64())
            table[f"prob_{k + 1}"] = column(probability.tolist(), pa.float32())
        for name, kind in (("width", pa.int64()), ("height", pa.int64()), ("rotated", pa.bool_())):
            table[name] = column(np.asarray(rows[name])[good].tolist(), kind)
        table["error"] = pa.array([e or None for e in errors], pa.string())
        return pa.table(table)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax of the logits [N, classes], computed `batch_size` images at a time."""
        size = self.config.batch_size
        found = [np.empty((0, len(self.classes)), np.float32)]
        with tensorlib.no_grad():
            for start in range(0, len(images), size):
                chunk = images[start : start + size]
                batch = np.zeros((size, *images.shape[1:]), np.uint8)
                batch[: len(chunk)] = chunk
                logits = self.module(tensorlib.from_numpy(self.preset.normalize(batch)))
                found.append(logits.softmax(1).numpy()[: len(chunk)])
        return np.concatenate(found)


def _shown(path: str) -> str:
    """A path as a table can hold it: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _duplicates(paths: Sequence[str]) -> list[int | None]:
    """For each file the first one of equal content. Only files of equal size are read."""
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        if os.path.isfile(path) and (size := os.path.getsize(path)) > 0:
            by_size[size].append(i)
    first: list[int | None] = [None] * len(paths)
    for group in by_size.values():
        if len(group) < 2:
            continue
        seen: dict[bytes, int] = {}
        for i in group:
            try:
                with open(paths[i], "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
            except OSError:
                continue  # unreadable: it will be quarantined, which is not a duplicate's fate
            if seen.setdefault(digest, i) != i:
                first[i] = seen[digest]
    return first


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
