"""Code for vectors of other widths is right; LLVM lowers them to those this CPU has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorlib.kernels.cpu import host

TESTS = Path(__file__).parents[1] / "test_kernels.py"
KERNELS = ("gelu", "softmax", "matmul")


@pytest.mark.parametrize("width", sorted(host.BLOCKINGS))
def test_samples_with_vectors_of(width):
    names = [
        f"{TESTS}::test_every_body_equals_the_reference_on_the_samples[{kernel}]"
        for kernel in KERNELS
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names],
        env={**os.environ, "TENSORLIB_SIMD": width},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(KERNELS)} passed" in done.stdout


def test_an_unknown_width_is_an_error():
    done = subprocess.run(
        [sys.executable, "-c", "from tensorlib.kernels.cpu import host; host.blocking()"],
        env={**os.environ, "TENSORLIB_SIMD": "mmx"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "'mmx' is unknown" in done.stderr
