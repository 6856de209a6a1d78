"""`orchestrator logs ID`: what the workers of a run printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from orchestrator.cli.common import JsonFlag, RunId, emit, open_run, remote, written_here


def logs(
    run_id: RunId,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this worker.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """What the workers of a run printed."""
    from orchestrator.errors import UsageError

    run = open_run(run_id)
    submission = run.directory.submission()
    lines: Iterator[str]
    if submission is not None and (rank is None or not written_here(run)):
        if rank is not None:
            raise UsageError(
                f"--rank {rank}: the logs of {run_id} are on its cluster, in one stream; expected "
                "no --rank."
            )
        lines = (line for chunk in remote(submission).logs(follow) for line in chunk.splitlines())
    else:
        lines = run.logs(rank, follow=follow)
    count = 0
    try:
        for line in lines:
            count += 1
            if as_json:
                emit({"run_id": run_id, "line": line})
            else:
                print(line, flush=follow)
    except KeyboardInterrupt:
        # Looking away ends the looking, not the run.
        print(f"detached; again: orchestrator logs {run_id} --follow", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        emit({"run_id": run_id, "lines": count, "logs_dir": str(run.directory.logs_dir)})
    elif not count:
        print(f"{run_id}: nothing was logged yet", file=sys.stderr)
