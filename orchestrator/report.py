"""The report of a run: what ran, on what data, what it saw, what it produced, how to repeat it.

Built from the run directory alone, whatever state the run is in; every number in it can be counted
again there. `report.json` is the same content for programs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import mimetypes
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from orchestrator import report_batch
from orchestrator.places import place_of
from orchestrator.plan import RunPlan
from orchestrator.run import Run, json_safe
from orchestrator.store import Attempt, RunDir, atomic_write

__all__ = ["build", "collect"]

_PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg"}
_LARGEST_PICTURE_BYTES = 4 << 20
_SHOWN_BAD = 100
_KEPT = {True: "yes", False: "pruned", None: "unknown: its storage did not answer"}
_COUNTS = ("inputs", "ok", "quarantined", "duplicates")


def build(run_dir: RunDir) -> dict[str, Any]:
    """Write report.md, report.json and report.html into the run directory; gives the JSON object.

    The spec as it ran is written beside them as spec.yaml, so that the run can be repeated.
    """
    facts = collect(run_dir)
    plan = run_dir.plan()
    spec = plan.spec.model_dump(mode="json") | {"params": plan.config}
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    files = {
        "spec.yaml": text,
        "report.json": json.dumps(facts, indent=2, ensure_ascii=False) + "\n",
        "report.md": _markdown(facts),
        "report.html": _html(facts, text, run_dir),
    }
    for name, content in files.items():
        atomic_write(run_dir.path / name, content.encode(errors="replace"))
    return facts


def collect(run_dir: RunDir) -> dict[str, Any]:
    """All a report says, as JSON; starts with the public object of `Run.result`."""
    run, plan, status = Run(run_dir), run_dir.plan(), run_dir.status()
    events = [event for _, event in run_dir.events()]
    facts = run.result() | {
        "name": plan.spec.name,
        "engine": plan.engine,
        "job": plan.job_module,
        "plan_hash": plan.hash,
        "code": plan.code,
        "seed": plan.spec.seed,
        "determinism": plan.spec.determinism,
        "shards": plan.shards,
        "workers": plan.spec.resources.model_dump(mode="json")["workers"],
        "cpus_per_worker": plan.spec.resources.cpus_per_worker,
        "created_at": plan.created_at,
        "started_at": status.started_at,
        "ended_at": status.ended_at,
        "duration_s": _duration_s(status.started_at, status.ended_at),
        "data": _data_facts(events),
        "attempt_table": [_attempt_row(attempt) for attempt in run.attempts()],
        "curves": _curves(run_dir),
        "checkpoints": _checkpoints(run_dir, events),
        "checkpoints_skipped": [
            {"path": event["path"], "why": event["why"]}
            for event in events
            if event["kind"] == "checkpoint_skipped"
        ],
        "artifacts": _artifacts(run),
        "reproduce": _reproduce(plan, run_dir),
    }
    if plan.engine == "batch":
        facts["quarantine"] = _quarantine(run_dir)
        facts["counts_add_up"] = _add_up(facts)
        facts["batch"] = status.batch or {}
        facts["classification"] = report_batch.collect(run_dir)
    safe: dict[str, Any] = json_safe(facts)
    return safe


def _data_facts(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for event in events:
        if event["kind"] == "data":
            facts |= event.get("facts") or {
                key: value for key, value in event.items() if key not in ("t", "attempt", "kind")
            }
    return facts


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    ended = attempt.ended
    return {
        "number": attempt.number,
        "workers": attempt.workers,
        "started_at": attempt.started / 1000,
        "duration_s": None if ended is None else (ended - attempt.started) / 1000,
        "first_step": attempt.first_step,
        "last_step": attempt.last_step,
        "reason": attempt.reason,
        "message": attempt.message or None,
    }


def _curves(run_dir: RunDir) -> dict[str, dict[str, Any]]:
    curves = {}
    for key, points in sorted(run_dir.metrics().items()):
        values = [value for _, value, _ in points]
        curves[key] = {
            "points": len(points),
            "first": values[0],
            "last": values[-1],
            "min": min(values),
            "max": max(values),
            "last_step": points[-1][0],
        }
    return curves


def _checkpoints(run_dir: RunDir, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    written = {event["path"]: event for event in events if event["kind"] == "checkpoint"}
    try:
        kept = {path.name for path in place_of(run_dir.checkpoints_dir).steps()} if written else {}
    except OSError:  # a bucket that does not answer; the report says what it knows
        kept = None
    return [
        {
            "step": event["step"],
            "path": path,
            "weights_sha256": event["sha256"],
            "kept": None if kept is None else f"{event['step']:08d}" in kept,
        }
        for path, event in written.items()
    ]


def _artifacts(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "path": str(path.relative_to(run.path)),
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in run.artifacts()
        if path.parent.name != report_batch.PICTURES
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quarantine(run_dir: RunDir) -> list[dict[str, Any]]:
    try:
        rows = json.loads((run_dir.artifacts_dir / "quarantine.json").read_text())
    except FileNotFoundError:
        return []
    return [row if isinstance(row, dict) else {"path": str(row)} for row in rows]


def _add_up(facts: dict[str, Any]) -> bool | None:
    """Whether inputs = ok + quarantined; None while the counts are not known."""
    inputs, ok, bad = facts["inputs"], facts["ok"], facts["quarantined"]
    return None if None in (inputs, ok, bad) else bool(inputs == ok + bad)


def _reproduce(plan: RunPlan, run_dir: RunDir) -> dict[str, Any]:
    git = plan.code.get("git")
    return {
        "git": git,
        "dirty": bool(git and git.endswith("-dirty")),
        "spec": str(run_dir.path / "spec.yaml"),
        "command": f"orchestrator run {run_dir.path / 'spec.yaml'}",
    }


def _duration_s(started: float | None, ended: float | None) -> float | None:
    return None if started is None or ended is None else round(ended - started, 3)


# Words


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The head of the report: what ran and how it ended."""
    code = facts["code"]
    ended = facts["status"] + (f" ({facts['reason']})" if facts["reason"] else "")
    rows = [
        ("Status", ended + (f": {facts['message']}" if facts["message"] else "")),
        ("Job", f"{facts['job']} ({facts['engine']})"),
        ("Workers", f"{_range(facts['workers'])} x {facts['cpus_per_worker']} CPU"),
        ("Started", _when(facts["started_at"])),
        ("Took", _seconds(facts["duration_s"])),
        ("Attempts", str(facts["attempts"])),
        ("Seed", f"{facts['seed']}, determinism {facts['determinism']}{_shards(facts)}"),
        ("Code", f"orchestrator {code['version']}, git {code.get('git') or 'unknown'}"),
        ("Plan hash", facts["plan_hash"]),
        ("Run directory", facts["run_dir"]),
    ]
    if facts["engine"] == "batch":
        rows.append(("Output", str(facts["output"])))
        rows += [(name.capitalize(), _number(facts[name])) for name in _COUNTS]
        rows.append(("Sum", _sum_line(facts)))
        speed = facts["batch"].get("images_per_s")
        if speed is not None:
            rows.append(("Images/s", _number(speed)))
    else:
        rows.append(("Weights sha256", str(facts["weights_sha256"])))
        tracking = facts["tracking"] or {}
        if tracking:
            rows.append(("MLflow", ", ".join(f"{key} {value}" for key, value in tracking.items())))
    return rows


