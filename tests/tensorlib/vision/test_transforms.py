"""Transforms against torchvision's rules; the golden values were computed with its formulas."""

import itertools

import numpy as np
import pytest
from PIL import Image

import tensorlib
from tensorlib.utils.data import sample_generator, using_generator
from tensorlib.vision import transforms as T

RGB = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
IMAGE = Image.fromarray(RGB)


def reference_resize(image, size):
    """torchvision.transforms.functional._compute_resized_output_size, then PIL."""
    w, h = image.size
    short, long = (w, h) if w <= h else (h, w)
    new_short, new_long = size, int(size * long / short)
    new_w, new_h = (new_short, new_long) if w <= h else (new_long, new_short)
    return image if (w, h) == (new_w, new_h) else image.resize((new_w, new_h), 2)


def reference_center_crop(array, height, width):
    """torchvision's center_crop on the pixels: pad with zeros, then cut."""
    h, w = array.shape[:2]
    if width > w or height > h:
        left = (width - w) // 2 if width > w else 0
        top = (height - h) // 2 if height > h else 0
        right = (width - w + 1) // 2 if width > w else 0
        bottom = (height - h + 1) // 2 if height > h else 0
        array = np.pad(array, ((top, bottom), (left, right), (0, 0)))
        h, w = array.shape[:2]
    top, left = int(round((h - height) / 2.0)), int(round((w - width) / 2.0))  # noqa: RUF046
    return array[top : top + height, left : left + width]


@pytest.mark.parametrize("size", [8, 17, 40, 61, 100])
@pytest.mark.parametrize("turn", [False, True])
def test_resize_of_the_short_side(size, turn):
    image = IMAGE.transpose(Image.Transpose.ROTATE_90) if turn else IMAGE
    expected = np.asarray(reference_resize(image, size))
    np.testing.assert_array_equal(np.asarray(T.Resize(size)(image)), expected)


def test_resize_to_a_pair_and_interpolations():
    assert T.Resize((10, 20))(IMAGE).size == (20, 10)
    assert T.Resize(40)(IMAGE) is IMAGE
    cubic = np.asarray(T.Resize(20, "bicubic")(IMAGE))
    np.testing.assert_array_equal(cubic, np.asarray(IMAGE.resize((30, 20), 3)))
    with pytest.raises(ValueError, match="interpolation='linear'; expected one of nearest"):
        T.Resize(20, "linear")(IMAGE)
    with pytest.raises(ValueError, match=r"size=\(1, 2, 3\)"):
        T.Resize((1, 2, 3))(IMAGE)


@pytest.mark.parametrize(
    ("height", "width"), list(itertools.product((1, 2, 39, 40, 41, 50), (1, 60, 61, 64, 71)))
)
def test_center_crop(height, width):
    result = np.asarray(T.CenterCrop((height, width))(IMAGE))
    np.testing.assert_array_equal(result, reference_center_crop(RGB, height, width))


