"""`orchestrator classify PATH`: classify images with a model, one row of the table per input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.run import Run

_SHOWN_BAD = 10
_LISTS = (".txt", ".csv", ".tsv", ".parquet", ".tar")
# Where each value of the spec comes from, so that errors name what was typed.
_FLAGS = {
    "name": "--name",
    "params.inputs": "INPUTS",
    "params.column": "--column",
    "params.truth": "--truth",
    "params.hosts": "--host",
    "params.features": "--features",
    "params.exif": "--exif",
    "params.format": "--format",
    "params.local": "--local",
    "params.model": "--model",
    "params.weights": "--weights",
    "params.top_k": "--top-k",
    "params.output": "--output",
    "params.labels": "--labels",
    "params.batch_size": "--batch-size",
    "params.max_bad": "--max-bad",
    "resources": "--workers",
    "resources.cpus_per_worker": "--cpus",
}


def classify(
    inputs: Annotated[
        str,
        typer.Argument(
            metavar="INPUTS",
            help="A folder, an image, a pattern, a .txt, .csv, .parquet or .tar, or a URI of one.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            help="run:/ID, run:/latest (default), FILE.pth, a URI, mlflow:models:/NAME@ALIAS."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model's name, such as resnet50; a run knows its own.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Labels per image (default 5).")] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the table's parts.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the table: parquet (default), csv or jsonl.")
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Add what the last layer classifies.")
    ] = False,
    labels: Annotated[Path | None, typer.Option(help="File of class names, one per line.")] = None,
    column: Annotated[
        str | None, typer.Option(help="Of a CSV or Parquet file: where the images are.")
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="The right classes: 'folder', or the name of a column.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Allow http(s) from this host; may be repeated.")
    ] = None,
    exif: Annotated[
        str | None, typer.Option(help="EXIF orientation: apply (default) or ignore.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="In one process without Ray, as for a single image.")
    ] = False,
    workers: Annotated[
        str | None,
        typer.Option(help="Processes that classify (default: a CPU each), or a range, 1-4."),
    ] = None,
    cpus: Annotated[int | None, typer.Option(help="CPUs, and threads, of each of them.")] = None,
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

    if (shown := os.fsencode(inputs).decode(errors="backslashreplace")) != inputs:
        raise UsageError(
            f"INPUTS: {shown} is not UTF-8; expected text, which a spec can hold. "
            "Hint: the folder above it, or a pattern with * for the odd bytes"
        )
    params: dict[str, Any] = {
        "inputs": inputs,
        "model": model,
        "weights": _weights(weights, model),
        "top_k": top_k,
        "output": None if output is None else str(output.absolute()),
        "format": format,
        "features": features or None,
        "labels": None if labels is None else str(labels.absolute()),
        "column": column,
        "truth": truth,
        "hosts": host or None,
        "exif": exif,
        "local": local or _alone(inputs) or None,
        "batch_size": batch_size,
        "max_bad": int(max_bad) if max_bad is not None and max_bad.isdecimal() else max_bad,
    }
    for flag, value in (("--workers", workers), ("--address", address)):
        if params["local"] and value is not None:
            raise UsageError(
                f"{flag}: {value}, but one image or --local takes this process alone; "
                "expected one of the two"
            )
    resources = {"workers": _range(workers), "cpus_per_worker": cpus}
    here = int(local_resources()["CPU"])
    if params["local"] and cpus is None:
        resources["cpus_per_worker"] = here
    elif workers is None and address is None and not params["local"]:
        resources["workers"] = max(here // (cpus or 1), 1)
    spec = {
        "version": 1,
        "name": name,
        "job": "classify_images",
        "params": {key: value for key, value in params.items() if value is not None},
        "resources": {key: value for key, value in resources.items() if value is not None},
        "tracking": {"when": "later"} if params["local"] else {},
    }
    loaded = config.from_dict(spec, "orchestrator classify", _FLAGS)
    plan = planning.plan(loaded, address=address, available=None if address else local_resources())
    raise typer.Exit(execute(plan, as_json))


def _alone(inputs: str) -> bool:
    """Whether `inputs` is one image, here or at a server: Ray would take longer to start."""
    if inputs.lower().startswith(("http://", "https://")):
        return True  # which give no lists
    path = os.path.expanduser(inputs)
    return os.path.isfile(path) and not path.lower().endswith(_LISTS)


def _range(workers: str | None) -> Any:
    """`4`, or `1-4` as the spec's range."""
    if workers is None or workers.isdigit():
        return workers if workers is None else int(workers)
    low, dash, high = workers.partition("-")
    if not (dash and low.isdigit() and high.isdigit()):
        raise UsageError(f"--workers: {workers!r}; expected a number, or a range such as 1-4")
    return {"min": int(low), "max": int(high)}


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
    named = "://" in weights or weights.startswith("mlflow:")
    return weights if named else str(Path(weights).absolute())


def counts(run: Run, result: dict[str, Any]) -> list[str]:
    """The counts of a classification, its first bad inputs and where the table is."""
    if result["ok"] is None:
        listed = "not listed" if result["inputs"] is None else f"{result['inputs']}"
        return [f"inputs    {listed}, not counted to the end"]
    inputs, ok, bad = result["inputs"], result["ok"], result["quarantined"]
    sign = "=" if inputs == ok + bad else "IS NOT"
    lines = [
        f"inputs    {inputs} {sign} {ok} ok + {bad} quarantined",
        f"repeated  {result['duplicates']} duplicates by content{_not_compared(run)}",
    ]
    try:
        rows = json.loads((run.directory.artifacts_dir / "quarantine.json").read_text())
    except FileNotFoundError:
        rows = []
    if inputs == 1 and ok == 1:
        lines = [*_labels(Path(result["output"])), *lines]
    lines += [_printable(f"bad       {row['path']}: {row['error']}") for row in rows[:_SHOWN_BAD]]
    if bad > _SHOWN_BAD:
        lines.append(f"          and {bad - _SHOWN_BAD} more; the report lists them")
    lines.append(f"table     {result['output']}")
    if run.directory.plan().spec.tracking.when == "later":
        lines.append(f"tracking  not in MLflow; orchestrator sync {run.run_id} sends it")
    return lines


def _not_compared(run: Run) -> str:
    """How many inputs nobody knows duplicates of, in words; nothing where there are none."""
    events = (event for _, event in run.directory.events() if event["kind"] == "data")
    count = max((event.get("facts", {}).get("http_not_compared", 0) for event in events), default=0)
    return f" ({count} of http(s) not compared)" if count else ""


def _printable(text: str) -> str:
    """A line of text whose line ends and controls, which a file's name may hold, are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _labels(folder: Path) -> list[str]:
    """What the one image of a table shows."""
    from orchestrator.parts import Parts

    (part,) = folder.glob("part-*")
    kind: Any = part.suffix[1:]
    row = Parts(folder, 1, 1, kind).read(0).to_pylist()[0]
    ranks = range(1, sum(name.startswith("label_") for name in row) + 1)
    width = max(len(str(row[f"label_{k}"])) for k in ranks)
    return [f"{row[f'label_{k}']:<{width}}  {row[f'prob_{k}']:.4f}" for k in ranks]
