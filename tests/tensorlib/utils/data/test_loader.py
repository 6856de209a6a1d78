"""The DataLoader: batches, order, threads, and its position as state."""

import gc
import itertools
import threading
import time
from collections import UserList, namedtuple
from typing import ClassVar

import numpy as np
import pytest

import tensorlib
from tensorlib.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SampleError,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    current_generator,
    default_collate,
    get_worker_info,
)


class Ids(Dataset):
    """Sample i is i."""

    def __init__(self, count):
        self.count = count

    def __getitem__(self, index):
        return index

    def __len__(self):
        return self.count


class Noise(Ids):
    """Sample i is (i, a draw of its own random stream)."""

    def __getitem__(self, index):
        return index, float(current_generator().normal())


def ids(batches):
    return [batch.tolist() for batch in batches]


def flat(batches):
    return [index for batch in batches for index in batch.tolist()]


def test_batches_in_order():
    assert ids(DataLoader(Ids(5), 2)) == [[0, 1], [2, 3], [4]]
    assert ids(DataLoader(Ids(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert len(DataLoader(Ids(5), 2)) == 3
    assert len(DataLoader(Ids(5), 2, drop_last=True)) == 2
    assert ids(DataLoader(Ids(0), 2)) == []
    assert ids(DataLoader(Ids(3), sampler=[2, 0])) == [[2], [0]]
    assert ids(DataLoader(Ids(9), batch_sampler=[[2, 0], [5]])) == [[2, 0], [5]]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_epoch_is_another_permutation_of_all(num_workers):
    tensorlib.manual_seed(1)
    loader = DataLoader(Ids(50), 7, shuffle=True, num_workers=num_workers)
    epochs = [flat(loader) for _ in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert loader.epoch == 4


def test_the_order_follows_from_the_seed():
    def order(seed, **options):
        tensorlib.manual_seed(seed)
        return flat(DataLoader(Ids(30), 4, shuffle=True, **options))

    assert order(1) == order(1)
    assert order(1) != order(2)
    own = [tensorlib.Generator().manual_seed(1) for _ in range(2)]
    assert order(5, generator=own[0]) == order(6, generator=own[1])


class Stream(IterableDataset):
    """0, 1, 2, ..., count - 1, each with a draw of the global generator."""

    def __init__(self, count, draw):
        self.count, self.draw = count, draw

    def __iter__(self):
        for i in range(self.count):
            yield i, self.draw()


# what a script may do with a loader; `t` is torch or tensorlib, `d` its utils.data
ORDERS = {
    "shuffle": lambda t, d: d.DataLoader(range(23), 5, shuffle=True),
    "generator": lambda t, d: d.DataLoader(
        range(23), 5, True, generator=t.Generator().manual_seed(3)
    ),
    "replacement": lambda t, d: d.DataLoader(
        range(9), 5, sampler=d.RandomSampler(range(9), True, 70)
    ),
    "permutations": lambda t, d: d.DataLoader(
        range(9), 5, sampler=d.RandomSampler(range(9), num_samples=24)
    ),
    "sampler's generator": lambda t, d: d.DataLoader(
        range(9), 5, sampler=d.RandomSampler(range(9), generator=t.Generator().manual_seed(8))
    ),
    "subset": lambda t, d: d.DataLoader(
        range(9), 5, sampler=d.SubsetRandomSampler([7, 1, 2, 5]), drop_last=True
    ),
    "weighted": lambda t, d: d.DataLoader(
        range(9), 5, sampler=d.WeightedRandomSampler([1, 0, 2, 5, 1, 1, 1, 3, 1.5], 20)
    ),
    "without replacement": lambda t, d: d.DataLoader(
        range(5), 5, sampler=d.WeightedRandomSampler([1, 0, 2, 5, 1], 3, replacement=False)
    ),
    "batch sampler": lambda t, d: d.DataLoader(
        range(9), batch_sampler=d.BatchSampler(d.RandomSampler(range(9)), 4, False)
    ),
    "split": lambda t, d: d.DataLoader(d.random_split(range(20), [0.5, 0.5])[1], 3, shuffle=True),
    "no batches": lambda t, d: d.DataLoader(range(7), batch_size=None, shuffle=True),
    "stream": lambda t, d: d.DataLoader(_stream(t, d)(7, lambda: t.rand(()).item()), 3),
    "short stream": lambda t, d: d.DataLoader(
        _stream(t, d)(7, lambda: t.rand(()).item()), 3, drop_last=True
    ),
}


_METHODS = ("__init__", "__iter__")


def _stream(t, d):
    return type("Stream", (d.IterableDataset,), {n: vars(Stream)[n] for n in _METHODS})


@pytest.mark.oracle
@pytest.mark.parametrize("name", ORDERS)
def test_orders_are_torchs_and_so_is_what_they_draw(name):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    from torch.utils import data as torch_data

    def script(t, d):
        t.manual_seed(5)
        loader, seen = ORDERS[name](t, d), []
        for _ in range(2):
            for batch in loader:
                fields = batch if isinstance(batch, list) else [batch]
                seen.append([t.as_tensor(field).tolist() for field in fields])
            seen.append(t.rand(2).tolist())
        pairs = list(zip(loader, loader, strict=True))  # two iterators at once
        return [*seen, len(pairs), t.rand(2).tolist()]

    assert script(tensorlib, tensorlib.utils.data) == script(torch, torch_data)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_samples_do_not_depend_on_the_number_of_threads(num_workers):
    def batches(workers):
        generator = tensorlib.Generator().manual_seed(2)
        loader = DataLoader(Noise(40), 6, shuffle=True, num_workers=workers, generator=generator)
        return [(i.tolist(), x.tolist()) for _ in range(2) for i, x in loader]

    assert batches(num_workers) == batches(0)


def test_a_samples_noise_changes_with_epoch_index_and_seed_only():
    def noise(seed, epoch, **options):
        loader = DataLoader(Noise(10), generator=tensorlib.Generator().manual_seed(seed), **options)
        loader.set_epoch(epoch)
        return dict(zip(*[column.tolist() for column in _columns(loader)], strict=True))

    base = noise(0, 0, batch_size=3)
    assert len(set(base.values())) == 10
    tensorlib.manual_seed(77)
    assert noise(0, 0, batch_size=4, shuffle=True) == base
    assert all(noise(0, 1)[i] != base[i] for i in base)
    assert all(noise(1, 0)[i] != base[i] for i in base)


def _columns(loader):
    return [np.concatenate([np.asarray(b) for b in c]) for c in zip(*loader, strict=True)]


class TestState:
    """Interrupt anywhere, continue in a new loader: the same samples."""

    LOADERS: ClassVar = {
        "shuffle": lambda **o: DataLoader(Noise(23), 4, shuffle=True, **o),
        "drop_last": lambda **o: DataLoader(Noise(23), 4, shuffle=True, drop_last=True, **o),
        "sequential": lambda **o: DataLoader(Noise(8), 4, **o),
        "replacement": lambda **o: DataLoader(
            Noise(23), 4, sampler=RandomSampler(Ids(23), replacement=True, num_samples=9), **o
        ),
        "own generator": lambda **o: DataLoader(
            Noise(23), 4, True, generator=tensorlib.Generator().manual_seed(3), **o
        ),
        "sampler's generator": lambda **o: DataLoader(
            Noise(23),
            4,
            sampler=WeightedRandomSampler(
                np.arange(23), 18, generator=tensorlib.Generator().manual_seed(3)
            ),
            **o,
        ),
        "subset": lambda **o: DataLoader(Noise(23), 4, sampler=SubsetRandomSampler(range(9)), **o),
        "stream": lambda **o: DataLoader(Stream(9, lambda: np.float64(0)), 4, **o),
        "distributed": lambda **o: DataLoader(
            Noise(23), 4, sampler=DistributedSampler(Ids(23), 3, 1, seed=4), **o
        ),
        "batch_sampler": lambda **o: DataLoader(
            Noise(23), batch_sampler=BatchSampler(SequentialSampler(Ids(23)), 5), **o
        ),
        "own batches": lambda **o: DataLoader(Noise(23), batch_sampler=[[1, 2], [3], [4, 5]], **o),
    }

    @pytest.mark.parametrize("name", LOADERS)
    @pytest.mark.parametrize("workers", [(0, 0), (0, 2), (3, 0), (2, 3)])
    def test_interrupt_at_every_batch_and_at_the_end_of_the_epoch(self, name, workers):
        make = self.LOADERS[name]

        def stream(loader, epochs):
            for _ in range(loader.epoch, epochs):
                for index, noise in loader:
                    state = (loader.state_dict(), tensorlib.get_rng_state())
                    yield index.tolist(), noise.tolist(), state

        tensorlib.manual_seed(11)
        whole = [item[:2] for item in stream(make(num_workers=workers[0]), 3)]
        after = tensorlib.rand(1).item()
        per_epoch = len(whole) // 3
        for interrupt in range(per_epoch, 2 * per_epoch + 1):
            tensorlib.manual_seed(11)
            first = list(itertools.islice(stream(make(num_workers=workers[0]), 3), interrupt))
            tensorlib.manual_seed(12345)
            again = make(num_workers=workers[1])
            state, generator = first[-1][2]
            again.load_state_dict(state)
            tensorlib.set_rng_state(generator)  # the global one is the caller's to restore
            rest = [item[:2] for item in stream(again, 3)]
            assert [item[:2] for item in first] + rest == whole, interrupt
            assert tensorlib.rand(1).item() == after

    def test_saved_between_epochs(self):
        def make():
            return DataLoader(Ids(10), 3, shuffle=True, generator=tensorlib.Generator())

        loader = make()
        list(loader)
        state = loader.state_dict()
        assert (state["epoch"], state["next_index"]) == (1, 0)
        expected = ids(loader)
        again = make()
        again.load_state_dict(state)
        assert ids(again) == expected

    def test_saved_after_the_last_batch_nothing_of_the_epoch_is_left(self):
        loader = DataLoader(Ids(4), 2)
        batches = iter(loader)
        next(batches), next(batches)
        state = loader.state_dict()
        assert (state["epoch"], state["next_index"]) == (0, 4)
        again = DataLoader(Ids(4), 2)
        again.load_state_dict(state)
        assert ids(again) == []
        assert again.epoch == 1
        assert ids(again) == [[0, 1], [2, 3]]

    @pytest.mark.parametrize("mode", ["padded", "exact"])
    def test_another_number_of_ranks_continues_the_same_global_order(self, mode):
        """Global batch 12: 4 ranks x 3, then 2 ranks x 6, then 3 x 4."""

        def loaders(world, batch):
            return [
                DataLoader(Ids(50), batch, sampler=DistributedSampler(Ids(50), world, r, mode=mode))
                for r in range(world)
            ]

        def step(iterators):
            batches = [next(iterator, None) for iterator in iterators]
            parts = [[] if b is None else b.tolist() for b in batches]
            longest = itertools.zip_longest(*parts)
            return [index for row in longest for index in row if index is not None]

        whole = loaders(1, 12)
        expected = [step([iter_]) for iter_ in [iter(whole[0])] for _ in range(5)]
        seen, state = [], None
        for world, batch, steps in ((4, 3, 1), (2, 6, 2), (3, 4, 2)):
            group = loaders(world, batch)
            for loader in group:
                if state is not None:
                    loader.load_state_dict(state)
            iterators = [iter(loader) for loader in group]
            seen += [step(iterators) for _ in range(steps)]
            states = [loader.state_dict() for loader in group]
            state = states[0]
            if len(seen) < 5:
                assert states == [state] * world
        assert seen[:4] == expected[:4]
        if mode == "exact":
            assert seen == expected
        else:  # padded to a multiple of 3
            assert seen[4] == expected[4] + expected[0][:1]

    def test_states_that_do_not_fit(self):
        loader = DataLoader(Ids(10), 3, shuffle=True)
        state = loader.state_dict()
        with pytest.raises(ValueError, match="saved with 10 samples, the data set has 11"):
            DataLoader(Ids(11), 3).load_state_dict(state)
        with pytest.raises(ValueError, match="version 9"):
            loader.load_state_dict({**state, "version": 9})
        with pytest.raises(ValueError, match=r"missing \['next_index'\]"):
            loader.load_state_dict({k: v for k, v in state.items() if k != "next_index"})
        with pytest.raises(ValueError, match="holds 3 generators, the loader has 1"):
            loader.load_state_dict({**state, "drawn": [tensorlib.get_rng_state()] * 3})
        sampled = DataLoader(Ids(10), sampler=DistributedSampler(Ids(10), 2, 0, seed=1))
        with pytest.raises(ValueError, match=r"saved with seed 0, .* has 1"):
            sampled.load_state_dict({**state, "seed": 0})
        own = DataLoader(Ids(10), batch_sampler=[[1, 2], [3]])
        own.load_state_dict({**state, "next_index": 1})
        with pytest.raises(ValueError, match="inside a batch"):
            list(own)
        uneven = DataLoader(Ids(10), sampler=DistributedSampler(Ids(10), 3, 0, seed=1))
        with pytest.raises(ValueError, match=r"position 4 .* 3 ranks"):
            uneven.load_state_dict({**state, "seed": 1, "next_index": 4})


class TestEpochs:
    def test_torchs_set_epoch_on_the_sampler(self):
        sampler = DistributedSampler(Ids(20), 2, 0)
        loader = DataLoader(Ids(20), 5, sampler=sampler)
        by_hand = []
        for epoch in (0, 1, 5):
            sampler.set_epoch(epoch)
            by_hand.append(flat(loader))
            assert loader.epoch == epoch + 1
        again = DataLoader(Ids(20), 5, sampler=DistributedSampler(Ids(20), 2, 0))
        by_itself = [flat(again) for _ in range(6)]
        assert by_hand == [by_itself[0], by_itself[1], by_itself[5]]

    def test_an_epoch_left_early_is_over(self):
        loader = DataLoader(Ids(20), 5, shuffle=True)
        first = next(iter(loader)).tolist()
        assert loader.epoch == 0
        second = flat(loader)
        assert loader.epoch == 2
        assert second[:5] != first

    def test_two_iterators_at_once_are_two_epochs(self):
        sampler = DistributedSampler(Ids(9), 1, 0)
        pairs = list(zip(*[DataLoader(Ids(9), 3, sampler=sampler)] * 2, strict=True))
        alone = DataLoader(Ids(9), 3, sampler=sampler)
        alone.set_epoch(0)
        assert [ids(alone), ids(alone)] == [ids(column) for column in zip(*pairs, strict=True)]

    def test_a_position_inside_another_epoch_is_refused(self):
        sampler = DistributedSampler(Ids(20), 1, 0)
        loader = DataLoader(Ids(20), 5, sampler=sampler)
        state = {**loader.state_dict(), "epoch": 3, "next_index": 5}
        loader.load_state_dict(state)
        assert sampler.epoch == 3
        sampler.set_epoch(0)
        with pytest.raises(ValueError, match=r"set to epoch 0, .* epoch 3 after 5"):
            iter(loader)

    def test_the_data_set_is_told(self):
        class Aware(Ids):
            epochs = ()

            def set_epoch(self, epoch):
                self.epochs = (*self.epochs, epoch)

        data = Aware(2)
        loader = DataLoader(data)
        list(loader), list(loader)
        assert list(dict.fromkeys(data.epochs)) == [0, 1, 2]


class Faulty(Ids):
    def __getitem__(self, index):
        if index == 5:
            raise FileNotFoundError(2, "gone", "five.png")
        return index


class TestThreads:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_an_error_names_the_sample_after_the_good_batches(self, num_workers):
        batches = iter(DataLoader(Faulty(12), 2, num_workers=num_workers))
        assert next(batches).tolist() == [0, 1]
        assert next(batches).tolist() == [2, 3]
        with pytest.raises(SampleError, match=r"sample 5 of Faulty \(epoch 0\).*FileNotFound") as e:
            next(batches)
        assert isinstance(e.value.__cause__, FileNotFoundError)
        with pytest.raises(StopIteration):
            next(batches)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_an_error_of_collate_names_the_batch(self, num_workers):
        class Ragged(Ids):
            def __getitem__(self, index):
                return np.zeros(index)

        with pytest.raises(RuntimeError, match=r"shapes \[\(0,\), \(1,\)\]") as caught:
            list(DataLoader(Ragged(4), 2, num_workers=num_workers))
        assert "while collating samples 0, 1 of epoch 0" in caught.value.__notes__[0]

    def test_dropped_iterators_end_their_threads(self):
        def count():
            return sum(t.name.startswith("DataLoader-") for t in threading.enumerate())

        _wait(lambda: count() == 0)
        loader = DataLoader(Ids(1000), 2, num_workers=3)
        batches = iter(loader)
        next(batches)
        assert count() == 3
        del batches
        gc.collect()
        _wait(lambda: count() == 0)
        for batch in loader:
            assert batch.tolist() == [0, 1]
            break
        gc.collect()
        _wait(lambda: count() == 0)
        list(loader)
        _wait(lambda: count() == 0)

    def test_no_more_than_prefetch_factor_batches_ahead(self):
        started = []

        class Counting(Ids):
            def __getitem__(self, index):
                started.append(index)
                return index

        batches = iter(DataLoader(Counting(100), 1, num_workers=2, prefetch_factor=3))
        next(batches)
        _wait(lambda: len(started) == 6)
        next(batches)
        _wait(lambda: len(started) == 7)
        batches.close()

    def test_threads_work_at_the_same_time(self):
        gate = threading.Barrier(3, timeout=20)

        class Together(Ids):
            def __getitem__(self, index):
                gate.wait()
                return index

        assert flat(DataLoader(Together(6), 1, num_workers=3)) == list(range(6))

    def test_a_hanging_data_set_times_out(self):
        release = threading.Event()

        class Hanging(Ids):
            def __getitem__(self, index):
                release.wait(20)
                return index

        try:
            with pytest.raises(RuntimeError, match=r"timed out after 0\.1 seconds"):
                list(DataLoader(Hanging(4), 2, num_workers=1, timeout=0.1))
        finally:
            release.set()


def _wait(condition, limit_s=20):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": -1}, "num_workers=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": None, "drop_last": True}, "batch_size=None with drop_last"),
        ({"persistent_workers": True}, "persistent_workers=True with num_workers=0"),
        ({"multiprocessing_context": "spawn"}, "'spawn' with num_workers=0"),
        ({"prefetch_factor": 2}, "prefetch_factor=2 with num_workers=0"),
        ({"timeout": 3}, "timeout=3 with num_workers=0"),
        ({"sampler": [0], "shuffle": True}, "exclude"),
        ({"batch_sampler": [[0]], "batch_size": 3}, "batch_sampler was given together"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(Ids(3), **arguments)


def test_other_arguments():
    with pytest.raises(TypeError, match="no __len__"):
        DataLoader(iter(range(3)))
    with pytest.raises(NotImplementedError, match=r"worker_init_fn=.* with num_workers=1"):
        DataLoader(Ids(3), num_workers=1, worker_init_fn=print)
    with pytest.raises(ValueError, match="with an IterableDataset"):
        DataLoader(Stream(3, int), shuffle=True)
    loader = DataLoader(Ids(3), 2, pin_memory=True)
    with pytest.warns(UserWarning, match="pinned memory won't be used"):
        assert ids(loader) == [[0, 1], [2]]
    with pytest.raises(ValueError, match="batch_size is set after"):
        loader.batch_size = 3
    assert get_worker_info() is None


def test_streams():
    assert [x.tolist() for x, _ in DataLoader(Stream(5, int), 2)] == [[0, 1], [2, 3], [4]]
    dropped = DataLoader(Stream(5, int), 2, drop_last=True)
    assert [x.tolist() for x, _ in dropped] == [[0, 1], [2, 3]]
    assert list(DataLoader(Stream(2, int), None, num_workers=2)) == [[0, 0], [1, 0]]
    with pytest.raises(TypeError, match="Stream: no __len__"):
        len(DataLoader(Stream(5, int), 2))
    both = Stream(2, int) + Stream(1, int)
    assert list(both) == [(0, 0), (1, 0), (0, 0)]
    with pytest.raises(AssertionError, match="Ids given"):
        list(ChainDataset([Ids(1)]))
    with pytest.raises(AssertionError, match="use ChainDataset"):
        ConcatDataset([Stream(1, int)])


class TestBatches:
    def test_tensor_dataset_gathers_and_is_collated_the_same(self):
        x = np.arange(24, dtype=np.float32).reshape(6, 4)
        y = tensorlib.tensor([5, 4, 3, 2, 1, 0])
        data = TensorDataset(x, y)
        for dataset in (data, Subset(data, [3, 1, 0, 2])):
            loader = DataLoader(dataset, 3)
            for (a, b), indices in zip(loader, loader.batch_sampler, strict=True):
                rows = [dataset[i] for i in indices]
                one_by_one = default_collate(rows)
                np.testing.assert_array_equal(a.numpy(), one_by_one[0].numpy())
                np.testing.assert_array_equal(b.numpy(), one_by_one[1].numpy())
                assert a.dtype is tensorlib.float32
                assert b.dtype is tensorlib.int64

    def test_own_collate_sees_samples(self):
        data = TensorDataset(np.arange(6), np.arange(6) * 10)
        loader = DataLoader(data, 4, collate_fn=lambda rows: [int(a + b) for a, b in rows])
        assert list(loader) == [[0, 11, 22, 33], [44, 55]]

    def test_getitems_is_used_and_its_errors_name_the_batch(self):
        class Fast(Ids):
            def __getitems__(self, indices):
                if 7 in indices:
                    raise KeyError("seven")
                return [-i for i in indices]

        batches = iter(DataLoader(Fast(9), 3))
        assert next(batches).tolist() == [0, -1, -2]
        next(batches)
        with pytest.raises(SampleError, match=r"samples 6, 7, 8 of Fast .*KeyError"):
            next(batches)

        class Short(Ids):
            def __getitems__(self, indices):
                return [0]

        with pytest.raises(RuntimeError, match="returned 1 samples for 2 indices"):
            list(DataLoader(Short(4), 2))


Point = namedtuple("Point", "x y")


class TestCollate:
    def test_kinds(self):
        f32 = np.float32
        assert default_collate([1, 2]).dtype is tensorlib.int64
        assert default_collate([1.5, 2]).dtype is tensorlib.float64
        assert default_collate([True, False]).dtype is tensorlib.bool
        assert default_collate([f32(1), f32(2)]).dtype is tensorlib.float32
        assert default_collate(["a", "b"]) == ["a", "b"]
        stacked = default_collate([np.ones((2, 3), f32), np.zeros((2, 3), f32)])
        assert tuple(stacked.shape) == (2, 2, 3)
        tensors = default_collate([tensorlib.ones(2), tensorlib.zeros(2)])
        assert tensors.tolist() == [[1, 1], [0, 0]]
        a, b = default_collate([(1, "x"), (2, "y")])
        assert (a.tolist(), b) == ([1, 2], ("x", "y"))
        fields = default_collate([{"a": 1, "b": [2.0]}, {"a": 3, "b": [4.0]}])
        assert fields["a"].tolist() == [1, 3]
        assert fields["b"][0].tolist() == [2.0, 4.0]
        point = default_collate([Point(1, 2), Point(3, 4)])
        assert isinstance(point, Point)
        assert point.y.tolist() == [2, 4]

    @pytest.mark.parametrize(
        ("samples", "error", "message"),
        [
            ([object()], TypeError, "object; expected"),
            ([None], TypeError, "NoneType"),
            ([np.array(["a"])], TypeError, "dtype <U1"),
            ([(1, 2), (1,)], RuntimeError, r"\[1, 2\] elements"),
            ([np.zeros(2), np.zeros(3)], RuntimeError, r"\(2,\), \(3,\)"),
        ],
    )
    def test_what_does_not_stack(self, samples, error, message):
        with pytest.raises(error, match=message):
            default_collate(samples)

    @pytest.mark.oracle
    @pytest.mark.parametrize("function", ["default_collate", "default_convert"])
    def test_against_torch(self, function):
        torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
        samples = [
            (
                {"a": i, "b": (i / 2, np.float32(i))},
                [np.full(2, i), "x"],
                i > 1,
                b"y",
                UserList([i]),
            )
            for i in range(3)
        ]
        samples.append(samples[0])
        ours = getattr(tensorlib.utils.data, function)(samples)
        theirs = getattr(torch.utils.data, function)(samples)

        def compare(a, b):
            if isinstance(b, torch.Tensor):
                assert str(a.dtype).split(".")[-1] == str(b.dtype).split(".")[-1]
                np.testing.assert_array_equal(a.numpy(), b.numpy())
                return
            assert type(a) is type(b)
            if isinstance(b, dict):
                assert a.keys() == b.keys()
                a, b = a.values(), b.values()
            if isinstance(b, str | bytes | int | float):
                assert a == b
                return
            for x, y in zip(a, b, strict=True):
                compare(x, y)

        compare(ours, theirs)
