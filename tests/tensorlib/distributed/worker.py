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
    inside = dist.get_communicator().allocate(300_000, np.float32)
    inside[:] = RANK + 1
    dist.all_reduce(inside, dist.ReduceOp.AVG)
    assert (inside == array).all()


def killed():
    """The last rank dies in the middle of an all_reduce whose data is partly on its way."""
    array = dist.get_communicator().allocate(20_000_000, np.float32)
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


def join(limit_s):
    nodes = os.environ.get("NODES")
    if nodes is None:
        dist.init_process_group(os.environ.get("BACKEND"), timeout=limit_s)
        return
    world_size, port = int(os.environ["WORLD_SIZE"]), int(os.environ["MASTER_PORT"])
    group = dist.SharedMemoryCommunicator(
        RANK, world_size, "127.0.0.1", port, timeout_s=limit_s, node=nodes[RANK]
    )
    dist.init_process_group(communicator=group)


def main():
    try:
        join(float(os.environ.get("LIMIT_S", "20")))
    except (dist.DistributedError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        return 3
    globals()[sys.argv[1]]()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
