"""Kernels: overrides agree with their reference, and can be listed and turned off."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tensorlib
from tensorlib import kernels
from tensorlib.kernels import cpu


@pytest.fixture(autouse=True)
def compiled_whatever_the_size(monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)


def arrays(result):
    if isinstance(result, (tuple, list)):
        return [one for item in result for one in arrays(item)]
    return [] if result is None else [np.asarray(result)]


def close(actual, expected):
    """Within 1e-5 of a number, or of the typical size of a number where that is above one."""
    finite = expected[np.isfinite(expected)] if expected.dtype.kind == "f" else expected
    size = float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 0.0
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * max(1.0, size))


def test_kernels_are_registered():
    assert tensorlib.__version__
    assert len(kernels.REGISTRY) >= 5


@pytest.mark.parametrize("name", sorted(kernels.REGISTRY))
def test_every_body_equals_the_reference_on_the_samples(name):
    made = kernels.REGISTRY[name]
    samples = made.samples()
    assert samples
    for sample in samples:
        expected, actual = arrays(made.reference(*sample)), arrays(made(*sample))
        assert len(actual) == len(expected) > 0
        for one, other in zip(actual, expected, strict=True):
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            close(one, other)
    for override in made.overrides:
        used = [sample for sample in samples if override.condition(*sample)]
        assert used, f"no sample meets the condition of {override.name}"
        for sample in used:
            expected, actual = arrays(made.reference(*sample)), arrays(override.function(*sample))
            for one, other in zip(actual, expected, strict=True):
                close(one, other)


def test_an_override_answers_where_its_condition_holds(monkeypatch):
    monkeypatch.delenv("TENSORLIB_KERNELS", raising=False)
    made = kernels.Kernel(lambda x: "reference", lambda: [(1,)])
    made.override("x is positive", lambda x: x > 0)(lambda x: "fast")
    assert (made(1), made(-1)) == ("fast", "reference")
    monkeypatch.setenv("TENSORLIB_KERNELS", "reference")
    off = kernels.Kernel(lambda x: "reference", lambda: [(1,)])
    off.override("x is positive", lambda x: x > 0)(lambda x: "fast")
    assert off(1) == "reference"


def listing(**environment):
    return subprocess.run(
        [sys.executable, "-m", "tensorlib.kernels"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_lists_every_kernel():
    done = listing(TENSORLIB_KERNELS="reference")
    assert done.returncode == 0, done.stderr
    assert "TENSORLIB_KERNELS=reference" in done.stdout
    for name, made in kernels.REGISTRY.items():
        assert f"{made.reference.__module__}.{name}: otherwise (reference)" in done.stdout
    assert done.stdout.count("(off)") == sum(
        len(made.overrides) for made in kernels.REGISTRY.values()
    )


def test_an_unknown_choice_is_an_error():
    done = listing(TENSORLIB_KERNELS="fastest")
    assert done.returncode != 0
    assert "'fastest' is unknown" in done.stderr
