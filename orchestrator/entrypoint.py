"""What Ray Jobs runs on the cluster: the plan that was made where the run was submitted."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.cli.console import Console
from orchestrator.plan import RunPlan
from orchestrator.run import exit_code
from orchestrator.submit import execute


def main(path: str) -> int:
    plan = RunPlan.model_validate_json(Path(path).read_text())
    console = Console()
    try:
        run = execute(plan.model_copy(update={"address": "auto"}), console=console)
        return exit_code(run.state())
    finally:
        console.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
