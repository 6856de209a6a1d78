"""Decoder processes: the same pixels as in process, and what a file can do to them."""

import io
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tensorlib.errors import InvalidValueError
from tensorlib.vision import decoding, image
from tensorlib.vision.decoding import DecoderError, DecoderPool
from tensorlib.vision.transforms import ImageClassification

PRESET = ImageClassification(crop_size=32, resize_size=40)
GRAY = ImageClassification(crop_size=8, resize_size=None, mean=(0.5,), std=(0.5,), mode="L")
LIMIT_S = 30

# A decoder that obeys its files, as real ones obey broken files
OBEDIENT = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("decoder", {path!r})
sys.modules["decoder"] = decoder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decoder)
before = decoder.pixels_of
held = []

def pixels_of(source, recipe):
    if source == b"crash":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    if source == b"loop":
        while True:
            pass
    if source == b"exit":
        os._exit(3)
    if source == b"hog":
        held.append(bytearray(1 << 33))
    if isinstance(source, bytes) and source.startswith(b"crash once ") and not os.path.exists(
        path := source[11:]
    ):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return before(source, recipe)

decoder.pixels_of = pixels_of
decoder.main()
"""


def encoded(size=(60, 50), format="PNG", seed=0, **options):
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def pool():
    with DecoderPool(PRESET, 2, timeout_s=LIMIT_S) as made:
        yield made


@pytest.fixture
def obedient(tmp_path, monkeypatch):
    program = tmp_path / "obedient.py"
    program.write_text(OBEDIENT.format(path=str(decoding._PROGRAM)))
    monkeypatch.setattr(decoding, "_PROGRAM", program)


@pytest.fixture
def files(tmp_path):
    """Paths and bytes of images, and things that are none."""
    turned = Image.Exif()
    turned[0x0112] = 6
    given = []
    for i, data in enumerate(
        [
            encoded((60, 50), seed=1),
            encoded((40, 200), "JPEG", seed=2, exif=turned),
            b"",
            encoded((33, 50), "WEBP", seed=3),
            b"no image",
            encoded((700, 90), "TIFF", seed=4),
        ]
    ):
        path = tmp_path / f"{i} \n=\udcff.png"
        path.write_bytes(data)
        given += [path, str(path), data]
    return [*given, tmp_path, tmp_path / "missing"]


def test_the_same_as_in_process(pool, files):
    with DecoderPool(PRESET, 0) as here:
        expected = here.decode(files)
    found = pool.decode(files)
    assert found.errors == expected.errors
    for name in ("images", "width", "height", "rotated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for i, source in enumerate(files):
        if found.errors[i] is None:
            decoded = image.decode(source)
            np.testing.assert_array_equal(found.images[i], PRESET.to_uint8(decoded.image))
            assert (found.width[i], found.height[i]) == decoded.image.size
            assert found.rotated[i] == decoded.rotated
        else:
            assert not found.images[i].any()
    assert found.errors[6].startswith("empty file")
    assert found.errors[-2:] == ["not a regular file but a directory", "no such file"]
    assert sum(error is None for error in found.errors) == 12


def test_nothing_to_do(pool):
    found = pool.decode([])
    assert found.images.shape == (0, 32, 32, 3)
    assert found.errors == []


def test_gray_and_options():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded((8, 20), exif=exif)
    for processes in (0, 1):
        with DecoderPool(GRAY, processes, exif="ignore") as pool:
            found = pool.decode([data])
        assert found.images.shape == (1, 8, 8, 1)
        assert (found.width[0], found.height[0], found.rotated[0]) == (8, 20, False)
        gray = image.decode(data, "L", exif="ignore").image
        np.testing.assert_array_equal(found.images[0], GRAY.to_uint8(gray))


def test_a_file_that_kills_its_decoder_is_alone(obedient):
    good = [encoded(seed=i) for i in range(4)]
    given = [good[0], b"crash", good[1], b"exit", good[2], b"hog", good[3]]
    with DecoderPool(PRESET, 2, timeout_s=LIMIT_S) as pool:
        found = pool.decode(given)
        again = pool.decode(good)
    assert found.errors == [
        *(None, "the decoder was killed by SIGSEGV, 2 times"),
        *(None, "the decoder ended with status 3, 2 times"),
        *(None, "not enough memory to decode the image", None),
    ]
    with DecoderPool(PRESET, 0) as here:
        np.testing.assert_array_equal(found.images[::2], here.decode(good).images)
    np.testing.assert_array_equal(found.images[::2], again.images)


def test_an_endless_decoder_is_stopped(obedient):
    good = [encoded(seed=i) for i in range(3)]
    with DecoderPool(PRESET, 1, timeout_s=1.0) as pool:
        began = time.monotonic()
        found = pool.decode([good[0], b"loop", good[1], good[2]])
        assert time.monotonic() - began < LIMIT_S
    assert found.errors == [None, "decoding took longer than 1 s", None, None]


def test_a_file_that_takes_long():
    file = io.BytesIO()
    Image.new("L", (7000, 7000), 77).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]  # each repetition is one more pass over all pixels
    slow = data[:-2] + scan * 90 + data[-2:]
    with DecoderPool(PRESET, 1, timeout_s=0.6) as pool:
        found = pool.decode([slow, encoded()])
    assert found.errors == ["decoding took longer than 0.6 s", None]


def test_what_happens_once_is_not_the_files_fault(obedient, tmp_path):
    mark = tmp_path / "mark"
    with DecoderPool(PRESET, 1, timeout_s=LIMIT_S) as pool:
        found = pool.decode([b"crash once " + os.fsencode(mark), encoded()])
    assert mark.exists()
    assert found.errors[0].startswith("not an image")
    assert found.errors[1] is None


def test_a_decoder_killed_between_calls():
    with DecoderPool(PRESET, 1, timeout_s=LIMIT_S) as pool:
        first = pool.decode([encoded()])
        os.kill(pool._processes[0].process.pid, signal.SIGKILL)
        second = pool.decode([encoded()])
    assert first.errors == second.errors == [None]


def test_a_stopped_decoder_is_late():
    with DecoderPool(PRESET, 1, timeout_s=1.0) as pool:
        pool.decode([encoded()])
        os.kill(pool._processes[0].process.pid, signal.SIGSTOP)
        assert pool.decode([encoded()]).errors == ["decoding took longer than 1 s"]
        assert pool.decode([encoded()]).errors == [None]


def test_memory_is_limited():
    large = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(large, "PNG")  # 108 MB of pixels
    for memory, errors in (
        (64 << 20, ["not enough memory to decode the image"]),
        (1 << 30, [None]),
    ):
        with DecoderPool(PRESET, 1, memory_bytes=memory, timeout_s=LIMIT_S) as pool:
            found = pool.decode([large.getvalue(), encoded()])
            assert found.errors == [*errors, None]


def test_decoders_that_do_not_start(tmp_path, monkeypatch, capfd):
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('no Pillow here')")
    monkeypatch.setattr(decoding, "_PROGRAM", program)
    with DecoderPool(PRESET, 1) as pool:
        for _ in range(2):
            with pytest.raises(DecoderError, match="ended with status 1 before it was ready"):
                pool.decode([encoded()])
    assert "no Pillow here" in capfd.readouterr().err


def test_an_interrupted_call_leaves_nothing_for_the_next(obedient, monkeypatch):
    with DecoderPool(PRESET, 1, timeout_s=LIMIT_S) as pool:
        pool.decode([encoded()])

        def interrupt(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pool, "_wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.decode([b"loop"])
        assert pool.decode([encoded(), b"no image"]).errors[0] is None


def test_calls_from_threads(pool):
    data = [encoded(seed=i) for i in range(8)]
    expected = pool.decode(data).images
    found = {}

    def work(i):
        found[i] = pool.decode(data[i:]).images

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    for i in range(4):
        np.testing.assert_array_equal(found[i], expected[i:])


def test_processes_end_with_the_pool():
    pool = DecoderPool(PRESET, 2)
    processes = [process.process for process in pool._processes]
    pool.close()
    assert all(process.returncode is not None for process in processes)
    with pytest.raises(DecoderError, match="after close"):
        pool.decode([encoded()])
    pool = DecoderPool(PRESET, 1)
    process = pool._processes[0].process
    del pool
    assert process.returncode is not None


def test_processes_end_with_their_parent():
    program = (
        "import os, signal\n"
        "from tensorlib.vision.decoding import DecoderPool\n"
        "from tensorlib.vision.transforms import ImageClassification\n"
        "pool = DecoderPool(ImageClassification(8, 8), 2)\n"
        "pool.decode([b''])\n"
        "print(*(process.process.pid for process in pool._processes), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = done.stdout.split()
    assert len(pids) == 2
    end = time.monotonic() + LIMIT_S
    while alive := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < end, f"{alive} run on"


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_leaves_them_to_its_parent():
    pool = DecoderPool(PRESET, 1)
    pool.decode([encoded()])
    child = os.fork()
    if not child:
        del pool
        os._exit(0)
    os.waitpid(child, 0)
    process = pool._processes[0].process
    assert pool.decode([encoded()]).errors == [None]
    assert pool._processes[0].process is process
    pool.close()


def test_a_decoder_process_is_light(pool):
    pool.decode([encoded()])
    with open(f"/proc/{pool._processes[0].process.pid}/maps") as maps:
        loaded = maps.read()
    assert "_imaging" in loaded
    for heavy in ("llvmlite", "numba", "_raylet", "pyarrow"):
        assert heavy not in loaded


@pytest.mark.parametrize("orientation", [1, 6])
def test_draft(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.mgrid[:480, :640]
    smooth = np.stack([y // 2, x // 3, (x + y) // 5], 2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=95, exif=exif)
    found = image.decode(file.getvalue(), draft=100)
    assert found.image.size == ((160, 120) if orientation == 1 else (120, 160))
    assert (found.width, found.height) == ((640, 480) if orientation == 1 else (480, 640))
    assert image.decode(file.getvalue(), draft=241).image.size[0] in (640, 480)
    with DecoderPool(PRESET, 1, draft=True) as pool, DecoderPool(PRESET, 0) as full:
        fast, exact = pool.decode([file.getvalue()]), full.decode([file.getvalue()])
        assert pool.policy()["jpeg_scaling"] == "draft"
    assert (fast.width[0], fast.height[0]) == (exact.width[0], exact.height[0])
    difference = np.abs(fast.images.astype(int) - exact.images)
    assert 0 < difference.max() < 8


def test_the_policy_names_the_limits(pool):
    found = pool.policy()
    assert (found["processes"], found["timeout_s"], found["memory_bytes"]) == (2, LIMIT_S, 1 << 30)
    assert found["orientation"] == "from EXIF"
    assert found["jpeg_scaling"] == "none"


@pytest.mark.parametrize(
    "options",
    [{"processes": -1}, {"processes": 1, "timeout_s": 0}, {"processes": 1, "memory_bytes": 0}],
)
def test_arguments_are_checked(options):
    with pytest.raises(InvalidValueError, match="DecoderPool"):
        DecoderPool(PRESET, **options)
    with pytest.raises(InvalidValueError, match="does not resize"):
        DecoderPool(GRAY, 0, draft=True)
