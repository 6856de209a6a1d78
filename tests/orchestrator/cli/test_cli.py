"""Every verb: what it prints where, and what it exits with."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import orchestrator.submit
from orchestrator.cli.main import app
from orchestrator.errors import BackendUnavailable, CheckpointError, JobFailed, UsageError
from orchestrator.plan import RunPlan
from orchestrator.run import Run
from orchestrator.store import RunDir


class Done:
    """What a command left behind."""

    def __init__(self, result: Any) -> None:
        self.code: int = result.exit_code
        self.out: str = result.stdout
        self.err: str = result.stderr
        self.lines = self.out.splitlines()

    @property
    def json(self) -> dict:
        return json.loads(self.lines[-1], parse_constant=pytest.fail)


def cli(*arguments: object) -> Done:
    return Done(CliRunner().invoke(app, [str(argument) for argument in arguments]))


class Engine:
    """Stands in for the engine: writes what a run writes, ends as it is told."""

    def __init__(self) -> None:
        self.end: tuple[str, str, str | None] = ("SUCCEEDED", "COMPLETED", None)
        self.error: BaseException | None = None
        self.plans: list[RunPlan] = []

    def execute(self, plan: RunPlan, *, console: Any) -> Run:
        self.plans.append(plan)
        if isinstance(self.error, UsageError):
            raise self.error
        run_dir = RunDir.create(plan)
        return self.drive(run_dir, console)

    def resume(self, home: Path, run_id: str, *, console: Any) -> Run:
        return self.drive(RunDir.open(home, run_id), console)

    def drive(self, run_dir: RunDir, console: Any) -> Run:
        console.say("starting 2 workers")
        number = run_dir.status().attempts + 1
        run_dir.append_event("attempt", number=number, workers=2)
        if self.error is not None:
            raise self.error
        for step in (1, 2):
            console.progress("train", step, 2, "steps", info={"loss": 1.5})
        run_dir.append_event(
            "metrics", attempt=number, step=2, epoch=0, values={"loss": 1.5, "bad": float("nan")}
        )
        status, reason, message = self.end
        run_dir.append_event("attempt_end", number=number, reason=reason, message=message, step=2)
        batch = None
        if run_dir.plan().engine == "batch":
            batch = {"output": "/o", "inputs": 14, "ok": 2, "quarantined": 12, "duplicates": 1}
            rows = [{"path": f"{i}.png", "error": "truncated"} for i in range(12)]
            rows[0]["path"] = "\x1b[31m\n\u65e5 \u202e.png"
            run_dir.append_event("data", facts={"http_not_compared": 3})
            (run_dir.artifacts_dir / "quarantine.json").write_text(json.dumps(rows))
        run_dir.write_status(
            status=status, reason=reason, message=message, attempts=number, batch=batch
        )
        return Run(run_dir)

    def submit_remote(self, plan: RunPlan, address: str) -> Run:
        self.plans.append(plan)
        if self.error is not None:
            raise self.error
        run_dir = RunDir(plan.run_dir)
        run_dir.write_submission(address, plan.run_id)
        return Run(run_dir)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = Engine()
    for name in ("execute", "resume", "submit_remote"):
        monkeypatch.setattr(orchestrator.submit, name, getattr(fake, name))
    monkeypatch.setattr("orchestrator.engine.cluster.local_resources", lambda: {"CPU": 2.0})
    return fake


class Remote:
    """Stands in for a Ray Jobs server."""

    state = "RUNNING"
    error: Exception | None = None

    def __init__(self, address: str, submission_id: str) -> None:
        if Remote.error is not None:
            raise Remote.error
        assert address == "http://head:8265"

    def status(self) -> dict:
        return {"status": Remote.state, "message": "told by Ray"}

    def logs(self, follow: bool = False) -> Any:
        yield "one\ntwo\n"
        yield "three\n" if follow else ""

    def stop(self) -> None:
        Remote.state = "STOPPED"


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, home: Path) -> RunDir:
    """A run that was submitted and has not been heard of here."""
    Remote.state, Remote.error = "RUNNING", None
    module = type(sys)("orchestrator.engine.jobs")
    module.RemoteRun = Remote  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orchestrator.engine.jobs", module)
    run_dir = RunDir(home / "far-1")
    run_dir.write_submission("http://head:8265", "far-1")
    return run_dir


def ended(run_dir: RunDir, status: str = "SUCCEEDED", reason: str = "COMPLETED") -> RunDir:
    run_dir.append_event("attempt", number=1, workers=2)
    run_dir.append_event("metrics", attempt=1, step=3, epoch=0, values={"loss": 0.25})
    run_dir.append_event("attempt_end", number=1, reason=reason, message="", step=3)
    run_dir.write_status(status=status, reason=reason, attempts=1)
    (run_dir.logs_dir / "rank-0.log").write_text("hello from 0\n")
    (run_dir.logs_dir / "rank-1.log").write_text("hello from 1\n")
    return run_dir


# run


def test_run_prints_the_id_first_and_what_to_do_next_last(spec_file, home):
    done = cli("run", spec_file, "--run-id", "mine")
    assert done.code == 0, done.err
    assert done.lines[0] == "mine"
    assert done.lines[-1] == "next: orchestrator report mine   or   orchestrator ui"
    assert "loss 1.5" in done.out
    assert "starting 2 workers" in done.err
    assert "train: 2 of 2 steps (100 %) loss 1.5" in done.err
    assert "starting" not in done.out  # stdout is the result
    assert (home / "mine" / "plan.json").exists()


def test_run_json_is_the_last_line(spec_file):
    done = cli("run", spec_file, "--run-id", "mine", "--json")
    assert done.code == 0, done.err
    assert done.lines[0] == "mine"
    assert {
        "run_id",
        "status",
        "run_dir",
        "attempts",
        "metrics",
        "weights_sha256",
        "tracking",
    } <= set(done.json)
    assert done.json["metrics"] == {"loss": 1.5, "bad": "nan"}
    assert "next: orchestrator report mine" in done.err


def test_run_takes_profile_and_overrides(spec_file, engine, tmp_path):
    (tmp_path / "p.yaml").write_text("address: ray://head:10001\nresources: {workers: 64}\n")
    done = cli("run", spec_file, "--profile", "p.yaml", "--set", "seed=5", "--set", "name=x")
    assert done.code == 0, done.err
    (plan,) = engine.plans
    assert (plan.spec.seed, plan.spec.name, plan.address) == (5, "x", "ray://head:10001")
    assert plan.spec.resources.workers == 64  # a cluster is not compared with this machine


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (("SUCCEEDED", "COMPLETED", None), 0, "orchestrator report r"),
        (("FAILED", "JOB_ERROR", "ValueError: no"), 1, "r: FAILED (JOB_ERROR): ValueError: no"),
        (("FAILED", "WORKER_DIED", "rank 1"), 1, "orchestrator resume r"),
        (("FAILED", "BACKEND_UNAVAILABLE", "Ray: gone"), 3, "Ray: gone"),
        (("STOPPED", "STOP_REQUESTED", None), 130, "orchestrator resume r"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("verb", ["run", "resume"])
def test_exit_codes_follow_the_end_of_the_run(
    make_plan, spec_file, engine, verb, flags, end, code, said
):
    engine.end = end
    if verb == "resume":
        RunDir.create(make_plan(run_id="r"))
        done = cli("resume", "r", *flags)
    else:
        done = cli("run", spec_file, "--run-id", "r", *flags)
    assert done.code == code
    assert said in done.out + done.err
    assert done.lines[0] == "r"
    if flags:
        assert done.json["status"] == end[0]


# Verbs against failures

REFUSALS: list[tuple[list[str], int, str]] = [
    # usage: click's own words, exit 2
    *(([verb], 2, "Missing argument") for verb in (
        "run", "submit", "plan", "status", "logs", "stop", "resume", "classify", "report", "sync"
    )),
    *(([verb, "x", "--bogus"], 2, "No such option") for verb in (
        "run", "submit", "plan", "status", "logs", "stop", "resume", "classify", "report", "sync"
    )),
    (["list", "--bogus"], 2, "No such option"),
    (["ui", "--port", "x"], 2, "--port"),
    (["frobnicate"], 2, "No such command"),
    # no such run
    *(([verb, "toy-2"], 2, "there is no run 'toy-2'. Hint: did you mean 'toy-1'?") for verb in (
        "status", "logs", "stop", "resume", "report", "sync"
    )),
    # no such spec, a directory, a bad key, an override that is none, too many CPUs
    *(([verb, "nope.yaml"], 2, "nope.yaml: there is no such file") for verb in (
        "run", "submit", "plan"
    )),
    *(([verb, "."], 2, ".: cannot be read: Is a directory") for verb in ("run", "submit", "plan")),
    *(([verb, "toy.yaml", "--set", "sed=1"], 2, "--set sed: unknown key 'sed'. Hint: did you mean")
      for verb in ("run", "submit", "plan")),
    *(([verb, "toy.yaml", "--set", "seed"], 2, "--set seed: is not an assignment")
      for verb in ("run", "submit", "plan")),
    *(([verb, "toy.yaml", "--set", "resources.workers=64"], 2, "needs 64 CPUs (64 workers x 1)")
      for verb in ("run", "plan")),
    *(([verb, "toy.yaml", "--profile", "no.yaml"], 2, "no.yaml: there is no such file")
      for verb in ("run", "submit", "plan")),
    (["run", "toy.yaml", "--run-id", "a/b"], 2, "--run-id"),
    (["run", "toy.yaml", "--run-id", "toy-1"], 2, "run toy-1 exists already"),
    (["submit", "toy.yaml"], 2, "--address: is missing"),
    (["logs", "toy-1", "--rank", "7"], 2, "has no log of rank 7"),
    (["stop", "toy-1"], 2, "has ended already (SUCCEEDED)"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "said"), REFUSALS, ids=lambda value: str(value)[:50])
def test_refusals(arguments, code, said, run_dir, spec_file, home):
    ended(run_dir)
    before = sorted(home.iterdir())
    done = cli(*arguments)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("data.root: there is no folder x"), 2),
        (BackendUnavailable("Ray at h: no answer"), 3),
        (JobFailed("the job failed"), 1),
        (CheckpointError("damaged"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
@pytest.mark.parametrize("verb", ["run", "resume", "submit"])
def test_errors_of_the_engine_are_one_line(make_plan, spec_file, engine, verb, error, code):
    engine.error = error
    if verb == "resume":
        RunDir.create(make_plan(run_id="r"))
        done = cli("resume", "r")
    else:
        done = cli(verb, spec_file, *(["--address", "http://h:1"] if verb == "submit" else []))
    assert done.code == code
    assert (str(error) or "interrupted") in done.err.splitlines()
    assert "Traceback" not in done.err


def test_a_refused_run_prints_no_id(spec_file, engine):
    engine.error = UsageError("no data")
    done = cli("run", spec_file)
    assert (done.code, done.out, done.err) == (2, "", "no data\n")


def test_an_unexpected_error_is_one_line_and_a_crash_log(spec_file, engine, home):
    engine.error = ZeroDivisionError("division by zero")
    done = cli("run", spec_file)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ZeroDivisionError: division by zero; this is a bug")
    (log,) = (home / "crash").iterdir()
    assert str(log) in last
    assert "Traceback" in log.read_text()
    assert cli("list", "--json").json["total"] == 1  # the crash folder is no run


def test_a_crash_without_a_home_is_logged_elsewhere(spec_file, engine, home, monkeypatch, tmp_path):
    home.write_text("no directory")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(
        "orchestrator.plan.plan", lambda *args, **options: (_ for _ in ()).throw(OSError("odd"))
    )
    done = cli("run", spec_file)
    assert done.code == 1
    assert str(tmp_path / "tmp") in done.err


def test_an_unwritable_home_is_one_line(spec_file, home):
    home.write_text("no directory")
    done = cli("run", spec_file)
    assert done.code == 2
    assert "ORCHESTRATOR_HOME" in done.err
    assert len(done.err.splitlines()) == 1


def test_every_problem_of_a_spec_is_a_line(spec_file):
    spec_file.write_text("version: 1\nname: x\njob: toyjobs.toy\nseeed: 1\nparams: {epoch: 1}\n")
    done = cli("run", spec_file)
    assert done.code == 2
    assert [line.split(" ")[0] for line in done.err.splitlines()] == [
        f"{spec_file}:4:",
        f"{spec_file}:5:",
    ]


# plan, submit


def test_plan_writes_nothing(spec_file, home):
    done = cli("plan", spec_file)
    assert done.code == 0, done.err
    assert "lr: 0.001" in done.out
    assert done.lines[-1] == f"next: orchestrator run {spec_file}"
    assert not home.exists()
    assert cli("plan", spec_file, "--json").json["config"]["optimizer"]["lr"] == 0.001


def test_submit_prints_the_id_and_how_to_go_on(spec_file):
    done = cli("submit", spec_file, "--address", "http://head:8265", "--run-id", "far")
    assert done.code == 0, done.err
    assert done.lines[0] == "far"
    for verb in ("status far", "logs far --follow", "stop far"):
        assert f"orchestrator {verb}" in done.lines[-1]
    done = cli("submit", spec_file, "--address", "http://head:8265", "--json")
    assert done.json["submission"]["address"] == "http://head:8265"
    assert done.json["status"] == "PENDING"


# status, list, logs, stop, report, sync


def test_status(run_dir):
    ended(run_dir)
    done = cli("status", "toy-1")
    assert done.code == 0, done.err
    assert done.lines[0] == "toy-1: SUCCEEDED (COMPLETED)"
    assert "attempt   1: COMPLETED, to step 3" in done.lines
    assert done.lines[-1] == "next: orchestrator report toy-1"
    assert cli("status", "toy-1", "--json").json["metrics"] == {"loss": 0.25}


def test_status_of_a_run_that_runs_or_lost_its_driver(run_dir):
    with run_dir.lock():
        run_dir.write_status(status="RUNNING")
        assert "orchestrator logs toy-1 --follow" in cli("status", "toy-1").lines[-1]
    run_dir.append_event("attempt", number=1, workers=2)
    assert "attempt   1: cut off" in cli("status", "toy-1").lines
    done = cli("status", "toy-1", "--json")
    assert (done.code, done.json["status"], done.json["reason"]) == (0, "FAILED", "DRIVER_LOST")


def test_list(make_plan, home):
    assert "no runs under" in cli("list").out
    assert cli("list", "--json").json == {"home": str(home), "total": 0, "runs": []}
    for i in range(3):
        ended(RunDir.create(make_plan(run_id=f"r{i}")))
    (home / "r1" / "status.json").write_text("{")
    RunDir(home / "far").write_submission("http://h:1", "far")
    done = cli("list")
    assert done.lines[0].split() == ["RUN", "STATUS", "JOB", "ATTEMPTS", "CREATED"]
    assert sum("toyjobs.toy" in line for line in done.lines) == 2
    rows = {row["run_id"]: row["status"] for row in cli("list", "--json").json["runs"]}
    assert rows == {"r0": "SUCCEEDED", "r1": "UNREADABLE", "r2": "SUCCEEDED", "far": "SUBMITTED"}
    assert "3 older runs are not shown" in cli("list", "--limit", "1").out


def test_a_home_that_is_a_file(home):
    home.write_text("")
    done = cli("list")
    assert (done.code, done.out) == (2, "")
    assert f"{home}: cannot be read: Not a directory; expected the directory" in done.err
    assert cli("logs", "toy-1").code == 2


@pytest.mark.parametrize("verb", ["stop", "logs", "status", "report", "resume"])
@pytest.mark.parametrize(("text", "why"), [("{", "Invalid JSON"), ('{"spec": 1}', "run_id: Field")])
def test_a_plan_that_cannot_be_read(run_dir, verb, text, why):
    (run_dir.path / "plan.json").write_text(text)
    done = cli(verb, "toy-1")
    assert (done.code, done.out) == (2, "")
    assert f"plan.json: is not a plan: {why}" in done.err
    assert f"Hint: its logs are in {run_dir.logs_dir}" in done.err
    assert not run_dir.stop_requested()


def test_logs(run_dir):
    ended(run_dir)
    assert cli("logs", "toy-1").lines == ["[rank 0] hello from 0", "[rank 1] hello from 1"]
    assert cli("logs", "toy-1", "--rank", "1", "--follow").lines == ["hello from 1"]
    done = cli("logs", "toy-1", "--json")
    assert [json.loads(line).get("line") for line in done.lines[:2]] == [
        "[rank 0] hello from 0",
        "[rank 1] hello from 1",
    ]
    assert done.json["lines"] == 2


def test_logs_before_there_are_any(run_dir):
    done = cli("logs", "toy-1")
    assert (done.code, done.out) == (0, "")
    assert "nothing was logged yet" in done.err


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_stop(run_dir, flags):
    with run_dir.lock():
        run_dir.write_status(status="RUNNING")
        done = cli("stop", "toy-1", *flags)
        assert done.code == 0, done.err
        assert run_dir.stop_requested()
    if flags:
        assert done.json["stopping"] is True
    else:
        assert "orchestrator resume toy-1" in done.lines[-1]


def test_report(run_dir):
    ended(run_dir)
    done = cli("report", "toy-1")
    assert done.code == 0, done.err
    assert done.lines[0] == "# Run toy-1"
    assert "report.html" in done.lines[-1]
    public = cli("report", "toy-1", "--json").json
    assert (public["run_id"], public["attempts"], public["metrics"]) == ("toy-1", 1, {"loss": 0.25})


def test_sync(run_dir, monkeypatch):
    tracker = type(sys)("orchestrator.tracking.mlflow")
    tracker.sync = lambda directory: 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orchestrator.tracking.mlflow", tracker)
    monkeypatch.setattr("orchestrator.tracking.mlflow", tracker, raising=False)
    assert cli("sync", "toy-1").lines[0] == "toy-1: 7 points sent"
    assert cli("sync", "toy-1", "--json").json["sent"] == 7


# Submitted runs


def test_a_submitted_run_is_asked_at_its_cluster(remote):
    done = cli("status", "far-1")
    assert done.code == 0, done.err
    assert done.lines[:2] == ["far-1: RUNNING: told by Ray", "cluster   http://head:8265"]
    assert cli("status", "far-1", "--json").json["status"] == "RUNNING"
    assert cli("logs", "far-1").lines == ["one", "two"]
    assert cli("logs", "far-1", "--follow").lines == ["one", "two", "three"]
    assert cli("logs", "far-1", "--rank", "1").code == 2
    assert cli("stop", "far-1").code == 0
    assert Remote.state == "STOPPED"
    done = cli("stop", "far-1")
    assert (done.code, "has ended already (STOPPED)" in done.err) == (2, True)
    assert cli("report", "far-1").code == 2


def test_the_directory_wins_once_it_says_more_than_pending(remote, make_plan):
    run_dir = RunDir.create(make_plan(run_id="far-1"))
    assert cli("status", "far-1", "--json").json["status"] == "RUNNING"  # still PENDING here
    run_dir.write_status(status="SUCCEEDED", reason="COMPLETED")
    Remote.error = BackendUnavailable("gone")
    assert cli("status", "far-1", "--json").json["status"] == "SUCCEEDED"
    assert cli("report", "far-1").code == 0


def test_a_driver_on_another_machine_is_not_called_lost(remote, make_plan):
    run_dir = RunDir.create(make_plan(run_id="far-1"))
    run_dir.write_status(status="RUNNING")
    assert cli("status", "far-1", "--json").json["status"] == "RUNNING"
    Remote.error = BackendUnavailable("gone")
    assert cli("status", "far-1", "--json").json["reason"] == "DRIVER_LOST"


@pytest.mark.parametrize("arguments", [["status"], ["logs"], ["logs", "--follow"], ["stop"]])
def test_a_cluster_that_does_not_answer(remote, arguments):
    Remote.error = BackendUnavailable("Ray Jobs at http://head:8265: refused")
    done = cli(arguments[0], "far-1", *arguments[1:])
    assert (done.code, done.err) == (3, "Ray Jobs at http://head:8265: refused\n")


# classify


@pytest.fixture
def images(toyjobs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs `classify` with a job of our own in the place of jobs.classify_images."""
    text = (
        "from pathlib import Path\nfrom pydantic import BaseModel, ConfigDict, Field\n"
        "ENGINE = 'batch'\nclass Config(BaseModel):\n"
        "    model_config = ConfigDict(extra='forbid')\n"
        "    inputs: Path\n    weights: str\n    model: str | None = None\n"
        "    top_k: int = Field(default=5, ge=1)\n    labels: Path | None = None\n"
        "    output: Path | None = None\n    batch_size: int = 16\n"
        "    max_bad: int | str | None = None\n"
    )
    (toyjobs / "classify_images.py").write_text(text)
    import toyjobs.classify_images as job  # type: ignore[import-not-found]

    monkeypatch.setitem(sys.modules, "jobs.classify_images", job)
    return lambda *arguments: cli("classify", *arguments)


