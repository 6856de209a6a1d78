"""Compiled kernels on disk: first starts, second starts, damage, other CPUs, many processes."""

import os
import shutil
import subprocess
import sys

import pytest

from tensorlib.kernels.__main__ import main
from tensorlib.kernels.cpu import loader

pytestmark = pytest.mark.skipif(os.name != "posix", reason="compiled kernels need POSIX threads")

# A result of a compiled kernel, checked against float64, and what was loaded for it.
ANSWER = """
import math, sys, warnings
import numpy as np
import tensorlib
import tensorlib.nn.functional as F
x = np.linspace(-4, 4, 1 << 16, dtype=np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        found = F.gelu(tensorlib.tensor(x)).numpy()
        F.silu(tensorlib.tensor(x))
truth = [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
assert np.abs(found - truth).max() < 1e-6
print("right", "numba" in sys.modules, len(caught), *(w.message for w in caught))
"""


def environment(cache, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TENSORLIB_", "NUMBA_"))}
    return {**kept, "TENSORLIB_CACHE": str(cache), "TMPDIR": str(cache.parent), **more}


def answer(cache, before="", **more):
    """`(stdout, stderr)` of a fresh process that uses a kernel."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", before + ANSWER],
        env=environment(cache, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def files(cache):
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache with the kernels of ANSWER."""
    cache = tmp_path_factory.mktemp("warm") / "cache"
    out, err = answer(cache)
    assert out.startswith("right True 0")
    assert err.count("\n") == 1
    assert "compiling kernels for this CPU once" in err
    return cache


@pytest.fixture
def copy(warm, tmp_path):
    return shutil.copytree(warm, tmp_path / "cache")


def test_a_second_start_compiles_nothing_imports_no_numba_and_says_nothing(warm):
    before = files(warm)
    assert answer(warm) == ("right False 0\n", "")
    assert files(warm) == before


def test_six_processes_at_once_on_an_empty_cache(tmp_path):
    cache = tmp_path / "cache"
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ANSWER],
            env=environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in running:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert out.startswith("right")
        assert "damaged" not in err
    assert not [path for path in files(cache) if path.suffix == ".tmp"]
    assert answer(cache) == ("right False 0\n", "")


