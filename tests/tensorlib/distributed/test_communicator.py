"""One contract for every Communicator, checked against plain NumPy on the ranks' inputs."""

import threading

import numpy as np
import pytest

from tensorlib.distributed import (
    DistributedError,
    ReduceOp,
    tree,
)

LIMIT_S = 20.0


def value(rank, shape, dtype):
    random = np.random.default_rng(rank)
    if np.dtype(dtype).kind == "f":
        return random.normal(size=shape).astype(dtype)
    return random.integers(0, 3, shape).astype(dtype)


def reduced(arrays, op):
    """The definition: the two halves of the ranks (the left one a power of two), each reduced, in
    the arrays' dtype.
    """
    total = reduced_whole(arrays, op)
    return total / total.dtype.type(len(arrays)) if op is ReduceOp.AVG else total


def reduced_whole(arrays, op):
    combine = {
        ReduceOp.SUM: np.add,
        ReduceOp.AVG: np.add,
        ReduceOp.MIN: np.minimum,
        ReduceOp.MAX: np.maximum,
        ReduceOp.PRODUCT: np.multiply,
    }[op]
    if len(arrays) == 1:
        return arrays[0].copy()
    half = 1
    while 2 * half < len(arrays):
        half *= 2
    return combine(reduced_whole(arrays[:half], op), reduced_whole(arrays[half:], op))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 7, 9_001, 3_200_003])
def test_all_reduce_is_the_sum_along_the_tree_to_the_bit(make_group, world_size, size):
    inputs = [value(rank, size, np.float32) for rank in range(world_size)]
    expected = reduced(inputs, ReduceOp.SUM)

    def work(group):
        array = inputs[group.rank].copy()
        group.all_reduce(array)
        return array

    for result in make_group(world_size).run(work):
        assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [0, 5, 20_000, 3_000_001])
def test_shards_of_ranks_add_up_to_the_same_bits_for_any_number_of_ranks(make_group, size):
    """Seven shards; a rank brings the nodes of the tree that it owns."""
    leaves = 7
    inputs = [value(leaf, size, np.float32) for leaf in range(leaves)]
    expected = reduced(inputs, ReduceOp.SUM)
    for world_size in (1, 2, 3):

        def work(group):
            nodes = tree.plan(leaves, group.world_size).nodes[group.rank]
            rows = [reduced(inputs[lo:hi], ReduceOp.SUM) for lo, hi in nodes]
            group.all_reduce_shards(rows, leaves)
            return rows[0]

        for result in make_group(world_size).run(work):
            assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("op", list(ReduceOp))
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "i8", "u1"])
def test_ops_and_dtypes(make_group, op, dtype):
    if op is ReduceOp.AVG and np.dtype(dtype).kind != "f":
        with pytest.raises(TypeError, match="AVG"):
            make_group(1).ranks[0].all_reduce(value(0, 3, dtype), op)
        return
    inputs = [value(rank, (60, 500), dtype) for rank in range(3)]
    expected = reduced(inputs, op)

    def work(group):
        array = inputs[group.rank].copy()
        group.all_reduce(array, op)
        part = group.reduce_scatter(inputs[group.rank].reshape(3, 20, 500), op)
        return array, part

    for rank, (array, part) in enumerate(make_group(3).run(work)):
        assert array.dtype == dtype
        assert array.tobytes() == expected.tobytes()
        assert part.tobytes() == expected[20 * rank : 20 * rank + 20].tobytes()


def test_layouts_are_kept(make_group):
    inputs = [value(rank, (40, 50, 60), np.float32) for rank in range(3)]

    def work(group):
        fortran = np.asfortranarray(inputs[group.rank])
        group.all_reduce(fortran)
        every_other = inputs[group.rank].copy()
        group.all_reduce(every_other[:, ::2])
        sent = np.asfortranarray(inputs[group.rank])
        group.broadcast(sent, 1)
        return fortran, every_other, sent

    total = reduced(inputs, ReduceOp.SUM)
    for rank, (fortran, every_other, sent) in enumerate(make_group(3).run(work)):
        np.testing.assert_array_equal(fortran, total)
        np.testing.assert_array_equal(every_other[:, ::2], total[:, ::2])
        np.testing.assert_array_equal(every_other[:, 1::2], inputs[rank][:, 1::2])
        np.testing.assert_array_equal(sent, inputs[1])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_broadcast_gather_and_bytes(make_group, world_size):
    inputs = [value(rank, (3, 4), np.int64) for rank in range(world_size)]
    last = world_size - 1

    def work(group):
        array = inputs[group.rank].copy()
        group.broadcast(array, last)
        group.barrier()
        mine = b"x" * (group.rank * 100_000)
        return (
            array,
            group.all_gather(inputs[group.rank]),
            group.gather(inputs[group.rank], last),
            group.broadcast_bytes(b"hello" if group.rank == last else None, last),
            group.all_gather_bytes(mine),
        )

    for rank, (array, everything, gathered, data, parts) in enumerate(
        make_group(world_size).run(work)
    ):
        np.testing.assert_array_equal(array, inputs[last])
        np.testing.assert_array_equal(everything, np.stack(inputs))
        if rank == last:
            np.testing.assert_array_equal(gathered, np.stack(inputs))
        else:
            assert gathered is None
        assert data == b"hello"
        assert parts == [b"x" * (i * 100_000) for i in range(world_size)]


