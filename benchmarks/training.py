"""Data-parallel training in plain processes of one thread: ours, and torch DDP (gloo) beside it.

    python benchmarks/training.py [--model small_cnn|resnet18] [--rounds 3] [--steps 8]

Every round starts each side with one and with two workers. Ours trains the same global batch as 4
shards (exact: the same bits for any number of workers) and as one shard per worker (fast). Printed
are the medians of all steps as samples per second, and what follows from them:

- ours against torch with two workers,
- scaling from 1 to 2 workers: with the global batch fixed (of 1, efficiency is speed-up / 2), and
  with the batch per worker fixed,
- what exactness costs with two workers.

Synthetic data in memory, SGD with momentum, float32.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

# global batch, shape of a sample
MODELS = {"small_cnn": (256, (1, 28, 28)), "resnet18": (128, (3, 64, 64))}
Times = dict[str, list[float]]


def small_cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def resnet18(nn: Any) -> Any:
    """He et al., 2016, in the words that both libraries share."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = None
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            return self.relu(out + (x if self.downsample is None else self.downsample(x)))

    sizes = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    stages = [nn.Sequential(Block(a, b, s), Block(b, b, 1)) for a, b, s in sizes]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def timed(step: Callable[[int], Any], steps: int) -> list[float]:
    """Seconds of each step after two that pay for memory and code."""
    times = []
    for number in range(steps + 2):
        start = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - start)
    return times[2:]


def ours(rank: int, world_size: int, options: Any, results: Any) -> None:
    import tensorlib
    from tensorlib import distributed

    tensorlib.set_num_threads(1)
    distributed.init_process_group()
    batch, _ = MODELS[options.model]
    # two workers with the batch of one: half the global batch for one worker, all of it for two
    cases = {
        "ours, exact": (4, batch),
        "ours, fast": (world_size, batch),
        "ours, per worker": (world_size, batch // 2 * world_size),
    }
    times = {name: ours_step(options, *case) for name, case in cases.items()}
    if rank == 0:
        results.put(times)
    distributed.barrier()


def ours_step(options: Any, shards: int, batch: int) -> list[float]:
    import tensorlib
    from tensorlib import distributed, nn, optim
    from tensorlib.nn import functional as F

    own = batch // distributed.get_world_size()
    layout = tensorlib.channels_last  # as the jobs have it
    model = globals()[options.model](nn).to(memory_format=layout)
    net = distributed.ShardedDataParallel(model, shards=shards)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    x = tensorlib.randn(own, *MODELS[options.model][1]).to(memory_format=layout)
    y = tensorlib.randint(0, 10, (own,))

    def step(number: int) -> None:
        optimizer.zero_grad()
        for shard in net.step(batch, number):
            loss = F.cross_entropy(net(x[shard.local]), y[shard.local], reduction="sum")
            (loss / batch).backward()
        optimizer.step()

    distributed.barrier()
    return timed(step, options.steps)


def torch_ddp(rank: int, world_size: int, options: Any, results: Any) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    layouts = {"torch": torch.contiguous_format, "torch, channels last": torch.channels_last}
    times = {name: torch_step(options, layout) for name, layout in layouts.items()}
    if rank == 0:
        results.put(times)
    distributed.destroy_process_group()


def torch_step(options: Any, layout: Any) -> list[float]:
    import torch
    from torch import distributed, nn, optim

    batch, shape = MODELS[options.model]
    own = batch // distributed.get_world_size()
    model = globals()[options.model](nn).to(memory_format=layout)
    net = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(own, *shape).to(memory_format=layout)
    y = torch.randint(0, 10, (own,))

    def step(number: int) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    distributed.barrier()
    return timed(step, options.steps)


def run(target: Callable[..., None], world_size: int, options: Any) -> Times:
    """One side with so many workers; the times of rank 0."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(world_size))
    ranks = []
    for rank in range(world_size):
        os.environ["RANK"] = str(rank)  # a spawned process takes over the environment
        arguments = (rank, world_size, options, results)
        ranks.append(context.Process(target=target, args=arguments))
        ranks[-1].start()
    for process in ranks:
        process.join()
    if results.empty():  # gloo's threads abort now and then after all is done
        raise SystemExit(f"{target.__name__}: a rank failed")
    times: Times = results.get()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="small_cnn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    sides = [ours] + ([torch_ddp] if importlib.util.find_spec("torch") else [])
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for world_size in (1, 2):
            for side in sides:
                for name, times in run(side, world_size, options).items():
                    found.setdefault((name, world_size), []).extend(times)
    batch, _ = MODELS[options.model]
    speed = {
        (name, world): (batch // 2 * world if name == "ours, per worker" else batch)
        / statistics.median(times)
        for (name, world), times in found.items()
    }
    print(f"{options.model}, global batch {batch}, one thread per worker: samples/s")
    print(f"{'':>22}{'1 worker':>12}{'2 workers':>12}{'scaling':>10}")
    for name in dict.fromkeys(name for name, _ in speed):
        one, two = speed[name, 1], speed[name, 2]
        print(f"{name:>22}{one:12.1f}{two:12.1f}{two / one / 2:10.2f}")
    exact, fast = speed["ours, exact", 2], speed["ours, fast", 2]
    print(f"exact costs {(fast / exact - 1) * 100:.1f} % over fast with 2 workers")
    for name, world in speed:
        if name.startswith("torch") and world == 2:
            other = speed[name, 2]
            print(f"2 workers against {name}: exact {exact / other:.2f}, fast {fast / other:.2f}")


if __name__ == "__main__":
    main()
