"""What tensorlib adds to NumPy's own call, and a small training step, next to torch in one run.

    python benchmarks/overhead.py [--rounds 25] [--repeats 200]

All columns of a line run by turns, `rounds` times `repeats` calls each; printed are medians (of the
rounds) in microseconds, one thread, float32. Where torch is not installed its columns are empty.

The promises: an operation under no_grad costs at most 3 us over NumPy's call, recorded at most 8;
the training step is no slower than torch's; `import tensorlib` takes under 0.3 s.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  # after the number of threads is set

import tensorlib  # noqa: E402

torch: Any = None
if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)
tensorlib.set_num_threads(1)

ROWS, WIDTH, CLASSES = 32, 64, 10


def numpy_softmax(x: Any) -> Any:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def numpy_layer_norm(x: Any, b: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * b + b


def numpy_cross_entropy(x: Any, y: Any) -> Any:
    centred = x - x.max(-1, keepdims=True)
    logs = centred - np.log(np.exp(centred).sum(-1, keepdims=True))
    return -logs[np.arange(len(y)), y].mean()


# name: what NumPy computes, and the same for a library; of x [32, 64], w [64, 64], b [64], y [32]
OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "x + x": (lambda x, w, b, y: x + x, lambda F, x, w, b, y: x + x),
    "x * x": (lambda x, w, b, y: x * x, lambda F, x, w, b, y: x * x),
    "x + 2.0": (lambda x, w, b, y: x + 2.0, lambda F, x, w, b, y: x + 2.0),
    "x @ w": (lambda x, w, b, y: x @ w, lambda F, x, w, b, y: x @ w),
    "relu": (lambda x, w, b, y: np.maximum(x, 0), lambda F, x, w, b, y: F.relu(x)),
    "exp": (lambda x, w, b, y: np.exp(x), lambda F, x, w, b, y: x.exp()),
    "sum": (lambda x, w, b, y: x.sum(), lambda F, x, w, b, y: x.sum()),
    "sum(1)": (lambda x, w, b, y: x.sum(1), lambda F, x, w, b, y: x.sum(1)),
    "mean": (lambda x, w, b, y: x.mean(), lambda F, x, w, b, y: x.mean()),
    "view": (lambda x, w, b, y: x.reshape(64, 32), lambda F, x, w, b, y: x.view(64, 32)),
    "transpose": (lambda x, w, b, y: x.swapaxes(0, 1), lambda F, x, w, b, y: x.transpose(0, 1)),
    "x[3:5]": (lambda x, w, b, y: x[3:5], lambda F, x, w, b, y: x[3:5]),
    "x[3]": (lambda x, w, b, y: x[3], lambda F, x, w, b, y: x[3]),
    "softmax": (lambda x, w, b, y: numpy_softmax(x), lambda F, x, w, b, y: F.softmax(x, -1)),
    "layer_norm": (
        lambda x, w, b, y: numpy_layer_norm(x, b),
        lambda F, x, w, b, y: F.layer_norm(x, (WIDTH,), b, b),
    ),
    "linear": (lambda x, w, b, y: x @ w.T + b, lambda F, x, w, b, y: F.linear(x, w, b)),
    "cross_entropy": (
        lambda x, w, b, y: numpy_cross_entropy(x, y),
        lambda F, x, w, b, y: F.cross_entropy(x, y),
    ),
}


def by_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, repeats: int
) -> dict[str, list[float]]:
    """Microseconds of each call, by round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            elapsed = time.perf_counter() - start
            if number:  # the first round fills caches
                times[name].append(elapsed / repeats * 1e6)
    return times


