"""The made-up files beside jobs/data/generate.py are what it writes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from jobs.data import generate


def test_the_files_can_be_made_again(tmp_path: Path) -> None:
    here = Path(generate.__file__).parent
    for path in generate.write(tmp_path):
        if path.suffix == ".txt":
            assert path.read_text() == (here / path.name).read_text()
        else:  # sines of another machine may round otherwise
            made, there = pd.read_csv(path), pd.read_csv(here / path.name)
            pd.testing.assert_frame_equal(made, there, atol=0.11, rtol=0)


def test_sums_are_right() -> None:
    number = {generate.words(i): i for i in range(100)}
    for line in generate.arithmetic(200).splitlines():
        left, result = line.removesuffix(".").split(" is ")
        sign = "minus" if " minus " in left else "plus"
        a, b = (number[part] for part in left.split(f" {sign} "))
        assert number[result] == (a - b if sign == "minus" else a + b)
