"""Whole models next to PyTorch's eager mode, in one run: a table of work, ours, torch, ratio.

    python benchmarks/models.py [--only TEXT ...] [--rounds 9] [--threads 2]

A round runs every case a few times with each library in turn; printed are the median time of a call
in milliseconds and the median of the rounds' ratios (above 1: ours is faster). A call comes after a
pause, for the threads of the other library spin on for a while. Both start from the same seed;
float32, synthetic data, the update included in a training step.

The promise: the training steps of MLP, LSTM and Transformer take at most PyTorch's time over 1.2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads would spin beside torch's

import torch  # after the number of BLAS threads is set

import tensorlib

PAUSE_S = 0.02

Step = Callable[[], Any]
Builder = Callable[[Any], Step]  # of a library: tensorlib or torch
CASES: dict[str, Builder] = {}


def case(name: str) -> Callable[[Builder], Builder]:
    """Enter a builder in the table."""

    def register(builder: Builder) -> Builder:
        CASES[name] = builder
        return builder

    return register


def training(library: Any, model: Any, x: Any, y: Any, optimizer: str = "sgd") -> Step:
    """A step of classification: gradients, loss, update."""
    if optimizer == "sgd":
        made = library.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        made = library.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> Any:
        made.zero_grad()
        loss = library.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        made.step()
        return loss

    return step


def mlp(batch: int, optimizer: str) -> Builder:
    """784-512-512-10 with ReLU."""

    def build(library: Any) -> Step:
        nn = library.nn
        model = nn.Sequential(
            nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        x, y = library.randn(batch, 784), library.randint(0, 10, (batch,))
        return training(library, model, x, y, optimizer)

    return build


for _batch in (64, 256):
    for _optimizer in ("sgd", "adam"):
        CASES[f"training MLP 784-512-512-10, batch {_batch}, {_optimizer}"] = mlp(
            _batch, _optimizer
        )


def recurrent(kind: str) -> Builder:
    """A layer of 128 units over 64 steps, and a linear map of its last output."""

    def build(library: Any) -> Step:
        nn = library.nn

        class Classifier(nn.Module):  # type: ignore[misc,name-defined]  # either library's Module
            def __init__(self) -> None:
                super().__init__()
                self.layer = getattr(nn, kind)(128, 128, batch_first=True)
                self.head = nn.Linear(128, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.layer(x)[0][:, -1])

        x, y = library.randn(32, 64, 128), library.randint(0, 10, (32,))
        return training(library, Classifier(), x, y)

    return build


for _kind in ("LSTM", "GRU"):
    CASES[f"training {_kind}, hidden 128, length 64, batch 32"] = recurrent(_kind)


def encoder(activation: str, dropout: float) -> Builder:
    """A Transformer encoder: d 256, 8 heads, 4 layers, length 128, batch 32, 1024 between."""

    def build(library: Any) -> Step:
        nn = library.nn

        class Classifier(nn.Module):  # type: ignore[misc,name-defined]  # either library's Module
            def __init__(self) -> None:
                super().__init__()
                layer = nn.TransformerEncoderLayer(
                    256, 8, 1024, dropout, activation, batch_first=True
                )
                self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
                self.head = nn.Linear(256, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.encoder(x).mean(1))

        x, y = library.randn(32, 128, 256), library.randint(0, 10, (32,))
        return training(library, Classifier(), x, y)

    return build


for _activation, _dropout in (("relu", 0.0), ("gelu", 0.0), ("relu", 0.1)):
    CASES[f"training Transformer encoder, {_activation}, dropout {_dropout:g}"] = encoder(
        _activation, _dropout
    )


def build(name: str) -> dict[str, Step]:
    """The case for both libraries."""
    found = {}
    for label, library in (("ours", tensorlib), ("torch", torch)):
        library.manual_seed(0)
        found[label] = CASES[name](library)
    return found


def timed(step: Step, calls: int) -> float:
    """Median seconds of a call, after a pause and a call that is not counted."""
    time.sleep(PAUSE_S)
    step()
    found = []
    for _ in range(calls):
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def measure(name: str, rounds: int) -> tuple[float, float, float]:
    """Median milliseconds of ours and of torch, and the median ratio of torch to ours."""
    steps = build(name)
    longest = 0.0
    for step in steps.values():
        step()  # compiles, takes memory
        began = time.perf_counter()
        step()
        longest = max(longest, time.perf_counter() - began)
    calls = max(1, min(15, int(0.15 / longest)))
    times: dict[str, list[float]] = {label: [] for label in steps}
    for number in range(rounds):
        for label in sorted(steps, reverse=bool(number % 2)):
            times[label].append(timed(steps[label], calls))
    ratios = [b / a for a, b in zip(times["ours"], times["torch"], strict=True)]
    ours, other = (1e3 * statistics.median(times[label]) for label in ("ours", "torch"))
    return ours, other, statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name has one of these")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tensorlib.set_num_threads(options.threads)
    print(f"float32, {options.threads} threads, torch {torch.__version__}, milliseconds")
    print(f"{'work':60s} {'ours':>9s} {'torch':>9s} {'ratio':>6s}")
    for name in CASES:
        if options.only and not any(text.lower() in name.lower() for text in options.only):
            continue
        ours, other, ratio = measure(name, options.rounds)
        print(f"{name:60s} {ours:9.2f} {other:9.2f} {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
