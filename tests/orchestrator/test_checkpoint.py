"""A checkpoint is whole or invisible: whatever is killed, cut, flipped or full."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from orchestrator import checkpoint, files, places
from orchestrator.errors import CheckpointError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory for checkpoints."""
    path = tmp_path / "checkpoints"
    path.mkdir()
    return path


class Tensor:
    """Something NumPy can read that is no array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


def state(step: int = 0) -> dict:
    return {
        "model": {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3) + step},
        "optimizer": {"state": {0: {"step": step}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }


def write(directory: Path, step: int, **options) -> Path:
    return checkpoint.write(directory, state(step), step=step, **options)


def assert_same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    else:
        assert repr(a) == repr(b)


ALL_DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]


def test_a_state_comes_back_as_it_was(place):
    original = {
        "arrays": {name: np.arange(3).astype(name) for name in ALL_DTYPES},
        "zero_dim": np.array(2.5, np.float32),
        "zero_dim_complex": np.array(1j),
        "empty": np.zeros((0, 3), np.int16),
        "empty_complex": np.zeros((0,), np.complex128),
        "int_keys": {0: "a", 10: {"b": None}},
        "mixed_keys": {1: "int", "1": "str", None: 0, False: 2, 1.5: 3},
        "tuple": (1, (2.5, "x"), [None, True]),
        "bytes": b"\x00\xff",
        "text": "line\nbreak é \u2028",
        "floats": [0.1, float("inf"), float("-inf"), float("nan"), -0.0, 1e-310],
        "big": 2**100,
        "nothing": {},
        "$array": "a key of ours",
        "": np.ones(1),
        "a.b": np.ones(2),
        "a": {"b": np.zeros(2)},
        "__metadata__": np.full(3, 7),
        "state": np.full(1, 9),
    }
    path = checkpoint.write(place, original, step=7, epoch=2, metrics={"loss": 0.5})
    assert path == place / "00000007"
    loaded = checkpoint.load(path)
    assert_same(original, loaded.state)
    assert (loaded.step, loaded.epoch, loaded.metrics) == (7, 2, {"loss": 0.5})
    loaded.state["arrays"]["f4"][0] = 5  # writable


@pytest.mark.parametrize("top", [np.ones(3), [np.ones(2)], 5, None, "x"])
def test_a_state_need_not_be_a_dict(place, top):
    assert_same(top, checkpoint.load(checkpoint.write(place, top, step=1)).state)


def test_arrays_of_any_layout_and_kind(place):
    base = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    original = {
        "transposed": base.T,
        "strided": base[:, ::2, ::-1],
        "channels_last": np.moveaxis(base, 1, -1),
        "big_endian": np.arange(3, dtype=">f4"),
        "tensor": Tensor(np.ones(2, np.int8)),
        "numpy_scalar": np.float64(3.5),
        "numpy_bool": np.bool_(True),
        "ordered": OrderedDict(b=1, a=2),
    }
    loaded = checkpoint.load(checkpoint.write(place, original, step=1)).state
    for name in ("transposed", "strided", "channels_last", "big_endian"):
        np.testing.assert_array_equal(loaded[name], original[name])
    assert loaded["tensor"].dtype == np.int8
    assert loaded["numpy_scalar"].dtype == np.float64
    assert loaded["numpy_bool"].shape == ()
    assert list(loaded["ordered"]) == ["b", "a"]


def test_the_tensor_file_is_ordinary_safetensors(place):
    from safetensors.numpy import load_file

    path = write(place, 3)
    tensors = load_file(path / "tensors.safetensors")
    np.testing.assert_array_equal(tensors["model.fc.weight"], state(3)["model"]["fc.weight"])


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": {"b": [1, object()]}}, "a.b.1 is object"),
        ({"a": np.array(["x"])}, "a has dtype <U1"),
        ({"a": np.array([None])}, "a has dtype object"),
        ({"a": {3, 4}}, "a is set"),
        ({"a": {(1, 2): 3}}, r"a: the key \(1, 2\) is tuple"),
        ({"a": np.array(["2020-01-01"], "M8[D]")}, r"a has dtype datetime64"),
        ({"f": print}, "f is builtin_function_or_method"),
    ],
)
def test_what_cannot_be_kept_is_named_and_nothing_is_written(place, value, named):
    with pytest.raises(TypeError, match=named):
        checkpoint.write(place / "c", value, step=1)
    assert not (place / "c").exists()


def test_a_negative_step_is_refused(place):
    with pytest.raises(ValueError, match="step is -1"):
        checkpoint.write(place, {}, step=-1)


# Damage


def skipped(directory: Path) -> tuple[int | None, list[tuple[str, str]]]:
    seen: list[tuple[str, str]] = []
    found = checkpoint.latest(directory, lambda path, why: seen.append((path.name, why)))
    return (None if found is None else found.step), seen


FILES = ["manifest.json", "state.json", "tensors.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "grow", "empty", "remove"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_told(place, name, damage):
    write(place, 1)
    file = write(place, 2) / name
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "grow":
        file.write_bytes(data + b"x")
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    step, why = skipped(place)
    assert step == 1
    assert [path for path, _ in why] == ["00000002"]
    assert "00000002" in why[0][1]


def test_every_byte_of_the_data_is_guarded(place):
    path = write(place, 1)
    for name in FILES:
        data = (path / name).read_bytes()
        # White space of the manifest carries nothing; a flip there may stay unseen.
        places = [at for at in range(0, len(data), 3) if not data[at : at + 1].isspace()]
        for at in places:
            (path / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(CheckpointError, match=r"damaged|cannot be read"):
                checkpoint.load(path)
        (path / name).write_bytes(data)
    assert checkpoint.load(path).step == 1


def test_a_truncated_file_is_told_in_bytes(place):
    file = write(place, 1) / "tensors.safetensors"
    size = file.stat().st_size
    os.truncate(file, size - 3)
    with pytest.raises(
        CheckpointError, match=f"has {size - 3} bytes, expected {size}; it is trunc"
    ):
        checkpoint.load(file.parent)


def test_without_any_good_checkpoint_there_is_none(place):
    assert skipped(place / "nowhere") == (None, [])
    for step in (1, 2):
        (write(place, step) / "manifest.json").unlink()
    step, why = skipped(place)
    assert step is None
    assert [path for path, _ in why] == ["00000002", "00000001"]


def test_a_checkpoint_under_a_wrong_name_is_not_believed(place):
    write(place, 1).rename(place / "00000009")
    assert skipped(place)[0] is None


def test_a_hostile_manifest_is_not_followed(place):
    path = write(place, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../x"] = {"bytes": 1, "sha256": "0"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is damaged, or is no manifest"):
        checkpoint.load(path)


# Crashes

CRASHES = """
import builtins, io, json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import numpy as np
from orchestrator import checkpoint

