"""Every optimizer of PyTorch's test database: values, states, resumes both ways, refusals."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch", reason="PyTorch is the reference")

from tests.oracle import optimizers as oracle  # noqa: E402  # after the skip

ELEMENTWISE = [
    info
    for info in oracle.optim_db
    if info.name not in ("LBFGS", "Muon", "SparseAdam", "Adafactor")
]


@pytest.mark.parametrize("info", oracle.optim_db, ids=lambda info: info.name)
def test_torchs_database(info):
    results = oracle.check_one(info)
    wrong = [f"{r.name} {r.kind}: {r.detail}" for r in results if not r.ok]
    assert not wrong, "\n".join(wrong)
    assert {r.kind for r in results} >= {"exists", "signature", "text", "refusals"}


@pytest.mark.parametrize("info", ELEMENTWISE, ids=lambda info: info.name)
def test_fifty_steps_stay_within_two_units_of_the_last_place(info):
    """Of the largest element: torch fuses multiplications with additions, NumPy cannot."""
    for given in info.optim_inputs_func("cpu"):
        pairs = [
            oracle.fixed_steps(lib, info.name, given.kwargs, torch.float32, 50, ((33, 7), (65,)))
            for lib in (oracle.tensorlib, torch)
        ]
        for ours, theirs in zip(pairs[0][0], pairs[1][0], strict=True):
            a, b = ours.detach().numpy(), theirs.detach().numpy()
            units = np.abs(a - b).max() / np.spacing(np.abs(b).max())
            assert units <= 2, f"{given.desc}: {units} units"
