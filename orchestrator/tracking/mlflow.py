"""The run directory in MLflow: parameters, metrics, checkpoints, artifacts."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from orchestrator.plan import RunPlan
from orchestrator.run import RunStatus
from orchestrator.store import RunDir
from orchestrator.tracking.spool import Point, Spool

# A server may commit a batch and answer late; small batches and a long timeout keep the client
# from sending the same one for ever (measured: 1000 points and 3 s never ended, 200 and 30 s did).
BATCH_POINTS = 200
POLL_S = 1.0
QUIET_START_S = 15.0
LONGEST_PAUSE_S = 15.0
REQUEST_LIMIT_S = 30
FINISH_LIMIT_S = 60.0
UNSEEN_TRIES = 3
_DIGEST_CHARACTERS = 36  # of a data set's digest, MLflow's limit

MLFLOW_STATUS = {
    RunStatus.SUCCEEDED: "FINISHED",
    RunStatus.FAILED: "FAILED",
    RunStatus.STOPPED: "KILLED",
}


def tracking_uri(plan: RunPlan) -> str:
    """Where the experiment is kept: the spec's tracker, or SQLite beside the runs."""
    return plan.spec.tracking.uri or database(Path(plan.home))


def database(home: Path) -> str:
    """The URI of the SQLite beside the runs in `home`."""
    return f"sqlite:///{home / 'mlflow.db'}"