@pytest.mark.parametrize("shape", [(8, 8), (300, 451), (451, 300), (224, 224), (256, 257)])
def test_preset_is_resize_then_crop(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    preset = T.ImageClassification(224, 232)
    expected = reference_center_crop(np.asarray(reference_resize(image, 232)), 224, 224)
    result = preset.to_uint8(image)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_preset_normalizes_as_torchvision_and_keeps_channels_last():
    preset = T.ImageClassification(8, 8)
    batch = np.random.default_rng(2).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
    result = preset.normalize(batch)
    mean, std = np.float32(preset.mean), np.float32(preset.std)
    expected = ((batch.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    assert result.shape == (5, 3, 8, 9)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)
    assert result.transpose(0, 2, 3, 1).flags.c_contiguous


def test_preset_for_gray_digits():
    digits = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    preset = T.ImageClassification(8, None, mean=(0.5,), std=(0.25,), mode="L")
    one = preset.to_uint8(Image.fromarray(digits[1]))
    np.testing.assert_array_equal(one, digits[1][..., None])
    np.testing.assert_array_equal(preset.to_uint8(Image.fromarray(one[..., 0], "L")), one)
    assert preset.normalize(digits).shape == (2, 1, 8, 8)
    assert preset.normalize(digits)[1, 0, 0, 0] == (np.float32(64) / 255 - 0.5) / 0.25
    colored = preset.to_uint8(Image.new("RGB", (20, 8), (9, 9, 9)))
    np.testing.assert_array_equal(colored, np.full((8, 8, 1), 9))


def test_preset_as_a_record():
    preset = T.ImageClassification(28, 30, (0.1,), (0.3,), "bicubic", "L")
    values = preset.to_dict()
    assert values == {
        "crop_size": 28,
        "resize_size": 30,
        "mean": [0.1],
        "std": [0.3],
        "interpolation": "bicubic",
        "mode": "L",
    }
    assert T.ImageClassification.from_dict(values) == preset
    with pytest.raises(ValueError, match="from_dict: keys"):
        T.ImageClassification.from_dict({**values, "colour": 1})
    with pytest.raises(ValueError, match="from_dict: keys"):
        T.ImageClassification.from_dict({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": 0}, "crop_size=0"),
        ({"crop_size": 8, "mode": "L"}, "expected 1 numbers each"),
        ({"crop_size": 8, "std": (1, 0, 1)}, "no std 0"),
        ({"crop_size": 8, "mode": "CMYK"}, "mode='CMYK'"),
        ({"crop_size": 8, "interpolation": "x"}, "interpolation='x'"),
    ],
)
def test_preset_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        T.ImageClassification(**arguments)


def test_preset_checks_its_batches():
    preset = T.ImageClassification(8)
    with pytest.raises(TypeError, match="float32"):
        preset.normalize(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="1 channels; expected 3"):
        preset.normalize(np.zeros((1, 8, 8, 1), np.uint8))


def test_to_tensor_and_normalize():
    tensor = T.ToTensor()(IMAGE)
    assert tensor.dtype is tensorlib.float32
    assert tuple(tensor.shape) == (3, 40, 61)
    expected = RGB.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    raw = T.PILToTensor()(IMAGE.convert("L"))
    assert raw.dtype is tensorlib.uint8
    assert tuple(raw.shape) == (1, 40, 61)
    both = T.Compose([T.ToTensor(), T.Normalize((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))])(IMAGE)
    mean = np.float32([0.5, 0.4, 0.3]).reshape(3, 1, 1)
    std = np.float32([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    np.testing.assert_array_equal(both.numpy(), (expected - mean) / std)
    preset = T.ImageClassification(40, 40, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    cropped = T.Normalize(preset.mean, preset.std)(T.ToTensor()(T.CenterCrop(40)(IMAGE)))
    np.testing.assert_array_equal(preset(IMAGE).numpy(), cropped.numpy())
    with pytest.raises(TypeError, match="ToTensor first"):
        T.Normalize((0.5,), (0.5,))(raw)
    with pytest.raises(TypeError, match="8-bit"):
        T.ToTensor()(np.zeros((2, 2), np.float32))


def test_grayscale_and_lambda():
    assert T.Grayscale()(IMAGE).mode == "L"
    three = np.asarray(T.Grayscale(3)(IMAGE))
    np.testing.assert_array_equal(three[..., 0], three[..., 2])
    assert T.Lambda(lambda image: image.size)(IMAGE) == (61, 40)


RANDOM = [
    T.RandomCrop(16),
    T.RandomCrop((40, 61), padding=4),
    T.RandomHorizontalFlip(),
    T.RandomResizedCrop(20),
]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_random_transforms_are_functions_of_their_generator(transform):
    def draw(seed, epoch, index):
        with using_generator(sample_generator(seed, epoch, index)):
            return np.asarray(transform(IMAGE)).tobytes()

    results = {place: draw(*place) for place in itertools.product((0, 1), (0, 1), range(8))}
    assert len(set(results.values())) > 1
    assert results == {place: draw(*place) for place in results}


def test_random_crop_covers_every_place_and_pads():
    small = Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3))
    seen = set()
    with using_generator(sample_generator(0, 0, 0)):
        for _ in range(200):
            part = np.asarray(T.RandomCrop(2)(small))
            top, left = divmod(int(part[0, 0]), 3)
            np.testing.assert_array_equal(part, np.asarray(small)[top : top + 2, left : left + 2])
            seen.add((top, left))
        padded = {np.asarray(T.RandomCrop(3, padding=1)(small)).tobytes() for _ in range(200)}
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(padded) == 9
    with pytest.raises(ValueError, match="an image of 3x3"):
        T.RandomCrop(4)(small)


def test_random_flip_probability():
    left = Image.fromarray(np.array([[0, 255]], np.uint8))
    with using_generator(sample_generator(0, 0, 0)):
        flips = sum(np.asarray(T.RandomHorizontalFlip(0.25)(left))[0, 0] == 255 for _ in range(800))
        assert T.RandomHorizontalFlip(0)(left) is left
    assert 150 < flips < 250


def test_random_resized_crop_keeps_its_bounds():
    transform = T.RandomResizedCrop((6, 7), scale=(0.2, 0.4), ratio=(0.5, 2.0))
    with using_generator(sample_generator(0, 0, 0)):
        assert transform(IMAGE).size == (7, 6)
        for _ in range(200):
            left, top, width, height = transform._box(300, 200)
            assert 0 <= left <= 300 - width
            assert 0 <= top <= 200 - height
            assert 0.19 < width * height / 60_000 < 0.41
            assert 0.49 < width / height < 2.05
        # no part of a line has an allowed ratio: the middle is taken
        assert T.RandomResizedCrop(5)._box(1000, 10) == (493, 0, 13, 10)


def test_outside_a_loader_transforms_follow_manual_seed():
    def draw():
        return np.asarray(T.RandomCrop(8)(IMAGE)).tobytes()

    tensorlib.manual_seed(3)
    first = [draw() for _ in range(3)]
    tensorlib.manual_seed(3)
    assert [draw() for _ in range(3)] == first
    assert len(set(first)) == 3


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 3)])
@pytest.mark.parametrize("transform", [T.RandomCrop(8, padding=2), T.RandomHorizontalFlip()])
def test_arrays_are_cropped_and_flipped_as_images(shape, transform):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for index in range(8):
        with using_generator(sample_generator(0, 0, index)):
            expected = np.asarray(transform(Image.fromarray(pixels)))
        with using_generator(sample_generator(0, 0, index)):
            np.testing.assert_array_equal(transform(pixels), expected)
    with pytest.raises(ValueError, match="expected a part that fits"):
        T.RandomCrop(30)(pixels)


def test_mixup_mixes_each_sample_with_the_one_before():
    images, labels = tensorlib.eye(3), tensorlib.tensor([0, 2, 1])
    with using_generator(np.random.default_rng(0)):
        mixed, shares = T.MixUp(alpha=0.4, num_classes=3)(images, labels)
    share = np.random.default_rng(0).beta(0.4, 0.4)
    whole = np.eye(3)
    expected = share * whole + (1 - share) * np.roll(whole, 1, 0)
    np.testing.assert_allclose(mixed.numpy(), expected, rtol=1e-6)
    one_hot = whole[[0, 2, 1]]
    np.testing.assert_allclose(
        shares.numpy(), share * one_hot + (1 - share) * np.roll(one_hot, 1, 0), rtol=1e-6
    )
    with pytest.raises(ValueError, match="alpha=0"):
        T.MixUp(alpha=0, num_classes=3)
