"""`orchestrator run SPEC`: plan a spec and run it to its end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import JsonFlag, Overrides, Profile, SpecFile, emit, hint

if TYPE_CHECKING:
    from orchestrator.plan import RunPlan
    from orchestrator.run import Run


def run(
    spec: SpecFile,
    overrides: Overrides = None,
    profile: Profile = None,
    run_id: Annotated[str | None, typer.Option(help="Name the run yourself.")] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; without it one is started.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a spec to its end. Ctrl-C stops it; it can be resumed."""
    plan = make_plan(spec, profile, overrides, run_id, address)
    raise typer.Exit(execute(plan, as_json, named=run_id is not None))


def make_plan(
    spec: Path,
    profile: Path | None,
    overrides: list[str] | None,
    run_id: str | None,
    address: str | None,
) -> RunPlan:
    """The plan of a spec, compared with this machine unless it goes to a cluster."""
    from orchestrator import config
    from orchestrator import plan as planning
    from orchestrator.engine.cluster import local_resources

    loaded = config.load(spec, profile=profile, overrides=overrides or ())
    available = None if address or loaded.address else local_resources()
    return planning.plan(loaded, run_id=run_id, address=address, available=available)


def execute(plan: RunPlan, as_json: bool, *, named: bool = False) -> int:
    """Run a plan, whose id the user may have `named`, with talk and a last word; the exit code."""
    from orchestrator import submit
    from orchestrator.cli.console import Console

    if plan.engine == "batch":
        from orchestrator.batch import earlier

        if (run := earlier(plan, named)) is not None:
            return again(run, plan, as_json)
    console = Console(first_line=plan.run_id)
    try:
        run = submit.execute(plan, console=console)
    finally:
        console.close()
    return finish(run, as_json)


def again(run: Run, plan: RunPlan, as_json: bool) -> int:
    """The same command again: continue its run, or say that all is done; gives the exit code."""
    from orchestrator import batch, submit
    from orchestrator.cli.console import Console

    print(run.run_id, flush=True)
    if batch.settled(run, plan):
        print(f"{run.run_id} has done this already", file=sys.stderr)
        return finish(run, as_json)
    print(f"continuing {run.run_id}", file=sys.stderr)
    console = Console()
    try:
        run = submit.resume(run.path.parent, run.run_id, console=console, as_in=plan)
    finally:
        console.close()
    return finish(run, as_json)


def finish(run: Run, as_json: bool) -> int:
    """Say how a run ended and what to do next; gives the exit code."""
    from orchestrator.run import exit_code

    state, result = run.state(), run.result()
    code = exit_code(state)
    print(
        f"{run.run_id}: {state.status}"
        + (f" ({state.reason})" if state.reason and code else "")
        + (f": {state.message}" if state.message else ""),
        file=sys.stderr,
    )
    if not as_json:
        for line in summary(run):
            print(line)
    if code == 0:
        following = f"next: orchestrator report {run.run_id}   or   orchestrator ui"
    elif result.get("inputs") is not None and str(state.reason) == "TOO_MANY_BAD_INPUTS":
        following = f"next: orchestrator report {run.run_id}"
    else:
        following = f"next: orchestrator logs {run.run_id}   or   orchestrator resume {run.run_id}"
    if as_json:
        hint(following, as_json=True)
        emit(result)
    else:
        hint(following, as_json=False)
    return code


def summary(run: Run) -> list[str]:
    """What a run gave, in a few lines."""
    result = run.result()
    lines = [f"status    {result['status']}, {result['attempts']} attempt(s)"]
    if "metrics" in result:
        lines += [
            f"metric    {key} {value:.6g}"
            if isinstance(value, float)
            else f"metric    {key} {value}"
            for key, value in sorted(result["metrics"].items())
        ]
        if result["weights_sha256"]:
            lines.append(f"weights   sha256 {result['weights_sha256']}")
    elif "inputs" in result:
        from orchestrator.cli.classify import counts

        lines += counts(run, result)
    return [*lines, f"run dir   {result['run_dir']}"]
