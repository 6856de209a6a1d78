"""`orchestrator plan SPEC`: show what would run, resolved and checked; nothing is started."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.common import JsonFlag, Overrides, Profile, SpecFile, emit


def plan(
    spec: SpecFile,
    overrides: Overrides = None,
    profile: Profile = None,
    address: Annotated[str | None, typer.Option(help="The Ray cluster it would run on.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a spec would run, with every value resolved. Nothing is started or written."""
    from orchestrator.cli.run import make_plan
    from orchestrator.plan import render

    made = make_plan(spec, profile, overrides, None, address)
    if as_json:
        emit(made.model_dump(mode="json"))
        return
    print(render(made))
    print(f"next: orchestrator run {spec}")
