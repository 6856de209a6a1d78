"""The same training as a user starts it: `orchestrator run`, and Ray Train with PyTorch DDP.

    python benchmarks/ray_train.py [--model small_cnn|resnet18] [--rounds 2] [--steps 40]

Two workers of one thread each, the same global batch, images in memory (uint8, normalised in the
loop), SGD with momentum, the loss of every step logged; ours exact and fast, PyTorch with its usual
layout and with channels last. By turns, each in a process of its own. Printed are the medians over
the rounds of samples per second (from the median step), and of the seconds from the start of the
command to the end of the first step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKERS = 2
BATCHES = {"small_cnn": 256, "resnet18": 128}
LEFT_OUT = 10  # first steps: memory, code, and MLflow being loaded beside them
HERE = Path(__file__).resolve().parent

JOB = '''
"""Synthetic images; notes when each step ended."""

import json
import time

import numpy as np
from jobs.config import TrainingConfig
from jobs.training import Task, train
import tensorlib
from tensorlib import nn
from tensorlib.nn import functional as F
from training import MODELS, resnet18, small_cnn

ENGINE = "training"


class Config(TrainingConfig):
    network: str
    samples: int
    times: str


class Images:
    def __init__(self, count, shape):
        draw = np.random.default_rng(0)
        self.images = draw.integers(0, 256, (count, shape[1], shape[2], shape[0]), np.uint8)
        self.labels = draw.integers(0, 10, count)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Classify(Task):
    facts = {"data": "synthetic"}

    def __init__(self, config):
        build = {"small_cnn": small_cnn, "resnet18": resnet18}[config.network]
        self.model = build(nn).to(memory_format=tensorlib.channels_last)
        self.dataset = Images(config.samples, MODELS[config.network][1])

    def loss(self, model, batch, where):
        images = batch[0].numpy().astype(np.float32) / np.float32(255)
        inputs = tensorlib.from_numpy(images.transpose(0, 3, 1, 2))
        return F.cross_entropy(model(inputs), batch[1], reduction="sum"), []


def run(config, ctx):
    ends = []
    log = ctx.metrics.log

    def noting(values, **where):
        log(values, **where)
        ends.append(time.time())

    ctx.metrics.log = noting
    train(config, ctx, lambda: Classify(config))
    if ctx.rank == 0:
        with open(config.times, "w") as file:
            json.dump(ends[:-1], file)  # the last one is the epoch's
'''

PEER = """
import json, sys, time
import numpy as np
import ray, ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

def loop(config):
    import torch
    from torch import nn
    sys.path.insert(0, config["here"])
    import training
    torch.set_num_threads(1)
    layout = torch.channels_last if config["channels_last"] else torch.contiguous_format
    shape = training.MODELS[config["network"]][1]
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (config["samples"], *shape), np.uint8)
    data = torch.utils.data.TensorDataset(
        torch.from_numpy(images), torch.from_numpy(draw.integers(0, 10, config["samples"]))
    )
    world = ray.train.get_context().get_world_size()
    loader = torch.utils.data.DataLoader(data, batch_size=config["batch"] // world, shuffle=True)
    loader = ray.train.torch.prepare_data_loader(loader)
    model = getattr(training, config["network"])(nn).to(memory_format=layout)
    model = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ends, losses = [], []
    for images, labels in loader:
        inputs = (images.float() / 255).to(memory_format=layout)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        ends.append(time.time())
    ray.train.report({"loss": sum(losses) / len(losses)})
    if ray.train.get_context().get_world_rank() == 0:
        with open(config["times"], "w") as file:
            json.dump(ends, file)

config = json.loads(sys.argv[1])
TorchTrainer(
    loop,
    train_loop_config=config,
    torch_config=TorchConfig(backend="gloo"),
    scaling_config=ScalingConfig(num_workers=config["workers"], resources_per_worker={"CPU": 1}),
    run_config=RunConfig(storage_path=config["storage"]),
).fit()
"""


def measure(command: list[str], times: Path, folder: Path) -> tuple[float, float]:
    """Run a command; seconds of the median step, and from its start to the end of the first."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{HERE}:{HERE.parent}"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment |= {"ORCHESTRATOR_HOME": str(folder / "runs"), "RAY_DEDUP_LOGS": "0"}
    start = time.time()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    if done.returncode or not times.exists():
        raise SystemExit(f"{' '.join(command[:4])}: exit {done.returncode}\n{done.stderr[-3000:]}")
    ends = json.loads(times.read_text())
    times.unlink()
    steps = [b - a for a, b in itertools.pairwise(ends)][LEFT_OUT:]
    return statistics.median(steps), ends[0] - start


def ours(folder: Path, model: str, samples: int, determinism: str) -> tuple[float, float]:
    times = folder / "times.json"
    (folder / "bench").mkdir(exist_ok=True)
    (folder / "bench" / "synthetic.py").write_text(JOB)
    spec = {
        "version": 1,
        "name": "bench",
        "job": "bench.synthetic",
        "determinism": determinism,
        "params": {
            "network": model,
            "samples": samples,
            "times": str(times),
            "epochs": 1,
            "batch_size": BATCHES[model],
            "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0},
        },
        "resources": {"workers": WORKERS, "cpus_per_worker": 1},
        "checkpoint": {"every_epochs": 1},
    }
    path = folder / "spec.yaml"
    path.write_text(json.dumps(spec))  # JSON is YAML
    return measure([sys.executable, "-m", "orchestrator", "run", str(path)], times, folder)


def peer(folder: Path, model: str, samples: int, channels_last: bool) -> tuple[float, float]:
    times = folder / "times.json"
    script = folder / "peer.py"
    script.write_text(PEER)
    config = {
        "network": model,
        "samples": samples,
        "batch": BATCHES[model],
        "channels_last": channels_last,
        "workers": WORKERS,
        "times": str(times),
        "here": str(HERE),
        "storage": str(folder / "ray"),
    }
    return measure([sys.executable, str(script), json.dumps(config)], times, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=BATCHES, default="small_cnn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    batch = BATCHES[options.model]
    sides = {
        "ours, exact": lambda where, n: ours(where, options.model, n, "exact"),
        "ours, fast": lambda where, n: ours(where, options.model, n, "fast"),
        "Ray Train + torch": lambda where, n: peer(where, options.model, n, False),
        "Ray Train + torch, channels last": lambda where, n: peer(where, options.model, n, True),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name, side in sides.items():
                found[name].append(side(Path(folder), batch * options.steps))
    print(f"{options.model}, {WORKERS} workers of one thread, global batch {batch}")
    print(f"{'':34}{'samples/s':>10}{'first step s':>14}")
    speed = {}
    for name, measured in found.items():
        speed[name] = batch / statistics.median(step for step, _ in measured)
        first = statistics.median(first for _, first in measured)
        print(f"{name:34}{speed[name]:10.1f}{first:14.1f}")
    best = max(speed[name] for name in speed if "torch" in name)
    for name in ("ours, exact", "ours, fast"):
        usual = speed["Ray Train + torch"]
        print(f"{name} / torch: {speed[name] / usual:.2f}, / its better: {speed[name] / best:.2f}")
    print(f"exact costs {(speed['ours, fast'] / speed['ours, exact'] - 1) * 100:.1f} % over fast")


if __name__ == "__main__":
    main()
