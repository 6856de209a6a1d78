"""Compiled pooling next to PyTorch's: any window, both layouts, gradients, NaN, threads."""

import numpy as np
import pytest

import tensorlib
from tensorlib.kernels import cpu, pooling

WINDOWS = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": (1, 3), "padding": (1, 0)},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": (7, 9)},
]


@pytest.fixture(autouse=True)
def compiled_whatever_the_size(monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)


def images(shape, last):
    made = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
    if last:
        made = np.ascontiguousarray(made.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return made


@pytest.mark.oracle
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [3, 16, 21])
@pytest.mark.parametrize("window", [*WINDOWS, {**WINDOWS[0], "dilation": 2}])
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_values_gradients_and_layouts_are_pytorchs(name, window, channels, last):
    torch = pytest.importorskip("torch")
    if name == "avg_pool2d" and "dilation" in window:
        pytest.skip("no such option")
    x = images((2, channels, 11, 13), last)
    if name == "max_pool2d":
        x[0, 0, 3, 4] = np.nan
        x[1, 2, 5, 5] = -np.inf
    results = []
    for library in (tensorlib, torch):
        given = library.from_numpy(x).requires_grad_()
        out = getattr(library.nn.functional, name)(given, **window)
        seed = np.random.default_rng(1).standard_normal(tuple(out.shape)).astype(np.float32)
        out.backward(library.from_numpy(seed))
        results.append((out.detach().numpy(), given.grad.numpy()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert one.strides == other.strides


@pytest.mark.parametrize("last", [False, True])
def test_threads_do_not_change_a_bit(last):
    before = tensorlib.get_num_threads()
    x, numbers = images((3, 24, 31, 30), last), ((3, 3), (2, 2), ((1, 1), (1, 1)))
    results = []
    for count in (1, 2, 3):
        tensorlib.set_num_threads(count)
        y = pooling.max_pool(x, *numbers, (1, 1), (16, 15))
        dx = pooling.max_pool_grad(y, x, y, *numbers, (1, 1), (16, 15))
        mean = pooling.sum_pool(x, *numbers, (1, 1), (16, 15), np.float32(9))
        back = pooling.sum_pool_grad(mean, x.shape, *numbers, (16, 15), np.float32(9))
        results.append([a.tobytes() for a in (y, dx, mean, back)])
    tensorlib.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_large_results_written_past_the_cache():
    x = images((16, 64, 80, 80), True)
    y = pooling.max_pool(x, (4, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), (39, 40))
    pairs = x.reshape(16, 64, 40, 2, 40, 2).max((3, 5))
    expected = np.maximum(pairs[:, :, :-1], pairs[:, :, 1:])
    assert np.array_equal(y, expected)
    assert y.strides[1] == 4


def test_an_empty_batch():
    for last in (False, True):
        y = tensorlib.nn.functional.max_pool2d(tensorlib.from_numpy(images((0, 3, 8, 8), last)), 2)
        assert y.shape == (0, 3, 4, 4)
