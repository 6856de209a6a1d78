"""`orchestrator resume ID`: continue a run that failed, was stopped or lost its driver."""

from __future__ import annotations

import typer

from orchestrator.cli.common import JsonFlag, RunId, open_run


def resume(run_id: RunId, as_json: JsonFlag = False) -> None:
    """Continue a run from its last good checkpoint, needing only its directory, or, where it was
    kept in a bucket, the URI of that (`s3://bucket/runs/ID`)."""
    from orchestrator.cli.run import finish
    from orchestrator.remote import is_uri

    if is_uri(run_id):
        from orchestrator.plan import default_home
        from orchestrator.upload import download

        run_id = download(run_id, default_home())
    run = open_run(run_id)  # no such run: said before anything heavy is loaded
    from orchestrator import submit
    from orchestrator.cli.console import Console
    from orchestrator.plan import default_home, find_job

    find_job(run.directory.plan().job_module)  # of the working directory, as when it was planned

    console = Console(first_line=run_id)
    try:
        run = submit.resume(default_home(), run_id, console=console)
    finally:
        console.close()
    raise typer.Exit(finish(run, as_json))
