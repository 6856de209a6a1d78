"""The corpus of odd and hostile files: verdicts, pixels, and what they cost."""

import re

import numpy as np
import pytest
from PIL import Image

from tensorlib.vision.decoding import DecoderPool
from tensorlib.vision.image import ImageError, decode
from tensorlib.vision.transforms import ImageClassification

from .corpus import cases

PRESET = ImageClassification(crop_size=24, resize_size=32)
ALL = cases()
CASES = {case.name: case for case in ALL}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return {name: case.write(folder) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def pooled(paths):
    """What a pool of decoders makes of all of them, and the most memory that one of them had."""
    with DecoderPool(PRESET, 2, timeout_s=60) as pool:
        names = list(paths)
        found = pool.decode([paths[name] for name in names])
        peaks = []
        for process in pool._processes:
            with open(f"/proc/{process.process.pid}/status") as status:
                peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) << 10)
    return {name: i for i, name in enumerate(names)}, found, peaks


def rgb(pixels):
    pixels = np.rint(pixels).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels


def test_there_are_enough():
    assert len(CASES) == len(ALL) >= 80
    assert sum(case.refused is None for case in CASES.values()) >= 40


@pytest.mark.parametrize("name", CASES)
def test_verdict_and_pixels(name, paths, pooled):
    case = CASES[name]
    places, found, _ = pooled
    error, small = found.errors[places[name]], found.images[places[name]]
    if case.refused is not None:
        assert error is not None
        assert re.search(case.refused, error), error
        assert "\n" not in error
        assert not small.any()
        with pytest.raises(ImageError) as caught:
            decode(paths[name])
        assert str(caught.value) == error
        return
    assert error is None
    assert found.rotated[places[name]] == case.rotated
    decoded = decode(paths[name])
    np.testing.assert_array_equal(small, PRESET.to_uint8(decoded.image))
    if case.pixels is not None:
        expected = rgb(case.pixels)
        assert decoded.image.size == expected.shape[1::-1]
        shown = np.asarray(decoded.image)
        above, below = np.maximum(shown, expected), np.minimum(shown, expected)
        assert (above - below).max() <= case.within
        size = (found.width[places[name]], found.height[places[name]])
        assert size == expected.shape[1::-1]
        ours = PRESET.to_uint8(Image.fromarray(expected))
        assert np.abs(small.astype(int) - ours).max() <= case.within + 1


def test_memory_stays_below_a_gibibyte(pooled):
    _, _, peaks = pooled
    assert max(peaks) < 1 << 30
