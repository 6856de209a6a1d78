"""Small pictures of inputs, for the report of a classification."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tensorlib.vision import image
from tensorlib.vision.decoding import DecoderPool
from tensorlib.vision.image import ImageError
from tensorlib.vision.thumbnails import SIDE
from tensorlib.vision.transforms import ImageClassification

Read = Callable[[int], bytes]
_LIMIT_S = 20.0
_DEATHS = 5
_LARGEST_BYTES = 256 << 20  # of files that are copied for a look


def write(ids: Iterable[int], read: Read, folder: Path) -> dict[int, str]:
    """A square picture of each good input `ids`; gives their file names in `folder`."""
    ids = sorted(set(ids))
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[int, str] = {}
    # Here: each of them went through a decoder with limits already.
    with DecoderPool(ImageClassification(SIDE, SIDE), 0) as pool:
        for number in ids:
            try:
                found = pool.decode([read(number)])
            except ImageError:
                continue  # it has gone since
            if found.errors[0] is None:
                made[number] = f"{number}.jpg"
                image.write(folder / made[number], found.images[0], quality=80)
    return made


def write_bad(ids: Iterable[int], read: Read, folder: Path) -> dict[int, str]:
    """A picture of each bad input that shows any pixels; gives their file names in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        given, out = Path(temporary) / "in", Path(temporary) / "out"
        given.mkdir()
        out.mkdir()
        left = _LARGEST_BYTES
        for number in ids:
            try:
                data = read(number)
            except ImageError:
                continue
            if 0 < len(data) <= left:
                left -= len(data)
                (given / str(number)).write_bytes(data)
        for _ in range(_DEATHS):
            names = sorted(given.iterdir())
            if not names or (tried := _look(given, out)) is None:
                break
            for path in names:
                if path.name in tried:
                    path.unlink()
        for path in sorted(out.iterdir()):
            made[int(path.stem)] = path.name
            (folder / path.name).write_bytes(path.read_bytes())
    return made


def _look(given: Path, out: Path) -> list[str] | None:
    """Run the decoder over what is left; where it died, the names it tried, else None."""
    command: list[Any] = [sys.executable, "-m", "tensorlib.vision.thumbnails", given, out]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode().split()
    return done.stdout.decode().split() if done.returncode else None
