"""Every recorded answer of PyTorch, again from ours; needs no torch."""

import pytest

from . import goldens

RECORDS = list(goldens.load())


@pytest.mark.parametrize(
    ("name", "build", "expected"), [r[1:] for r in RECORDS], ids=[r[0] for r in RECORDS]
)
def test_answer_equals_its_record(name, build, expected):
    actual = goldens.answers(name, *build())
    assert goldens.same(actual, expected), f"{actual}; {expected} expected"
