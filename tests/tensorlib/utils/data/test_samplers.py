"""Samplers and data sets."""

from collections import Counter

import numpy as np
import pytest

import tensorlib
from tensorlib.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Rows,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
    sample_generator,
)


def shares(count, world, **options):
    samplers = [DistributedSampler(range(count), world, rank, **options) for rank in range(world)]
    for sampler in samplers:
        assert len(list(sampler)) == len(sampler)
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 12, 23])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("shuffle", [True, False])
class TestDistributedSampler:
    def test_exact_gives_every_index_once(self, count, world, shuffle):
        parts = shares(count, world, mode="exact", shuffle=shuffle)
        assert sorted(i for part in parts for i in part) == list(range(count))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1

    def test_the_global_order_does_not_depend_on_the_ranks(self, count, world, shuffle):
        (whole,) = shares(count, 1, mode="exact", shuffle=shuffle)
        for mode in ("exact", "padded"):
            parts = shares(count, world, mode=mode, shuffle=shuffle)
            for rank, part in enumerate(parts):
                mine = whole[rank::world]
                assert part[: len(mine)] == mine

    @pytest.mark.oracle
    @pytest.mark.parametrize("drop_last", [True, False])
    def test_padded_is_torchs(self, count, world, shuffle, drop_last):
        torch = pytest.importorskip("torch")
        for rank in range(world):
            settings = {"shuffle": shuffle, "seed": 3, "drop_last": drop_last}
            ours = DistributedSampler(range(count), world, rank, **settings)
            theirs = torch.utils.data.DistributedSampler(range(count), world, rank, **settings)
            for epoch in (0, 4):
                ours.set_epoch(epoch)
                theirs.set_epoch(epoch)
                if not count and not drop_last:
                    assert list(ours) == []
                    continue
                assert list(ours) == list(theirs)
                assert len(ours) == len(theirs)


def test_distributed_sampler_checks_its_arguments():
    with pytest.raises(ValueError, match="rank=2 of num_replicas=2"):
        DistributedSampler(range(3), 2, 2)
    with pytest.raises(ValueError, match="mode='all'"):
        DistributedSampler(range(3), 2, 0, mode="all")
    with pytest.raises(ValueError, match="drop_last=True with mode='exact'"):
        DistributedSampler(range(3), 2, 0, drop_last=True, mode="exact")
    with pytest.raises(ValueError, match="in no group"):
        DistributedSampler(range(3))
    assert tensorlib.distributed.DistributedSampler is DistributedSampler


def test_positions_are_global():
    sampler = DistributedSampler(range(10), 3, 1, mode="exact")
    assert [sampler.global_position(n) for n in range(5)] == [0, 3, 6, 9, 10]
    assert [sampler.local_position(p) for p in range(11)] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_random_sampler():
    def draw(**options):
        sampler = RandomSampler(range(9), generator=tensorlib.Generator(), **options)
        assert len(list(sampler)) == len(sampler)
        return list(sampler)

    assert sorted(draw()) == list(range(9))
    assert draw() == draw()
    assert len(draw(num_samples=4)) == 4
    twice = Counter(draw(num_samples=18))
    assert set(twice.values()) == {2}
    replaced = draw(replacement=True, num_samples=1000)
    assert set(replaced) == set(range(9))
    with pytest.raises(ValueError, match="num_samples=-1"):
        RandomSampler(range(3), num_samples=-1)
    with pytest.raises(ValueError, match="num_samples=0"):
        RandomSampler([])
    with pytest.raises(TypeError, match="replacement=1"):
        RandomSampler(range(3), replacement=1)


def test_subset_and_weighted_random_samplers():
    subset = SubsetRandomSampler([4, 7, 9])
    assert sorted(subset) == [4, 7, 9]
    assert len(subset) == 3
    drawn = Counter(WeightedRandomSampler([0, 1, 3], 4000))
    assert drawn[0] == 0
    assert 2.5 < drawn[2] / drawn[1] < 3.6
    assert sorted(WeightedRandomSampler([1, 0, 3], 2, replacement=False)) == [0, 2]
    for weights, count in (([[1, 2]], 1), ([1, 0], 0)):
        with pytest.raises(ValueError, match="WeightedRandomSampler"):
            WeightedRandomSampler(weights, count)
    with pytest.raises(RuntimeError, match="multinomial"):
        list(WeightedRandomSampler([-1, 2], 1))


