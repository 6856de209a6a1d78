"""What surviving faults costs: each step, the start of a run, the time back after a kill.

    python benchmarks/fault_tolerance.py [--rounds 3] [--steps 150] [--skip steps start back]

- steps: the same training in one process with everything on (metrics into the run directory and
  MLflow, signs of life, looks for a stop, a checkpoint with checksums every 50 steps) and with all
  of it off, step by step in turns; and what the process beside it uses that reads along and copies
  to MLflow, as the driver of a run does.
- start: from the command to the end of the first step, two workers, `orchestrator run` beside Ray
  Train's TorchTrainer with DDP (gloo) on the same small network; each starts its own Ray.
- back: from a worker's SIGKILL to the next step that the run had not done before.

Use an otherwise idle machine; the second and third part start Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "configs" / "train" / "digits.yaml"
BATCH, SHAPE, CLASSES, CHANNELS = 256, (1, 28, 28), 10, 16


class Off:
    """A JobContext whose every part does nothing."""

    should_stop = False
    attempt, rank, world_size, local_rank, threads, shards, seed = 1, 0, 1, 0, 1, 4, 0
    determinism = "exact"
    plan = SimpleNamespace(spec=SimpleNamespace(checkpoint=SimpleNamespace(best=None)))

    def __init__(self) -> None:
        self.metrics = self.checkpoint = self.artifacts = self

    def log(self, values: Any, *, step: int, epoch: int | None = None) -> None: ...
    def progress(self, *_: Any, **__: Any) -> None: ...
    def due(self, *_: Any, **__: Any) -> bool:
        return False

    def latest(self) -> None: ...
    def wait(self) -> None: ...
    def save(self, *_: Any, **__: Any) -> None: ...
    def record_data(self, **_: Any) -> None: ...
    def long_work(self, _: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def steps(rounds: int, count: int) -> None:
    """Per step, with everything on and off."""
    import numpy as np

    import tensorlib
    from jobs import training
    from jobs.config import TrainingConfig
    from tensorlib import nn
    from tensorlib.nn import functional as F
    from tensorlib.utils.data import TensorDataset

    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH * count, *SHAPE), dtype=np.float32)
    labels = rng.integers(0, CLASSES, BATCH * count)

    class Task(training.Task):
        def __init__(self) -> None:
            self.model = network(nn)
            self.dataset = TensorDataset(tensorlib.tensor(images), tensorlib.tensor(labels))
            self.facts: dict[str, Any] = {}

        def loss(self, model: Any, batch: Any, where: Any) -> Any:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), ()

    def one(made: training.Training, batch: Any) -> float:
        """A turn of the loop in `Training.train_epoch`."""
        began, progress = time.perf_counter(), made.progress
        made.train_step(batch, BATCH)
        made.ctx.metrics.progress(progress.samples, made.samples, "samples", epoch=1)
        if made.ctx.checkpoint.due(progress.step):
            made.save()
        return time.perf_counter() - began

    config = TrainingConfig(epochs=1, batch_size=BATCH)
    times: dict[str, list[float]] = {"on": [], "off": []}
    busy, wall = 0.0, 0.0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as home, context(home) as (ctx, driver):
            sides = {
                name: training.Training(config, side, Task())
                for name, side in (("on", ctx), ("off", Off()))
            }
            before, began = cpu_s(driver), time.perf_counter()
            loaders = [iter(side.loader) for side in sides.values()]
            for number, batches in enumerate(zip(*loaders, strict=True)):
                turn = list(zip(sides.items(), batches, strict=True))
                for (name, side), batch in turn if number % 2 else reversed(turn):
                    times[name].append(one(side, batch))
            busy, wall = busy + cpu_s(driver) - before, wall + time.perf_counter() - began
    averages = {"median": statistics.median, "mean, with saves": statistics.fmean}
    for name, average in averages.items():
        # Without the slowest hundredth, which other programs cause.
        on, off = (average(sorted(kept)[: -len(kept) // 100]) for kept in times.values())
        cost = f"{on / off - 1:+.2%}"
        print(f"a step, {name:<17} on {on * 1e3:7.2f} ms   off {off * 1e3:7.2f} ms   {cost}")
    share = busy / wall / len(os.sched_getaffinity(0))
    print(f"the driver beside it: {share:.1%} of the cores of this machine")


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


DRIVER = """
import sys, time
from orchestrator.store import RunDir
from orchestrator.heartbeat import read_beats
from orchestrator.tracking.mlflow import Mirror
run_dir = RunDir(sys.argv[1])
mirror = Mirror(run_dir.plan(), run_dir, print)
mirror.start()
offset = 0
while not (run_dir.path / "over").exists():
    for offset, _ in run_dir.events(offset):
        pass
    read_beats(run_dir.attempt_dir(1))
    time.sleep(0.1)
