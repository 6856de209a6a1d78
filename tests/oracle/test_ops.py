"""Every entry of PyTorch's operator database passes, but for what is listed with its reason."""

import warnings

import pytest

pytest.importorskip("torch", reason="compares with PyTorch")
pytest.importorskip("expecttest", reason="PyTorch's operator database imports it")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test code warns about what is not installed
    from torch.testing._internal.common_methods_invocations import op_db

    from . import ops

from .known import KNOWN

ENTRIES = {ops.label(op): op for op in op_db if not ops.internal(op.name)}
SAMPLES = 3  # per dtype; `python -m tests.oracle` takes them all


@pytest.mark.oracle
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.filterwarnings("ignore")  # torch's own, of its samples
def test_entry(name):
    failures = {
        result.kind: result.detail
        for result in ops.check(ENTRIES[name], limit=SAMPLES)
        if not result.ok
    }
    known = KNOWN.get(name, {})
    assert failures.keys() <= known.keys(), failures
    assert known.keys() <= failures.keys(), f"passes now: {sorted(known.keys() - failures.keys())}"


def test_what_is_known_is_an_entry():
    assert KNOWN.keys() <= ENTRIES.keys()