class Mirror:
    """Copies a run to MLflow from a thread of the driver, beside the training and after it."""

    def __init__(self, plan: RunPlan, run_dir: RunDir, warn: Callable[[str], None]) -> None:
        self._plan, self._run_dir, self._warn = plan, run_dir, warn
        self._uri = tracking_uri(plan)
        self._experiment = plan.spec.tracking.experiment or plan.spec.name
        self._spool = Spool(run_dir)
        self._client: Any = None
        self._finish: tuple[RunStatus, float] | None = None
        self._wake = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._loop, name="mlflow-mirror", daemon=True)

    def start(self) -> None:
        if self._plan.spec.tracking.when == "live":
            self._thread.start()

    def finish(self, status: RunStatus, limit_s: float | None = None) -> int:
        """Send what is left and end the MLflow run, in at most `limit_s`; without one, however
        long an answer may take. Returns the number of points not sent.
        """
        if self._plan.spec.tracking.when == "later":
            return 0
        self._finish = (status, time.monotonic() + (limit_s or FINISH_LIMIT_S))
        self._wake.set()
        self._thread.join(limit_s or FINISH_LIMIT_S + REQUEST_LIMIT_S)
        return self._spool.pending()

    def _loop(self) -> None:
        # Loading MLflow takes seconds of a core, which the start of the workers needs more.
        end = time.monotonic() + QUIET_START_S
        while not self._wake.wait(POLL_S) and time.monotonic() < end and not self._spool.pending():
            pass
        pause, failures = POLL_S, 0
        while True:
            self._wake.wait(pause)
            ending = self._finish
            try:
                self.send()
                if ending is not None:
                    self._close(ending[0])
                    return
                pause = POLL_S
            except Exception as error:
                self._tell(error)
                failures += 1
                pause = min(pause * 2, LONGEST_PAUSE_S)
                if ending is not None:
                    # One that answered before may be restarting.
                    unseen = self._client is None and failures >= UNSEEN_TRIES
                    if unseen or time.monotonic() >= ending[1]:
                        return
                    time.sleep(POLL_S)

    def send(self) -> int:
        """Send every unsent point; returns how many were sent. Raises what the tracker raises."""
        self._connect()
        sent = 0
        for offset, batch in self._spool.batches(BATCH_POINTS):
            self._log(batch)
            self._spool.acknowledge(offset)
            sent += len(batch)
        return sent

    def _log(self, batch: list[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in batch]
        self._client.log_batch(self._spool.facts["run_id"], metrics=metrics)

    def _connect(self) -> None:
        """Find or make the experiment and the run; once per process, the run once for ever."""
        if self._client is not None:
            return
        quiet()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        run_id = self._spool.facts.get("run_id")
        if run_id is not None and not self._go_on(client, run_id):
            # The database stayed where the run came from: this one gets all of it.
            self._spool.remember(run_id=None, offset=0)
            run_id = None
        if run_id is None:
            experiment_id = self._experiment_id(client)
            run_id = self._find_run(client, experiment_id) or self._new_run(client, experiment_id)
            self._spool.remember(
                uri=self._uri,
                experiment=self._experiment,
                run_id=run_id,
                artifact_uri=client.get_run(run_id).info.artifact_uri,
            )
        directory = local_directory(self._spool.facts["artifact_uri"])
        home = Path(self._plan.home).resolve()  # the same place may have two names
        own = self._plan.spec.tracking.uri is None
        if directory is not None and own and not directory.parent.resolve().is_relative_to(home):
            self._warn(
                f"tracking: MLflow looks for the artifacts of {self._experiment} in "
                f"{directory.parent.parent}, where the runs were kept before; those of this run "
                f"are in {self._run_dir.artifacts_dir}"
            )
        elif directory is not None:
            link_artifacts(directory, self._run_dir)
        self._client = client
        self._run_dir.write_status(
            tracking={"uri": self._uri, "experiment": self._experiment, "run_id": run_id}
        )

    def _go_on(self, client: Any, run_id: str) -> bool:
        """Open the run again; False where the tracker does not know it."""
        from mlflow.exceptions import MlflowException

        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _experiment_id(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        location = None
        if self._uri.startswith("sqlite:"):
            location = (Path(self._plan.home) / "mlflow" / self._experiment).as_uri()
        for _ in range(2):
            experiment = client.get_experiment_by_name(self._experiment)
            if experiment is not None:
                return str(experiment.experiment_id)
            try:
                return str(client.create_experiment(self._experiment, artifact_location=location))
            except MlflowException as error:  # another run made it in between
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        raise RuntimeError(f"experiment {self._experiment!r} appears and disappears in {self._uri}")

    def _find_run(self, client: Any, experiment_id: str) -> str | None:
        """The run made by a process that was killed before it could write the id down."""
        rows = client.search_runs(
            [experiment_id], f"tags.`orchestrator.run_id` = '{self._plan.run_id}'", max_results=1
        )
        return str(rows[0].info.run_id) if rows else None

    def _new_run(self, client: Any, experiment_id: str) -> str:
        from mlflow.entities import Param

        plan = self._plan
        run = client.create_run(
            experiment_id,
            run_name=plan.run_id,
            tags={
                "orchestrator.run_id": plan.run_id,
                "orchestrator.run_dir": plan.run_dir,
                "orchestrator.plan_hash": plan.hash,
                "mlflow.source.name": plan.spec.job,
                "mlflow.source.type": "JOB",
                "mlflow.source.git.commit": str(plan.code.get("git") or ""),
            },
        )
        run_id = str(run.info.run_id)
        spec = plan.spec.model_dump(mode="json") | {"params": plan.config}
        flat = [Param(key, value) for key, value in flatten(spec).items()]
        for start in range(0, len(flat), 100):
            client.log_batch(run_id, params=flat[start : start + 100])
        return run_id

    def _close(self, status: RunStatus) -> None:
        run_id = self._spool.facts["run_id"]
        attempts = self._run_dir.status().attempts
        self._client.set_tag(run_id, "orchestrator.attempts", str(attempts))
        if local_directory(self._spool.facts["artifact_uri"]) is None:
            self._client.log_artifacts(run_id, str(self._run_dir.artifacts_dir))
            table = self._run_dir.artifacts_dir / "predictions"
            if table.is_symlink():  # which is not followed
                self._client.log_artifacts(run_id, str(table.resolve()), table.name)
        self._log_data(run_id)
        self._client.set_terminated(run_id, MLFLOW_STATUS[status])

    def _log_data(self, run_id: str) -> None:
        """The data sets that the job stated with their digests; the same ones again are one."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        stated = [e["facts"] for _, e in self._run_dir.events() if e["kind"] == "data"]
        for facts in stated:
            digest = facts.get("sha256")
            if digest is None:
                continue
            source = str(facts.get("source") or facts.get("root") or facts.get("name"))
            profile = {
                key: value for key, value in facts.items() if key not in ("source", "sha256")
            }
            data = Dataset(
                name=str(facts.get("name") or "inputs"),
                digest=digest[:_DIGEST_CHARACTERS],
                source_type="local",
                source=json.dumps({"uri": source}),
                profile=json.dumps(profile, default=str),
            )
            tags = [InputTag("mlflow.data.context", "data"), InputTag("sha256", digest)]
            self._client.log_inputs(run_id, datasets=[DatasetInput(data, tags)])

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            self._warn(
                f"tracking: {self._uri} does not answer: {_first_words(error)}; nothing is lost, "
                f"the metrics are in {self._run_dir.path}. "
                f"Hint: orchestrator sync {self._run_dir.run_id}"
            )


def sync(run_dir: RunDir) -> int:
    """Send what MLflow does not hold yet of a run; returns the number of points sent."""
    from orchestrator.errors import BackendUnavailable

    plan = run_dir.plan()
    mirror = Mirror(plan, run_dir, warn=lambda line: None)
    try:
        sent = mirror.send()
        status = RunStatus(run_dir.status().status)
        if status.terminal:
            mirror._close(status)
    except Exception as error:
        raise BackendUnavailable(
            f"tracking: {tracking_uri(plan)} does not answer: {_first_words(error)}; expected an "
            f"MLflow server or database. Hint: orchestrator sync {run_dir.run_id} once it is back"
        ) from error
    return sent


def ui_command(home: Path, port: int) -> list[str]:
    """The command that shows the experiments of `home` in a browser, on loopback only."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database(home)),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]


def _first_words(error: Exception) -> str:
    """What an HTTP client said, without the layers of URL and object it wraps around it."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 160 else f"{text[:120]} ... {text[-40:]}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names, the way `--set` reaches them."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def local_directory(artifact_uri: str) -> Path | None:
    """The directory behind an artifact URI of this machine, None for a remote store."""
    parts = urlparse(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def link_artifacts(directory: Path, run_dir: RunDir) -> None:
    """Let MLflow show the run directory itself: a link to it instead of a second copy."""
    if not directory.is_symlink() and not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.symlink_to(os.path.relpath(run_dir.artifacts_dir, directory.parent))


def quiet() -> None:
    """MLflow's defaults wait four minutes for a dead server and narrate database migrations."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_LIMIT_S))
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # read when mlflow is imported
    logging.getLogger("alembic").setLevel(logging.ERROR)
