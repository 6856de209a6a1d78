"""Compiled convolutions against float64: every algorithm, shape, stride, layout and direction."""

import numpy as np
import pytest

import tensorlib
from tensorlib.kernels import convolution as reference
from tensorlib.kernels import cpu
from tensorlib.kernels.cpu import convolution, convolution_gradients


@pytest.fixture(autouse=True)
def compiled_whatever_the_size(monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)


# images, channels, size, outputs, kernel, stride, padding, dilation, groups
SHAPES = [
    (2, 16, (9, 7), 32, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (1, 48, (8, 8), 16, (3, 3), (1, 1), (0, 2), (1, 1), 1),
    (3, 32, (1, 1), 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (2, 16, (4, 5), 16, (3, 3), (1, 1), (2, 2), (1, 1), 1),
    (2, 5, (9, 7), 7, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (1, 64, (7, 7), 40, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (2, 8, (9, 8), 20, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    (2, 8, (9, 8), 20, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    (2, 9, (10, 11), 18, (5, 3), (2, 3), (2, 0), (1, 2), 1),
    (2, 6, (12, 12), 10, (3, 3), (1, 1), (2, 2), (2, 2), 1),
    (2, 6, (12, 12), 10, (3, 3), (3, 2), (2, 2), (2, 3), 1),
    (2, 3, (20, 19), 24, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    (2, 1, (12, 12), 6, (5, 5), (1, 1), (0, 0), (1, 1), 1),
    (1, 4, (9, 9), 3, (3, 2), (1, 3), (1, 0), (2, 1), 1),
    (2, 12, (8, 8), 18, (3, 3), (1, 1), (1, 1), (1, 1), 3),
    (2, 12, (9, 8), 18, (3, 3), (2, 2), (1, 1), (1, 1), 6),
    (2, 20, (9, 8), 20, (3, 3), (1, 1), (1, 1), (1, 1), 20),
    (2, 20, (9, 8), 20, (5, 3), (2, 2), (2, 1), (1, 2), 20),
    (2, 10, (9, 8), 20, (3, 3), (1, 1), (1, 1), (1, 1), 10),
    (2, 6, (17,), 9, (4,), (3,), (2,), (1,), 1),
    (2, 2, (30,), 9, (7,), (2,), (3,), (1,), 1),
    (1, 40, (5, 14), 40, (5, 5), (1, 1), (2, 2), (1, 1), 40),
    (2, 24, (4, 3), 24, (5, 5), (1, 2), (5, 6), (2, 3), 24),
]
LAYOUTS = ("planes", "channels_last", "sliced")


def laid_out(array, layout):
    if layout == "sliced":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1] + 1), array.dtype)
        wide[..., 1::2] = array
        return wide[..., 1::2]
    if layout == "channels_last" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return array


def problem(shape, layout, seed=0):
    n, c, size, outputs, kernel, stride, padding, dilation, groups = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, c, *size))
    w = rng.standard_normal((outputs, c // groups, *kernel))
    b = rng.standard_normal(outputs)
    pads = tuple((p, p) for p in padding)
    x, w, b = (laid_out(a.astype(np.float32), layout) if a.ndim > 1 else a.astype(np.float32)
               for a in (x, w, b))  # fmt: skip
    return x, w, b, (stride, pads, dilation, groups)


def bodies(kernel, *args):
    """Every compiled body that applies, whatever comes first."""
    found = [one for one in kernel.overrides if one.condition(*args)]
    assert found
    return [one.function for one in found]


def close(actual, expected, terms):
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    # rounding of a sum of `terms` products of size about one
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=4e-7 * max(terms, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, layout):
    x, w, b, options = problem(shape, layout)
    for bias in (None, b):
        wide = None if bias is None else b.astype(np.float64)
        expected = reference.conv_forward.reference(
            x.astype(np.float64), w.astype(np.float64), *options, wide
        )
        for body in bodies(reference.conv_forward, x, w, *options, bias):
            close(body(x, w, *options, bias), expected, w[0].size)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_gradient(shape, layout):
    x, w, _, options = problem(shape, layout)
    out = reference.conv_forward.reference(x, w, *options)
    grad = laid_out(np.random.default_rng(1).standard_normal(out.shape).astype(np.float32), layout)
    expected = reference.conv_input_grad.reference(
        grad.astype(np.float64), w.astype(np.float64), x.shape, *options
    )
    for body in bodies(reference.conv_input_grad, grad, w, x.shape, *options):
        close(body(grad, w, x.shape, *options), expected, w.size // w.shape[1])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_gradient(shape, layout, last):
    x, w, _, options = problem(shape, layout)
    out = reference.conv_forward.reference(x, w, *options)
    grad = laid_out(np.random.default_rng(1).standard_normal(out.shape).astype(np.float32), layout)
    expected = reference.conv_weight_grad.reference(
        x.astype(np.float64), grad.astype(np.float64), w.shape, *options
    )
    for body in bodies(reference.conv_weight_grad, x, grad, w.shape, *options):
        close(body(x, grad, w.shape, *options, last), expected, grad.size // grad.shape[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits_for_any_number_of_threads(shape):
    x, w, b, options = problem(shape, "channels_last")
    out = reference.conv_forward.reference(x, w, *options)
    grad = np.random.default_rng(1).standard_normal(out.shape).astype(np.float32)
    before, results = tensorlib.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            tensorlib.set_num_threads(threads)
            results.append(
                (
                    reference.conv_forward(x, w, *options, b).tobytes(),
                    reference.conv_input_grad(grad, w, x.shape, *options).tobytes(),
                    reference.conv_weight_grad(x, grad, w.shape, *options).tobytes(),
                )
            )
    finally:
        tensorlib.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_rows_do_not_depend_on_the_batch():
    for shape in SHAPES[:8]:
        x, w, b, options = problem((5, *shape[1:]), "channels_last")
        whole = reference.conv_forward(x, w, *options, b)
        for i in range(5):
            alone = reference.conv_forward(x[i : i + 1], w, *options, b)
            assert alone.tobytes() == whole[i : i + 1].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_propagates(value):
    for shape in (SHAPES[0], SHAPES[7], SHAPES[16]):
        x, w, _, options = problem(shape, "channels_last")
        x[0, 0, 3, 3] = value
        expected = reference.conv_forward.reference(x, w, *options)
        actual = reference.conv_forward(x, w, *options)
        # a transform of a tile mixes its positions: NaN may reach its neighbours, never fewer
        assert not np.isfinite(actual[~np.isfinite(expected)]).any()
        assert np.isfinite(actual[1]).all()


def test_an_empty_batch_and_a_small_one_take_the_reference(monkeypatch):
    x, w, _, options = problem(SHAPES[0], "planes")
    assert reference.conv_forward(x[:0], w, *options).shape[0] == 0
    monkeypatch.setattr(cpu, "sizes_matter", True)
    assert not any(o.condition(x[:1, :, :3, :3], w, *options) for o in
                   reference.conv_forward.overrides)  # fmt: skip
    assert not any(o.condition(x.astype(np.float64), w.astype(np.float64), *options) for o in
                   reference.conv_forward.overrides)  # fmt: skip


def test_the_choice_of_algorithm():
    def first(shape):
        x, w, _, options = problem(shape, "planes")
        return next(
            o.function for o in reference.conv_forward.overrides if o.condition(x, w, *options)
        )

    assert first(SHAPES[0]) is convolution.winograd_forward
    assert first(SHAPES[11]) is convolution.narrow_forward
    assert first(SHAPES[16]) is convolution.depthwise_forward
    assert first(SHAPES[7]) is convolution.direct_forward
    x, w, _, options = problem(SHAPES[0], "planes")
    grad = reference.conv_forward(x, w, *options)
    for kernel, args, body in (
        (reference.conv_input_grad, (grad, w, x.shape), "winograd_input_grad"),
        (reference.conv_weight_grad, (x, grad, w.shape), "winograd_weight_grad"),
    ):
        chosen = next(o.function for o in kernel.overrides if o.condition(*args, *options))
        assert chosen is getattr(convolution_gradients, body)