def test_damaged_files_are_compiled_again_with_one_line_each(copy):
    found = {path.name: path for path in files(copy)}
    whole = {name: found[name].read_bytes() for name in ("one.o", "start.o", "spin.o", "work.o")}
    flipped = bytearray(whole["work.o"])
    flipped[len(flipped) // 2] ^= 1
    found["one.o"].write_bytes(whole["one.o"][:1000])
    found["start.o"].write_bytes(b"")
    found["spin.o"].write_bytes(os.urandom(1000))
    found["work.o"].write_bytes(flipped)
    out, err = answer(copy)
    assert out.startswith("right True 0")
    assert err.count("is damaged and is compiled again") == 4
    assert answer(copy) == ("right False 0\n", "")


def test_a_cache_that_cannot_be_written_says_so_and_the_code_goes_elsewhere(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    out, err = answer(blocked)
    assert out.startswith("right True 0")
    assert "cannot be written" in err
    out, err = answer(blocked)  # and is found there again
    assert out.startswith("right False 0")
    assert "compiling" not in err


def test_a_full_cache_that_cannot_be_written_is_read_without_a_word(copy):
    before = "import tempfile; tempfile.TemporaryFile = None\n"  # would raise if it were tried
    assert answer(copy, before) == ("right False 0\n", "")


def test_another_cpu_type_has_its_own_code(copy):
    (first,) = (copy / "kernels").iterdir()
    out, _ = answer(copy, NUMBA_CPU_NAME="haswell")
    assert out.startswith("right True 0")
    both = set((copy / "kernels").iterdir())
    assert len(both) == 2
    (other,) = both - {first}
    assert "haswell" in other.name


def test_code_of_other_sources_lies_elsewhere(tmp_path, monkeypatch):
    place = shutil.copytree(loader._PLACE, tmp_path / "cpu")
    monkeypatch.setattr(loader, "_PLACE", place)

    def hashes():
        loader.family_hash.cache_clear()
        families = [path.stem for path in (place / "tasks").glob("*.py")]
        return {family: loader.family_hash(family) for family in families}

    first = hashes()
    assert "threads" in first
    with (place / "tasks" / "threads.py").open("a") as file:
        file.write("# another version\n")
    second = hashes()
    assert {family for family in first if first[family] != second[family]} == {"threads"}
    with (place / "compiler.py").open("a") as file:
        file.write("# another version\n")
    third = hashes()
    assert all(second[f] != third[f] for f in first if f != "__init__")
    loader.family_hash.cache_clear()


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loader, "writable_directory", lambda: tmp_path)
    monkeypatch.setattr(loader.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loader._write("family-0/name.o", b"code")
    assert files(tmp_path) == []


def test_a_full_disk_costs_a_line_only(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loader, "writable_directory", lambda: tmp_path)
    monkeypatch.setattr(loader.os, "replace", full)
    loader._write("family-0/name.o", b"code")
    assert "No space left on device" in capsys.readouterr().err
    assert files(tmp_path) == []


# -- the command -----------------------------------------------------------------------------------


def command(cache, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tensorlib.kernels", *arguments],
        env=environment(cache, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_warm_compiles_a_family_once(tmp_path):
    cache = tmp_path / "cache"
    first = command(cache, "warm", "threads")
    assert first.returncode == 0, first.stderr
    line, last = first.stdout.splitlines()
    assert line.startswith("threads")
    assert "7 tasks, 7 compiled" in line
    assert str(cache) in last
    before = files(cache)
    second = command(cache, "warm", "threads")
    assert second.returncode == 0, second.stderr
    assert "7 tasks, all there" in second.stdout
    assert files(cache) == before


def test_the_listing_describes_the_host(warm):
    done = command(warm, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:5])
    assert lines["threads"] == "1"
    assert str(warm) in lines["cache"]
    assert "(0 KiB)" not in lines["cache"]
    assert "float32 numbers" in lines["vectors"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["wram"], "invalid choice: 'wram'"),
        (["warm", "threats"], "no family threats; there are"),
        (["list", "threads"], "a family is for 'warm'"),
    ],
)
def test_an_unknown_argument_is_a_usage_error(capsys, arguments, text):
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert text in capsys.readouterr().err


def test_warm_without_a_compiler_fails(tmp_path):
    done = command(tmp_path / "cache", "warm", "threads", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 1
    assert "NUMBA_DISABLE_JIT" in done.stdout


# -- the reference answers instead -----------------------------------------------------------------

WITHOUT = {
    "numba": ("import sys\nsys.modules['numba'] = None\n", "need Numba, which is not installed"),
    "llvmlite": ("import sys\nsys.modules['llvmlite'] = None\n", "need Numba"),
    "vectors": (
        "from tensorlib.kernels.cpu import host\nhost.features = lambda: {}\n"
        "host.platform.machine = lambda: 'x86_64'\n",
        "this x86_64 CPU has no AVX2 with FMA",
    ),
    "a compiler that works": (
        "from tensorlib.kernels.cpu import compiler\n"
        "def fail(function):\n    raise ValueError('no such\\nregister')\n"
        "compiler._compiled = fail\n",
        "does not compile: no such register",
    ),
}


@pytest.mark.parametrize("missing", sorted(WITHOUT))
def test_the_reference_answers_with_one_warning_without(missing, tmp_path):
    before, text = WITHOUT[missing]
    out, err = answer(tmp_path / "cache", before)
    count, message = out.split(maxsplit=3)[2:]
    assert count == "1"
    assert text in message
    assert message.endswith("NumPy computes instead\n")
    assert err.count("\n") <= 1
