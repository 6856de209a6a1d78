"""A process that decodes images for `decoding.DecoderPool`, and the function that does it there and
in process.

It is started as a script, without the library: a package whose import takes longer than an image
would be paid for by each process, and what is not in it cannot be broken by a bad image.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from tensorlib.vision.resizing import Interpolation

READY = b"\x01"
SLOTS = 2  # files that a process has at a time: one in work, one that waits for it
REQUEST = struct.Struct("<?q")  # whether a path, bytes in the slot's file of inputs
REPLY = struct.Struct("<q?qq")  # bytes of the reason (0: none), rotated, width, height
GRACE_S = 5  # beyond its time, for the case that nobody is left to stop it
PATH_ERRORS = "surrogateescape"
_IMPORTED = tuple(
    f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")
)


@dataclass(frozen=True)
class Recipe:
    """What becomes of a file: the preset's first half and the options of `image.decode`."""

    mode: Literal["RGB", "L"]
    resize_size: int | None
    crop_size: int
    interpolation: Interpolation
    exif: Literal["apply", "ignore"]
    draft: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the pixels."""
        return self.crop_size, self.crop_size, {"RGB": 3, "L": 1}[self.mode]


def pixels_of(
    source: str | os.PathLike[str] | bytes, recipe: Recipe
) -> tuple[np.ndarray, int, int, bool]:
    """uint8 pixels of `recipe.shape`, width, height, and whether EXIF turned or mirrored them.

    Raises ImageError for whatever is wrong with the file.
    """
    from tensorlib.vision.image import NO_MEMORY, ImageError, decode
    from tensorlib.vision.resizing import prepare

    try:
        decoded = decode(
            source, recipe.mode, recipe.exif, recipe.resize_size if recipe.draft else None
        )
        pixels = prepare(
            decoded.image, recipe.mode, recipe.resize_size, recipe.crop_size, recipe.interpolation
        )
    except MemoryError:
        raise ImageError(NO_MEMORY) from None
    return pixels, decoded.width, decoded.height, decoded.rotated


def main() -> None:
    """Answer requests until the other end of the socket is closed."""
    options = json.loads(sys.argv[1])
    sys.path[:] = options["path"]
    _without_init("tensorlib", "tensorlib.vision")
    for name in _IMPORTED:  # before memory is limited, and not within a file's time
        importlib.import_module(name)
    import numpy as np

    from tensorlib.vision.image import NO_MEMORY, ImageError

    requests = socket.socket(fileno=options["socket"])
    inputs, outputs, recipe = options["inputs"], options["outputs"], Recipe(**options["recipe"])
    _limit(options["memory_bytes"])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries complain there about bad files
    requests.sendall(READY)
    slot = -1
    while request := requests.recv(REQUEST.size, socket.MSG_WAITALL):
        is_path, size = REQUEST.unpack(request)
        slot = (slot + 1) % SLOTS
        signal.setitimer(signal.ITIMER_REAL, options["timeout_s"] + GRACE_S)
        try:
            given: Any = os.pread(inputs[slot], size, 0)
            if is_path:
                given = given.decode(errors=PATH_ERRORS)
            pixels, width, height, rotated = pixels_of(given, recipe)
        except (ImageError, MemoryError) as error:
            text = str(error) if isinstance(error, ImageError) else NO_MEMORY
            reason = text.encode(errors="backslashreplace")[: options["reason_bytes"]]
            os.pwrite(outputs[slot], reason, 0)
            answer = REPLY.pack(max(1, len(reason)), False, 0, 0)
        else:
            os.pwrite(outputs[slot], np.ascontiguousarray(pixels).data, 0)
            answer = REPLY.pack(0, rotated, width, height)
        signal.setitimer(signal.ITIMER_REAL, 0)
        requests.sendall(answer)


def _without_init(*packages: str) -> None:
    """Make modules of these packages importable without running what their `__init__` imports."""
    root = Path(__file__).parents[2]
    for name in packages:
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package


def _limit(memory_bytes: int) -> None:
    """At most so much address space beyond what is in use, no core dumps, the first to be killed
    where a machine's memory ends; Ctrl-C is the parent's business.
    """
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