directory = Path({directory!r})
state = lambda step: {{"model": {{"w": np.full(5000, float(step))}}, "n": step}}

def attempt(kill_at, step):
    # Dies by SIGKILL before the kill_at-th operation on the disk; exits 0 when it got through.
    count = 0
    def counted(function):
        def wrapper(*args, **kwargs):
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapper
    for owner, name in ((os, "fsync"), (os, "open"), (Path, "rename"), (Path, "mkdir"),
                        (Path, "open"), (os, "unlink"), (os, "rmdir"), (os, "listdir")):
        setattr(owner, name, counted(getattr(owner, name)))
    class Torn(io.FileIO):
        def write(self, data):
            nonlocal count
            count += 1
            if count == kill_at:
                super().write(bytes(data)[: len(bytes(data)) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return super().write(data)
    opened = Path.open
    def open_torn(self, mode="r", *args, **kwargs):
        if mode == "wb":
            return io.BufferedWriter(Torn(self, "w"), 1)
        return opened(self, mode, *args, **kwargs)
    Path.open = open_torn
    path = checkpoint.write(directory, state(step), step=step, attempt=kill_at)
    checkpoint.prune(directory, keep=1, trusted=path)

results = []
for new in (2, 1):  # the next step, and the same step once more
    killed, kill_at = True, 0
    while killed:
        kill_at += 1
        for path in directory.glob("0*"):
            shutil.rmtree(path)
        checkpoint.write(directory, state(1), step=1)
        pid = os.fork()
        if pid == 0:
            attempt(kill_at, new)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status)
        damaged = []
        found = checkpoint.latest(directory, lambda path, why: damaged.append(why))
        for path in directory.glob("0*"):  # the older ones are whole too, or gone
            checkpoint.load(path)
        whole = found is not None and found.state["n"] == found.step and bool(
            (found.state["model"]["w"] == found.step).all())
        results.append([kill_at, killed, status, new, found and found.step, whole, damaged,
                        sorted(os.listdir(directory))])
print(json.dumps(results))
"""


def test_killed_at_any_write_fsync_or_rename_the_newest_is_this_or_the_last(place):
    here = str(Path(checkpoint.__file__).parents[1])
    code = CRASHES.format(here=here, directory=str(place / "c"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert sum(result[1] for result in results) > 25
    for kill_at, killed, status, new, found, whole, damaged, names in results:
        assert found in (1, new), (kill_at, new, found)
        assert whole
        assert damaged == []
        assert killed or (status == 0 and names == [f"{new:08d}"])
        # What one dead writer left was gone before the next: never more than one of it.
        assert len([name for name in names if name.startswith(".tmp")]) <= 1


def test_killed_at_any_time_while_writing_much(place):
    code = (
        "import sys, itertools\nimport numpy as np\nfrom orchestrator import checkpoint\n"
        "for step in itertools.count(1):\n"
        f"    path = checkpoint.write({str(place)!r}, {{'model': np.full(300_000, step)}}, "
        "step=step)\n"
        f"    checkpoint.prune({str(place)!r}, keep=2, trusted=path)\n"
        "    print(step, flush=True)\n"
    )
    last = 0
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(5):
            last = int(child.stdout.readline())
        child.kill()
        child.wait()
        last = max([last, *map(int, child.stdout.read().split())])
        child.stdout.close()
        step, why = skipped(place)
        assert step in (last, last + 1)
        assert why == []
        shutil.rmtree(place / f"{step:08d}")  # so that each child starts below it
        for path in place.glob("0*"):
            shutil.rmtree(path)


def test_temporaries_of_the_living_are_left_alone(place):
    write(place, 1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = place / f".tmp-00000002-{dead.pid}-1-5"
    living = place / f".tmp-00000002-{os.getpid()}-1-6"
    unknown = place / ".tmp-00000002-x-1-7"
    for path in (left, living, unknown):
        path.mkdir()
        (path / "tensors.safetensors").write_bytes(b"half")
    write(place, 3)
    assert not left.exists()
    assert living.exists()


def test_a_locked_temporary_is_a_living_writers_whatever_its_pid(place):
    import fcntl

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = place / f".tmp-00000002-{dead.pid}-1-5"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert places.LocalPlace(place).clean() == []
    finally:
        os.close(descriptor)
    assert places.LocalPlace(place).clean() == [path]


def test_the_same_step_written_again_replaces_the_old(place):
    write(place, 1)
    checkpoint.write(place, {"model": np.ones(1)}, step=1)
    loaded = checkpoint.load(place / "00000001")
    assert_same(loaded.state, {"model": np.ones(1)})
    assert os.listdir(place) == ["00000001"]


def test_a_file_system_without_exchange_replaces_too(place, monkeypatch):
    monkeypatch.setattr(places.ctypes, "CDLL", lambda *args, **options: object())
    test_the_same_step_written_again_replaces_the_old(place)


# Large files, which are written past the page cache


SIZES = [0, 1, 4095, 4096, files._BUFFER_BYTES, 2 * files._BUFFER_BYTES + 5]


@pytest.mark.parametrize("cut", ["one", "many"])
@pytest.mark.parametrize(
    "flag", ["direct", "refused at open", "refused at a write", "short writes"]
)
def test_a_large_file_is_what_was_given(tmp_path, monkeypatch, flag, cut):
    monkeypatch.setattr(files, "DIRECT_FROM_BYTES", 0)
    opened, wrote, flags = os.open, os.write, []

    def open_(path, how, mode=0o777, **options):
        if how & os.O_DIRECT and flag == "refused at open":
            raise OSError(errno.EINVAL, "Invalid argument")
        flags.append(how)
        return opened(path, how, mode, **options)

    def write_(descriptor, data):
        direct = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
        if direct and (flag == "refused at a write" or len(data) % 512):
            raise OSError(errno.EINVAL, "Invalid argument")
        return wrote(descriptor, data[: len(data) // 2 + 3] if flag == "short" else data)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "write", write_)
    for size in SIZES:
        data = np.random.default_rng(size).bytes(size)
        at = [0, size] if cut == "one" else [0, size // 3, size // 3, size // 2, size]
        parts = [memoryview(data)[a:b] for a, b in itertools.pairwise(at)]
        facts = files.write_file(tmp_path / str(size), parts)
        assert (tmp_path / str(size)).read_bytes() == data
        assert facts == {"bytes": size, "sha256": hashlib.sha256(data).hexdigest()}
    assert any(how & os.O_DIRECT for how in flags) == (flag != "refused at open")


def test_other_errors_of_a_large_file_are_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DIRECT_FROM_BYTES", 0)
    with pytest.raises(FileNotFoundError):
        files.write_file(tmp_path / "nowhere" / "file", [b"x"])

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_file(tmp_path / "file", [b"x" * files._BUFFER_BYTES])


# Disk full


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(place):
    write(place, 1)
    before = sorted(os.listdir(place))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(CheckpointError, match=r"00000002: cannot be written: .*800000 bytes"):
            checkpoint.write(place, {"model": np.zeros(100_000)}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert sorted(os.listdir(place)) == before
    assert skipped(place) == (1, [])


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_an_fsync_that_fails_leaves_the_old_checkpoint(place, monkeypatch, fails_at):
    write(place, 1)
    fsync, calls = os.fsync, []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == fails_at:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    if fails_at <= 5:
        with pytest.raises(CheckpointError, match=r"cannot be written: Input/output error"):
            write(place, 2)
        # The fifth is the directory's after the rename: the new one may be there, and is whole.
        assert skipped(place) == (2 if fails_at == 5 else 1, [])
    else:
        write(place, 2)
        assert len(calls) == 5
    assert not list(place.glob(".tmp*"))


def test_an_unwritable_directory(place):
    (place / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*make the directory writable"):
        write(place / "file", 1)


# Keeping


def kept(directory: Path) -> list[int]:
    return sorted(int(name) for name in os.listdir(directory))


@pytest.mark.parametrize(
    ("values", "keep", "best", "left"),
    [
        ([1, 2, 3, 4], 2, None, [3, 4]),
        ([1, 2, 3, 4], 9, None, [1, 2, 3, 4]),
        ([1, 9, 3, 4], 1, ("m", "max"), [2, 4]),
        ([1, 9, 3, 4], 2, ("m", "min"), [1, 3, 4]),
        ([9, 9, 3, 4], 1, ("m", "max"), [2, 4]),  # of equal ones the newest
        ([None, 9, float("nan"), 4], 1, ("m", "min"), [4]),
        ([None, None], 1, ("m", "max"), [2]),
        ([1, 9, 3, 4], 1, ("other", "max"), [4]),
    ],
)
def test_prune(place, values, keep, best, left):
    for step, value in enumerate(values, 1):
        write(place, step, metrics={} if value is None else {"m": value})
    removed = checkpoint.prune(place, keep=keep, best=best)
    assert kept(place) == left
    assert len(removed) == len(values) - len(left)


@pytest.mark.parametrize("damage", ["flip", "cut", "manifest"])
def test_prune_never_removes_the_newest_good_one(place, damage):
    for step in (1, 2, 3):
        write(place, step)
    file = place / "00000003" / ("manifest.json" if damage == "manifest" else "state.json")
    data = file.read_bytes()
    if damage == "flip":
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    else:
        file.write_bytes(data[:-4])
    checkpoint.prune(place, keep=1)
    assert kept(place) == [2]


def test_prune_removes_nothing_while_nothing_is_good(place):
    for step in (1, 2):
        (write(place, step) / "manifest.json").unlink()
    assert checkpoint.prune(place, keep=1) == []
    assert kept(place) == [1, 2]
    with pytest.raises(ValueError, match="keep is 0"):
        checkpoint.prune(place, keep=0)


def test_the_best_that_verifies(place):
    for step, value in enumerate([0.5, 0.9, 0.7], 1):
        write(place, step, metrics={"m": value})

    def best() -> int | None:
        found = checkpoint.best(place, ("m", "max"))
        return None if found is None else found.step

    assert best() == 2
    os.truncate(place / "00000002" / "state.json", 5)
    assert best() == 3
    found = checkpoint.best(place, None)
    assert found is not None
    assert found.step == 3
    assert checkpoint.best(place / "nowhere", ("m", "max")) is None


# Digest


def digest(**parts) -> str:
    return checkpoint.weights_sha256(parts)


def test_the_digest_is_of_model_and_optimizer_alone(place):
    one = checkpoint.weights_sha256(state(1))
    assert checkpoint.weights_sha256(state(1) | {"loader": {"position": 3}}) == one
    assert checkpoint.weights_sha256(state(2)) != one
    assert checkpoint.load(write(place, 1)).weights_sha256 == one
    loaded = checkpoint.load(place / "00000001").state
    assert checkpoint.weights_sha256(loaded) == one
    assert checkpoint.weights_sha256({"a": 1}) != checkpoint.weights_sha256({"a": 2})


def test_the_digest_sees_every_property_of_an_array():
    w = np.arange(6, dtype=np.float32)
    one = digest(model={"w": w})
    assert digest(model={"w": w.reshape(2, 3)}) != one
    assert digest(model={"w": w.view(np.int32)}) != one
    assert digest(model={"v": w}) != one
    assert digest(model={"w": w.astype(">f4")}) == one
    assert digest(model={"w": np.repeat(w, 2)[::2]}) == one
    assert digest(model={"w": Tensor(w)}) == one
    changed = w.copy()
    changed[3] = np.nextafter(changed[3], 9, dtype=np.float32)
    assert digest(model={"w": changed}) != one


def test_the_digest_does_not_depend_on_the_order_of_keys():
    a, b = np.ones(2), np.zeros(2)
    assert digest(model={"a": a, "b": b}) == digest(model={"b": b, "a": a})


def test_memory_stays_near_the_size_of_the_state(place):
    code = (
        "import resource, numpy as np\nfrom orchestrator import checkpoint\n"
        "import safetensors.numpy\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "state = {'model': {str(i): np.ones(4_000_000) for i in range(4)}}\n"
        "before = peak()\n"
        f"path = checkpoint.write({str(place)!r}, state, step=1)\n"
        "print(peak() - before)\n"
        "del state\n"
        "checkpoint.load(path)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    written_kib, loaded_kib = map(int, done.stdout.split())
    size_kib = 125_000
    assert written_kib < 0.2 * size_kib
    assert loaded_kib < 1.3 * size_kib
