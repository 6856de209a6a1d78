"""`orchestrator stop ID`: ask a run to save its state and end."""

from __future__ import annotations

from orchestrator.cli.common import JsonFlag, RunId, current_state, emit, hint, open_run, remote


def stop(run_id: RunId, as_json: JsonFlag = False) -> None:
    """Ask a run to save its state and end; it can be resumed."""
    from orchestrator.errors import UsageError

    run = open_run(run_id)
    submission = run.directory.submission()
    if submission is None:
        run.stop()
    else:
        state = current_state(run)
        if state.status.terminal:
            raise UsageError(f"{run_id}: has ended already ({state.status}); nothing to stop.")
        remote(submission).stop()
    if as_json:
        emit({"run_id": run_id, "status": current_state(run).status.value, "stopping": True})
        return
    print(f"{run_id}: asked to stop; it saves its state first")
    hint(f"next: orchestrator status {run_id}   or   orchestrator resume {run_id}", as_json=False)