def test_classify_builds_a_spec_and_counts(images, engine, tmp_path):
    done = images(
        "photos", "--weights", "w.pth", "--model", "resnet50", "--top-k", 3, "--output", "out",
        "--labels", "names.txt", "--workers", 2, "--batch-size", 8, "--max-bad", "1%",
        "--name", "n",
    )  # fmt: skip
    assert done.code == 0, done.err
    (plan,) = engine.plans
    assert plan.config == {
        "inputs": str(tmp_path / "photos"),
        "weights": str(tmp_path / "w.pth"),
        "model": "resnet50",
        "top_k": 3,
        "labels": str(tmp_path / "names.txt"),
        "output": str(tmp_path / "out"),
        "batch_size": 8,
        "max_bad": "1%",
    }
    assert (plan.spec.resources.workers, plan.spec.name, plan.engine) == (2, "n", "batch")
    assert done.lines[0] == plan.run_id
    assert "inputs    14 = 2 ok + 12 quarantined" in done.lines
    assert "repeated  1 duplicates by content (3 of http(s) not compared)" in done.lines
    assert "bad       \\x1b[31m\\n\u65e5 \\u202e.png: truncated" in done.lines
    assert "bad       9.png: truncated" in done.lines
    assert "bad       10.png: truncated" not in done.lines
    assert "          and 2 more; the report lists them" in done.lines
    assert "table     /o" in done.lines