"""


@contextlib.contextmanager
def context(home: str) -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
    """The context of a rank, and a driver beside it that does what drivers do."""
    from orchestrator import config, plan
    from orchestrator.context import JobContext
    from orchestrator.store import RunDir

    spec = Path(home) / "spec.yaml"
    spec.write_text(
        "version: 1\nname: cost\njob: train_classifier\n"
        "params: {model: {name: small_cnn}, data: {name: digits}}\n"
    )
    planned = plan.plan(config.load(spec), home=home)
    run_dir = RunDir.create(planned)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(run_dir.path)], cwd=ROOT)
    opened = JobContext.open(planned, run_dir, attempt=1, rank=0, world_size=1, local_rank=0)
    opened.metrics.log({"train/loss": 1.0}, step=0)
    while run_dir.status().tracking is None:
        time.sleep(0.1)
    try:
        yield opened, driver
    finally:
        opened.close()
        (run_dir.path / "over").touch()
        driver.wait(60)


def network(nn: Any) -> Any:
    """The small network of both sides."""
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(CHANNELS, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, CLASSES),
    )  # fmt: skip


PEER = f"""
import json, sys, time
import ray, ray.train
from ray.train.torch import TorchTrainer, prepare_model

def loop(config):
    import torch
    from torch import nn
    torch.set_num_threads(1)
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from fault_tolerance import BATCH, SHAPE, network
    model = prepare_model(network(nn))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(BATCH // 2, *SHAPE), torch.zeros(BATCH // 2, dtype=torch.long)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    if ray.train.get_context().get_world_rank() == 0:
        open(config["done"], "w").write(str(time.time()))

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
TorchTrainer(
    loop, train_loop_config={{"done": sys.argv[1]}},
    scaling_config=ray.train.ScalingConfig(num_workers=2),
    run_config=ray.train.RunConfig(storage_path=sys.argv[2]),
).fit()
"""


def start(rounds: int) -> None:
    """From the command to the end of the first step."""
    times: dict[str, list[float]] = {"ours": [], "torch": []}
    torch = importlib.util.find_spec("torch") is not None
    for turn in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            began = time.time()
            run(folder, "--set", "params.epochs=1")
            ours = metrics(Path(folder) / "bench")[0]["t"] / 1000 - began
            peer = float("nan")
            if torch:
                done = Path(folder) / "done"
                began = time.time()
                subprocess.run([sys.executable, "-c", PEER, str(done), folder], check=True,
                               capture_output=True, cwd=ROOT)  # fmt: skip
                peer = float(done.read_text()) - began
        if turn:  # the first fills caches
            times["ours"].append(ours)
            times["torch"].append(peer)
    for name, label in (("ours", "orchestrator run"), ("torch", "Ray Train, torch DDP")):
        values = ", ".join(f"{value:.1f}" for value in times[name])
        print(f"to the first step, {label:<21}{statistics.median(times[name]):6.1f} s  ({values})")


def back(rounds: int) -> None:
    """From a SIGKILL to new work."""
    gaps = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "orchestrator", "run", str(DIGITS), "--run-id", "bench"]
        command += ["--set", "params.epochs=1000", "--set", f"retry.worker_deaths={rounds}"]
        environment = {**os.environ, "ORCHESTRATOR_HOME": folder}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        run_dir = Path(folder) / "bench"
        for attempt in range(1, rounds + 1):
            while not metrics(run_dir, attempt):
                time.sleep(0.1)
            header = (run_dir / "logs" / "rank-1.log").read_text().splitlines()
            pid = int([line for line in header if line.startswith("---")][-1].split("pid ")[1])
            os.kill(pid, signal.SIGKILL)
            killed, reached = time.time(), metrics(run_dir)[-1]["step"]
            while not (new := [m for m in metrics(run_dir, attempt + 1) if m["step"] > reached]):
                time.sleep(0.1)
            gaps.append(new[0]["t"] / 1000 - killed)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    values = ", ".join(f"{gap:.1f}" for gap in gaps)
    print(f"from SIGKILL to a step not done before {statistics.median(gaps):.1f} s  ({values})")


def run(home: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "orchestrator", "run", str(DIGITS), "--run-id", "bench"]
    environment = {**os.environ, "ORCHESTRATOR_HOME": home}
    subprocess.run([*command, *arguments], check=True, capture_output=True, cwd=ROOT,
                   env=environment)  # fmt: skip


def metrics(run_dir: Path, attempt: int | None = None) -> list[dict[str, Any]]:
    """Steps that were logged, by one attempt or by all."""
    try:
        lines = (run_dir / "events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = [json.loads(line) for line in lines if '"train/loss"' in line and line.endswith("}")]
    return [event for event in found if attempt in (None, event["attempt"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--skip", nargs="*", choices=("steps", "start", "back"), default=())
    options = parser.parse_args()
    if "steps" not in options.skip:
        steps(options.rounds, options.steps)
    if "start" not in options.skip:
        start(options.rounds)
    if "back" not in options.skip:
        back(options.rounds)


if __name__ == "__main__":
    main()
