"""`orchestrator sync ID`: send to MLflow what it has missed."""

from __future__ import annotations

from orchestrator.cli.common import JsonFlag, RunId, emit, hint, open_run


def sync(run_id: RunId, as_json: JsonFlag = False) -> None:
    """Send to MLflow, and to the run's storage, what they do not hold yet of a run."""
    run = open_run(run_id)
    run.directory.plan()  # a run without one has nothing to send
    from orchestrator.tracking import mlflow as tracker

    if run.directory.upload is not None and not run.directory.owner_alive():
        with run.directory.lock():  # leaving it sends to the storage what it lacks
            pass
    sent = tracker.sync(run.directory)
    if as_json:
        emit({"run_id": run_id, "sent": sent, "tracking": run.directory.status().tracking})
        return
    print(f"{run_id}: {sent} points sent")
    hint("next: orchestrator ui", as_json=False)
