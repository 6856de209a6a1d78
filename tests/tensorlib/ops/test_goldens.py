"""Every operation against what PyTorch was recorded to give; needs no torch."""

import json

import pytest

import tensorlib

from .golden import PATH, digest
from .samples import CASES, IDS

GOLDENS = json.loads(PATH.read_text())


@pytest.mark.parametrize(("name", "number"), CASES, ids=IDS)
@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_sample_equals_its_record(name, number):
    expected = GOLDENS[f"{name}-{number}"]
    actual = digest(tensorlib, name, number)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            assert one[:2] == other[:2]
            assert one[2:] == pytest.approx(other[2:], rel=2e-5, abs=3e-5)


def test_every_record_belongs_to_a_sample():
    assert sorted(GOLDENS) == sorted(IDS)
