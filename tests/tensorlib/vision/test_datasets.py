"""Folders, CSV files and IDX files; what is wrong with them is said."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tensorlib.utils.data import Rows, Subset
from tensorlib.vision.datasets import (
    MNIST,
    CSVDataset,
    DatasetError,
    FashionMNIST,
    ImageFolder,
    read_idx,
)


def save(path, value, size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


class TestImageFolder:
    def test_sorted_classes_and_files(self, tmp_path):
        for name in ("b/2.png", "b/1.PNG", "a/x/deep.bmp", "c/z.jpg"):
            save(tmp_path / name, 7)
        (tmp_path / "b" / "notes.txt").write_text("no image")
        (tmp_path / "top.png").write_bytes(b"beside the classes")
        folder = ImageFolder(tmp_path, target_transform=lambda target: target * 10)
        assert folder.classes == ["a", "b", "c"]
        assert folder.class_to_idx == {"a": 0, "b": 1, "c": 2}
        names = [os.path.relpath(path, tmp_path) for path, _ in folder.samples]
        assert names == ["a/x/deep.bmp", "b/1.PNG", "b/2.png", "c/z.jpg"]
        assert folder.targets == [0, 1, 1, 2]
        assert len(folder) == 4
        image, target = folder[1]
        assert image.getpixel((0, 0)) == (7, 0, 0)
        assert target == 10

    def test_transform_loader_and_exif(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / "a").mkdir()
        Image.new("RGB", (5, 4)).save(tmp_path / "a" / "turned.jpg", exif=exif)
        assert ImageFolder(tmp_path)[0][0].size == (4, 5)
        assert ImageFolder(tmp_path, exif="ignore")[0][0].size == (5, 4)
        assert ImageFolder(tmp_path, transform=lambda image: image.size)[0][0] == (4, 5)
        assert ImageFolder(tmp_path, loader=Path)[0][0].name == "turned.jpg"

    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
            ImageFolder(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="no class folders"):
            ImageFolder(tmp_path)
        save(tmp_path / "a" / "1.png", 0)
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="empty: no images"):
            ImageFolder(tmp_path)

    def test_a_bad_image_names_its_path(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "bad.png").write_bytes(b"")
        with pytest.raises(DatasetError, match=r"a/bad\.png: empty file"):
            ImageFolder(tmp_path)[0]


class TestCSV:
    def test_labels_of_each_kind(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("x,kind,y,n,value\n1,dog,2,3,0.5\n4,cat,5.5,4,1.5\n7,dog,8,3,2\n")
        text = CSVDataset(path, "kind", ["y", "x"])
        np.testing.assert_array_equal(text.features, [[2, 1], [5.5, 4], [8, 7]])
        assert text.features.dtype == np.float32
        assert text.classes == ["cat", "dog"]
        assert text.labels.tolist() == [1, 0, 1]
        assert text.feature_names == ["y", "x"]
        numbers = CSVDataset(path, "n", ["x"])
        assert (numbers.labels.tolist(), numbers.classes) == ([3, 4, 3], None)
        assert numbers.labels.dtype == np.int64
        assert CSVDataset(path, "value", ["x"]).labels.dtype == np.float32
        others = CSVDataset(path, -1, ["x", "y", "n"])
        assert others.labels.tolist() == [0.5, 1.5, 2]

    def test_image_shape_batches_and_transform(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("0,1,2,3,9\n4,5,6,7,8\n")
        images = CSVDataset(path, -1, image_shape=(1, 2, 2), header=False)
        sample, label = images[1]
        np.testing.assert_array_equal(sample, [[[4, 5], [6, 7]]])
        assert label == 8
        rows = images.__getitems__([1, 0])
        assert isinstance(rows, Rows)
        np.testing.assert_array_equal(rows.columns[1], [8, 9])
        changed = CSVDataset(path, 4, header=False, transform=lambda row: row.sum())
        assert changed[0][0] == 6
        assert changed.__getitems__ is None

    def test_gzip(self, tmp_path):
        with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
            file.write("a,b\n1,2\n")
        assert CSVDataset(tmp_path / "t.csv.gz", "b").features.tolist() == [[1]]

    @pytest.mark.parametrize(
        ("text", "arguments", "message"),
        [
            ("a,b\n1,2\n", {"label": "c"}, r"no column 'c'; the file has \['a', 'b'\]"),
            ("a,b\n1,2\n", {"label": 5}, "no column 5"),
            ("a,b\n1,2\nx,3\n", {"label": "b"}, "column 'a', row 2: 'x' is not a number"),
            ("a,b\n1,2\n,3\n", {"label": "b"}, "column 'a', row 2: .*nan"),
            ("a,b\n1,2\n1,\n", {"label": "b"}, "column 'b', row 2: the label is missing"),
            ("a,b\n", {"label": "b"}, "no rows"),
            ("", {"label": "b"}, "cannot be read as CSV"),
            ("b\n1\n", {"label": "b"}, "no feature columns"),
            ("a,b\n1,2\n", {"label": "b", "image_shape": (2, 2)}, "1 feature columns; expected 4"),
            ('a,b\n1,2\n"3\n', {"label": "b"}, "cannot be read as CSV"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, text, arguments, message):
        path = tmp_path / "t.csv"
        path.write_text(text)
        with pytest.raises(DatasetError, match=message):
            CSVDataset(path, **arguments)

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            CSVDataset(tmp_path / "t.csv", "a")


def idx(array, kind=0x08):
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


class TestIDX:
    @pytest.mark.parametrize(
        ("kind", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]
    )
    @pytest.mark.parametrize("compressed", [False, True])
    def test_every_type(self, tmp_path, kind, dtype, compressed):
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        data = idx(array, kind)
        path = tmp_path / "file"
        path.write_bytes(gzip.compress(data) if compressed else data)
        result = read_idx(path)
        np.testing.assert_array_equal(result, array)
        assert result.dtype == np.dtype(dtype)
        assert result.flags.writeable

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "starts with nothing"),
            (b"\x01\x02\x08\x01", "not an IDX file"),
            (b"\0\0\x07\x01" + b"\0" * 8, "not an IDX file"),
            (b"\0\0\x08\x03\0\0", "truncated inside the header"),
            (idx(np.zeros(5, "u1"))[:-1], r"4 bytes of data; expected 5 for shape \(5,\)"),
            (idx(np.zeros(5, "u1")) + b"x", "more bytes of data; expected 5"),
            (b"\0\0\x08\x02" + b"\xff" * 8, "truncated: 12 bytes cannot hold shape"),
            (gzip.compress(idx(np.zeros(5000, "u1")))[:-20], "damaged gzip file"),
            (b"\x1f\x8bnonsense", "damaged gzip file"),
        ],
    )
    def test_damage_is_named(self, tmp_path, data, message):
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=message):
            read_idx(path)


@pytest.fixture
def mnist_root(tmp_path):
    images = np.arange(3 * 28 * 28).reshape(3, 28, 28).astype(np.uint8)
    labels = np.array([7, 0, 9], np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(images[:2]))
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[:2])))
    return tmp_path, images


class TestMNIST:
    def test_reads_gzip_and_plain_from_both_places(self, mnist_root):
        root, images = mnist_root
        train = MNIST(root)
        np.testing.assert_array_equal(train.images, images)
        assert train.targets.tolist() == [7, 0, 9]
        test = FashionMNIST(root, train=False)
        assert len(test) == 2
        assert test.classes[test.targets[0]] == "Sneaker"

    def test_samples_and_batches(self, mnist_root):
        root, images = mnist_root
        plain = MNIST(root)
        image, target = plain[1]
        np.testing.assert_array_equal(image, images[1])
        assert target == 0
        rows = Subset(plain, [2, 0]).__getitems__([0, 1])
        np.testing.assert_array_equal(rows.columns[0], images[[2, 0]])
        changed = MNIST(root, transform=lambda image: image.mode, target_transform=str)
        assert changed[0] == ("L", "7")
        assert changed.__getitems__ is None
        assert Subset(changed, [0]).__getitems__ is None

    def test_missing_files_are_named_with_a_way_out(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz.*download=True"):
            MNIST(tmp_path)
        with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
            FashionMNIST(tmp_path)

    def test_files_that_do_not_belong_together(self, mnist_root):
        root, _ = mnist_root
        (root / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, "u1")))
        with pytest.raises(DatasetError, match=r"shape \(3, 28, 28\), .* \(2,\)"):
            MNIST(root)
        (root / "train-labels-idx1-ubyte").write_bytes(idx(np.full(3, 10, "u1")))
        with pytest.raises(DatasetError, match="labels up to 10"):
            MNIST(root)

    def test_download_checks_the_published_file(self, mnist_root, monkeypatch, tmp_path):
        root, _ = mnist_root
        asked = []

        def fetch(url, sha256, *, cache_dir):
            asked.append((url, sha256))
            return (
                root
                / {"images": "train-images-idx3-ubyte.gz", "labels": "labels"}[
                    "images" if "images" in url else "labels"
                ]
            )

        (root / "labels").write_bytes(idx(np.zeros(3, "u1")))
        monkeypatch.setattr("tensorlib.vision.weights.fetch", fetch)
        assert len(FashionMNIST(tmp_path / "new", download=True)) == 3
        assert asked == [
            (
                f"{FashionMNIST.url}train-images-idx3-ubyte.gz",
                FashionMNIST.sha256["train-images-idx3"],
            ),
            (
                f"{FashionMNIST.url}train-labels-idx1-ubyte.gz",
                FashionMNIST.sha256["train-labels-idx1"],
            ),
        ]
