"""torch.distributed's collectives by name, over every Communicator; subgroups; messages of two."""

import datetime

import numpy as np
import pytest

import tensorlib
import tensorlib.distributed as dist
from tensorlib.distributed import DistributedError, ReduceOp, ThreadCommunicator

SIZES = [3, 50_000]  # small messages go another way than large ones


def mine(rank, size=3):
    return (np.arange(size, dtype=np.float64) + 1) * (rank + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_collectives_of_tensors(make_group, world_size, size):
    ranks = range(world_size)
    total = sum(mine(rank, size) for rank in ranks)
    stacked = np.stack([mine(rank, size) for rank in ranks])
    last = world_size - 1

    def work(g):
        own = mine(g.rank, size)
        out = {}
        out["all_reduce"] = tensorlib.tensor(own)
        dist.all_reduce(out["all_reduce"], group=g)
        out["reduce"] = tensorlib.tensor(own)
        dist.reduce(out["reduce"], last, group=g)
        out["broadcast"] = tensorlib.tensor(own)
        dist.broadcast(out["broadcast"], last, g)
        out["all_gather"] = [np.zeros(size) for _ in ranks]
        dist.all_gather(out["all_gather"], own, g)
        out["into"] = np.zeros(world_size * size)
        dist.all_gather_into_tensor(out["into"], own, g)
        out["gather"] = [np.zeros(size) for _ in ranks] if g.rank == last else None
        dist.gather(own, out["gather"], last, g)
        out["scatter"] = np.zeros(size)
        dist.scatter(
            out["scatter"], [mine(r, size) for r in ranks] if g.rank == last else None, last, g
        )
        out["reduce_scatter"] = np.zeros(size)
        dist.reduce_scatter(out["reduce_scatter"], [own * (r + 1) for r in ranks], group=g)
        out["reduce_scatter_tensor"] = np.zeros(size)
        joined = np.concatenate([own * (r + 1) for r in ranks])
        dist.reduce_scatter_tensor(out["reduce_scatter_tensor"], joined, ReduceOp.MAX, g)
        out["all_to_all"] = [np.zeros(r + g.rank) for r in ranks]
        dist.all_to_all(
            out["all_to_all"], [np.full(g.rank + r, g.rank * 10.0 + r) for r in ranks], g
        )
        out["single"] = np.zeros((world_size, 2))
        dist.all_to_all_single(out["single"], np.full((world_size, 2), float(g.rank)), group=g)
        sizes = [r + 1 for r in ranks]
        out["uneven"] = np.zeros((g.rank + 1) * world_size)
        given = np.repeat(np.arange(world_size, dtype=float), sizes)
        dist.all_to_all_single(out["uneven"], given, [g.rank + 1] * world_size, sizes, group=g)
        return out

    for rank, out in enumerate(make_group(world_size).run(work)):
        np.testing.assert_array_equal(out["all_reduce"].numpy(), total)
        kept = total if rank == last else mine(rank, size)
        np.testing.assert_array_equal(out["reduce"].numpy(), kept)
        np.testing.assert_array_equal(out["broadcast"].numpy(), mine(last, size))
        np.testing.assert_array_equal(np.stack(out["all_gather"]), stacked)
        np.testing.assert_array_equal(out["into"], stacked.reshape(-1))
        if rank == last:
            np.testing.assert_array_equal(np.stack(out["gather"]), stacked)
        np.testing.assert_array_equal(out["scatter"], mine(rank, size))
        np.testing.assert_array_equal(out["reduce_scatter"], total * (rank + 1))
        largest = mine(last, size) * (rank + 1)
        np.testing.assert_array_equal(out["reduce_scatter_tensor"], largest)
        for source, part in enumerate(out["all_to_all"]):
            np.testing.assert_array_equal(part, np.full(source + rank, source * 10.0 + rank))
        np.testing.assert_array_equal(
            out["single"], np.repeat(np.arange(world_size), 2).reshape(-1, 2)
        )
        np.testing.assert_array_equal(out["uneven"], np.full((rank + 1) * world_size, rank))


def test_objects(make_group):
    def work(g):
        everyone, gathered, scattered = [None] * 3, [None] * 3 if g.rank == 1 else None, [None]
        dist.all_gather_object(everyone, {"rank": g.rank}, g)
        dist.gather_object(("x" * g.rank * 50_000, g.rank), gathered, 1, g)
        parts = [np.arange(3), "b", {"c": None}] if g.rank == 2 else None
        dist.scatter_object_list(scattered, parts, 2, g)
        values = [g.rank, [g.rank]]
        dist.broadcast_object_list(values, 1, g)
        return everyone, gathered, scattered[0], values

    results = make_group(3).run(work)
    for rank, (everyone, gathered, scattered, values) in enumerate(results):
        assert everyone == [{"rank": r} for r in range(3)]
        assert gathered == ([("x" * r * 50_000, r) for r in range(3)] if rank == 1 else None)
        assert values == [1, [1]]
        if rank:
            assert scattered == ["b", {"c": None}][rank - 1]
        else:
            np.testing.assert_array_equal(scattered, np.arange(3))


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_two_ranks(make_group, size):
    """A ring in which all send first; several messages at once; and a collective in between."""

    def work(g):
        after, before = (g.rank + 1) % 3, (g.rank - 1) % 3
        first, second, third = np.zeros(size), np.zeros((size, 2))[:, 0], np.zeros(1)
        pending = [
            dist.isend(mine(g.rank, size), after, g),
            dist.isend(mine(g.rank, size) + 0.5, after, g),
            dist.irecv(first, before, g),
            dist.irecv(second, before, g),
        ]
        for transfer in reversed(pending):
            transfer.wait()
            assert transfer.is_completed()
        sent = dist.isend(np.array([g.rank * 1.0]), after, g)
        received = dist.irecv(third, before, g)
        dist.barrier(g)
        assert sent.is_completed()
        received.wait()
        total = np.zeros(2)
        if g.rank == 0:
            dist.send(np.ones(2), 1, g)
        elif g.rank == 1:
            assert dist.recv(total, None, g, 0, group_src=0) == 0
        return first, second, third[0], total.sum()

    for rank, (first, second, third, total) in enumerate(make_group(3).run(work)):
        before = (rank - 1) % 3
        np.testing.assert_array_equal(first, mine(before, size))
        np.testing.assert_array_equal(second, mine(before, size) + 0.5)
        assert third == before
        assert total == (2 if rank == 1 else 0)


def test_the_rank_to_talk_to_is_named_once_and_the_tag_is_0():
    group, one = ThreadCommunicator.group(1)[0], np.zeros(1)
    for call, said in [
        (lambda: dist.send(one, 0, group, 3), "^send: tag=3; expected 0"),
        (lambda: dist.recv(one, group=group), "^recv: src=None and group_src=None; expected one"),
        (lambda: dist.isend(one, 0, group, group_dst=0), "dst=0 and group_dst=0; expected one"),
        (lambda: dist.irecv(one, group=group, group_src=4), "rank 4; expected 0..0"),
    ]:
        with pytest.raises((ValueError, NotImplementedError), match=said):
            call()


def test_messages_of_another_size_are_an_error_on_both(make_group):
    def work(g):
        return (
            dist.recv(np.zeros(3), 1, g)
            if g.rank == 0
            else dist.send(np.zeros(4), 0, g) or g.barrier()
        )

    first, second = make_group(2).run(work)
    assert isinstance(first, DistributedError)
    assert "24 and 32 bytes" in str(first)
    assert isinstance(second, DistributedError)


def test_async_collectives_keep_their_order(make_group):
    def work(g):
        a, b, c = np.ones(3), np.ones(40_000), np.ones(2)
        works = [dist.all_reduce(a, group=g, async_op=True), dist.barrier(g, async_op=True)]
        works.append(dist.all_reduce(b, ReduceOp.MAX, g, async_op=True))
        dist.all_reduce(c, group=g)  # after the others, on every rank
        assert all(work.is_completed() for work in works)
        assert works[0].wait()
        return a.sum(), b.sum(), c.sum()

    assert make_group(3).run(work) == [(9.0, 40_000.0, 6.0)] * 3


def test_subgroups_are_groups_of_their_own(make_group):
    """Ranks 0 and 2, and 1 and 3 of four, at the same time; then all again."""

    def work(g):
        even, odd = g.subgroup([0, 2]), g.subgroup([1, 3])
        own = even or odd
        assert (even is None) == bool(g.rank % 2)
        assert own.ranks == ((0, 2), (1, 3))[g.rank % 2]
        array = np.full(20_000, g.rank + 1.0)
        dist.all_reduce(array, group=own)
        largest = np.full(3, g.rank)
        dist.broadcast(largest, own.ranks[1], own)  # by global rank
        alone = g.subgroup([3])
        assert (alone is None) == (g.rank != 3)
        nested = own.subgroup([1, 0])
        assert nested.ranks == own.ranks[::-1]
        total = np.array([g.rank])
        g.all_reduce(total)
        found = array[0], largest[0], dist.get_rank(own), nested.all_gather(total).tolist()
        for made in (own, alone, nested):
            if made is not None:
                made.close()
        return found

    results = make_group(4).run(work)
    assert results == [((4.0, 6.0)[r % 2], (2, 3)[r % 2], r // 2, [[6], [6]]) for r in range(4)]


def test_errors_in_a_subgroup_name_global_ranks(make_group):
    def work(g):
        part = g.subgroup([1, 2])
        if part is None:
            return None
        if g.rank == 2:
            part.close()
            return None
        try:
            part.barrier()
        except DistributedError as error:
            return str(error)

    _, message, _ = make_group(3).run(work)
    assert "rank 2" in message


def test_new_group_and_its_arguments(make_group):
    group = make_group(2)

    def work(g):
        with pytest.raises(ValueError, match=r"ranks=\[0, 0\]"):
            g.subgroup([0, 0])
        with pytest.raises(ValueError, match="ranks=2"):
            g.subgroup([2])
        with pytest.raises(ValueError, match="dst=1 is this rank" if g.rank else "dst=0 is"):
            g.send(np.zeros(1), g.rank)
        with pytest.raises(ValueError, match="get_group_rank: rank 5"):
            dist.broadcast(np.zeros(1), 5, g)
        with pytest.raises(ValueError, match="not a member"):
            dist.barrier(dist.NON_GROUP_MEMBER)
        with pytest.raises(ValueError, match="add up to 3"):
            dist.all_to_all_single(np.zeros(3), np.zeros(3), [1, 1], [1, 2], g)
        with pytest.raises(ValueError, match="multiple"):
            dist.all_to_all_single(np.zeros(3), np.zeros(3), group=g)
        with pytest.raises(ValueError, match="expected 2 each"):
            dist.all_to_all([np.zeros(3)], [np.zeros(3)], g)
        with pytest.raises(ValueError, match="expected 2 places"):
            dist.all_gather_object([None], 1, g)
        g.barrier()
        return True

    assert group.run(work) == [True, True]


def test_a_monitored_barrier_names_who_did_not_come(make_group):
    def work(g):
        if g.rank == 1:
            return
        dist.monitored_barrier(g, datetime.timedelta(seconds=0.3))

    first, _, third = make_group(3).run(work)
    assert "barrier: no progress for 0.3 s while waiting for rank 1" in str(first)
    assert isinstance(third, DistributedError)
    assert "rank 1" in str(third)


def test_the_process_group_and_its_subgroups(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    dist.init_process_group()
    try:
        group = dist.new_group([0])
        assert dist.get_backend(group) == "threads"
        assert dist.get_process_group_ranks(group) == [0]
        assert (dist.get_group_rank(group, 0), dist.get_global_rank(group, 0)) == (0, 0)
        assert (
            dist.get_rank(dist.NON_GROUP_MEMBER) == dist.get_world_size(dist.NON_GROUP_MEMBER) == -1
        )
        dist.barrier(group)
    finally:
        dist.destroy_process_group()
