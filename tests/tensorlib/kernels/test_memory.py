"""Memory of results: kept and used again, given back, safe with threads, forks and copies."""

import copy
import gc
import multiprocessing
import os
import pickle
import sys
import threading

import numpy as np
import pytest

import tensorlib
import tensorlib.nn as nn
import tensorlib.nn.functional as F
from tensorlib.kernels.cpu import memory

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_waits():
    gc.collect()
    memory.release()
    yield
    gc.collect()
    memory.release()


def test_large_arrays_are_aligned_and_small_ones_ordinary():
    large = memory.empty((1000, 1000))
    assert large.shape == (1000, 1000)
    assert large.dtype == np.float32
    assert large.flags.c_contiguous
    assert large.flags.writeable
    assert memory.address(large) % 64 == 0
    assert memory.address(large) == large.ctypes.data
    assert memory.empty((10,)).base is None
    assert memory.empty((0, 5)).shape == (0, 5)
    assert memory.empty((300, 1000), np.float64).dtype == np.float64


def test_memory_is_used_again_once_no_view_is_left():
    first = memory.empty((MIB,))
    at = memory.address(first)
    view = first[3:].reshape(-1, 1).T
    del first
    other = memory.empty((MIB,))
    assert abs(memory.address(other) - at) >= 4 * MIB
    view[...] = 7
    other[...] = 8
    assert (view == 7).all()
    del view
    made = memory.statistics()["blocks_made"]
    assert memory.address(memory.empty((MIB - 10,))) == at
    assert memory.statistics()["blocks_made"] == made


def test_pieces_of_many_sizes_never_overlap_and_join_again():
    random = np.random.default_rng(0)
    kept = {}
    for number in range(1, 400):
        array = memory.empty((int(random.integers(MIB // 4, 3 * MIB)),))
        array[:: 1 << 12] = number
        array[-1] = number
        kept[number] = array
        while len(kept) > 12:
            old = int(random.choice(list(kept)))
            assert (kept[old][:: 1 << 12] == old).all()
            assert kept[old][-1] == old
            del kept[old], array
            array = None
    kept.clear()
    array = None
    gc.collect()
    counts = memory.statistics()
    assert counts["waiting_bytes"] == counts["held_bytes"]
    assert counts["held_bytes"] < 12 * 3 * 4 * MIB * 1.7
    memory.release()
    assert memory.statistics()["held_bytes"] == 0


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_release_gives_back_what_is_free_and_nothing_else():
    kept, gone = memory.empty((MIB,)), memory.empty((10 * MIB,))
    kept[:], gone[:] = 3, 4
    before = resident()
    del gone
    assert before - resident() < 4 * MIB
    memory.release()
    assert before - resident() > 36 * MIB
    assert (kept == 3).all()
    del kept
    memory.release()
    assert memory.statistics()["held_bytes"] == memory.statistics()["waiting_bytes"] == 0


def test_sizes_that_change_do_not_pile_up():
    limit = memory.statistics()["held_bytes"] + 3 * 40 * MIB
    for size in range(10 * MIB, 5 * MIB, -MIB // 8):
        memory.empty((size,))
        assert memory.statistics()["held_bytes"] < limit


def test_a_failed_allocation_leaves_the_counts_right():
    before = memory.statistics()
    with pytest.raises(MemoryError):
        memory.empty((1 << 60,), np.uint8)
    assert memory.statistics()["held_bytes"] == before["held_bytes"]


def test_copies_and_pickles_are_independent():
    array = memory.empty((MIB,))
    array[:] = np.arange(MIB)
    expected = np.arange(MIB, dtype=np.float32)
    made = [copy.copy(array), copy.deepcopy(array), pickle.loads(pickle.dumps(array))]
    tensor = tensorlib.tensor(array)
    made += [copy.deepcopy(tensor).numpy(), pickle.loads(pickle.dumps(tensor)).numpy()]
    array[:] = 0
    for one in made:
        np.testing.assert_array_equal(one, expected)


def test_many_threads_take_and_give():
    problems = []

    def work(number):
        random = np.random.default_rng(number)
        kept = []
        for _ in range(200):
            array = memory.empty((int(random.integers(1, 4)) * MIB // 2,))
            array[::1024] = number
            kept.append(array)
            if len(kept) > 3:
                old = kept.pop(int(random.integers(3)))
                if not np.all(old[::1024] == number):
                    problems.append(number)

    running = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert not problems
    gc.collect()
    counts = memory.statistics()
    assert counts["waiting_bytes"] <= counts["held_bytes"]


def _child(queue):
    array = memory.empty((MIB,))
    array[:] = 5
    queue.put(float(array.sum()))


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_takes_memory():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    kept = memory.empty((MIB,))
    kept[:] = 1
    taken, go_on = threading.Event(), threading.Event()

    def hold():
        with memory._store.lock:
            taken.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == 5 * MIB
    child.join(60)
    go_on.set()
    thread.join(60)
    assert child.exitcode == 0
    assert kept.sum() == MIB


def test_training_steps_take_no_new_memory_after_the_second():
    tensorlib.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    optimizer = tensorlib.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    images, labels = tensorlib.randn(16, 3, 64, 64), tensorlib.arange(16) % 10
    made = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        made.append(memory.statistics()["blocks_made"])
    assert made[2:] == [made[2]] * 4
