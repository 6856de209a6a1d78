"""assert_close: torch's tolerances, shapes and dtypes; gradcheck."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib
from tensorlib.testing import assert_close, gradcheck, gradgradcheck


def test_tolerance_follows_the_dtype() -> None:
    one = tensorlib.ones(3)
    assert_close(one + 5e-6, one)
    with pytest.raises(AssertionError):
        assert_close(one + 5e-5, one)
    with pytest.raises(AssertionError):
        assert_close(one.double() + 5e-6, one.double())
    assert_close(one + 5e-5, one, rtol=0, atol=1e-4)


def test_shape_dtype_and_nan() -> None:
    one = tensorlib.ones(3)
    with pytest.raises(AssertionError, match="'shape' do not match"):
        assert_close(one, tensorlib.ones(1))
    with pytest.raises(AssertionError, match="'dtype' do not match"):
        assert_close(one, one.double())
    assert_close(one, one.double(), check_dtype=False)
    nan = one * float("nan")
    with pytest.raises(AssertionError):
        assert_close(nan, nan)
    assert_close(nan, nan, equal_nan=True)
    with pytest.raises(ValueError, match="Both"):
        assert_close(one, one, rtol=1e-3)


def test_sequences_mappings_numbers_and_arrays() -> None:
    one = tensorlib.ones(3)
    assert_close({"x": [one, 1.0, None]}, {"x": [one + 1e-7, 1.0 + 1e-9, None]})
    assert_close(np.ones(2), np.ones(2))
    with pytest.raises(AssertionError, match=r"1 / 3 \(33.3%\)[^F]*item \['x'\]\[1\]"):
        assert_close({"x": [one, one]}, {"x": [one, tensorlib.tensor([1.0, 1.5, 1.0])]})
    with pytest.raises(AssertionError, match="Missing keys in the actual mapping: \\['y'\\]"):
        assert_close({"x": one}, {"x": one, "y": one})
    with pytest.raises(AssertionError, match="1 != 2"):
        assert_close([one], [one, one])
    with pytest.raises(AssertionError, match="Expected 2 but got 1"):
        assert_close(1, 2)
    with pytest.raises(AssertionError, match="None mismatch"):
        assert_close(one, None)
    with pytest.raises(AssertionError, match="stride"):
        assert_close(tensorlib.ones(2, 3).t(), tensorlib.ones(3, 2), check_stride=True)
    with pytest.raises(AssertionError, match=r"^far$"):
        assert_close(one, one + 1, msg="far")
    with pytest.raises(TypeError, match="list"):
        assert_close(one, [1.0, 1.0, 1.0])


def test_integers_have_to_be_equal() -> None:
    with pytest.raises(AssertionError):
        assert_close(tensorlib.tensor([1, 2]), tensorlib.tensor([1, 3]))


def test_gradcheck_accepts_a_derivative_and_names_a_wrong_one() -> None:
    x = tensorlib.rand(3, 2, dtype=tensorlib.float64, requires_grad=True)
    y = tensorlib.rand(2, dtype=tensorlib.float64, requires_grad=True)
    kept = x.detach().clone()
    assert gradcheck(lambda a, b: (a.exp() * b, (a @ b).sum()), (x, y))
    assert gradgradcheck(lambda a, b: a**3 * b, (x, y))
    assert (x == kept).all()

    class Wrong(tensorlib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    with pytest.raises(RuntimeError, match="Jacobian mismatch for output 0"):
        gradcheck(Wrong.apply, x)
    assert not gradcheck(Wrong.apply, x, raise_exception=False)
    with pytest.warns(UserWarning, match="double precision"):
        gradcheck(tensorlib.exp, x.detach().float().requires_grad_(), raise_exception=False)
    with pytest.raises(ValueError, match="require gradient"):
        gradcheck(tensorlib.exp, x.detach())
