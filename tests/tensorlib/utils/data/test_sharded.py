"""ShardedBatchSampler, and a DataLoader whose position is that of all ranks."""

from itertools import chain

import numpy as np
import pytest

from tensorlib.utils.data import DataLoader, DistributedSampler, ShardedBatchSampler

COUNT = 22


class Numbers:
    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"x": np.full(3, index, np.float32), "name": f"n{index}"}, index


def sampler(rank, world_size, shards=4, batch_size=5, **options):
    return ShardedBatchSampler(
        Numbers(), batch_size, shards=shards, num_replicas=world_size, rank=rank, **options
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_ranks_shards_make_up_the_batches_of_one_order(world_size, drop_last):
    plain = DistributedSampler(Numbers(), 1, 0, seed=3)
    ranks = [sampler(r, world_size, seed=3, drop_last=drop_last) for r in range(world_size)]
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        order = list(plain)
        batches = [order[i : i + 5] for i in range(0, COUNT, 5)]
        for rank in ranks:
            rank.set_epoch(epoch)
        found = [list(rank) for rank in ranks]
        assert [len(part) for part in found] == [len(ranks[0])] * world_size
        joined = [list(chain(*parts)) for parts in zip(*found, strict=True)]
        assert joined == batches[: 4 if drop_last else 5]
        assert [ranks[0].global_count(i) for i in range(len(joined))] == [len(b) for b in joined]
    assert list(sampler(0, 1, shuffle=False))[1] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_position_continues_with_another_number_of_ranks(num_workers):
    def loaders(world_size):
        return [
            DataLoader(Numbers(), batch_sampler=sampler(r, world_size), num_workers=num_workers)
            for r in range(world_size)
        ]

    def labels(batches):
        steps = zip(*batches, strict=True)
        return [list(chain(*(batch[1].tolist() for batch in parts))) for parts in steps]

    expected = labels([list(loaders(1)[0])])
    for taken in range(5):
        first = loaders(4)
        iterators = [iter(loader) for loader in first]
        head = labels([[next(iterator) for _ in range(taken)] for iterator in iterators])
        states = [loader.state_dict() for loader in first]
        assert all(state == states[0] for state in states)
        assert states[0]["next_index"] == min(5 * taken, COUNT)
        second = loaders(3)
        for loader in second:
            loader.load_state_dict(states[0])
        assert head + labels([list(loader) for loader in second]) == expected
        assert second[0].epoch == 1


def test_after_a_last_batch_without_samples_all_ranks_are_at_the_same_place():
    """The last batch has two samples, for shards 1 and 3: ranks 0 and 2 of four have none."""
    loaders = [DataLoader(Numbers(), batch_sampler=sampler(r, 4)) for r in range(4)]
    for rank, loader in enumerate(loaders):
        *_, (fields, labels) = [batch for _, batch in zip(range(5), loader, strict=False)]
        size = rank % 2
        assert fields["x"].shape == (size, 3)
        assert len(fields["name"]) == labels.shape[0] == size
        assert loader.state_dict()["next_index"] == COUNT
        loader.load_state_dict(loader.state_dict())
        assert list(loader) == []


def test_a_position_inside_a_batch_and_other_seeds_are_refused():
    loader = DataLoader(Numbers(), batch_sampler=sampler(0, 1))
    next(iter(loader))
    state = loader.state_dict()
    other = DataLoader(Numbers(), batch_sampler=sampler(0, 1, batch_size=8))
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="inside a batch"):
        next(iter(other))
    other = DataLoader(Numbers(), batch_sampler=sampler(0, 1, seed=1))
    with pytest.raises(ValueError, match="ShardedBatchSampler has 1"):
        other.load_state_dict(state)


def test_batches_of_unknown_form_without_samples_are_refused():
    loader = DataLoader(Numbers(), batch_sampler=sampler(0, 4), collate_fn=lambda samples: 5)
    with pytest.raises(TypeError, match="without samples cannot be made of int"):
        list(loader)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"rank": 2, "world_size": 2}, "rank=2 of num_replicas=2"),
        ({"rank": 0, "world_size": 5}, "shards=4 for 5 ranks"),
        ({"rank": 0, "world_size": 1, "batch_size": 0}, "batch_size=0"),
    ],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(ValueError, match=text):
        sampler(**arguments)
    alone = ShardedBatchSampler(Numbers(), 5, shards=4)
    assert (alone.rank, alone.num_replicas) == (0, 1)
