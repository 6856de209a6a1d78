"""What a checkpoint of 1 GiB costs the steps of a training, written in the background and in place.

    python -m benchmarks.checkpoint          # under a minute; needs 3 GiB of memory, 2 of disk

Two processes compute on one core each, as two workers do; the first saves its state. The cost of a
save is the time of the call and what the steps beside the write took longer than those before it.
The CPU of a save is what its process used beyond that of the thread that computes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from orchestrator import checkpoint
from orchestrator.saver import Saver

STATE_BYTES = 1 << 30
ROUNDS, CALM_STEPS = 3, 20
BESIDE = "import numpy as np\na = np.ones((1024, 1024), 'f4')\nwhile True: a @ a"


def step(a: np.ndarray) -> float:
    """Seconds of one step, about a tenth of one."""
    started = time.perf_counter()
    a @ a
    return time.perf_counter() - started


def main() -> None:
    state = {"model": {str(i): np.ones(STATE_BYTES // 64, np.float32) for i in range(16)}}
    a = np.ones((1280, 1280), np.float32)
    other = subprocess.Popen([sys.executable, "-c", BESIDE])
    calm: list[float] = []
    calls: list[float] = []
    slower: list[float] = []
    writes: list[float] = []
    beside: list[float] = []
    cpu: list[float] = []
    try:
        with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=".") as folder:
            saver = Saver(Path(folder) / "background", keep=1)
            saver.save(state, step=0)  # the buffers are allocated once per run
            saver.wait()
            for number in range(1, ROUNDS + 1):
                before = [step(a) for _ in range(CALM_STEPS)]
                calm += before
                started, others = time.perf_counter(), time.process_time() - time.thread_time()
                saver.save(state, step=number)
                calls.append(time.perf_counter() - started)
                during = []
                while saver.writing is not None:
                    during.append(step(a))
                writes.append(time.perf_counter() - started)
                slower.append(sum(during) - len(during) * statistics.median(before))
                beside.append(statistics.mean(during) / statistics.median(before) - 1)
                saver.wait()
                cpu.append(time.process_time() - time.thread_time() - others)
            started = time.perf_counter()
            checkpoint.write(Path(folder) / "place", state, step=1)
            in_place = time.perf_counter() - started
    finally:
        other.kill()
        other.wait()
    usual, call, slow = map(statistics.median, (calm, calls, slower))
    print(f"{STATE_BYTES >> 20} MiB, steps of {1e3 * usual:.0f} ms, median of {ROUNDS} saves")
    print(f"in the background  call {call:.2f} s + slower steps {slow:.2f} s = {call + slow:.2f} s")
    print(f"  durable after    {statistics.median(writes):.2f} s")
    print(f"  steps beside it  {100 * statistics.median(beside):.1f} % longer")
    print(f"  CPU of the write {statistics.median(cpu):.2f} s")
    print(f"in place           {in_place:.2f} s")
    for name, cost in (("in the background", call + slow), ("in place", in_place)):
        print(f"{name}: steps take at most 10 % longer where saves are {cost / 0.1:.0f} s apart")


if __name__ == "__main__":
    main()
