"""Classify images: one row of the table for each input, the bad ones with a reason.

    orchestrator classify FOLDER --weights run:/latest
    orchestrator run configs/classify/resnet50.yaml --set params.inputs=FOLDER
    python -m jobs.classify_images SPEC.yaml          # in this process

A row is the same to the bit for any number of workers, any batch size and after any restart: what
a compiled model gives for an image does not depend on the images beside it, and one that does not
compile always computes COMPUTE_BATCH images, padded where fewer are left.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from jobs import inputs
from jobs.ahead import Ahead
from jobs.inputs import InputsConfig, write_manifest
from jobs.listing import kind_of
from jobs.predictor import Predictor
from jobs.reading import read_input
from jobs.weights import Weights, load, resolve
from orchestrator.errors import UsageError
from orchestrator.parts import Format, Manifest, Parts
from tensorlib.vision.decoding import DecoderPool
from tensorlib.vision.image import ImageError

__all__ = ["Config", "Worker", "check", "fingerprint", "summarize", "write_manifest"]

ENGINE = "batch"
# Bytes of encoded images that are in memory at a time beside decoded ones.
_READ_BYTES = 32 << 20


class Config(InputsConfig):
    """`params` of a classification.

    Args:
        weights: a checkpoint, `run:/ID`, `mlflow:models:/NAME@ALIAS`, or with `model` a `.pth` or
            `.safetensors` file; each may be a URI.
        labels: file of the model's class names, one a line, where they are not ImageNet's.
        features: the values that the last layer classifies, too, as a list in each row (of NaN
            where the input is bad).
        exif: whether EXIF orientation is applied; ImageNet numbers are compared without.
        draft: large JPEGs are decoded smaller, faster and not to the same pixels.
        output: folder of the table; null: among the run's artifacts.
        format: of the table's parts.
        local: in one process, without Ray.
        batch_size: images that the model is given at a time; the results do not depend on it.
        rows_per_part: null: a hundredth of the inputs, from 16 to 1024. A restart repeats the
            parts that were in work.
        max_bad: how many inputs may be quarantined, a number or a share such as "0.1%", before
            the run counts as failed; null allows all of them, but of an image given alone none.
            The table is complete either way.
    """

    weights: str
    model: str | None = None
    labels: Path | None = None
    top_k: int = Field(default=5, ge=1)
    features: bool = False
    exif: Literal["apply", "ignore"] = "apply"
    draft: bool = False
    output: Path | None = None
    format: Format = "parquet"
    local: bool = False
    batch_size: int = Field(default=16, ge=1)
    max_bad: int | str | None = None

    @field_validator("weights")
    @classmethod
    def _resolve(cls, value: str) -> str:
        return resolve(value)

    @field_validator("labels", "output")
    @classmethod
    def _absolute_path(cls, value: Path | None) -> Path | None:
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

    @model_validator(mode="after")
    def _lists_need_a_format(self) -> Config:
        if self.features and self.format == "csv":
            raise ValueError("features: CSV has no lists; expected format parquet or jsonl")
        return self

    def allowed_bad(self, inputs: int) -> int | None:
        """How many of `inputs` may be quarantined; None for any number."""
        if isinstance(self.max_bad, str):
            return int(Fraction(self.max_bad.removesuffix("%")) * inputs / 100)
        alone = self.max_bad is None and kind_of(self.inputs) == "file"
        return 0 if alone else self.max_bad

    def load_weights(self) -> Weights:
        """The model's weights with their class names and preprocessing (cached)."""
        return load(self.weights, self.model, self.labels)


def check(config: Config) -> None:
    """Say now what could not work later: inputs, weights that do not fit, too many labels asked."""
    inputs.check(config)
    loaded = config.load_weights()
    assert loaded.module  # built: what does not fit is said now
    if config.top_k > len(loaded.classes):
        raise UsageError(
            f"top_k: {config.top_k} labels of a model with {len(loaded.classes)} classes; expected "
            f"at most as many. Hint: --top-k {len(loaded.classes)}"
        )


def fingerprint(config: Config) -> str:
    """Digest of the weights, and of class names that a file gives them."""
    weights = config.load_weights()
    if config.labels is None:
        return weights.sha256
    return hashlib.sha256("\n".join([weights.sha256, *weights.classes]).encode()).hexdigest()


@dataclass
class _Batch:
    """Decoded inputs: uint8 [N, H, W, C], and for each None or its reason to be bad."""

    images: np.ndarray
    errors: list[str | None]
    width: np.ndarray
    height: np.ndarray
    rotated: np.ndarray