def test_batch_sampler():
    batches = BatchSampler(SequentialSampler(range(5)), 2)
    assert list(batches) == [[0, 1], [2, 3], [4]]
    assert len(batches) == 3
    dropped = BatchSampler(SequentialSampler(range(5)), 2, drop_last=True)
    assert list(dropped) == [[0, 1], [2, 3]]
    assert len(dropped) == 2
    for size in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="batch_size="):
            BatchSampler(range(3), size)


def test_sample_generator_is_a_pure_function_with_far_streams():
    draws = {
        place: sample_generator(*place).integers(0, 1 << 62, 4).tobytes()
        for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1), (-1, 0, 0)]
    }
    assert len(set(draws.values())) == 6
    assert sample_generator(5, 6, 7).normal() == sample_generator(5, 6, 7).normal()
    first = sample_generator(3, 0, 0).normal(size=100_000)
    second = sample_generator(3, 0, 1).normal(size=100_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


class Letters(Dataset):
    def __init__(self, letters):
        self.letters = letters

    def __getitem__(self, index):
        return self.letters[index]

    def __len__(self):
        return len(self.letters)


def test_concat_and_subset():
    both = Letters("abc") + Letters("") + Letters("de")
    assert [both[i] for i in range(5)] == list("abcde")
    assert both[-1] == "e"
    assert both[-5] == "a"
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"index {index} is out of range for 5"):
            both[index]
    assert [Subset(both, [4, 0])[i] for i in range(2)] == ["e", "a"]
    with pytest.raises(AssertionError, match="no data sets"):
        ConcatDataset([])
    with pytest.raises(NotImplementedError, match="Dataset must define __getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match="must define __iter__"):
        iter(Sampler())


def test_stack_and_overridden_data_sets():
    letters = Letters("abc")
    assert StackDataset(letters, range(3))[1] == ("b", 1)
    assert StackDataset(x=letters, n=range(3))[2] == {"x": "c", "n": 2}
    assert len(StackDataset(letters)) == 3
    with pytest.raises(ValueError, match=r"sizes are \[3, 2\]"):
        StackDataset(letters, range(2))
    with pytest.raises(ValueError, match="1 data sets in order and 1 by name"):
        StackDataset(letters, x=letters)

    class Half(Subset):
        def __getitem__(self, index):
            return super().__getitem__(2 * index)

    with pytest.raises(NotImplementedError, match="Half overrides __getitem__"):
        Half(letters, [0])

    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return super().__getitem__(index)[0] * 2

    x = tensorlib.arange(3.0, requires_grad=True)
    (batch,) = DataLoader(Doubled(x.detach()), 3)
    assert batch.tolist() == [0, 2, 4]
    ((batch,),) = DataLoader(TensorDataset(x), 3)
    assert batch.requires_grad


def test_tensor_dataset_and_rows():
    with pytest.raises(AssertionError, match=r"first sizes are \[2, 3\]"):
        TensorDataset(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="no tensors"):
        TensorDataset()
    rows = Rows(np.arange(3), np.arange(3) * 2)
    assert [tuple(map(int, row)) for row in rows] == [(0, 0), (1, 2), (2, 4)]
    assert len(rows[1:]) == 2
    with pytest.raises(IndexError, match="index 3"):
        rows[3]


def test_random_split():
    data = Letters("abcdefghij")
    generator = tensorlib.Generator().manual_seed(0)
    parts = random_split(data, [0.5, 0.3, 0.2], generator)
    assert [len(part) for part in parts] == [5, 3, 2]
    assert sorted(part[i] for part in parts for i in range(len(part))) == list("abcdefghij")
    assert [len(part) for part in random_split(Letters("abc"), [0.5, 0.5], generator)] == [2, 1]
    with pytest.raises(ValueError, match="sum to 9; expected 10"):
        random_split(data, [4, 5])
    with pytest.raises(ValueError, match="or fractions that sum to 1"):
        random_split(data, [0.5, 0.6])
    with pytest.raises(ValueError, match="expected them in 0"):
        random_split(data, [1.5, -0.5])
    with pytest.warns(UserWarning, match="split at index 1 is 0"):
        random_split(data, [1.0, 0.0])


@pytest.mark.oracle
@pytest.mark.parametrize("lengths", [[7, 3], [0.33, 0.33, 0.34]])
def test_random_split_is_torchs(lengths):
    torch = pytest.importorskip("torch")
    ours = random_split(Letters("abcdefghij"), lengths, tensorlib.Generator().manual_seed(4))
    theirs = torch.utils.data.random_split("abcdefghij", lengths, torch.Generator().manual_seed(4))
    assert [part.indices for part in ours] == [list(part.indices) for part in theirs]
