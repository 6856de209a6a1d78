"""Windows of torch.signal.windows and of torch itself, point for point."""

import numpy as np
import pytest

import tensorlib
from tensorlib.signal import windows

from ..side import refused_alike, torch_or_skip

OPTIONS = {
    "exponential": [{}, {"tau": 2.5}, {"center": 1.0, "sym": False}],
    "gaussian": [{}, {"std": 0.7}],
    "kaiser": [{}, {"beta": 3.0}],
    "general_hamming": [{}, {"alpha": 0.6}],
    "general_cosine": [{"a": [0.4, 0.3, 0.2, 0.1]}],
}
OLD = ("bartlett", "blackman", "hamming", "hann", "kaiser")


@pytest.mark.oracle
@pytest.mark.parametrize("name", windows.__all__)
@pytest.mark.parametrize("sym", [True, False])
def test_windows_as_torch(name, sym):
    torch = torch_or_skip()
    for options in OPTIONS.get(name, [{}]):
        if sym and "center" in options:
            continue
        for kind, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
            for size in (0, 1, 2, 7, 10):
                given = {"sym": sym, **options}
                mine = getattr(windows, name)(size, dtype=getattr(tensorlib, kind), **given)
                theirs = getattr(torch.signal.windows, name)(
                    size, dtype=getattr(torch, kind), **given
                )
                assert mine.numpy().dtype == theirs.numpy().dtype
                np.testing.assert_allclose(mine.numpy(), theirs.numpy(), tolerance, tolerance)


@pytest.mark.oracle
@pytest.mark.parametrize("name", [f"{name}_window" for name in OLD])
@pytest.mark.parametrize("periodic", [True, False])
def test_older_names_as_torch(name, periodic):
    torch = torch_or_skip()
    for kind, tolerance in (("float64", 1e-12), ("float32", 1e-5), ("float16", 1e-3)):
        for size in (0, 1, 2, 7, 10):
            mine = getattr(tensorlib, name)(size, periodic, dtype=getattr(tensorlib, kind))
            theirs = getattr(torch, name)(size, periodic, dtype=getattr(torch, kind))
            assert mine.numpy().dtype == theirs.numpy().dtype
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), tolerance, tolerance)


REFUSED = {
    "a negative length": lambda L: L.signal.windows.hann(-1),
    "integers": lambda L: L.signal.windows.kaiser(4, dtype=L.int64),
    "half precision": lambda L: L.signal.windows.bartlett(4, dtype=L.float16),
    "no width": lambda L: L.signal.windows.gaussian(4, std=0.0),
    "no decay": lambda L: L.signal.windows.exponential(4, tau=0.0),
    "a centre of a symmetric window": lambda L: L.signal.windows.exponential(4, center=1.0),
    "a negative shape": lambda L: L.signal.windows.kaiser(4, beta=-1.0),
    "no coefficients": lambda L: L.signal.windows.general_cosine(4, a=[]),
    "a number as coefficients": lambda L: L.signal.windows.general_cosine(4, a=3.0),
    "a float length": lambda L: L.signal.windows.hann(2.5),
    "a negative length of old": lambda L: L.hann_window(-1),
    "integers of old": lambda L: L.hamming_window(4, dtype=L.int64),
    "complex numbers of old": lambda L: L.hamming_window(4, dtype=L.complex64),
    "a float length of old": lambda L: L.kaiser_window(2.5),
}


@pytest.mark.oracle
@pytest.mark.parametrize("what", REFUSED)
def test_refusals_are_torchs(what):
    torch_or_skip()

    refused_alike(REFUSED[what])


def test_symmetric_windows_are_symmetric_and_periodic_ones_repeat():
    for name in ("hann", "blackman", "bartlett", "nuttall"):
        window = getattr(windows, name)(9, dtype=tensorlib.float64).numpy()
        np.testing.assert_allclose(window, window[::-1], atol=1e-12)
        periodic = getattr(windows, name)(8, sym=False, dtype=tensorlib.float64).numpy()
        np.testing.assert_allclose(periodic, window[:-1], atol=1e-12)


def test_a_window_can_be_a_leaf():
    window = windows.hann(5, requires_grad=True)
    (window * 2).sum().backward()
    assert window.grad.tolist() == [2] * 5
