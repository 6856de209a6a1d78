"""`orchestrator list`: the runs under the home directory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.common import JsonFlag, ago, emit, hint


def list_runs(
    limit: Annotated[int, typer.Option(min=1, help="How many to show, newest first.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Runs under $ORCHESTRATOR_HOME (default ./runs), newest first."""
    from orchestrator import store
    from orchestrator.plan import default_home

    home = default_home()
    runs = store.list_runs(home)
    rows = [_row(run) for run in runs[:limit]]
    if as_json:
        emit({"home": str(home), "total": len(runs), "runs": rows})
        return
    if not rows:
        hint(f"no runs under {home}. next: orchestrator run SPEC", as_json=False)
        return
    table = [("RUN", "STATUS", "JOB", "ATTEMPTS", "CREATED")] + [
        (
            row["run_id"],
            row["status"],
            row["job"] or "-",
            str(row["attempts"]),
            ago(row["created_at"]),
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in table) for i in range(5)]
    for line in table:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    if len(runs) > limit:
        print(f"{len(runs) - limit} older runs are not shown; --limit {len(runs)} shows all")
    hint(f"next: orchestrator status {rows[0]['run_id']}", as_json=False)


def _row(directory: Any) -> dict[str, Any]:
    from orchestrator.errors import UsageError
    from orchestrator.run import Run

    row: dict[str, Any] = {"run_id": directory.run_id, "run_dir": str(directory.path)}
    try:
        run = Run(directory)
        file, state = directory.status(), run.state()
        planned = (directory.path / "plan.json").exists()
        plan = directory.plan() if planned else None
    except UsageError as error:
        # One damaged directory must not hide the other runs.
        return row | {
            "status": "UNREADABLE",
            "message": str(error),
            "job": None,
            "attempts": 0,
            "created_at": None,
        }
    return row | {
        "status": state.status.value if planned else "SUBMITTED",
        "message": state.message,
        "job": plan.job_module if plan else None,
        "attempts": file.attempts,
        "created_at": plan.created_at if plan else None,
    }