def _range(workers: int | dict[str, int]) -> str:
    return str(workers) if isinstance(workers, int) else f"{workers['min']} to {workers['max']}"


def _shards(facts: dict[str, Any]) -> str:
    return f", {facts['shards']} shards" if facts["shards"] else ""


def _sum_line(facts: dict[str, Any]) -> str:
    if facts["counts_add_up"] is None:
        return "not known: the run has not counted its inputs to the end"
    sign = "=" if facts["counts_add_up"] else "is NOT"
    return f"{facts['inputs']} inputs {sign} {facts['ok']} ok + {facts['quarantined']} quarantined"


def _tables(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, columns, rows) of each table that has rows."""
    tables = [
        ("Data", ["fact", "value"], [[key, _number(v)] for key, v in facts["data"].items()]),
        (
            "Attempts",
            ["attempt", "workers", "started", "took", "steps", "ended", "message"],
            [
                [
                    str(row["number"]),
                    _number(row["workers"]),
                    _when(row["started_at"]),
                    _seconds(row["duration_s"]),
                    _steps(row),
                    row["reason"] or "not ended",
                    row["message"] or "",
                ]
                for row in facts["attempt_table"]
            ],
        ),
        (
            "Metrics",
            ["metric", "last", "first", "min", "max", "points", "last step"],
            [
                [
                    key,
                    *(_number(c[n]) for n in ("last", "first", "min", "max", "points")),
                    str(c["last_step"]),
                ]
                for key, c in facts["curves"].items()
            ],
        ),
        (
            "Checkpoints",
            ["step", "path", "weights sha256", "kept"],
            [
                [str(c["step"]), c["path"], c["weights_sha256"], _KEPT[c["kept"]]]
                for c in facts["checkpoints"]
            ],
        ),
        (
            "Checkpoints passed over",
            ["path", "why"],
            [[c["path"], c["why"]] for c in facts["checkpoints_skipped"]],
        ),
        (
            "Artifacts",
            ["path", "bytes", "sha256"],
            [[a["path"], str(a["bytes"]), a["sha256"]] for a in facts["artifacts"]],
        ),
    ]
    bad = facts.get("quarantine", [])
    if bad:
        columns = list(dict.fromkeys(key for row in bad[:_SHOWN_BAD] for key in row))
        more = f", {_SHOWN_BAD} of {len(bad)}" if len(bad) > _SHOWN_BAD else ""
        rows = [[_number(row.get(key)) for key in columns] for row in bad[:_SHOWN_BAD]]
        tables.append((f"Quarantine{more}", columns, rows))
    tables[1:1] = report_batch.tables(facts.get("classification", {}))
    return [table for table in tables if table[2]]


def _markdown(facts: dict[str, Any]) -> str:
    lines = [f"# Run {facts['run_id']}", "", *_md_table(["", ""], [list(r) for r in _rows(facts)])]
    for title, columns, rows in _tables(facts):
        lines += ["", f"## {title}", "", *_md_table(columns, rows)]
    pictures = [a["path"] for a in facts["artifacts"] if Path(a["path"]).suffix in _PICTURES]
    if pictures:
        lines += ["", "## Pictures", "", *(f"![]({quote(path)})" for path in pictures)]
    lines += ["", "## Run it again", "", *_again(facts, "    ")]
    return "\n".join(lines) + "\n"


def _again(facts: dict[str, Any], indent: str) -> list[str]:
    reproduce = facts["reproduce"]
    lines = []
    if reproduce["git"]:
        note = "  # plus changes that were not committed" if reproduce["dirty"] else ""
        lines.append(f"{indent}git checkout {reproduce['git'].removesuffix('-dirty')}{note}")
    return [*lines, f"{indent}{reproduce['command']}"]


def _md_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        # Markdown takes HTML as it is, and cells hold names that others chose.
        plain = (html.escape(" ".join(cell.split()), quote=False) for cell in cells)
        safe = (cell.replace("|", "\\|") for cell in plain)
        return f"| {' | '.join(safe)} |"

    return [line(columns), f"|{'---|' * len(columns)}", *map(line, rows)]


def _html(facts: dict[str, Any], spec: str, run_dir: RunDir) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures, large = [], []
    for artifact in facts["artifacts"]:
        path = run_dir.path / artifact["path"]
        if path.suffix not in _PICTURES:
            continue
        if artifact["bytes"] > _LARGEST_PICTURE_BYTES:
            large.append(artifact["path"])
        else:
            pictures.append((artifact["path"], _data_uri(path)))
    return environment.get_template("report.html.j2").render(
        facts=facts,
        rows=_rows(facts),
        tables=_tables(facts),
        curves=[(key, _sparkline(points)) for key, points in sorted(run_dir.metrics().items())],
        galleries=report_batch.galleries(facts.get("classification", {}), run_dir),
        pictures=pictures,
        large=large,
        again="\n".join(_again(facts, "")),
        spec=spec,
    )


def _data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _sparkline(points: list[tuple[int, float, int]]) -> str:
    """SVG coordinates of a curve in a box of 300 x 60; empty where there is no curve to draw."""
    finite = [(step, value) for step, value, _ in points if abs(value) < float("inf")]
    if len(finite) < 2:
        return ""
    finite = finite[:: max(1, len(finite) // 300)]
    (x0, x1), low = (finite[0][0], finite[-1][0]), min(value for _, value in finite)
    high = max(value for _, value in finite)
    width, height = max(x1 - x0, 1), (high - low) or 1.0
    return " ".join(
        f"{300 * (step - x0) / width:.1f},{58 - 56 * (value - low) / height:.1f}"
        for step, value in finite
    )


def _steps(row: dict[str, Any]) -> str:
    return "none" if row["first_step"] is None else f"{row['first_step']} to {row['last_step']}"


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "not started"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(value: float | None) -> str:
    return "not ended" if value is None else f"{value:.1f} s"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return os.fspath(value) if isinstance(value, Path) else str(value)
