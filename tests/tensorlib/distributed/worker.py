"""What a rank does in the tests that need real processes: `python worker.py CASE`, torch's env."""

import os
import signal
import sys
import time

import numpy as np

import tensorlib.distributed as dist

RANK = int(os.environ["RANK"])
VICTIM = int(os.environ["WORLD_SIZE"]) - 1


def collectives():
    array = np.full(300_000, RANK + 1.0, np.float32)
    dist.all_reduce(array, dist.ReduceOp.AVG)
    objects = [None] * dist.get_world_size()
    dist.all_gather_object(objects, {"rank": RANK, "shape": (1, 2)})
    print(array[0], array[-1], objects)


def killed():
    """The last rank dies in the middle of an all_reduce whose data is partly on its way."""
    array = np.ones(20_000_000, np.float32)
    dist.barrier()
    if RANK == VICTIM:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while True:
            dist.all_reduce(array)
    started = time.monotonic()
    try:
        while True:
            dist.all_reduce(array)
    except dist.DistributedError as error:
        print(f"{time.monotonic() - started:.2f}|{error}")


def stopped():
    """The last rank stops without dying; the others give up after their timeout."""
    if RANK == VICTIM:
        print("stopped", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    started = time.monotonic()
    try:
        dist.all_reduce(np.ones(10, np.float32))
    except dist.DistributedError as error:
        print(f"{time.monotonic() - started:.2f}|{error}")


def mismatch():
    try:
        dist.all_reduce(np.ones(10 + (RANK == VICTIM), np.float32))
    except dist.DistributedError as error:
        print(error)


def main():
    try:
        dist.init_process_group("tcp", timeout_s=float(os.environ.get("LIMIT_S", "20")))
    except (dist.DistributedError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        return 3
    globals()[sys.argv[1]]()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
