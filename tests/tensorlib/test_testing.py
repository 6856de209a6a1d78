"""assert_close: torch's tolerances, shapes and dtypes."""

from __future__ import annotations

import pytest

import tensorlib
from tensorlib.testing import assert_close


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
    with pytest.raises(AssertionError, match="shapes"):
        assert_close(one, tensorlib.ones(1))
    with pytest.raises(AssertionError, match="dtypes"):
        assert_close(one, one.double())
    assert_close(one, one.double(), check_dtype=False)
    nan = one * float("nan")
    with pytest.raises(AssertionError):
        assert_close(nan, nan)
    assert_close(nan, nan, equal_nan=True)
    with pytest.raises(ValueError, match="both"):
        assert_close(one, one, rtol=1e-3)


def test_integers_have_to_be_equal() -> None:
    with pytest.raises(AssertionError):
        assert_close(tensorlib.tensor([1, 2]), tensorlib.tensor([1, 3]))
