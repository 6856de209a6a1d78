"""What commands share: options, exit codes, output, and where a run is looked up."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.errors import BackendUnavailable, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.run import Run, RunState

INTERRUPTED = 130

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")]
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id, as `list` shows it.")]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file that says what runs.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one value, as in params.epochs=3."),
]
Profile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML file that says where it runs.")
]


class Commands(TyperGroup):
    """The one place where exceptions become exit codes.

    0 succeeded, 1 the job failed, 2 usage or configuration, 3 backend unavailable, 130 interrupted.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own Context
        try:
            return super().invoke(ctx)
        except OrchestratorError as error:
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of stdout has gone; nothing more can be said there, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except (typer.Exit, SystemExit):
            raise
        except Exception as error:
            if type(error).__module__.split(".")[0] in {"click", "typer"}:
                raise
            place = _write_crash_log()
            line = (str(error).strip().splitlines() or [""])[0]
            print(
                f"error: {type(error).__name__}: {line}; this is a bug of orchestrator or of the "
                f"job. The traceback is in {place}",
                file=sys.stderr,
            )
            raise SystemExit(1) from None


def _write_crash_log() -> Path:
    from orchestrator.plan import default_home

    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.log"
    text = " ".join(sys.argv) + "\n\n" + traceback.format_exc()
    for directory in (default_home() / "crash", Path(tempfile.gettempdir())):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
        except OSError:
            continue
        return directory / name
    sys.stderr.write(text)
    return Path("the lines above")


def emit(value: Any) -> None:
    """Print `value` as one line of JSON on stdout."""
    from orchestrator.run import json_safe

    print(json.dumps(json_safe(value)), flush=True)


def hint(text: str, *, as_json: bool) -> None:
    """The next useful command: the last line people see, kept off stdout where JSON is last."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def open_run(run_id: str) -> Run:
    """A run under the home directory; UsageError for one whose plan cannot be read."""
    from orchestrator.plan import default_home
    from orchestrator.run import Run

    run = Run.open(default_home(), run_id)
    if written_here(run):
        run.directory.plan()
    return run


def current_state(run: Run) -> RunState:
    """The state of a run, asked of Ray Jobs where its directory cannot tell.

    The directory wins once it says more than PENDING; a driver on another machine holds a lock
    that may not be seen here, so "the driver is lost" is asked again too.
    """
    from orchestrator.run import RunState, RunStatus, TerminationReason

    state = run.state()
    submission = run.directory.submission()
    lost = state.reason is TerminationReason.DRIVER_LOST
    if submission is None or not (state.status is RunStatus.PENDING or lost):
        return state
    try:
        told = remote(submission).status()
    except BackendUnavailable:
        if not lost:
            raise
        return state
    status = RunStatus(told["status"])
    if lost and status.terminal and status is not RunStatus.STOPPED:
        return state
    return RunState(status, None, told["message"] or None)


def remote(submission: dict[str, str]) -> Any:
    """The submitted run at its cluster; this imports ray."""
    from orchestrator.engine.jobs import RemoteRun

    return RemoteRun(submission["address"], submission["submission_id"])


def written_here(run: Run) -> bool:
    """Whether the driver of the run fills its directory on this disk."""
    return (run.path / "plan.json").exists()


def ago(seconds: float | None) -> str:
    """A time before now, short."""
    if seconds is None:
        return "-"
    age_s = max(time.time() - seconds, 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if age_s >= size:
            return f"{age_s / size:.0f} {unit} ago"
    return f"{age_s:.0f} s ago"
