"""Data sets of images and tables: folders, CSV files, MNIST's IDX files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from tensorlib.utils.data.dataset import Dataset, Rows
from tensorlib.vision.image import decode

Transform = Callable[[Any], Any]
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class DatasetError(ValueError):
    """Data that cannot be used as described; names the file and what is wrong with it."""


class ImageFolder(Dataset[tuple[Any, Any]]):
    """Images in one folder per class: `root/cat/a.png` is of class "cat".

    Classes are the sub-folders in sorted order; `samples` is the list of (path, class index), by
    class and then by path. Files are decoded by the policy of `tensorlib.vision.image`.

    Args:
        transform, target_transform: applied to the PIL image (RGB) and to the class index.
        loader: path to image, instead of `decode`.
        exif: "ignore" leaves EXIF orientation out, as torchvision does.

    Raises:
        FileNotFoundError: no such folder, no class folders, or a class without images.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        loader: Callable[[str], Any] | None = None,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        exif: Literal["apply", "ignore"] = "apply",
    ):
        self.root = os.fspath(root)
        self.transform = transform
        self.target_transform = target_transform
        self.loader = loader
        self.exif = exif
        if not os.path.isdir(self.root):
            raise FileNotFoundError(
                f"ImageFolder: {self.root}: no such folder; expected one with a sub-folder of "
                "images per class"
            )
        self.classes = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if not self.classes:
            raise FileNotFoundError(
                f"ImageFolder: {self.root}: no class folders; expected one sub-folder with images "
                "per class"
            )
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples: list[tuple[str, int]] = []
        for name, index in self.class_to_idx.items():
            paths = _files(os.path.join(self.root, name), tuple(extensions))
            if not paths:
                raise FileNotFoundError(
                    f"ImageFolder: {os.path.join(self.root, name)}: no images; expected files "
                    f"ending in {', '.join(extensions)}"
                )
            self.samples.extend((path, index) for path in paths)
        self.targets = [target for _, target in self.samples]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        try:
            image = self.loader(path) if self.loader else decode(path, exif=self.exif).image
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from error
        sample = self.transform(image) if self.transform else image
        return sample, self.target_transform(target) if self.target_transform else target

    def __len__(self) -> int:
        return len(self.samples)


