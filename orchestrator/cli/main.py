"""The `orchestrator` command. Commands import what they need when they run, never before."""

from __future__ import annotations

from typing import Annotated

import typer

import orchestrator
from orchestrator.cli import (
    classify,
    init,
    list_runs,
    logs,
    plan,
    report,
    resume,
    run,
    status,
    stop,
    submit,
    sync,
    ui,
)
from orchestrator.cli.common import Commands

app = typer.Typer(
    cls=Commands,
    help="Run training and classification jobs on Ray, watched by MLflow, without torch.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Exit codes: 0 succeeded, 1 job failed, 2 usage, 3 backend unavailable, 130 interrupted."""
    if show:
        print(orchestrator.__version__)
        raise typer.Exit


app.command("init")(init.init)
app.command("run")(run.run)
app.command("classify")(classify.classify)
app.command("submit")(submit.submit)
app.command("plan")(plan.plan)
app.command("status")(status.status)
app.command("list")(list_runs.list_runs)
app.command("logs")(logs.logs)
app.command("stop")(stop.stop)
app.command("resume")(resume.resume)
app.command("report")(report.report)
app.command("sync")(sync.sync)
app.command("ui")(ui.ui)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="orchestrator")
