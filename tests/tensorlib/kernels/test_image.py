"""Bytes of images become the numbers that ToTensor and Normalize give, bit for bit."""

import numpy as np
import pytest

from tensorlib.kernels import cpu, image
from tensorlib.vision.transforms import Compose, ImageClassification, Normalize, ToTensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def compiled_whatever_the_size(monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (3, 50, 41, 3), (2, 224, 224, 3)])
def test_a_batch_is_its_images(shape):
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    made = ImageClassification(224).normalize(batch)
    transform = Compose([ToTensor(), Normalize(MEAN, STD)])
    for one, picture in zip(made, batch, strict=True):
        assert np.array_equal(one, transform(picture).numpy())


def test_every_byte_in_every_channel():
    every = np.arange(256, dtype=np.uint8).repeat(5).reshape(256, 5)
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 1.5)
    expected = image.normalize_bytes.reference(every, mean, std)
    assert image.normalize_bytes.overrides[0].condition(every, mean, std)
    assert np.array_equal(image.normalize_bytes(every, mean, std), expected)


@pytest.mark.oracle
def test_the_numbers_are_pytorchs():
    torch = pytest.importorskip("torch")
    batch = np.random.default_rng(0).integers(0, 256, (4, 33, 31, 3), np.uint8)
    given = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div(255)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    expected = given.sub(mean).div(std)
    assert np.array_equal(ImageClassification(224).normalize(batch), expected.numpy())
