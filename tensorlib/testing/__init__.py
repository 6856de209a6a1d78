"""Comparing tensors in tests, by torch.testing's names and tolerances."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.autograd import gradcheck, gradgradcheck
from tensorlib.tensor import Tensor

__all__ = ["assert_close", "gradcheck", "gradgradcheck"]

# (rtol, atol) by dtype, as torch.testing's defaults
_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}


def assert_close(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_dtype: bool = True,
) -> None:
    """AssertionError unless |actual - expected| <= atol + rtol |expected| everywhere.

    Shapes have to be equal, and dtypes with `check_dtype`. Without `rtol` and `atol` (give both or
    neither) the tolerances are those of the less exact dtype; integers and bools have to be equal.
    """
    if (rtol is None) != (atol is None):
        raise ValueError(
            f"assert_close: rtol={rtol}, atol={atol}; expected both of them or neither"
        )
    a, b = _array(actual), _array(expected)
    if a.shape != b.shape:
        raise AssertionError(f"The shapes differ: {a.shape} and {b.shape}")
    if check_dtype and a.dtype != b.dtype:
        raise AssertionError(f"The dtypes differ: {a.dtype} and {b.dtype}")
    if rtol is None or atol is None:
        pairs = [_TOLERANCES.get(x.dtype.name, (0.0, 0.0)) for x in (a, b)]
        rtol, atol = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan)


def _array(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
