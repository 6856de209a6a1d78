"""Odd and hostile files through the whole command: each has its row, with the verdict it should
get, and the process that classifies stays small.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tensorlib
from tensorlib.vision import models

from ..tensorlib.vision.corpus import cases
from .conftest import cli, result_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_n3_every_odd_file_has_its_row(tmp_path: Path) -> None:
    folder, weights = tmp_path / "odd", tmp_path / "weights.pth"
    folder.mkdir()
    known = {os.fsencode(case.write(folder)): case for case in cases()}
    tensorlib.manual_seed(0)
    tensorlib.save(models.efficientnet_lite0().state_dict(), weights)
    done = cli(
        tmp_path / "home",
        *("classify", folder, "--model", "efficientnet_lite0", "--weights", weights),
        *("--local", "--top-k", "1", "--json"),
        timeout_s=240,
    )
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    table = pd.read_parquet(result["output"]).set_index("path")
    files = {path: case for path, case in known.items() if not os.path.isdir(path)}
    assert result["inputs"] == len(table) == len(files) >= 80
    for path, case in files.items():
        row = table.loc[path.decode(errors="backslashreplace")]
        if case.refused is None:
            assert row["status"] == "ok", (case.name, row["error"])
            assert pd.isna(row["error"])
            if case.pixels is not None:
                assert (row["height"], row["width"]) == np.shape(case.pixels)[:2], case.name
            assert row["rotated"] == case.rotated
            assert row["prob_1"] > 0
        else:
            assert row["status"] == "quarantined", case.name
            assert re.search(case.refused, row["error"]), (case.name, row["error"])
            assert pd.isna(row["label_1"])
    good = sum(case.refused is None for case in files.values())
    assert (result["ok"], result["quarantined"]) == (good, len(files) - good)
