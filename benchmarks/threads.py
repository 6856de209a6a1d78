"""Threads, processes and starts: how the kernels share the cores, and how soon they are there.

    python benchmarks/threads.py [--seconds 1.5] [--rounds 4]

The work is ResNet-18 on eight images of 64x64, evaluated without gradients. Processes wait for each
other, run by turns for `seconds` and count; printed are medians over the rounds.

The promises: N processes with one thread each on N cores do at least 0.95 N of what one does (where
memory bandwidth allows); twice as many threads as cores do not collapse; a fresh process has its
first ResNet-50 result within 3 s of `import tensorlib`, within 60 s when nothing is compiled.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

LIMIT_S = 300.0

START = """
import time
began = time.perf_counter()
import tensorlib
import tensorlib.vision.models as models
model = models.resnet50().eval()
with tensorlib.no_grad():
    model(tensorlib.zeros(1, 3, 224, 224))
print(time.perf_counter() - began)
"""


def work(threads: int, turns: list[bool], seconds: float, barrier: Any, results: Any) -> None:
    """In a process of its own: take part in the turns that say so, put the counts a second."""
    import tensorlib
    from tensorlib.vision import models

    tensorlib.set_num_threads(threads)
    tensorlib.manual_seed(0)
    model = models.resnet18().eval()
    images = tensorlib.randn(8, 3, 64, 64)
    counts = []
    with tensorlib.no_grad():
        for _ in range(3):
            model(images)
        for takes_part in turns:
            barrier.wait(LIMIT_S)
            done, began = 0, time.perf_counter()
            while takes_part and time.perf_counter() - began < seconds:
                model(images)
                done += 1
            counts.append(done / (time.perf_counter() - began))
            barrier.wait(LIMIT_S)
    results.put((threads, counts))


def throughputs(
    kinds: list[tuple[int, int]], seconds: float, rounds: int
) -> dict[tuple[int, int], float]:
    """Runs a second of all processes together, for each kind (processes, threads of each)."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    parts = [(kind, number) for kind in kinds for number in range(kind[0])]
    barrier = context.Barrier(len(parts))
    running = []
    for kind, _ in parts:
        turns = [other == kind for _ in range(rounds) for other in kinds]
        arguments = (kind[1], turns, seconds, barrier, results)
        running.append(context.Process(target=work, args=arguments))
    for process in running:
        process.start()
    totals = [0.0] * (rounds * len(kinds))
    for _ in running:
        for turn, count in enumerate(results.get(timeout=LIMIT_S)[1]):
            totals[turn] += count
    for process in running:
        process.join(LIMIT_S)
    return {
        kind: statistics.median(totals[place :: len(kinds)]) for place, kind in enumerate(kinds)
    }


def starts() -> tuple[float, float]:
    """Seconds from `import tensorlib` to the first ResNet-50 result, with nothing compiled and with
    everything.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TENSORLIB_CACHE": cache}
        found = []
        for _ in range(4):
            done = subprocess.run(
                [sys.executable, "-c", START],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=LIMIT_S,
            )
            found.append(float(done.stdout))
    return found[0], statistics.median(found[1:])


def launch_cost(threads: int) -> tuple[float, float]:
    """Microseconds to run a task that does nothing: with workers awake, and asleep."""
    import tensorlib
    from tensorlib.kernels.cpu import loader, runtime

    tensorlib.set_num_threads(threads)
    launch = runtime().launch_address
    nothing = loader.address("threads", "nothing")
    launch(nothing, threads)
    awake, asleep = [], []
    for _ in range(200):
        time.sleep(0.001)
        began = time.perf_counter()
        launch(nothing, threads)
        asleep.append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(20):
            launch(nothing, threads)
        awake.append((time.perf_counter() - began) / 20)
    return statistics.median(awake) * 1e6, statistics.median(asleep) * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    kinds = [(1, 1), (1, cores), (cores, 1), (cores, cores)]
    kinds = list(dict.fromkeys(kinds))
    found = throughputs(kinds, options.seconds, options.rounds)
    one = found[1, 1]
    print(f"{cores} cores\nprocesses  threads of each  runs a second  against one thread")
    for (processes, threads), count in found.items():
        print(f"{processes:9}  {threads:15}  {count:13.1f}  {count / one:18.2f}")
    print("\nthreads  a launch, workers awake  asleep (us)")
    for threads in (1, cores):
        awake, asleep = launch_cost(threads)
        print(f"{threads:7}  {awake:23.1f}  {asleep:11.1f}")
    cold, warm = starts()
    print(f"\nfirst ResNet-50 result: {warm:.1f} s, with an empty cache {cold:.1f} s")


if __name__ == "__main__":
    main()
