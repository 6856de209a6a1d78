"""What a job's code sees: metrics, checkpoints, artifacts, requests to stop, stacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from orchestrator import checkpoint
from orchestrator.context import JobContext, Metrics
from orchestrator.errors import CheckpointError, NonFiniteLoss
from orchestrator.plan import RunPlan
from orchestrator.run import Run
from orchestrator.store import RunDir


@pytest.fixture
def open_context(make_plan) -> Iterator[Callable[..., JobContext]]:
    """Contexts of one run; closed after the test."""
    opened: list[JobContext] = []
    made: list[RunPlan] = []

    def make(*overrides: str, rank: int = 0, attempt: int = 1) -> JobContext:
        if not made:
            made.append(make_plan(*overrides, run_id="toy-1"))
            RunDir.create(made[0])
        context = JobContext.open(
            made[0], made[0].run_dir, attempt=attempt, rank=rank, world_size=2, local_rank=rank
        )
        opened.append(context)
        return context

    yield make
    for context in reversed(opened):
        context.close()


def kinds(context: JobContext, kind: str) -> list[dict]:
    return [event for _, event in context.run_dir.events() if event["kind"] == kind]


def test_it_says_who_the_worker_is(open_context):
    context = open_context("seed=7", "resources.cpus_per_worker=3", rank=1, attempt=4)
    assert (context.run_id, context.rank, context.world_size, context.local_rank) == (
        "toy-1",
        1,
        2,
        1,
    )
    assert (context.attempt, context.seed, context.threads) == (4, 7, 3)


def test_metrics_of_rank_0_are_written_with_the_attempt(open_context):
    context = open_context(attempt=3)
    context.metrics.log({"loss": np.float32(0.5), "n": 3, "t": np.array(2.0)}, step=4, epoch=1)
    (event,) = kinds(context, "metrics")
    assert event["values"] == {"loss": 0.5, "n": 3.0, "t": 2.0}
    assert (event["step"], event["epoch"], event["attempt"]) == (4, 1, 3)
    assert context.metrics.last_step == 4


@pytest.mark.parametrize("value", ["0.5", True, None, [1.0], np.ones(2), b"1", object()])
def test_a_metric_that_is_no_number_is_named_on_every_rank(open_context, value):
    for rank in (0, 1):
        with pytest.raises(TypeError, match="'val/loss'"):
            open_context(rank=rank).metrics.log({"ok": 1, "val/loss": value}, step=1)
    assert kinds(open_context(), "metrics") == []


@pytest.mark.parametrize("step", [-1, 1.5, True, None])
def test_a_step_is_a_whole_number(open_context, step):
    with pytest.raises(ValueError, match="step is"):
        open_context().metrics.log({"x": 1}, step=step)


def test_other_ranks_write_nothing(open_context):
    context = open_context(rank=1)
    context.metrics.log({"x": 1.0}, step=1)
    context.metrics.progress(1, 2, "steps")
    context.record_data(count=3)
    assert context.checkpoint.save({"model": 1}, step=50) is None
    assert list(context.run_dir.events()) == []
    assert os.listdir(context.run_dir.checkpoints_dir) == []


def test_progress_is_thinned_but_its_end_is_told(open_context):
    context = open_context()
    for done in range(1, 101):
        context.metrics.progress(done, 100, "steps", phase="train", loss=0.5)
    events = kinds(context, "progress")
    assert len(events) < 20
    assert (events[0]["done"], events[-1]["done"], events[-1]["total"]) == (1, 100, 100)


@pytest.mark.parametrize(
    ("every", "steps", "due"), [("3", range(8), [3, 6]), ("null", range(8), [])]
)
def test_when_a_checkpoint_is_due(open_context, every, steps, due):
    context = open_context(f"checkpoint.every_steps={every}")
    assert [step for step in steps if context.checkpoint.due(step)] == due


@pytest.mark.parametrize(
    ("every", "logged", "given", "due"),
    [
        (1, None, None, [True] * 4),
        (2, None, [1, 2, 3, 4], [False, True, False, True]),
        (2, [0, 1, 2, 3], None, [False, True, False, True]),
    ],
)
def test_checkpoints_by_epochs(open_context, every, logged, given, due):
    context = open_context(f"checkpoint={{every_epochs: {every}}}")
    found = []
    for index in range(4):
        if logged:
            context.metrics.log({"x": 1}, step=index, epoch=logged[index])
        assert not context.checkpoint.due(50 * index)  # in the middle of an epoch
        epoch = given[index] if given else None
        found.append(context.checkpoint.due(50 * index, epoch_end=True, epoch=epoch))
    assert found == due


def test_an_epoch_that_nobody_named_is_an_error(open_context):
    context = open_context("checkpoint={every_epochs: 2}")
    with pytest.raises(ValueError, match="every 2 epochs and no epoch was given"):
        context.checkpoint.due(1, epoch_end=True)


def test_checkpoints_by_minutes_follow_the_clock_of_rank_0(open_context, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    context = open_context("checkpoint={every_minutes: 0.5}")
    other = open_context(rank=1)
    now[0] += 29
    assert not context.checkpoint.due(1)
    now[0] += 2
    assert context.checkpoint.due(2)
    assert not other.checkpoint.due(2)
    context.checkpoint.save({"model": 1}, step=2)
    assert not context.checkpoint.due(3)


@pytest.mark.parametrize(("overrides", "shards"), [((), 4), (("determinism=fast",), 2)])
def test_it_says_how_a_batch_is_cut(open_context, overrides, shards):
    context = open_context(*overrides)
    assert (context.shards, context.determinism) == (shards, "fast" if overrides else "exact")


def test_checkpoints_are_kept_as_the_spec_says(open_context):
    context = open_context("checkpoint={keep: 1, best: val/accuracy}")
    for step, accuracy in enumerate([0.5, 0.9, 0.6, 0.7], 1):
        context.metrics.log({"val/accuracy": accuracy}, step=step)
        context.checkpoint.save({"model": {"w": np.full(2, step)}}, step=step, epoch=step)
    context.checkpoint.wait()
    assert sorted(os.listdir(context.run_dir.checkpoints_dir)) == ["00000002", "00000004"]
    found = open_context(rank=1).checkpoint.latest()
    assert found is not None
    assert (found.step, found.epoch, found.metrics) == (4, 4, {"val/accuracy": 0.7})
    events = kinds(context, "checkpoint")
    assert [event["step"] for event in events] == [1, 2, 3, 4]
    assert events[-1]["sha256"] == found.weights_sha256
    assert Run(context.run_dir).weights_sha256() == found.weights_sha256


def test_metrics_are_durable_before_the_checkpoint_that_follows_them(open_context, monkeypatch):
    order: list[str] = []
    sync, write = RunDir.sync_events, checkpoint.write_snapshot
    monkeypatch.setattr(RunDir, "sync_events", lambda self: (order.append("events"), sync(self)))
    monkeypatch.setattr(
        checkpoint,
        "write_snapshot",
        lambda *a, **k: (order.append("checkpoint"), write(*a, **k))[1],
    )
    context = open_context()
    context.checkpoint.save({"model": 1}, step=1)
    context.checkpoint.wait()
    assert order == ["events", "checkpoint"]


def test_what_could_not_be_written_is_raised_by_the_next_call(open_context, capsys):
    context = open_context()
    directory = context.run_dir.checkpoints_dir
    directory.unlink()
    directory.write_text("in the way")
    context.checkpoint.save({"model": 1}, step=1)
    with pytest.raises(CheckpointError, match="00000001: cannot be written"):
        context.checkpoint.save({"model": 2}, step=2)
    context.checkpoint.save({"model": 3}, step=3)
    context.close()  # raises nothing, and is not silent
    assert "the last checkpoint was not written: " in capsys.readouterr().err
    told = kinds(context, "warning")[-1]
    assert "00000003: cannot be written" in told["text"]


def test_a_saved_state_is_durable_when_the_job_has_returned(run_dir, toyjobs, monkeypatch):
    from orchestrator import worker

    job = (toyjobs / "toy.py").read_text()
    (toyjobs / "toy.py").write_text(
        job.replace('ctx.metrics.log({"loss": 1.0}, step=1)', "ctx.checkpoint.save([1], step=1)")
    )
    del sys.modules["toyjobs.toy"]
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (time.sleep(0.02), fsync(fd)))
    context = JobContext.open(
        run_dir.plan(), run_dir, attempt=1, rank=0, world_size=1, local_rank=0
    )
    try:
        worker.run_job(run_dir.plan(), context)
        assert checkpoint.load(run_dir.checkpoints_dir / "00000001").state == [1]
    finally:
        context.close()


def test_a_checkpoint_inherits_nothing_from_the_steps_before_it(open_context):
    context = open_context("checkpoint={keep: 1, best: val/accuracy}")
    context.metrics.log({"train/loss": 0.3}, step=1)
    context.metrics.log({"val/accuracy": 0.9}, step=1)
    context.checkpoint.save({"model": 1}, step=1)
    context.checkpoint.save({"model": 2}, step=2)
    context.metrics.log({"train/loss": 0.2}, step=3)
    context.checkpoint.save({"model": 3}, step=3)
    context.checkpoint.wait()
    directory = context.run_dir.checkpoints_dir
    metrics = [checkpoint.read_manifest(path)["metrics"] for path in sorted(directory.iterdir())]
    assert metrics == [{"train/loss": 0.3, "val/accuracy": 0.9}, {"train/loss": 0.2}]


def test_given_metrics_decide_over_logged_ones(open_context):
    context = open_context("checkpoint={keep: 1, best: val/loss}")
    for step, loss in enumerate([0.1, 0.3], 1):
        context.checkpoint.save({"model": 1}, step=step, metrics={"val/loss": loss})
    context.checkpoint.wait()
    assert sorted(os.listdir(context.run_dir.checkpoints_dir)) == ["00000001", "00000002"]
    with pytest.raises(TypeError, match="val/loss"):
        context.checkpoint.save({}, step=3, metrics={"val/loss": "x"})


def test_a_damaged_checkpoint_is_told_once_and_seen_alike_on_every_rank(open_context, capsys):
    context = open_context()
    for step in (1, 2):
        context.checkpoint.save({"model": step}, step=step)
    context.checkpoint.wait()
    os.truncate(context.run_dir.checkpoints_dir / "00000002" / "state.json", 3)
    found = [open_context(rank=rank).checkpoint.latest() for rank in (0, 1)]
    assert [c.step for c in found if c is not None] == [1, 1]
    (event,) = kinds(context, "checkpoint_skipped")
    assert event["path"].endswith("00000002")
    assert "state.json: has 3 bytes" in event["why"]
    assert capsys.readouterr().err.count("state.json: has 3 bytes") == 2  # each rank's log


def test_no_checkpoint_yet(open_context):
    assert open_context().checkpoint.latest() is None


def test_artifacts(open_context):
    context = open_context()
    path = context.artifacts.path("plots/loss.png")
    with pytest.raises(FileNotFoundError, match=r"loss\.png"):
        context.artifacts.add(path)
    path.write_bytes(b"png")
    context.artifacts.add(path)
    open_context(rank=1).artifacts.add(path)
    assert [e["path"] for e in kinds(context, "artifact")] == ["artifacts/plots/loss.png"]
    for name in ("/etc/x", "../x", "a/../../x", ""):
        with pytest.raises(ValueError, match=r"artifacts\.path"):
            context.artifacts.path(name)


def test_a_stop_is_seen_by_every_rank(open_context):
    contexts = [open_context(rank=rank) for rank in (0, 1)]
    assert [c.should_stop for c in contexts] == [False, False]
    contexts[0].run_dir.request_stop()
    assert [c.should_stop for c in contexts] == [True, True]


def test_sigterm_asks_to_stop(open_context):
    context = open_context()
    os.kill(os.getpid(), signal.SIGTERM)
    limit = time.monotonic() + 10
    while not context.should_stop:
        assert time.monotonic() < limit
    assert not context.run_dir.stop_requested()


def test_close_gives_the_handlers_back(open_context):
    before = signal.getsignal(signal.SIGTERM)
    context = open_context()
    assert signal.getsignal(signal.SIGTERM) != before
    context.close()
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigusr1_dumps_the_stacks_of_all_threads(open_context):
    context = open_context(rank=1, attempt=1)
    # in a process of its own: faulthandler shows at most 100 threads, and tests leave some
    program = """
