"""Fashion-MNIST from Debian's files: a small CNN reaches 0.90 in five epochs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import cli, result_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's folder; where it is not installed, the package unpacked without root."""
    if DEBIAN.is_dir():
        return DEBIAN
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("dataset-fashion-mnist is not installed, and there is no apt to get it with")
    folder = tmp_path_factory.mktemp("fashion")
    got = subprocess.run(
        ["apt-get", "download", "dataset-fashion-mnist"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    packages = list(folder.glob("*.deb"))
    if not packages:
        pytest.skip(f"dataset-fashion-mnist cannot be downloaded: {got.stderr.strip()[:200]}")
    subprocess.run(["dpkg", "-x", packages[0], folder], check=True, timeout=60)
    return folder / DEBIAN.relative_to("/")


def test_fashion_mnist_reaches_its_accuracy(files: Path, tmp_path: Path) -> None:
    done = cli(
        tmp_path / "home",
        *("run", "configs/train/fashion_mnist.yaml", "--set", f"params.data.root={files}"),
        "--json",
        timeout_s=850,
    )
    assert done.returncode == 0, done.stderr
    assert result_of(done)["metrics"]["val/accuracy"] >= 0.90
