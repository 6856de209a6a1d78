"""The handwritten digits that the demo trains on: 1,797 gray images of 8x8, ten classes.

    from jobs.data.digits import load
    images, labels = load("train")

`python -m jobs.data.digits FOLDER` writes the held-out ones as PNG and JPEG files, with a corrupt
and an empty file among them, to try `orchestrator classify` on.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

COUNT = 1797
TRAIN_COUNT = 1437
CLASSES = tuple("0123456789")


def load(
    split: Literal["train", "test"] = "train",
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 [N, 8, 8] in 0..255 and labels int64 [N]; 1,437 to train on, 360 held out.

    The file's pixels 0..16 become round(value * 255 / 16). The split is the first 1,437 and the
    last 360 of a fixed permutation (NumPy's PCG64, seed 0) of the file's lines: the file is ordered
    by writer, so a cut without it would test on other writers than it trains on.
    """
    if split not in ("train", "test"):
        raise ValueError(f"digits.load: split={split!r}; expected 'train' or 'test'")
    import pandas as pd

    with (resources.files(__package__) / "digits.csv.gz").open("rb") as file:
        table = pd.read_csv(file, header=None, compression="gzip").to_numpy()
    order = np.random.default_rng(0).permutation(COUNT)
    rows = table[order[:TRAIN_COUNT] if split == "train" else order[TRAIN_COUNT:]]
    pixels = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return pixels.reshape(-1, 8, 8), rows[:, 64].astype(np.int64)


def write_images(folder: Path) -> dict[str, int]:
    """Write the held-out digits as files: `0000_label7.png`, `0001_label3.jpg`, ... by turns.

    Beside them stand `corrupt.jpg`, the first half of a real JPEG file, and `empty.png` of 0 bytes.
    Returns how many files of each kind were written.
    """
    from tensorlib.vision import image

    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load("test")
    counts = {"png": 0, "jpg": 0, "corrupt": 0, "empty": 0}
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        kind = "jpg" if i % 2 else "png"
        path = folder / f"{i:04d}_label{label}.{kind}"
        image.write(path, pixels, quality=95)
        counts[kind] += 1
    whole = (folder / f"0001_label{labels[1]}.jpg").read_bytes()
    (folder / "corrupt.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    counts["corrupt"] = counts["empty"] = 1
    return counts


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m jobs.data.digits FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        counts = write_images(folder)
    except OSError as error:
        print(f"{folder}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(
        f"{sum(counts.values())} files in {folder}: {counts['png']} PNG and {counts['jpg']} JPEG "
        "digits, corrupt.jpg (truncated), empty.png (0 bytes)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
