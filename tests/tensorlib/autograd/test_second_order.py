"""Second derivatives of every operation in PyTorch's own database that has them, on its samples."""

from __future__ import annotations

import itertools
import warnings

import pytest

torch = pytest.importorskip("torch", reason="compares with PyTorch")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch's own test tools
    from tests.oracle import convert
    from tests.oracle import ops as oracle
    from tests.oracle.convert import Absent

# entries where torch has none either, or not that of its input
EXCEPTIONS = {
    "nn.functional.ctc_loss": "torch refuses a second derivative too, when it is asked for",
    "nn.functional.linear_cross_entropy.chunked": "torch's goes only by the cotangent",
    "nn.functional.linear_cross_entropy.chunked_none": "torch's raises",
    "chalf": "NumPy has no complex numbers of half precision",
}

ENTRIES = {
    family: [op for op in entries if op.supports_autograd and op.supports_gradgrad]
    for family, entries in oracle.families().items()
}


def ours_for(op):
    try:
        found = convert.function(op.op) if callable(op.op) else None
        if found is not op.op and found is not None:
            return found
    except Absent:
        pass
    return convert.lookup(op.name)


def check(op):
    """The first sample of an entry: gradients of a random projection of its gradients."""
    torch.manual_seed(0)
    for sample in itertools.islice(op.sample_inputs("cpu", torch.float64, requires_grad=True), 1):
        pair = oracle.Pair(sample)
        expected, actual = pair.processed(*pair.run(op.op, ours_for(op)))
        leaves = pair.leaves()
        first = oracle.gradients(actual, expected, leaves, 3, graph=True)
        if first[0] is None:
            continue
        kept = [(a, b) for a, b in zip(*first, strict=True) if b is not None and b.requires_grad]
        if not kept:
            continue
        assert all(a is not None for a, _ in kept), "a first gradient is None"
        again = oracle.gradients([a for a, _ in kept], [b for _, b in kept], leaves, 5)
        oracle.same_gradients(*oracle._none(again), "second gradient")


@pytest.mark.oracle
@pytest.mark.parametrize("family", ENTRIES)
def test_second_derivatives_are_torchs(family):
    failures = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in ENTRIES[family]:
            if torch.float64 not in op.supported_backward_dtypes("cpu"):
                continue
            try:
                check(op)
            except Exception as error:
                failures.append((oracle.label(op), " ".join(str(error).split())[:200]))
    assert [f for f in failures if f[0] not in EXCEPTIONS] == []


def test_exceptions_are_in_the_database():
    assert set(EXCEPTIONS) <= {oracle.label(op) for ops in ENTRIES.values() for op in ops}
