"""uint8 images resized with int16 weights: PyTorch's bytes."""

import numpy as np
import pytest

import tensorlib


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(7, 9), (20, 5), (31, 33)])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_bytes_equal_torch(mode, antialias, align_corners, size):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 17)).astype(np.uint8)
    options = {"mode": mode, "antialias": antialias, "align_corners": align_corners}
    expected = torch.nn.functional.interpolate(torch.from_numpy(pixels), size, **options)
    actual = tensorlib.nn.functional.interpolate(tensorlib.from_numpy(pixels), size, **options)
    np.testing.assert_array_equal(actual.numpy(), expected.numpy())


def test_a_line_of_bytes_is_refused():
    line = tensorlib.zeros(1, 1, 4, dtype=tensorlib.uint8)
    with pytest.raises(RuntimeError, match="uint8"):
        tensorlib.nn.functional.interpolate(line, 8, mode="linear")