def test_one_image_needs_no_ray(tmp_path, monkeypatch):
    from orchestrator.cli import classify

    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "a.JPG", "noext", "list.TXT"):
        (tmp_path / name).touch()
    alone = ("a.jpg", "a.JPG", "noext", "https://host/a.jpg", str(tmp_path / "a.jpg"))
    several = (".", "list.TXT", "*.jpg", "s3://bucket/photos", "~no such user/a.jpg")
    assert [name for name in (*alone, *several) if classify._alone(name)] == list(alone)


def test_classify_json_has_the_public_names(images):
    found = images("photos", "--weights", "w.pth", "--json").json
    assert {k: found[k] for k in ("inputs", "ok", "quarantined", "duplicates", "output")} == {
        "inputs": 14,
        "ok": 2,
        "quarantined": 12,
        "duplicates": 1,
        "output": "/o",
    }
    assert {"run_id", "status", "run_dir"} <= set(found)


def test_classify_uses_the_newest_training_by_name(images, engine, make_plan):
    done = images("photos")
    assert (done.code, "no training run with status SUCCEEDED" in done.err) == (2, True)
    ended(RunDir.create(make_plan(run_id="good")))
    ended(RunDir.create(make_plan(run_id="bad")), "FAILED", "JOB_ERROR")
    for flags in ([], ["--weights", "run:/latest"], ["--weights", "run:/good"]):
        assert images("photos", *flags).code == 0
        assert engine.plans[-1].config["weights"] == "run:/good"
    done = images("photos", "--weights", "run:/goof")
    assert (done.code, "did you mean 'good'?" in done.err) == (2, True)


