"""What the report of a classification has beside that of any run: classes, pictures, speed."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from orchestrator.store import RunDir

__all__ = ["PICTURES", "collect", "galleries", "tables"]

# Embedded with their captions; not among the run's other pictures.
PICTURES = "thumbnails"

Table = tuple[str, list[str], list[list[str]]]


def collect(run_dir: RunDir) -> dict[str, Any]:
    """What the job wrote down, and how fast each phase was; empty before its end."""
    try:
        found: dict[str, Any] = json.loads(
            (run_dir.artifacts_dir / "classification.json").read_text()
        )
    except FileNotFoundError:
        return {}
    return found | {"phases": (run_dir.status().batch or {}).get("phases", {})}


def tables(found: dict[str, Any]) -> list[Table]:
    """(title, columns, rows) of each."""
    if not found:
        return []
    most = max((count for _, count in found["classes"]), default=1)
    classes = [[name, str(n), "\u2588" * round(30 * n / most)] for name, n in found["classes"]]
    if found["other_classes"]:
        classes.append(["all others", str(found["other_classes"]), ""])
    weights = found["weights"]
    return [
        ("Model", ["", ""], [["name", weights["model"]], ["weights sha256", weights["sha256"]]]),
        ("Classes", ["most likely class", "images", ""], classes),
        *_evaluation(found.get("evaluation")),
        (
            "Throughput of each phase, over all workers",
            ["phase", "seconds", "images/s of one at a time"],
            [
                [name, f"{phase['seconds']:.2f}", f"{phase['images_per_s']:.1f}"]
                for name, phase in found["phases"].items()
            ],
        ),
        (
            "How images are decoded",
            ["rule", ""],
            [[key.replace("_", " "), _words(value)] for key, value in found["decoding"].items()],
        ),
    ]


def _evaluation(judged: dict[str, Any] | None) -> list[Table]:
    if judged is None:
        return []
    samples, top = judged["samples"], judged["top_k"]
    unknown = sum(judged["unknown"].values())
    rows = [
        ["judged images", str(samples)],
        ["the best label is right", _share(judged["right"], samples)],
        [f"one of the best {top['k']} is right", _share(top["right"], samples)],
    ]
    if unknown:
        names = ", ".join(list(judged["unknown"])[:5])
        rows.append(["not judged, of no class of the model", f"{unknown}: {names}"])
    shown = judged["classes"]
    more = (
        f", {len(shown)} of {judged['class_count']}" if len(shown) < judged["class_count"] else ""
    )
    return [
        ("Evaluation", ["", ""], rows),
        (
            f"Classes, those with the fewest right first{more}",
            ["class", "images", "right", "predicted"],
            [
                [
                    r["class"],
                    str(r["samples"]),
                    _share(r["right"], r["samples"]),
                    str(r["predicted"]),
                ]
                for r in shown
            ],
        ),
        (
            "Most frequent confusions",
            ["class", "taken for", "images"],
            [[pair["truth"], pair["predicted"], str(pair["count"])] for pair in judged["confused"]],
        ),
    ]


def galleries(found: dict[str, Any], run_dir: RunDir) -> list[tuple[str, list[dict[str, str]]]]:
    """(title, pictures) of each; a picture has a data URI, or none, and two lines of words."""
    if not found:
        return []
    kinds = (
        ("The most confident", found["most_confident"]),
        ("The least confident", found["least_confident"]),
        ("Quarantine", found["quarantine"]),
    )
    return [
        (title, [_picture(row, run_dir.artifacts_dir) for row in rows])
        for title, rows in kinds
        if rows
    ]


def _picture(row: dict[str, Any], folder: Path) -> dict[str, str]:
    words = row.get("error") or ", ".join(f"{name} {prob:.3f}" for name, prob in row["labels"])
    uri = ""
    if row["thumbnail"]:
        data = (folder / row["thumbnail"]).read_bytes()
        uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return {"uri": uri, "name": row["path"].rpartition("/")[2], "path": row["path"], "words": words}


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.2f} %)" if whole else "none"


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