class Worker:
    """Classifies rows of the manifest. Several threads may call it: while the model computes for
    one of them, the next one's images are read and decoded.
    """

    def __init__(self, config: Config, threads: int) -> None:
        weights = config.load_weights()
        self.config, self.preset = config, weights.preset
        # Its processes start while the model is compiled.
        self.decoders = DecoderPool(weights.preset, threads, exif=config.exif, draft=config.draft)
        self.predictor = Predictor(
            weights, config.batch_size, config.top_k, config.features, threads
        )
        self._turn = threading.Lock()

    def close(self) -> None:
        """End the decoders."""
        self.decoders.close()

    def __call__(
        self, rows: pa.Table, stop: Callable[[], bool]
    ) -> tuple[pa.Table, dict[str, float]]:
        """A row for each input; seconds of reading, decoding and computing.

        Raises InterruptedError soon after `stop` says so.
        """
        seconds = dict.fromkeys(("read", "decode", "model"), 0.0)
        pieces = []
        with Ahead(self._decoded(rows, seconds)) as batches, self._turn:
            start = 0
            for batch in batches:
                if stop():
                    raise InterruptedError("stopped")
                began = time.monotonic()
                count = len(batch.errors)
                pieces.append(self._table(rows.slice(start, count), batch))
                start += count
                seconds["model"] += time.monotonic() - began
        return pa.concat_tables(pieces), seconds

    def _decoded(self, rows: pa.Table, seconds: dict[str, float]) -> Iterator[_Batch]:
        """The inputs in batches, an empty one where there are none."""
        size = self.config.batch_size
        for start in range(0, max(rows.num_rows, 1), size):
            listed = rows.slice(start, size).to_pylist()
            batch = self._empty(len(listed))
            waiting: dict[int, bytes] = {}
            for i, row in enumerate(listed):
                began = time.monotonic()
                try:
                    waiting[i] = read_input(row, self.config.hosts, self.config.column)
                except ImageError as error:
                    batch.errors[i] = " ".join(str(error).split())
                seconds["read"] += time.monotonic() - began
                if sum(map(len, waiting.values())) >= _READ_BYTES:
                    self._decode(batch, waiting, seconds)
            self._decode(batch, waiting, seconds)
            yield batch

    def _decode(self, batch: _Batch, waiting: dict[int, bytes], seconds: dict[str, float]) -> None:
        """Decode what was read, into its places of the batch."""
        began = time.monotonic()
        places = list(waiting)
        found = self.decoders.decode([waiting.pop(i) for i in places])
        batch.images[places], batch.rotated[places] = found.images, found.rotated
        batch.width[places], batch.height[places] = found.width, found.height
        for i, error in zip(places, found.errors, strict=True):
            batch.errors[i] = error
        seconds["decode"] += time.monotonic() - began

    def _empty(self, count: int) -> _Batch:
        size, channels = self.preset.crop_size, len(self.preset.mean)
        numbers = [np.zeros(count, kind) for kind in (np.int64, np.int64, np.bool_)]
        return _Batch(np.zeros((count, size, size, channels), np.uint8), [None] * count, *numbers)

    def _table(self, rows: pa.Table, batch: _Batch) -> pa.Table:
        good = np.array([error is None for error in batch.errors], bool)
        images = batch.images if good.all() else batch.images[good]
        found, features = self.predictor.columns(images)
        for name in ("width", "height", "rotated"):
            found[name] = pa.array(getattr(batch, name)[good])
        # A row for each input, empty for the bad ones.
        places = pa.array(np.cumsum(good) - 1, mask=~good)
        predicted = pa.table(found).take(places)
        columns = {
            "id": rows["id"],
            "path": rows["path"],
            "status": pa.array(np.where(good, "ok", "quarantined").tolist(), pa.string()),
            **{name: predicted[name] for name in predicted.column_names},
            "error": pa.array(batch.errors, pa.string()),
        }
        if features is not None:
            # Arrow reads no missing lists of a fixed size from Parquet, so theirs are of NaN.
            every = np.full((len(good), features.shape[1]), np.nan, np.float32)
            every[good] = features
            columns["features"] = pa.FixedSizeListArray.from_arrays(
                pa.array(every.reshape(-1)), features.shape[1]
            )
        if self.config.truth:
            columns["truth"] = rows["truth"]
        return pa.table(columns)


def summarize(config: Config, parts: Parts, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Write what the whole table says into `folder`; gives metrics."""
    from jobs import summary  # workers have no use for it

    return summary.summarize(config, parts, manifest, folder)


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
