"""`python -m PACKAGE.JOB spec.yaml`: a job without Ray, one worker in this process."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator import config
from orchestrator.errors import OrchestratorError, UsageError


def main(module_file: str) -> None:
    """Run the spec named on the command line; exits with the codes of `orchestrator run`."""
    from orchestrator.cli.common import INTERRUPTED
    from orchestrator.cli.console import Console
    from orchestrator.cli.run import finish
    from orchestrator.plan import plan
    from orchestrator.submit import run_here

    spec = sys.modules["__main__"].__spec__  # of `python -m`, which knows the module's whole name
    job = spec.name if spec else f"jobs.{Path(module_file).stem}"
    try:
        if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
            raise UsageError(f"python -m {job}: expected SPEC.yaml [key=value ...]")
        loaded = config.load(sys.argv[1], overrides=sys.argv[2:])
        made = plan(loaded)
        if made.job_module != job:
            raise UsageError(
                f"{sys.argv[1]}: is a spec of {made.job_module}; expected one of {job}. "
                f"Hint: python -m {made.job_module} {sys.argv[1]}"
            )
        if made.engine == "training" and made.spec.resources.max_workers > 1:
            text = "one worker, this process; resources.workers and retry are for Ray"
            print(text, file=sys.stderr)  # noqa: T201
        console = Console(first_line=made.run_id)
        try:
            run = run_here(made, console=console)
            console.begin()
        finally:
            console.close()
    except OrchestratorError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before there was a run to stop
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
    sys.exit(finish(run, as_json=False))
