"""What is special about device arrays: waiting, aborting, NCCL's own sums. With a stand-in."""

import time

import numpy as np
import pytest

import tensorlib.distributed as dist
from tensorlib.distributed import DistributedError, NcclCommunicator, ReduceOp, TcpCommunicator
from tensorlib.errors import AbsentDeviceError

from . import standin
from .conftest import Group, OnDevice, free_port


@pytest.fixture
def make(make_any_group):
    """`make(world_size, timeout_s)`; arrays are in the device's memory."""

    def group(world_size, timeout_s=20.0):
        return make_any_group("nccl", world_size, timeout_s)

    return group


def device(values):
    return standin.on_device(np.array(values, np.float32))


@pytest.mark.parametrize(
    ("op", "dtype", "expected"),
    [
        (ReduceOp.SUM, "f4", 6),
        (ReduceOp.AVG, "f4", 2),
        (ReduceOp.MIN, "i8", 1),
        (ReduceOp.MAX, "u1", 3),
        (ReduceOp.PRODUCT, "f8", 6),
        (ReduceOp.MAX, "i2", 3),  # NCCL has no such type
        (ReduceOp.SUM, "c8", 6),
    ],
)
def test_nccl_reduces_by_itself_where_the_order_may_be_its_own(make, op, dtype, expected):
    group = make(3)

    def work(rank):
        rank._communicator.exact = False
        array = np.full((4, 5), rank.rank + 1, dtype)
        rank.all_reduce(array[:, ::2], op)
        return array

    for rank, array in enumerate(group.run(work)):
        assert (array[:, ::2] == expected).all()
        assert (array[:, 1::2] == rank + 1).all()


def test_exact_sums_follow_the_tree_and_others_need_not(make):
    inputs = [np.float32(x) for x in (1.0, 1e8, -1e8, 1.0)]
    tree = (inputs[0] + inputs[1]) + (inputs[2] + inputs[3])
    theirs = ((inputs[3] + inputs[2]) + inputs[1]) + inputs[0]
    assert tree != theirs
    group = make(4)
    for exact, expected in ((True, tree), (False, theirs)):

        def work(rank, exact=exact):
            rank._communicator.exact = exact
            array = np.full(9, inputs[rank.rank])
            rank.all_reduce(array)
            shards = np.full(9, inputs[rank.rank])
            rank.all_reduce_shards([shards], 4)
            return array[0], shards[0]

        assert group.run(work) == [(expected, tree)] * 4


def test_host_arrays_and_objects_go_another_way(make):
    group = make(2)
    plain = [rank._communicator for rank in group.ranks]
    standin.dropped.update([(0, 1), (1, 0)])  # nothing goes from device to device

    def work(rank):
        array = np.ones(3)
        rank.all_reduce(array)
        return array.tolist(), rank.broadcast_bytes(b"x" if rank.rank else None, 1)

    assert list(group.pool.map(work, plain)) == [([2.0] * 3, b"x")] * 2


def test_what_never_comes_is_named_and_aborted(make):
    group = make(3, timeout_s=0.5)
    standin.dropped.add((2, 1))
    started = time.monotonic()
    errors = group.run(lambda rank: rank.all_gather(np.ones(4)))
    assert time.monotonic() - started < 5
    assert isinstance(errors[1], DistributedError)
    assert "all_gather: no progress for 0.5 s while waiting for rank 0 and rank 2" in str(errors[1])
    assert 1 in standin.aborted
    again = group.run(lambda rank: rank.barrier())
    assert all("closed" in str(error) or "gave up" in str(error) for error in again)


def test_a_peer_that_dies_meanwhile_is_named_at_once(make):
    """It agreed to the collective, and its data never came."""
    group = make(3, timeout_s=60.0)
    standin.dropped.add((2, 0))
    standin.dropped.add((2, 1))

    def work(rank):
        if rank.rank != 2:
            return rank.all_gather(np.ones(4))
        communicator = rank._communicator
        agree = communicator._agree

        def die(*arguments):
            agree(*arguments)
            for connection in communicator._host._sockets.values():
                connection.close()
            raise SystemExit

        communicator._agree = die
        with pytest.raises(SystemExit):
            rank.all_gather(np.ones(4))
        return None

    started = time.monotonic()
    first, second, _ = group.run(work)
    assert time.monotonic() - started < 5
    for error in (first, second):
        assert isinstance(error, DistributedError)
        assert "all_gather" in str(error)
        assert "rank 2" in str(error)
    assert sorted(standin.aborted) == [0, 1, 2]


def test_an_error_that_nccl_reports_ends_the_wait(make):
    group = make(2, timeout_s=60.0)
    standin.dropped.add((1, 0))
    standin.failed.add(0)
    first, _ = group.run(lambda rank: rank.all_reduce(np.ones(4)))
    assert "NCCL_ERROR_SYSTEM_ERROR" in str(first)


def test_a_rank_that_never_joins_nccl_is_not_waited_for_without_end(make_any_group):
    tcp = Group("tcp", 2, 0.5)
    try:

        def work(host):
            if host.rank == 0:
                return NcclCommunicator(host)
            return host.broadcast_bytes(None)  # hears the id, and does not come

        first, second = tcp.run(work)
        assert "no progress for 0.5 s while waiting for rank 1" in str(first)
        assert len(second) == 128
    finally:
        tcp.close()


def test_subgroups_talk_among_themselves(make):
    def work(rank):
        pair = rank.subgroup([2, 0])
        if pair is None:
            return None
        assert isinstance(pair, OnDevice)
        array = np.full(3, float(rank.rank))
        pair.broadcast(array, 0)
        pair.barrier()
        pair.close()
        return array.tolist(), pair.ranks

    group = make(3)
    assert group.run(work) == [([2.0] * 3, (2, 0)), None, ([2.0] * 3, (2, 0))]


def test_buckets_are_in_the_devices_memory(make):
    (rank,) = make(1).ranks
    assert type(rank._communicator.allocate(5, np.float32)) is standin.DeviceArray
    with pytest.raises(TypeError, match="no buffer on the host"):
        device([1, 2]).data  # noqa: B018  # the stand-in itself is on guard


def test_process_groups_have_it_as_backend(monkeypatch, make_any_group):
    monkeypatch.setattr("tensorlib.distributed.process_group.cupy_module", lambda where: standin)
    tcp = Group("tcp", 1)
    monkeypatch.setattr(dist.process_group, "TcpCommunicator", lambda *arguments: tcp.ranks[0])
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    dist.init_process_group("nccl", rank=0, world_size=2)
    try:
        assert dist.get_backend() == "nccl"
        assert isinstance(dist.get_communicator(), NcclCommunicator)
    finally:
        dist.destroy_process_group()
        tcp.close()


def test_without_cupy_or_nccl_it_is_said_at_once(monkeypatch, make_any_group):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(AbsentDeviceError, match="CuPy"):
        dist.init_process_group("nccl", rank=1, world_size=2)
    monkeypatch.setattr(standin.nccl, "available", False)
    host = TcpCommunicator(0, 1, "127.0.0.1", free_port())
    with pytest.raises(DistributedError, match="this CuPy has no NCCL"):
        NcclCommunicator(host)
