"""The pool of threads: the same bits for any number, forks, signals, exits, other threads."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tensorlib
import tensorlib.nn.functional as F
from tensorlib.kernels import cpu
from tensorlib.kernels.cpu import loader
from tensorlib.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.skipif(os.name != "posix", reason="compiled kernels need POSIX threads")


@pytest.fixture
def threads():
    """`set_num_threads`, undone afterwards."""
    before = tensorlib.get_num_threads()
    yield tensorlib.set_num_threads
    tensorlib.set_num_threads(before)


def some(*shape, seed=0):
    made = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return tensorlib.tensor(made, requires_grad=True)


def digest():
    """A hash of all that a few large operations and their gradients give."""
    image, weight, norm = some(4, 16, 33, 31), some(24, 16, 3, 3, seed=1), some(24, seed=2)
    tokens, table = some(64, 1000, seed=3), some(1000, 96, seed=4)
    made = F.conv2d(image, weight, padding=1)
    made = F.max_pool2d(F.relu(F.batch_norm(made, None, None, norm, norm, training=True)), 2)
    product = F.gelu(F.layer_norm(F.softmax(tokens, -1) @ table, (96,)))
    (made.square().mean() + product.square().mean()).backward()
    leaves = (image, weight, norm, tokens, table)
    hashed = hashlib.sha256()
    for array in (made.detach(), product.detach(), *(leaf.grad for leaf in leaves)):
        hashed.update(np.ascontiguousarray(array.numpy()).tobytes())
    return hashed.hexdigest()


def test_results_are_the_same_bits_for_any_number_of_threads(threads):
    found = set()
    for count in (1, 2, 3, 1, 4):
        threads(count)
        found.add(digest())
    assert len(found) == 1


def test_the_number_of_threads_is_that_of_the_pool_and_blas_has_one(threads):
    import threadpoolctl

    pool = cpu.runtime()
    threads(3)
    assert pool.threads() == tensorlib.get_num_threads() == 3
    pools = threadpoolctl.threadpool_info()  # SciPy may have brought another BLAS since
    blas = [p for p in pools if p["user_api"] == "blas" and "numpy" in p["filepath"]]
    assert all(p["num_threads"] == 1 for p in blas)


def test_a_wrong_number_of_arguments_is_an_error():
    run = cpu.Tasks("activation")
    with pytest.raises(TypeError, match=r"gelu takes \d+ arguments, 2 given"):
        run.gelu(1, 0, 0)
    run.gelu(0, *[0] * loader.arguments("activation", "gelu"))  # no blocks: nothing happens


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("tensorlib-")]


def test_fewer_threads_send_the_workers_home(threads):
    threads(4)
    expected = digest()
    assert len(workers()) == 3
    threads(2)
    assert workers() == []
    assert digest() == expected
    assert len(workers()) == 1
    threads(1)
    assert workers() == []
    assert digest() == expected


def test_threads_that_launch_at_once_get_their_own_results(threads):
    threads(2)
    expected = digest()
    found, problems = [], []

    def work():
        try:
            found.extend(digest() for _ in range(5))
        except Exception as problem:  # for the assertion below
            problems.append(problem)

    running = [threading.Thread(target=work) for _ in range(3)]
    for thread in running:
        thread.start()
    for count in (3, 2, 1, 4, 2):  # and the number changes meanwhile
        threads(count)
        time.sleep(0.01)
    for thread in running:
        thread.join(60)
    assert not problems
    assert found == [expected] * 15


def _child(queue):
    tensorlib.set_num_threads(2)
    queue.put(digest())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_runs_kernels_and_the_parent_goes_on(threads):
    threads(2)
    expected = digest()
    assert workers()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        assert queue.get(timeout=60) == expected
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert digest() == expected


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loader_workers_after_kernels_ran(threads):
    threads(2)
    digest()
    data = some(8, 1 << 16).detach()
    loader = DataLoader(TensorDataset(F.gelu(data)), batch_size=2, num_workers=2)
    batches = [batch[0].numpy() for batch in loader]
    np.testing.assert_array_equal(np.concatenate(batches), F.gelu(data).numpy())
    digest()


# -- processes -------------------------------------------------------------------------------------

START = """
import os, signal, sys, threading, time
import numpy as np
import tensorlib
import tensorlib.nn.functional as F
tensorlib.set_num_threads(3)
x = tensorlib.ones(1 << 18)
F.gelu(x)
"""


def outcome(code):
    """A script's exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", START + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_end_with_sleeping_workers_is_quick_and_clean():
    code = "time.sleep(0.05)\nprint(time.time(), flush=True)\n"
    returned, out, err = outcome(code)
    assert (returned, err) == (0, "")
    assert time.time() - float(out) < 20  # not the 60 s for which a stuck worker is waited


def test_the_end_while_another_thread_runs_kernels_is_clean():
    code = """
def forever():
    while True:
        F.gelu(x)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
"""
    assert outcome(code) == (0, "", "")


def test_arrays_that_outlive_the_modules_go_quietly():
    code = """
class Kept:
    def __del__(self):
        F.gelu(x)  # kernels work alone by now
import atexit
sys.kept = Kept()
sys.modules["kept"] = tensorlib.ones(1 << 20) * 2
atexit.register(lambda: F.gelu(x))
"""
    returned, _, err = outcome(code)
    assert returned == 0
    assert "Fatal" not in err


def test_an_error_still_ends_the_process():
    returned, _, err = outcome("raise SystemExit(7)\n")
    assert (returned, err) == (7, "")


def test_a_signal_during_a_kernel_is_handled_after_it(tmp_path):
    (tmp_path / "slow_task.py").write_text(
        "from __future__ import annotations\n"
        "from tensorlib.kernels.cpu.compiler import i64, ptr, task\n"
        "from tensorlib.kernels.cpu.vector import load_f32, store_f32\n"
        "import numpy as np\n"
        "@task\n"
        "def slow(block, worker, x: ptr, rounds: i64):\n"
        "    for i in range(rounds):\n"
        "        v = load_f32(x + 4 * block)\n"
        "        store_f32(x + 4 * block, v * np.float32(0.5) + np.float32(1.0))\n"
    )
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
from slow_task import slow
from tensorlib.kernels.cpu import runtime
out = np.zeros(64, np.float32)
runtime().launch(slow, 64, out.ctypes.data, 10)
def interrupted(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupted)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    runtime().launch(slow, 64, out.ctypes.data, 5_000_000)
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted", np.all(out == 2))
F.gelu(x)
"""
    assert outcome(code) == (0, "interrupted True\n", "")


def test_an_interrupt_from_the_terminal_ends_the_process():
    code = "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)\n"
    returned, _, err = outcome(code)
    assert returned in (-signal.SIGINT, 128 + signal.SIGINT, 1)
    assert "KeyboardInterrupt" in err