def columns(name: str, arrays: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    """The calls of one line of the table."""
    plain, operation = OPERATIONS[name]
    calls: dict[str, Callable[[], Any]] = {"numpy": lambda: plain(*arrays)}
    for label, library in (("", tensorlib), ("torch ", torch)):
        if library is None:
            continue

        def without(library: Any = library) -> Callable[[], Any]:
            given = [library.tensor(a) for a in arrays]
            functional = library.nn.functional

            def call() -> Any:
                with library.no_grad():
                    return operation(functional, *given)

            return call

        def recorded(library: Any = library) -> Callable[[], Any]:
            given = [library.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
            functional = library.nn.functional
            return lambda: operation(functional, *given)

        calls[label + "no_grad"] = without()
        calls[label + "recorded"] = recorded()
    return calls


def switch(library: Any) -> Callable[[], None]:
    """Entering and leaving no_grad, which the calls above pay and an operation does not."""

    def call() -> None:
        with library.no_grad():
            pass

    return call


def operations(rounds: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    arrays = (
        rng.standard_normal((ROWS, WIDTH)).astype(np.float32),
        rng.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        rng.standard_normal(WIDTH).astype(np.float32),
        rng.integers(0, WIDTH, ROWS),
    )
    empty = by_turns({"": switch(tensorlib)}, rounds, repeats)[""]
    empty_torch = by_turns({"": switch(torch)}, rounds, repeats)[""] if torch else [0.0]
    enter, enter_torch = statistics.median(empty), statistics.median(empty_torch)
    print(
        f"{'us a call':<14}{'NumPy':>8}{'no_grad':>9}{'over':>7}{'recorded':>10}{'over':>7}", end=""
    )
    print(f"{'torch no_grad':>15}{'recorded':>10}" if torch else "")
    worst = [0.0, 0.0]
    for name in OPERATIONS:
        times = by_turns(columns(name, arrays), rounds, repeats)
        base = statistics.median(times["numpy"])
        over = [
            statistics.median(a - b for a, b in zip(times[key], times["numpy"], strict=True))
            for key in ("no_grad", "recorded")
        ]
        over[0] -= enter
        worst = [max(w, o) for w, o in zip(worst, over, strict=True)]
        print(
            f"{name:<14}{base:>8.2f}{base + over[0]:>9.2f}{over[0]:>+7.2f}{base + over[1]:>10.2f}"
            f"{over[1]:>+7.2f}",
            end="",
        )
        if torch:
            theirs = [statistics.median(times[f"torch {key}"]) for key in ("no_grad", "recorded")]
            print(f"{theirs[0] - enter_torch:>15.2f}{theirs[1]:>10.2f}", end="")
        print(flush=True)
    print(f"{'worst':<14}{'':>17}{worst[0]:>+7.2f}{'':>10}{worst[1]:>+7.2f}   promised +3 and +8\n")


def training_step(library: Any, optimizer: str) -> Callable[[], Any]:
    """Forward, loss, backward, zero_grad and step of a two-layer network."""
    library.manual_seed(0)
    nn = library.nn
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
    steps = getattr(library.optim, optimizer)(model.parameters(), lr=0.01)
    x, y = library.randn(ROWS, WIDTH), library.randint(0, CLASSES, (ROWS,))
    criterion = nn.CrossEntropyLoss()

    def step() -> Any:
        steps.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        steps.step()
        return loss

    return step


def training(rounds: int, repeats: int) -> None:
    print(f"two-layer MLP, batch {ROWS}, width {WIDTH}: us a training step")
    for optimizer in ("SGD", "Adam"):
        calls = {"tensorlib": training_step(tensorlib, optimizer)}
        if torch:
            calls["torch"] = training_step(torch, optimizer)
        times = by_turns(calls, rounds, max(repeats // 5, 1))
        middle = {name: statistics.median(values) for name, values in times.items()}
        line = f"{optimizer:<14}" + "".join(f"{n} {t:.0f}   " for n, t in middle.items())
        if torch:
            pairs = zip(times["tensorlib"], times["torch"], strict=True)
            line += f"tensorlib / torch {statistics.median(a / b for a, b in pairs):.2f}"
        print(line, flush=True)


def imports(rounds: int = 7) -> None:
    """Fresh processes, the interpreter itself included: with the bytecode that Python keeps after
    a first import, and without it (as where PYTHONDONTWRITEBYTECODE is set).
    """
    print("\nimport in a fresh process, s (median)")
    with tempfile.TemporaryDirectory() as folder:
        kept = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        ways = {
            "numpy": ("import numpy", kept),
            "tensorlib": ("import tensorlib", kept),
            "tensorlib, compiled anew": (
                "import sys, numpy; sys.pycache_prefix = sys.argv[1]; import tensorlib",
                {**kept, "PYTHONDONTWRITEBYTECODE": "1"},
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, (code, environment) in ways.items():
                command = [sys.executable, "-c", code, os.path.join(folder, "none")]
                start = time.perf_counter()
                subprocess.run(command, check=True, env=environment)
                if turn:  # the first makes the bytecode
                    times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        print(f"{name:<26}{statistics.median(values):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    operations(options.rounds, options.repeats)
    training(options.rounds, options.repeats)
    imports()


if __name__ == "__main__":
    main()
