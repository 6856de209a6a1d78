"""Every module of PyTorch's database, a few of its samples; `python -m tests.oracle` runs all."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is the specification here")
modules = pytest.importorskip("tests.oracle.modules", reason="torch's test database is missing")


@pytest.mark.oracle
@pytest.mark.parametrize("name", modules.INFOS)
def test_a_module_equals_torchs(name):
    rows = list(modules.run(name, (torch.float64,), limit=3))
    assert len(rows) > 5
    assert [f"{row.kind} {row.detail}" for row in rows if not row.ok] == []