def test_too_many_bad_inputs_is_exit_1_with_the_table_told(images, engine):
    engine.end = ("FAILED", "TOO_MANY_BAD_INPUTS", "12 of 14 are bad")
    done = images("photos", "--weights", "w.pth")
    assert done.code == 1
    assert "12 of 14 are bad" in done.err
    assert "table     /o" in done.lines


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--top-k", "0"], "--top-k: params.top_k: got 0; expected greater than or equal to 1."),
        (["--workers", "0"], "--workers: resources.workers: got 0"),
        (["--cpus", "0"], "--cpus: resources.cpus_per_worker: got 0"),
        (["--local", "--address", "h:1"], "--address: h:1, but one image or --local takes"),
        (["--workers", "9"], "--workers: needs 9 CPUs (9 workers x 1), this machine has 2."),
        (["--name", "a/b"], "--name: name: 'a/b' cannot name a directory"),
        (["--top-k", "x"], "Invalid value for '--top-k'"),
    ],
)
def test_errors_of_classify_name_the_flag(images, flags, said):
    done = images("photos", "--weights", "w.pth", *flags)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_inputs_that_are_no_text_are_refused(images):
    done = images("photos\udcff", "--weights", "w.pth")
    assert done.code == 2
    assert "INPUTS: photos\\xff is not UTF-8" in done.err


def test_a_model_without_weights_is_refused(images):
    done = images("photos", "--model", "resnet50")
    assert done.code == 2
    assert "missing key 'params.weights'" in done.err


# ui


def test_ui_refuses_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("ui", "--port", port)
    assert done.code == 2
    assert f"--port {port}: 127.0.0.1:{port} cannot be used: Address already in use" in done.err


def test_version():
    assert cli("--version").out == f"{orchestrator.__version__}\n"
