"""The same plan on a cluster elsewhere, through Ray Jobs."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import BackendUnavailable, OrchestratorError, RunNotFound, UsageError
from orchestrator.plan import RunPlan
from orchestrator.run import RunStatus

PACKAGES = ("orchestrator", "tensorlib", "jobs")
# Time between SIGTERM and SIGKILL for a stopped driver: it ends its workers and writes its status.
STOP_WAIT_S = 30

CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)

STATUS = {
    "PENDING": RunStatus.PENDING,
    "RUNNING": RunStatus.RUNNING,
    "SUCCEEDED": RunStatus.SUCCEEDED,
    "FAILED": RunStatus.FAILED,
    "STOPPED": RunStatus.STOPPED,
}


class RemoteRun:
    """A run submitted to the Ray Jobs server at `address` under the id `submission_id`."""

    def __init__(self, address: str, submission_id: str) -> None:
        self.address, self.submission_id = address, submission_id
        with _reaching(address):
            from ray.job_submission import JobSubmissionClient

            for name in CHATTY:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = JobSubmissionClient(address)

    def status(self) -> dict[str, Any]:
        """status (a RunStatus value) and message, as Ray Jobs tells them."""
        with _reaching(self.address):
            info = self._client.get_job_info(self.submission_id)
        return {"status": STATUS[str(info.status)].value, "message": info.message or ""}

    def logs(self, follow: bool = False) -> Iterator[str]:
        """What the run printed; with `follow`, until it ends."""
        with _reaching(self.address):
            if not follow:
                yield self._client.get_job_logs(self.submission_id)
                return
            chunks = self._client.tail_job_logs(self.submission_id)
            loop = asyncio.new_event_loop()
            try:
                while True:
                    yield loop.run_until_complete(anext(chunks))
            except StopAsyncIteration:
                return
            finally:
                loop.close()

    def stop(self) -> None:
        """Ask the run to end; it saves its state first."""
        with _reaching(self.address):
            self._client.stop_job(self.submission_id)


def submit(plan: RunPlan, address: str) -> RemoteRun:
    """Ship the code and the plan to the cluster and start it there. Returns at once."""
    run = RemoteRun(address, plan.run_id)
    with tempfile.TemporaryDirectory(prefix="orchestrator-submit-") as staging, _reaching(address):
        _stage(plan, Path(staging))
        run._client.submit_job(
            entrypoint="python -m orchestrator.entrypoint plan.json",
            submission_id=plan.run_id,
            runtime_env={
                "working_dir": staging,
                "env_vars": {
                    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                    "ORCHESTRATOR_HOME": plan.home,
                },
            },
            metadata={"run_id": plan.run_id, "run_dir": plan.run_dir, "plan_hash": plan.hash},
        )
    return run


def _stage(plan: RunPlan, staging: Path) -> None:
    """Copy our packages and the job's own module; data is referred to by path, never shipped."""
    root = Path(__file__).resolve().parents[2]
    packages = dict.fromkeys([*PACKAGES, plan.job_module.split(".")[0]])
    for package in packages:
        source = root / package if (root / package).is_dir() else Path.cwd() / package
        if not source.is_dir():
            raise UsageError(
                f"submit: the package {package!r} of job {plan.spec.job!r} is neither in {root} "
                f"nor in {Path.cwd()}; expected its source to send it. Hint: run submit from the "
                "folder that holds it"
            )
        shutil.copytree(
            source, staging / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    (staging / "plan.json").write_text(plan.model_dump_json(indent=1))


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    """Turn what Ray's HTTP client raises into one line."""
    os.environ.setdefault("RAY_AUTH_MODE", "token" if _token_there() else "disabled")
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:  # whatever the client met, the user's part is the same
        text = " ".join(str(error).split())
        if text.startswith("Invalid address"):
            raise UsageError(
                f"--address: {address!r} is no address of Ray Jobs; expected http://HEAD:8265"
            ) from error
        if "404" in text and "does not exist" in text:
            raise RunNotFound(
                f"Ray Jobs at {address}: {text[:300]}; expected a run that was submitted there and "
                "that this cluster still knows"
            ) from error
        hint = "the head's dashboard address, such as http://HEAD:8265"
        if "401" in text or "403" in text or "token" in text.lower():
            hint = "the cluster's token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on the head"
        raise BackendUnavailable(
            f"Ray Jobs at {address}: {text[:300]}; expected a Ray head that answers. Hint: {hint}"
        ) from error


def _token_there() -> bool:
    paths = [os.environ.get("RAY_AUTH_TOKEN_PATH"), str(Path.home() / ".ray" / "auth_token")]
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or any(p and Path(p).exists() for p in paths)
