"""all_reduce between processes of this machine: ours, and torch's gloo beside it.

    python benchmarks/all_reduce.py [--world-size 2] [--rounds 3]

Three ways of ours: arrays that lie in the group's shared memory (as gradient buckets do), arrays
from elsewhere through shared memory (copied in and out), and TCP over the loopback, as between
nodes. All run by turns in the same call, `rounds` times; printed is the median of all repetitions.
Where torch is not installed only ours is measured. Every result is checked.
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

import numpy as np

SIZES = {"100 MB": (100_000_000, 6), "25 MB": (25_000_000, 12), "1 MB": (1_000_000, 60)}
SIZES |= {"64 KB": (65_536, 150), "1 KB": (1024, 300)}
Times = dict[str, list[float]]


def measure(
    all_reduce: Callable[[Any], None],
    barrier: Callable[[], None],
    make: Callable[[int], Any],
    world_size: int,
) -> Times:
    times: Times = {}
    for name, (nbytes, repeats) in SIZES.items():
        array = make(nbytes // 4)
        times[name] = []
        for repeat in range(repeats + 2):
            array[:] = 1
            barrier()
            start = time.perf_counter()
            all_reduce(array)
            elapsed = time.perf_counter() - start
            assert array[0] == array[-1] == world_size
            if repeat >= 2:  # the first ones pay for buffers
                times[name].append(elapsed)
    return times


def ours(rank: int, world_size: int, ports: list[int], results: Any) -> None:
    from tensorlib.distributed import SharedMemoryCommunicator, TcpCommunicator

    def elsewhere(count: int) -> np.ndarray:
        return np.empty(count, np.float32)

    shared = SharedMemoryCommunicator(rank, world_size, "127.0.0.1", ports[0], timeout_s=60)
    tcp = TcpCommunicator(rank, world_size, "127.0.0.1", ports[1], timeout_s=60)
    times = {}
    for name, group, make in (
        ("shared", shared, lambda count: shared.allocate(count, np.float32)),
        ("copied", shared, elsewhere),
        ("tcp", tcp, elsewhere),
    ):
        times[name] = measure(group.all_reduce, group.barrier, make, world_size)
    if rank == 0:
        results.put(times)
    shared.barrier()


def gloo(rank: int, world_size: int, ports: list[int], results: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(ports[0]), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    times = measure(dist.all_reduce, dist.barrier, torch.empty, world_size)
    if rank == 0:
        results.put({"gloo": times})
    dist.destroy_process_group()


def run(target: Callable[..., None], world_size: int) -> dict[str, Times]:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    probes = [socket.socket() for _ in range(2)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    ranks = [
        context.Process(target=target, args=(rank, world_size, ports, results))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise SystemExit(f"{target.__name__}: a rank failed")
    return results.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    peers = [ours] + ([gloo] if importlib.util.find_spec("torch") else [])
    times: dict[str, Times] = {}
    for _ in range(options.rounds):
        for peer in peers:
            for name, sizes in run(peer, options.world_size).items():
                for size, values in sizes.items():
                    times.setdefault(name, {}).setdefault(size, []).extend(values)
    print(f"all_reduce, float32, {options.world_size} processes, median in ms (times gloo's speed)")
    print(f"{'size':>8}" + "".join(f"{name:>17}" for name in times))
    for size in SIZES:
        medians = {name: statistics.median(times[name][size]) * 1e3 for name in times}
        cells = [
            f"{median:10.3f}"
            + (f" ({medians['gloo'] / median:4.1f})" if "gloo" in medians else " " * 7)
            for median in medians.values()
        ]
        print(f"{size:>8}" + "".join(cells))


if __name__ == "__main__":
    main()