import os, signal, sys
from orchestrator.context import JobContext
from orchestrator.store import RunDir

run_dir = RunDir(sys.argv[1])
plan = run_dir.plan()
context = JobContext.open(plan, plan.run_dir, attempt=2, rank=1, world_size=2, local_rank=1)

def here_it_stands():
    os.kill(os.getpid(), signal.SIGUSR1)

here_it_stands()
context.close()
"""
    command = [sys.executable, "-c", program, str(context.run_dir.path)]
    subprocess.run(command, check=True, timeout=60)
    text = (context.run_dir.attempt_dir(2) / "rank-1.stacks").read_text()
    assert "in here_it_stands" in text
    assert "most recent call first" in text


def test_stop_requests_cost_little(open_context):
    context = open_context()
    started = time.perf_counter()
    for _ in range(1000):
        assert not context.should_stop
    assert time.perf_counter() - started < 0.5  # measured: 2 us each


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_logged_and_ends_the_job(
    run_dir: RunDir, value: float
) -> None:
    metrics = Metrics(run_dir, 0)
    metrics.log({"grad_norm": value}, step=1)  # only losses end a job
    with pytest.raises(FloatingPointError, match=r"train/loss is (nan|inf) at step 2") as caught:
        metrics.log({"train/loss": value}, step=2)
    assert isinstance(caught.value, NonFiniteLoss)
    steps = [event["step"] for _, event in run_dir.events() if event["kind"] == "metrics"]
    assert steps == [1, 2]
