"""What can be seen of files that are no good images: `python -m tensorlib.vision.thumbnails A B`.

A process of its own, because such files are what breaks decoders: it takes the files of folder A
one by one, says which before it starts, and leaves `B/NAME.jpg` of those that give any pixels.
Whoever runs it runs it again without the file that it died of.
"""

from __future__ import annotations

import resource
import sys
import warnings
from pathlib import Path

from tensorlib.vision.image import FORMATS, MAX_PIXELS

__all__ = ["SIDE", "write_partial"]

SIDE = 96
_MEMORY_BYTES = 2 << 30


def write_partial(source: Path, target: Path) -> bool:
    """A JPEG of at most SIDE x SIDE pixels of what can be decoded of a file; False for nothing."""
    from PIL import Image, ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=FORMATS) as image:
                if not 0 < image.width * image.height <= MAX_PIXELS:
                    return False
                image.draft("RGB", (SIDE, SIDE))
                small = image.convert("RGB")
                small.thumbnail((SIDE, SIDE))
                small.save(target, "JPEG", quality=80)
    except Exception:  # decoders raise anything
        target.unlink(missing_ok=True)
        return False
    return True


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    given, made = Path(sys.argv[1]), Path(sys.argv[2])
    for path in sorted(given.iterdir()):
        print(path.name, flush=True)  # noqa: T201  # its reader learns which file it died of
        write_partial(path, made / f"{path.name}.jpg")


if __name__ == "__main__":
    main()
