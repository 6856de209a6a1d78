"""Compiled models whose input is images of bytes: the normalisation is part of the program."""

import pickle

import numpy as np
import pytest

import tensorlib
from tensorlib import inference, nn
from tensorlib.errors import InvalidValueError
from tensorlib.inference import InferenceWarning
from tensorlib.vision import models
from tensorlib.vision.transforms import ImageClassification

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESET = ImageClassification(crop_size=32, mean=MEAN, std=STD)


class Added(nn.Module):
    """The first convolution adds something."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        return (self.a(x) + self.b(x)).relu().mean((2, 3))


def pixels(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def compiled_both(model, x, preset=PRESET):
    """Compiled for bytes, and for numbers."""
    of_bytes = inference.compile(model, tensorlib.from_numpy(x), mean=preset.mean, std=preset.std)
    return of_bytes, inference.compile(model, tensorlib.from_numpy(preset.normalize(x)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.resnet18(num_classes=5),
        lambda: models.efficientnet_lite0(num_classes=5),
        lambda: models.small_cnn(num_classes=5, in_channels=3, image_size=32),
        lambda: models.mlp(3 * 32 * 32, (16,), 5),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(), nn.Conv2d(3, 32, 1)),
        Added,
    ],
    ids=["resnet18", "efficientnet_lite0", "small_cnn", "mlp", "depthwise", "added"],
)
def test_the_same_as_normalised_first(build):
    tensorlib.manual_seed(0)
    model = build().eval()
    x = pixels(4, 32, 32, 3)
    of_bytes, of_numbers = compiled_both(model, x)
    assert "run one by one" not in of_bytes.summary()
    with tensorlib.no_grad():
        eager = model(tensorlib.from_numpy(PRESET.normalize(x))).numpy()
    found = of_bytes(tensorlib.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, eager, rtol=0, atol=1e-4 * np.abs(eager).max())
    exact = of_numbers(tensorlib.from_numpy(PRESET.normalize(x))).numpy()
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(eager).max())
    assert of_bytes.independent
    for n in (1, 3, 7):  # fewer than the example, and more: in pieces
        some = pixels(n, 32, 32, 3)
        some[: min(n, 4)] = x[:n]
        again = of_bytes(tensorlib.from_numpy(some)).numpy()
        np.testing.assert_array_equal(again[: min(n, 4)], found[:n])


def test_the_normalisation_is_fused():
    model = models.resnet18(num_classes=5).eval()
    of_bytes, of_numbers = compiled_both(model, pixels(2, 64, 64, 3))
    assert "1 normalisations fused" in of_bytes.summary()
    assert "bytes as numbers" not in of_bytes.summary()
    assert "normalisations" not in of_numbers.summary()


def test_gray():
    preset = ImageClassification(crop_size=28, mean=(0.13,), std=(0.3,), mode="L")
    model = models.small_cnn(num_classes=10).eval()
    x = pixels(3, 28, 28, 1)
    of_bytes, of_numbers = compiled_both(model, x, preset)
    np.testing.assert_array_equal(
        of_bytes(tensorlib.from_numpy(x)).numpy(),
        of_numbers(tensorlib.from_numpy(preset.normalize(x))).numpy(),
    )


@pytest.mark.parametrize("first", ["convolution", "linear"])
def test_bytes_are_read_where_they_lie(first):
    if first == "convolution":
        model = models.small_cnn(num_classes=4, in_channels=3, image_size=16).eval()
    else:
        model = models.mlp(3 * 16 * 16, (8,), 4).eval()
    x = pixels(2, 16, 16, 3)
    compiled = inference.compile(model, tensorlib.from_numpy(x), mean=MEAN, std=STD)
    expected = compiled(tensorlib.from_numpy(x)).numpy()
    wide = np.zeros((2, 20, 32, 3), np.uint8)
    wide[:, 2:18, ::2] = x
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for view in (wide[:, 2:18, ::2], planes):
        assert not view.flags.c_contiguous
        np.testing.assert_array_equal(compiled(tensorlib.from_numpy(view)).numpy(), expected)


def test_other_forms_run_the_model_itself(monkeypatch):
    model = models.resnet18(num_classes=3).eval()
    compiled = inference.compile(
        model, tensorlib.from_numpy(pixels(2, 32, 32, 3)), mean=MEAN, std=STD
    )
    x = pixels(2, 48, 40, 3)
    with pytest.warns(InferenceWarning, match="shape"):
        found = compiled(tensorlib.from_numpy(x))
    with tensorlib.no_grad():
        expected = model(tensorlib.from_numpy(PRESET.normalize(x)))
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    monkeypatch.setenv("TENSORLIB_KERNELS", "reference")
    plain = inference.compile(
        models.mlp(12, (4,), 2).eval(), tensorlib.from_numpy(pixels(2, 2, 2, 3)), mean=MEAN, std=STD
    )
    assert not plain.independent
    assert plain(tensorlib.from_numpy(pixels(2, 2, 2, 3))).shape == (2, 2)


def test_what_is_not_independent():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    compiled = inference.compile(Centred().eval(), tensorlib.randn(4, 3))
    assert not compiled.independent


def test_pickled_and_with_other_weights():
    model = models.small_cnn(num_classes=4, in_channels=3, image_size=16).eval()
    x = tensorlib.from_numpy(pixels(2, 16, 16, 3))
    compiled = inference.compile(model, x, mean=list(MEAN), std=list(STD))
    again = pickle.loads(pickle.dumps(compiled))
    np.testing.assert_array_equal(again(x).numpy(), compiled(x).numpy())
    before = compiled(x).numpy()
    with tensorlib.no_grad():
        model[0].weight.mul_(2)
        expected = model(tensorlib.from_numpy(PRESET.normalize(x.numpy()))).numpy()
    np.testing.assert_allclose(compiled(x).numpy(), expected, rtol=0, atol=1e-5)
    assert not np.array_equal(before, expected)


@pytest.mark.parametrize(
    ("example", "mean", "std"),
    [
        (tensorlib.zeros(1, 8, 8, 3), MEAN, STD),
        (tensorlib.zeros(1, 8, 8, 3, dtype=tensorlib.uint8), MEAN, None),
        (tensorlib.zeros(1, 8, 8, 3, dtype=tensorlib.uint8), (0.5,), (0.5,)),
        (tensorlib.zeros(1, 8, 8, 3, dtype=tensorlib.uint8), MEAN, (0.5, 0.0, 0.5)),
        (tensorlib.zeros(8, 8, 3, dtype=tensorlib.uint8), MEAN, STD),
    ],
)
def test_arguments_are_checked(example, mean, std):
    with pytest.raises(InvalidValueError, match="a uint8 Tensor"):
        inference.compile(nn.Identity().eval(), example, mean=mean, std=std)
