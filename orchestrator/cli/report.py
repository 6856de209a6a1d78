"""`orchestrator report ID`: what ran, on what, what came out, and how to repeat it."""

from __future__ import annotations

from orchestrator.cli.common import JsonFlag, RunId, emit, hint, open_run, written_here


def report(run_id: RunId, as_json: JsonFlag = False) -> None:
    """Write the report of a run (Markdown, JSON, HTML) and print it."""
    from orchestrator import report as reports
    from orchestrator.errors import UsageError

    run = open_run(run_id)
    if not written_here(run):
        raise UsageError(
            f"{run.path}: holds only the note of a submission; the report is made where the run "
            f"was. Hint: `orchestrator status {run_id}` tells how it stands."
        )
    try:
        facts = reports.build(run.directory)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}.") from error
    if as_json:
        emit(facts)
        return
    print((run.path / "report.md").read_text(), end="")
    print()
    hint(f"next: open {run.path / 'report.html'}", as_json=False)