def test_barrier_waits_for_all(make_group):
    group = make_group(3)
    arrived = []
    gate = threading.Event()

    def work(rank):
        if rank.rank == 2:
            gate.wait(LIMIT_S)
        arrived.append(rank.rank)
        rank.barrier()
        return len(arrived)

    futures = [group.pool.submit(work, rank) for rank in group.ranks]
    while len(arrived) < 2:
        pass
    assert not any(future.done() for future in futures)
    gate.set()
    assert [future.result(LIMIT_S) for future in futures] == [3, 3, 3]


def test_many_calls_stay_in_step(make_group):
    def work(group):
        random = np.random.default_rng(0)
        total = 0.0
        for _ in range(100):
            array = np.full(int(random.integers(0, 40_000)), float(group.rank + 1))
            group.all_reduce(array)
            total += array.sum()
        return total

    first, *others = make_group(3).run(work)
    assert first > 0
    assert others == [first, first]


MISMATCHES = {
    "shape": (
        lambda g: g.all_reduce(np.zeros(3 if g.rank else 4)),
        r"all_reduce\(float64\[4\], SUM\)",
    ),
    "dtype": (
        lambda g: g.all_reduce(np.zeros(3, "f4" if g.rank else "f8")),
        r"all_reduce\(float64\[3\], SUM\)",
    ),
    "op": (
        lambda g: g.all_reduce(np.zeros(3), ReduceOp.MAX if g.rank else ReduceOp.SUM),
        r"all_reduce\(float64\[3\], MAX\)",
    ),
    "collective": (
        lambda g: g.barrier() if g.rank else g.all_reduce(np.zeros(3)),
        r"called barrier\(\)",
    ),
    "large": (
        lambda g: g.all_reduce(np.zeros(3_000_000 if g.rank else 3_000_001)),
        r"all_reduce\(float64\[3000001\], SUM\)",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
@pytest.mark.parametrize("world_size", [2, 3])
def test_mismatch_is_an_error_on_every_rank(make_group, name, world_size):
    call, text = MISMATCHES[name]
    errors = make_group(world_size).run(call)
    assert all(isinstance(error, DistributedError) for error in errors), errors
    assert any(_matches(text, error) for error in errors), errors


def _matches(pattern, error):
    import re

    return re.search(pattern, str(error)) is not None


def test_a_rank_that_does_not_come_times_out(make_group):
    group = make_group(3, timeout_s=0.3)
    errors = group.run(lambda g: None if g.rank == 2 else g.all_reduce(np.zeros(2)))
    assert errors[2] is None
    for error in errors[:2]:
        assert isinstance(error, DistributedError)
        assert "all_reduce" in str(error)
        assert "rank 2" in str(error)


def test_a_rank_that_leaves_is_named(make_group):
    group = make_group(3)

    def work(rank):
        if rank.rank == 1:
            rank.close()
        else:
            rank.all_reduce(np.zeros(1_000_000))

    errors = group.run(work)
    for rank in (0, 2):
        assert isinstance(errors[rank], ConnectionError)
        assert "all_reduce" in str(errors[rank])
        assert "rank 1" in str(errors[rank])
    again = group.run(lambda g: g.barrier())
    assert all("closed" in str(error) for error in again)


def test_arguments_are_checked_without_harm(make_group):
    group = make_group(2)

    def work(rank):
        for wrong, text in (
            (lambda: rank.broadcast(np.zeros(2), 2), "src=2"),
            (lambda: rank.all_reduce(np.array(["a"])), "dtype <U1"),
            (lambda: rank.reduce_scatter(np.zeros(3)), r"\[2, ...\]"),
            (lambda: rank.all_reduce(np.zeros(2, bool)), "bool"),
        ):
            with pytest.raises((ValueError, TypeError), match=text):
                wrong()
        array = np.ones(2)
        rank.all_reduce(array)
        return array.tolist()

    assert group.run(work) == [[2.0, 2.0], [2.0, 2.0]]


def test_bool_reduces_as_any_and_all(make_group):
    def work(group):
        some = np.array([False, group.rank == 1])
        every = np.array([True, group.rank == 1])
        group.all_reduce(some, ReduceOp.MAX)
        group.all_reduce(every, ReduceOp.MIN)
        return some.tolist(), every.tolist()

    assert make_group(2).run(work) == [([False, True], [True, False])] * 2
