"""Memory that the ranks of a node share. Ranks are threads; see test_processes for real ones."""

import gc
import os

import numpy as np
import pytest

from tensorlib import nn
from tensorlib.distributed import DistributedDataParallel, ReduceOp, ShardedDataParallel

SIZE = 100_000


@pytest.fixture(params=["shm", "combined"])
def shared(request, make_any_group):
    return lambda world_size: make_any_group(request.param, world_size)


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("op", [ReduceOp.SUM, ReduceOp.AVG, ReduceOp.MAX])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_arrays_in_shared_memory_give_the_bits_of_arrays_elsewhere(shared, world_size, op):
    inputs = [np.random.default_rng(r).normal(size=SIZE).astype("f") for r in range(world_size)]

    def work(g):
        inside = g.allocate(SIZE, np.float32)
        assert not inside.any()
        inside[:] = inputs[g.rank]
        outside = inputs[g.rank].copy()
        g.all_reduce(inside, op)
        g.all_reduce(outside, op)
        part = g.allocate(3 * SIZE, np.float32)[SIZE : 2 * SIZE]  # a slice of a segment
        part[:] = inputs[g.rank]
        mixed = part if g.rank else inputs[g.rank].copy()  # not on every rank
        g.all_reduce(mixed, op)
        return inside.copy(), outside, mixed.copy()

    results = shared(world_size).run(work)
    first = results[0][0].tobytes()
    for result in results:
        assert [array.tobytes() for array in result] == [first] * 3


def test_a_reduction_in_shared_memory_copies_nothing_through_sockets(make_any_group):
    """The only bytes on the way say where the arrays are and who is ready."""
    group = make_any_group("shm", 2)
    sent = [0, 0]

    def work(g):
        array = g.allocate(SIZE, np.float64)
        exchange = g._exchange

        def counted(call, sends, receives):
            sent[g.rank] += sum(b.nbytes for buffers in sends.values() for b in buffers)
            exchange(call, sends, receives)

        g._exchange = counted
        array[:] = 1
        g.all_reduce(array)
        return array[0], array[-1]

    assert group.run(work) == [(2.0, 2.0)] * 2
    assert sent == [16, 16]


def test_nodes_are_found_and_nothing_with_a_name_is_left(make_any_group):
    before, shm = descriptors(), os.listdir("/dev/shm")
    group = make_any_group("shm", 3)
    assert group.ranks[0].nodes == ((0, 1, 2),)
    group.run(lambda g: g.allocate(SIZE, "f8").sum())
    assert os.listdir("/dev/shm") == shm
    group.close()
    assert descriptors() == before
    mixed = make_any_group("combined", 4)
    assert mixed.ranks[3].nodes == ((0, 1, 3), (2,))


def test_wrappers_keep_gradients_there(make_any_group):
    group = make_any_group("shm", 2)
    models = [nn.Linear(40, 40), nn.Linear(40, 40)]

    def work(g):
        plain = DistributedDataParallel(models[g.rank], process_group=g)
        sharded = ShardedDataParallel(models[g.rank], shards=3, process_group=g)
        buckets = [plain._reducer._buckets, sharded._gradients._buckets]
        return [len(bucket.rows) for b in buckets for bucket in b.all], [
            g._segments.find(row)[0] for b in buckets for bucket in b.all for row in bucket.rows
        ]

    (rows, places), (more, others) = group.run(work)
    assert rows == [1, 1]
    assert more == [1, 2]  # of three shards, the second rank has two that are not one node
    assert min(places) >= 0
    assert min(others) >= 0


def test_strangers_on_the_unix_socket_are_turned_away():
    """They do not know the key that the ranks told each other."""
    import json
    import socket
    import threading

    from tensorlib.distributed.rendezvous import write_message
    from tensorlib.distributed.shm import _connect_local

    everyone = [["n", f"test-{os.getpid()}-{r}", f"key{r}"] for r in range(2)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0tensorlib-{everyone[0][1]}")
        listener.listen()
        strangers = []
        for hello in ({"rank": 1, "key": "guess"}, {"rank": 7, "key": "key0"}):
            strangers.append(socket.socket(socket.AF_UNIX))
            strangers[-1].connect(f"\0tensorlib-{everyone[0][1]}")
            write_message(strangers[-1], hello)
        made = {}
        thread = threading.Thread(
            target=lambda: made.update(_connect_local(1, [0, 1], everyone, listener, 5.0))
        )
        thread.start()
        accepted = _connect_local(0, [0, 1], everyone, listener, 5.0)
        thread.join(5)
        accepted[1].sendall(json.dumps("hello").encode())
        assert made[0].recv(7) == b'"hello"'
        for connection in (*strangers, accepted[1], made[0]):
            connection.close()
