"""`orchestrator submit SPEC --address URL`: send a spec to a running Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.common import JsonFlag, Overrides, Profile, SpecFile, emit, hint


def submit(
    spec: SpecFile,
    address: Annotated[
        str | None, typer.Option(help="The head's dashboard, such as http://HEAD:8265.")
    ] = None,
    overrides: Overrides = None,
    profile: Profile = None,
    run_id: Annotated[str | None, typer.Option(help="Name the run yourself.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send a spec to a Ray cluster and return once it is accepted."""
    from orchestrator import config
    from orchestrator import plan as planning
    from orchestrator import submit as submission
    from orchestrator.errors import UsageError

    loaded = config.load(spec, profile=profile, overrides=overrides or ())
    address = address or loaded.address
    if address is None:
        raise UsageError(
            "--address: is missing; expected the head's dashboard. Hint: --address "
            "http://HEAD:8265, or `address:` in a profile."
        )
    plan = planning.plan(loaded, run_id=run_id, address=address)
    run = submission.submit_remote(plan, address)
    print(run.run_id, flush=True)
    following = (
        f"next: orchestrator status {run.run_id}   or   orchestrator logs {run.run_id} --follow"
        f"   or   orchestrator stop {run.run_id}"
    )
    hint(following, as_json=as_json)
    if as_json:
        emit(
            {
                "run_id": run.run_id,
                "status": "PENDING",
                "run_dir": str(run.path),
                "address": address,
                "submission": run.directory.submission(),
            }
        )
