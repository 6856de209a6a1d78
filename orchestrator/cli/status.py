"""`orchestrator status ID`: where a run stands."""

from __future__ import annotations

from orchestrator.cli.common import JsonFlag, RunId, current_state, emit, open_run, written_here


def status(run_id: RunId, as_json: JsonFlag = False) -> None:
    """Where a run stands, and what it has reached."""
    from orchestrator.cli.run import summary

    run = open_run(run_id)
    state = current_state(run)
    result = run.result() | {
        "status": state.status.value,
        "reason": state.reason.value if state.reason else None,
        "message": state.message,
    }
    submission = run.directory.submission()
    if submission is not None:
        result["submission"] = submission
    if as_json:
        emit(result)
        return
    why = f" ({state.reason})" if state.reason else ""
    print(f"{run.run_id}: {state.status}{why}" + (f": {state.message}" if state.message else ""))
    if submission is not None:
        print(f"cluster   {submission['address']}")
    if written_here(run):
        attempts = run.attempts()
        for attempt in attempts:
            goes_on = attempt is attempts[-1] and not state.status.terminal
            ended = attempt.reason or ("running" if goes_on else "cut off")
            steps = "" if attempt.last_step is None else f", to step {attempt.last_step}"
            print(f"attempt   {attempt.number}: {ended}{steps}")
        for line in summary(run)[1:]:
            print(line)
    if not state.status.terminal:
        print(
            f"next: orchestrator logs {run.run_id} --follow   or   orchestrator stop {run.run_id}"
        )
    elif state.status.value == "SUCCEEDED":
        print(f"next: orchestrator report {run.run_id}")
    else:
        print(f"next: orchestrator logs {run.run_id}   or   orchestrator resume {run.run_id}")
