"""The shipped digits and the folder made of them."""

import numpy as np
import pytest

from jobs.data import digits
from tensorlib.vision.image import ImageError, decode


def test_split_is_fixed_and_complete():
    train, train_labels = digits.load("train")
    test, test_labels = digits.load("test")
    assert train.shape == (1437, 8, 8)
    assert test.shape == (360, 8, 8)
    assert train.dtype == np.uint8
    assert (train.min(), train.max()) == (0, 255)
    assert train_labels.dtype == np.int64
    counts = np.bincount(np.concatenate([train_labels, test_labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    np.testing.assert_array_equal(digits.load("test")[0], test)


def test_split_must_be_known():
    with pytest.raises(ValueError, match="split='val'"):
        digits.load("val")


def test_classes_can_be_told_apart():
    """Nearest neighbours alone reach 0.95, so a small CNN has room."""
    train, labels = digits.load("train")
    test, truth = digits.load("test")
    a, b = train.reshape(-1, 64).astype(float), test.reshape(-1, 64).astype(float)
    distance = (a * a).sum(1) - 2 * b @ a.T
    assert (labels[distance.argmin(1)] == truth).mean() > 0.95


def test_main_writes_images_and_two_bad_files(tmp_path, capsys):
    folder = tmp_path / "new" / "images"
    assert digits.main([str(folder)]) == 0
    assert "362 files" in capsys.readouterr().out
    images, labels = digits.load("test")
    assert len(list(folder.iterdir())) == 362
    png = decode(folder / f"0000_label{labels[0]}.png", "L")
    np.testing.assert_array_equal(np.asarray(png.image), images[0])
    jpeg = np.asarray(decode(folder / f"0001_label{labels[1]}.jpg", "L").image)
    assert np.abs(jpeg.astype(int) - images[1]).mean() < 10
    with pytest.raises(ImageError, match=r"truncated|decoded"):
        decode(folder / "corrupt.jpg")
    with pytest.raises(ImageError, match="empty"):
        decode(folder / "empty.png")


def test_main_explains_itself(tmp_path, capsys):
    assert digits.main([]) == 2
    (tmp_path / "file").write_text("")
    assert digits.main([str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert "usage" in err
    assert "cannot be written" in err
