"""Programs about autograd observe the same with tensorlib and with torch."""

from __future__ import annotations

import pytest

import tensorlib
from tests.tensorlib.autograd import (
    scenarios_checkpoint,
    scenarios_engine,
    scenarios_function,
    scenarios_functional,
    scenarios_hooks,
    scenarios_inplace,
    scenarios_modes,
)
from tests.tensorlib.autograd.scenario import compare

TABLES = (
    scenarios_checkpoint,
    scenarios_engine,
    scenarios_function,
    scenarios_functional,
    scenarios_hooks,
    scenarios_inplace,
    scenarios_modes,
)
ALL = [(name, run) for table in TABLES for name, run in table.scenario.all.items()]


@pytest.mark.oracle
@pytest.mark.parametrize("run", [run for _, run in ALL], ids=[name for name, _ in ALL])
def test_a_program_observes_what_it_does_with_torch(run):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    try:
        compare(run, tensorlib, torch)
    finally:
        for lib in (tensorlib, torch):
            lib.set_grad_enabled(True)
