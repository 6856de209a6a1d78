"""The data sets that jobs can name, each with what its models need to know about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, model_validator

from jobs.config import Part
from jobs.data import digits
from tensorlib.utils.data import Dataset, TensorDataset
from tensorlib.vision.datasets import FashionMNIST, ImageFolder
from tensorlib.vision.resizing import to_array
from tensorlib.vision.transforms import (
    Compose,
    ImageClassification,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
)

FASHION_MNIST_ROOT = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist


class DataConfig(Part):
    """Which data set. `root` and `download` for fashion_mnist, `root` for image_folder.

    image_folder wants `root/train/CLASS/*.jpg` and `root/val/CLASS/*.jpg`; images are resized to
    `image_size` (short side) and cropped to a square.
    """

    name: Literal["digits", "fashion_mnist", "image_folder"]
    root: Path | None = None
    download: bool = False
    image_size: int = Field(default=64, ge=8)

    @model_validator(mode="after")
    def _only_what_counts(self) -> DataConfig:
        used = {
            "digits": set(),
            "fashion_mnist": {"root", "download"},
            "image_folder": {"root", "image_size"},
        }[self.name]
        fields = type(self).model_fields
        ignored = sorted(
            name
            for name in fields.keys() - used - {"name"}
            if getattr(self, name) != fields[name].default
        )
        if ignored:
            raise ValueError(f"{self.name} takes no {' and no '.join(ignored)}")
        if self.name == "image_folder" and self.root is None:
            raise ValueError("image_folder needs root, a folder with train/ and val/")
        return self


class AugmentConfig(Part):
    """What is drawn anew for each sample in each epoch, from (seed, epoch, sample).

    Args:
        crop_padding: a random part of the image with as many zeros added on each side.
        flip: mirror left and right, one time out of two.
        resized_crop: a random part of 8 to 100 % of the area, resized (image_folder only).
    """

    crop_padding: int = Field(default=0, ge=0)
    flip: bool = False
    resized_crop: bool = False

    def arrays(self, size: int) -> Compose | None:
        """The part that works on decoded square images; None where there is none."""
        steps: list[Any] = []
        if self.crop_padding:
            steps.append(RandomCrop(size, padding=self.crop_padding))
        if self.flip:
            steps.append(RandomHorizontalFlip())
        return Compose(steps) if steps else None


class SizedDataset(Protocol):
    """A data set that knows its length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Source:
    """A data set. A sample is (uint8 image [H, W] or [H, W, C], class index)."""

    train: SizedDataset
    test: SizedDataset
    classes: list[str]
    preset: ImageClassification
    facts: dict[str, Any]

    def model_options(self, model: str) -> dict[str, Any]:
        """What `model` has to be built with for this data. Raises ValueError if it cannot be."""
        options: dict[str, Any] = {"num_classes": len(self.classes)}
        channels, size = len(self.preset.mean), self.preset.crop_size
        if model == "small_cnn":
            return options | {"in_channels": channels, "image_size": size}
        if model == "mlp":
            return options | {"in_features": channels * size * size}
        if channels != 3:
            raise ValueError(
                f"params.model.name: {model} takes RGB images, {self.facts['name']} has {channels} "
                "channel; expected small_cnn or mlp"
            )
        return options


class Augmented(Dataset[tuple[Any, Any]]):
    """`dataset` with a transform of its images."""

    def __init__(self, dataset: SizedDataset, transform: Callable[[Any], Any]) -> None:
        self.dataset, self.transform = dataset, transform

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.dataset[index]
        return self.transform(image), label

    def __len__(self) -> int:
        return len(self.dataset)


def load_source(
    config: DataConfig,
    augment: AugmentConfig | None = None,
    preset: ImageClassification | None = None,
) -> Source:
    """Open the data set. Raises FileNotFoundError or ValueError where it is not as described.

    With the `preset` of a trained model, images are prepared as that model knows them; a data set
    whose images are of one size has to fit it.
    """
    augment = augment or AugmentConfig()
    if augment.resized_crop and config.name != "image_folder":
        raise ValueError(
            f"augment.resized_crop: {config.name} has images of one size already; expected "
            "image_folder. Hint: augment.crop_padding"
        )
    if config.name == "digits":
        source = _digits()
    elif config.name == "fashion_mnist":
        source = _fashion_mnist(config.root or FASHION_MNIST_ROOT, config.download)
    else:
        assert config.root is not None
        size = config.image_size
        usual = preset or ImageClassification(size, round(size * 256 / 224))
        source = _image_folder(config.root, usual, augment.resized_crop)
    if preset is not None:
        source = _prepared(source, preset)
    transform = augment.arrays(source.preset.crop_size)
    if transform is None:
        return source
    return replace(source, train=Augmented(source.train, transform))


def _digits() -> Source:
    train, test = digits.load("train"), digits.load("test")
    # mean and std of the training images
    preset = ImageClassification(8, 8, mean=(0.3055,), std=(0.3759,), mode="L")
    return Source(
        TensorDataset(*train),
        TensorDataset(*test),
        [str(digit) for digit in range(10)],
        preset,
        _facts("digits", train[0], test[0]),
    )


def _fashion_mnist(root: Path, download: bool) -> Source:
    train = FashionMNIST(root, train=True, download=download)
    test = FashionMNIST(root, train=False, download=download)
    preset = ImageClassification(28, 28, mean=(0.2860,), std=(0.3530,), mode="L")
    facts = _facts("fashion_mnist", train.images, test.images) | {"root": str(root)}
    return Source(train, test, list(train.classes), preset, facts)


def _prepared(source: Source, preset: ImageClassification) -> Source:
    """`source` for a model that was trained with `preset`."""
    own = source.preset
    if (own.crop_size, own.mode) != (preset.crop_size, preset.mode):
        raise ValueError(
            f"params.data: {source.facts['name']} has {own.mode} images of {own.crop_size}x"
            f"{own.crop_size}; the model was trained on {preset.mode} of {preset.crop_size}x"
            f"{preset.crop_size}; expected the same"
        )
    return replace(source, preset=preset)


def _image_folder(root: Path, preset: ImageClassification, resized_crop: bool) -> Source:
    drawn = Compose([RandomResizedCrop(preset.crop_size), to_array])
    train = ImageFolder(root / "train", transform=drawn if resized_crop else preset.to_uint8)
    test = ImageFolder(root / "val", transform=preset.to_uint8)
    if train.classes != test.classes:
        raise ValueError(
            f"{root}: train/ has the classes {train.classes}, val/ {test.classes}; expected "
            "the same"
        )
    facts = {
        "name": "image_folder",
        "root": str(root),
        "train_samples": len(train),
        "test_samples": len(test),
    }
    return Source(train, test, train.classes, preset, facts)


def _facts(name: str, train: Any, test: Any) -> dict[str, Any]:
    """Counts and a digest of the pixels, for the report."""
    digest = hashlib.sha256(train.tobytes() + test.tobytes()).hexdigest()
    return {
        "name": name,
        "train_samples": len(train),
        "test_samples": len(test),
        "sha256": digest,
    }