class CSVDataset(Dataset[tuple[Any, Any]]):
    """Rows of a CSV file (read with pandas) as (float32 features, label).

    Args:
        path: a file that `pandas.read_csv` reads, compressed or not.
        label: name of the label column (its position, counted from 0 and negative from the end,
            where the file has no header). Integers stay class indices, text becomes the index into
            the sorted `classes`, floats stay float32 targets.
        features: names or positions of the feature columns; default all others.
        image_shape: shape of one sample, such as (1, 8, 8), instead of a flat row.
        header: whether the first line holds the names.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        label: str | int,
        features: Sequence[str | int] | None = None,
        image_shape: Sequence[int] | None = None,
        header: bool = True,
        transform: Transform | None = None,
    ):
        import pandas as pd

        where = f"CSVDataset: {os.fspath(path)}"
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{where}: no such file")
        try:
            table = pd.read_csv(path, header=0 if header else None)
        except (ValueError, UnicodeDecodeError, EOFError, zlib.error, OSError) as error:
            raise DatasetError(f"{where}: cannot be read as CSV: {error}") from error
        if not len(table):
            raise DatasetError(f"{where}: no rows; expected at least one")
        label_name = _column(table, label, where)
        if features is None:
            names = [name for name in table.columns if name != label_name]
        else:
            names = [_column(table, feature, where) for feature in features]
        if not names:
            raise DatasetError(f"{where}: no feature columns beside the label {label!r}")
        values = np.stack([_numbers(table[name], name, where) for name in names], axis=1)
        if image_shape is not None:
            if math.prod(image_shape) != len(names):
                raise DatasetError(
                    f"{where}: {len(names)} feature columns; "
                    f"expected {math.prod(image_shape)} for image_shape {tuple(image_shape)}"
                )
            values = values.reshape(-1, *image_shape)
        self.features = values
        self.feature_names = [str(name) for name in names]
        self.labels, self.classes = _labels(table[label_name], label_name, where)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample = self.features[index]
        return (self.transform(sample) if self.transform else sample), self.labels[index]

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], Rows] | None:
        """One gather per batch, offered when there is no transform."""
        if self.transform is not None:
            return None
        return lambda indices: Rows(self.features[indices], self.labels[indices])

    def __len__(self) -> int:
        return len(self.features)


class MNIST(Dataset[tuple[Any, int]]):
    """Handwritten digits, 28x28 gray, from IDX files (gzip or plain) in `root` or `root/MNIST/raw`.

    `images` is uint8 [N, 28, 28], `targets` int64 [N], both in memory. With a transform a sample is
    (transform(PIL image), int) as in torchvision; without one it is (uint8 array [28, 28], int),
    and a batch is one gather.

    Args:
        train: the 60,000 training or the 10,000 test images.
        download: fetch missing files into `root`, checked by SHA-256.
    """

    url: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    hint: ClassVar[str] = "pass download=True"

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        download: bool = False,
    ):
        self.root = os.fspath(root)
        self.train = train
        self.transform = transform
        self.target_transform = target_transform
        part = "train" if train else "t10k"
        image_file = self._file(f"{part}-images-idx3", download)
        label_file = self._file(f"{part}-labels-idx1", download)
        self.images = read_idx(image_file)
        self.targets = read_idx(label_file).astype(np.int64)
        if self.images.ndim != 3 or self.targets.shape != self.images.shape[:1]:
            raise DatasetError(
                f"{type(self).__name__}: {image_file} has shape {self.images.shape}, {label_file} "
                f"{self.targets.shape}; expected [N, height, width] and [N]"
            )
        if self.targets.size and not 0 <= self.targets.min() <= self.targets.max() < 10:
            raise DatasetError(f"{label_file}: labels up to {self.targets.max()}; expected 0..9")

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = self.images[index], int(self.targets[index])
        if self.transform is not None:
            from PIL import Image

            image = self.transform(Image.fromarray(image))
        return image, self.target_transform(target) if self.target_transform else target

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], Rows] | None:
        """One gather per batch, offered when there is no transform."""
        if self.transform is not None or self.target_transform is not None:
            return None
        return lambda indices: Rows(self.images[indices], self.targets[indices])

    def __len__(self) -> int:
        return len(self.images)

    def _file(self, kind: str, download: bool) -> Path:
        name = f"{kind}-ubyte"
        root = Path(self.root)
        folders = [root, root / type(self).__name__ / "raw"]
        for folder in folders:
            for candidate in (folder / f"{name}.gz", folder / name):
                if candidate.is_file():
                    return candidate
        if download:
            from tensorlib.vision.weights import fetch

            return fetch(f"{self.url}{name}.gz", self.sha256[kind], cache_dir=root)
        raise FileNotFoundError(
            f"{type(self).__name__}: {name}.gz or {name} is neither in "
            f"{' nor in '.join(str(folder) for folder in folders)}. Hint: {self.hint}"
        )


class FashionMNIST(MNIST):
    """Zalando's pictures of clothes in MNIST's format; Debian packages them too."""

    url: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }
    classes: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    hint: ClassVar[str] = (
        "apt install dataset-fashion-mnist (root /usr/share/datasets/fashion-mnist), "
        "or pass download=True"
    )


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """An IDX file (LeCun's format of MNIST), gzip-compressed or plain, as a writable native array.

    Raises:
        DatasetError: not an IDX file, or shorter or longer than its header says.
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if compressed else open(path, "rb") as stream:
            head = stream.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not head[3]:
                raise DatasetError(
                    f"{path}: not an IDX file (starts with {head.hex(' ') or 'nothing'}; "
                    "expected 00 00, a type and a number of dimensions)"
                )
            dtype = np.dtype(_IDX_TYPES[head[2]])
            sizes = stream.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise DatasetError(f"{path}: truncated inside the header of {head[3]} dimensions")
            shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
            expected = math.prod(shape) * dtype.itemsize
            # before anything is allocated: gzip packs at most 1032 bytes into one
            size = os.path.getsize(path)
            if expected > size * (1032 if compressed else 1):
                raise DatasetError(
                    f"{path}: truncated: {size} bytes cannot hold shape {shape} of {dtype.name}"
                )
            body = stream.read(expected + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{path}: damaged gzip file: {error}") from error
    if len(body) != expected:
        found = f"{len(body)} bytes" if len(body) < expected else "more bytes"
        raise DatasetError(
            f"{path}: {found} of data; expected {expected} for shape {shape} of {dtype.name}"
        )
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _files(folder: str, extensions: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for directory, _, names in sorted(os.walk(folder, followlinks=True)):
        matching = [name for name in sorted(names) if name.lower().endswith(extensions)]
        found.extend(os.path.join(directory, name) for name in matching)
    return found


def _column(table: Any, wanted: str | int, where: str) -> Any:
    columns = list(table.columns)
    if isinstance(wanted, int) and -len(columns) <= wanted < len(columns):
        return columns[wanted]
    if wanted in columns:
        return wanted
    raise DatasetError(f"{where}: no column {wanted!r}; the file has {columns[:20]}")


def _numbers(column: Any, name: Any, where: str) -> np.ndarray:
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce")
    bad = np.flatnonzero(values.isna().to_numpy())
    if bad.size:
        raise DatasetError(
            f"{where}: column {name!r}, row {bad[0] + 1}: {column.iloc[bad[0]]!r} is not a number "
            f"({bad.size} of {len(column)} rows); expected numbers without gaps"
        )
    return np.asarray(values.to_numpy(np.float32))


def _labels(column: Any, name: Any, where: str) -> tuple[np.ndarray, list[str] | None]:
    bad = np.flatnonzero(column.isna().to_numpy())
    if bad.size:
        raise DatasetError(f"{where}: column {name!r}, row {bad[0] + 1}: the label is missing")
    if column.dtype.kind in "iu":
        return column.to_numpy(np.int64), None
    if column.dtype.kind == "f":
        return column.to_numpy(np.float32), None
    text = column.astype(str).to_numpy(dtype=object)
    classes = sorted(set(text))
    index = {label: i for i, label in enumerate(classes)}
    return np.array([index[label] for label in text], np.int64), classes
