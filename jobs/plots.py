"""Pictures that trainings leave among their artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

History = Mapping[str, Sequence[tuple[int, float, int]]]


def loss_curve(history: History, path: Path, names: Sequence[str] = ("loss", "accuracy")) -> None:
    """For each name a panel: its value in training per step, on held-out samples per epoch."""
    figure, panels = _figure(len(names))
    for axes, name in zip(panels, names, strict=True):
        for key, style in ((f"train/{name}", {"alpha": 0.4}), (f"val/{name}", {"marker": "o"})):
            points = history.get(key, ())
            if not points:
                continue
            axes.plot([p[0] for p in points], [p[1] for p in points], label=key, **style)
        axes.set_xlabel("step")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    if names[0].endswith("loss"):
        panels[0].set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Rows are true classes, columns predictions; each row is shaded by its own share."""
    figure, (axes,) = _figure(1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = share[row, column] > 0.5
                axes.text(
                    *(column, row, str(count)),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(f"accuracy {accuracy:.4f} on {counts.sum()} held-out samples")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.savefig(path, dpi=110)


def _figure(panels: int) -> tuple[Any, Any]:
    """A figure that needs no screen and registers nowhere."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * panels, 5), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def grid(pictures: NDArray[np.uint8], side: int = 512) -> NDArray[np.uint8]:
    """Pictures [N, H, W, channels] as one, row by row in a square with lines between; those of less
    than `side` pixels in all are enlarged by a whole number.
    """
    count, height, width, channels = pictures.shape
    across = int(np.ceil(np.sqrt(count)))
    cells = np.full((across**2, height + 1, width + 1, channels), 255, np.uint8)
    cells[:count, :height, :width] = pictures
    rows = cells.reshape(across, across, height + 1, width + 1, channels).swapaxes(1, 2)
    whole = rows.reshape(across * (height + 1), across * (width + 1), channels)[:-1, :-1]
    factor = max(1, side // len(whole))
    return whole.repeat(factor, 0).repeat(factor, 1)
