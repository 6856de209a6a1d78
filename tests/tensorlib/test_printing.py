"""repr equals PyTorch's text, character by character."""

import numpy as np
import pytest

import tensorlib

CASES = {
    "zero-dim": (lambda t: t.tensor(3.5), "tensor(3.5000)"),
    "integers": (
        lambda t: t.tensor([[1, -20], [300, 4]]),
        "tensor([[  1, -20],\n        [300,   4]])",
    ),
    "bools": (lambda t: t.tensor([True, False]), "tensor([ True, False])"),
    "fixed": (
        lambda t: t.tensor([1.5, -2.25, 100.0]),
        "tensor([  1.5000,  -2.2500, 100.0000])",
    ),
    "whole floats": (lambda t: t.tensor([1.0, 2.0, 30.0]), "tensor([ 1.,  2., 30.])"),
    "scientific": (
        lambda t: t.tensor([1e-8, 1.0, 1e9]),
        "tensor([1.0000e-08, 1.0000e+00, 1.0000e+09])",
    ),
    "nan and inf": (
        lambda t: t.tensor([float("nan"), float("inf"), -1.25]),
        "tensor([    nan,     inf, -1.2500])",
    ),
    "negative zero": (lambda t: t.tensor([-0.0, 1.0]), "tensor([-0., 1.])"),
    "complex": (
        lambda t: t.tensor([1 - 2j, 0.5j]),
        "tensor([1.-2.0000j, 0.+0.5000j])",
    ),
    "double": (
        lambda t: t.tensor([0.1, 0.2], dtype=t.float64),
        "tensor([0.1000, 0.2000], dtype=tensorlib.float64)",
    ),
    "half": (lambda t: t.tensor([0.1]).half(), "tensor([0.1000], dtype=tensorlib.float16)"),
    "empty": (lambda t: t.zeros(0), "tensor([])"),
    "empty rows": (
        lambda t: t.zeros(2, 0, dtype=t.int64),
        "tensor([], size=(2, 0), dtype=tensorlib.int64)",
    ),
    "requires grad": (
        lambda t: t.ones(2, requires_grad=True),
        "tensor([1., 1.], requires_grad=True)",
    ),
    "grad_fn": (
        lambda t: t.ones(2, requires_grad=True) * 2,
        "tensor([2., 2.], grad_fn=<MulBackward0>)",
    ),
    "summarised": (
        lambda t: t.arange(2000),
        "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])",
    ),
    "three dims": (
        lambda t: t.arange(4).reshape(2, 1, 2) / 8,
        "tensor([[[0.0000, 0.1250]],\n\n        [[0.2500, 0.3750]]])",
    ),
    "Parameter": (
        lambda t: t.nn.Parameter(t.ones(1)),
        "Parameter containing:\ntensor([1.], requires_grad=True)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_repr_is_pytorchs_text(name):
    make, expected = CASES[name]
    assert repr(make(tensorlib)) == expected


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_the_expected_text_is_right(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    make, expected = CASES[name]
    assert repr(make(torch)) == expected.replace("tensorlib.", "torch.")


def drawn_array(draw):
    """An array of any type and small shape, its numbers near each other or far apart."""
    sizes = draw.choice([0, 1, 2, 3, 4, 7, 13, 40], draw.integers(0, 4))
    shape = tuple(map(int, sizes)) if draw.random() < 0.9 else (int(draw.integers(900, 1200)),)
    kind = np.dtype(
        draw.choice(["f4", "f4", "f4", "f8", "f2", "c8", "c16", "i8", "i4", "u1", "u2", "u8", "?"])
    )
    if kind.kind == "b":
        return np.asarray(draw.random(shape) < 0.5)
    if kind.kind in "iu":
        limit = min(np.iinfo(kind).max, int(draw.choice([3, 100, 10**12])))
        low = -limit if kind.kind == "i" else 0
        return np.asarray(draw.integers(low, limit, shape)).astype(kind)
    parts = [drawn_reals(draw, shape) for _ in range(1 + (kind.kind == "c"))]
    with np.errstate(all="ignore"):
        return np.asarray(parts[0] + (1j * parts[1] if len(parts) > 1 else 0)).astype(kind)


def drawn_reals(draw, shape):
    values = draw.standard_normal(shape)
    odd = draw.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], shape)
    some = draw.random(shape) < 0.3
    choices = [
        values,
        np.round(values * 10),
        values * 10.0 ** draw.integers(-12, 12),
        values * 10.0 ** draw.integers(-6, 6, shape),
        np.round(values * 1000) * 1000,
        np.where(some, odd, values),
        np.where(some, odd, np.round(values * 5)),
        values * 0,
    ]
    return choices[draw.integers(len(choices))]


def drawn_options(draw):
    options = {
        "precision": int(draw.integers(0, 9)),
        "threshold": int(draw.choice([0, 5, 20, 1000])),
        "edgeitems": int(draw.choice([0, 1, 2, 3, 5])),
        "linewidth": int(draw.choice([20, 40, 80, 120, 200])),
        "profile": str(draw.choice(["default", "short", "full"])),
        "sci_mode": bool(draw.integers(2)),
    }
    return {name: value for name, value in options.items() if draw.random() < 0.2}


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(5))
def test_hundreds_of_random_tensors_print_as_in_torch(seed):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    draw = np.random.default_rng(seed)
    try:
        for _ in range(100):
            array, options = drawn_array(draw), drawn_options(draw)
            flip, grad = draw.random() < 0.2, draw.random() < 0.2
            texts = []
            for library in (tensorlib, torch):
                library.set_printoptions(profile="default")
                library.set_printoptions(**options)
                made = library.from_numpy(array.copy())
                if flip and array.ndim > 1:
                    made = made.transpose(0, 1)
                if grad and array.dtype.kind in "fc":
                    made.requires_grad_()
                texts.append(repr(made))
            assert texts[0].replace("tensorlib.", "torch.") == texts[1], (options, array)
    finally:
        for library in (tensorlib, torch):
            library.set_printoptions(profile="default")


def test_print_options_are_refused_and_restored():
    with pytest.raises(ValueError, match="profile 'tall'"):
        tensorlib.set_printoptions(profile="tall")
    tensorlib.set_printoptions(precision=2, sci_mode=True)
    try:
        assert repr(tensorlib.tensor([1.234])) == "tensor([1.23e+00])"
    finally:
        tensorlib.set_printoptions(profile="default")
    assert repr(tensorlib.tensor([1.234])) == "tensor([1.2340])"


def test_a_subclass_prints_its_name():
    class Distance(tensorlib.Tensor):
        pass

    made = Distance([1.0, 2.0])
    assert repr(made) == "Distance([1., 2.])"


def test_a_format_applies_to_the_number_of_a_zero_dim_tensor():
    assert f"{tensorlib.tensor(1.25):.1f}" == "1.2"
