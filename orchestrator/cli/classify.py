"""`orchestrator classify PATH`: classify images with a model, one row of the table per input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag

if TYPE_CHECKING:
    from orchestrator.run import Run

_SHOWN_BAD = 10
# Where each value of the spec comes from, so that errors name what was typed.
_FLAGS = {
    "name": "--name",
    "params.inputs": "PATH",
    "params.model": "--model",
    "params.weights": "--weights",
    "params.top_k": "--top-k",
    "params.output": "--output",
    "params.labels": "--labels",
    "params.batch_size": "--batch-size",
    "params.max_bad": "--max-bad",
    "resources": "--workers",
}


def classify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of images, or one.")],
    weights: Annotated[
        str | None,
        typer.Option(help="FILE.pth, a checkpoint directory, run:/ID or run:/latest (default)."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model's name, such as resnet50; a run knows its own.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Labels per image (default 5).")] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the table's parts.")] = None,
    labels: Annotated[Path | None, typer.Option(help="File of class names, one per line.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that classify.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    max_bad: Annotated[
        str | None, typer.Option(help="Bad inputs allowed: a number or a share such as 1%.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the run is called.")] = "classify",
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; without it one is started.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Classify images: one row per input, bad ones with their reason."""
    from orchestrator import config
    from orchestrator import plan as planning
    from orchestrator.cli.run import execute
    from orchestrator.engine.cluster import local_resources

    params: dict[str, Any] = {
        "inputs": str(path.absolute()),
        "model": model,
        "weights": _weights(weights, model),
        "top_k": top_k,
        "output": None if output is None else str(output.absolute()),
        "labels": None if labels is None else str(labels.absolute()),
        "batch_size": batch_size,
        "max_bad": int(max_bad) if max_bad is not None and max_bad.isdigit() else max_bad,
    }
    spec = {
        "version": 1,
        "name": name,
        "job": "classify_images",
        "params": {key: value for key, value in params.items() if value is not None},
        "resources": {} if workers is None else {"workers": workers},
    }
    loaded = config.from_dict(spec, "orchestrator classify", _FLAGS)
    plan = planning.plan(loaded, address=address, available=None if address else local_resources())
    raise typer.Exit(execute(plan, as_json))


def _weights(weights: str | None, model: str | None) -> str | None:
    """Weights as an absolute path, or `run:/ID` with the run looked up and named."""
    from orchestrator.plan import default_home
    from orchestrator.store import resolve_run

    if weights is None:
        if model is not None:
            return None  # the job says that weights are missing
        weights = "run:/latest"
    if weights.startswith("run:/"):
        return f"run:/{resolve_run(default_home(), weights).run_id}"
    return weights if "://" in weights else str(Path(weights).absolute())


def counts(run: Run, result: dict[str, Any]) -> list[str]:
    """The counts of a classification, its first bad inputs and where the table is."""
    if result["ok"] is None:
        return [f"inputs    {result['inputs']}, not counted to the end"]
    inputs, ok, bad = result["inputs"], result["ok"], result["quarantined"]
    sign = "=" if inputs == ok + bad else "IS NOT"
    lines = [
        f"inputs    {inputs} {sign} {ok} ok + {bad} quarantined",
        f"repeated  {result['duplicates']} duplicates by content",
    ]
    try:
        rows = json.loads((run.directory.artifacts_dir / "quarantine.json").read_text())
    except FileNotFoundError:
        rows = []
    lines += [f"bad       {row.get('path')}: {row.get('error')}" for row in rows[:_SHOWN_BAD]]
    if bad > _SHOWN_BAD:
        lines.append(f"          and {bad - _SHOWN_BAD} more; the report lists them")
    return [*lines, f"table     {result['output']}"]
