"""repr equals PyTorch's text."""

import pytest

import tensorlib

CASES = {
    "zero-dim": lambda t: t.tensor(3.5),
    "integers": lambda t: t.tensor([[1, -20], [300, 4]]),
    "bools": lambda t: t.tensor([True, False]),
    "fixed": lambda t: t.tensor([1.5, -2.25, 100.0]),
    "whole floats": lambda t: t.tensor([1.0, 2.0, 30.0]),
    "scientific": lambda t: t.tensor([1e-8, 1.0, 1e9]),
    "nan and inf": lambda t: t.tensor([float("nan"), float("inf"), -1.25]),
    "double": lambda t: t.tensor([0.1, 0.2], dtype=t.float64),
    "small integers": lambda t: t.tensor([1, 2], dtype=t.int32),
    "empty": lambda t: t.zeros(0),
    "empty rows": lambda t: t.zeros(2, 0, dtype=t.int64),
    "requires grad": lambda t: t.ones(2, 2, requires_grad=True),
    "summarised": lambda t: t.arange(2000),
    "summarised matrix": lambda t: t.arange(4000.0).reshape(40, 100),
    "three dims": lambda t: t.arange(12).reshape(2, 2, 3) / 8,
    "long line": lambda t: t.arange(40.0),
    "grad_fn": lambda t: t.ones(2, requires_grad=True) * 2,
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_repr_equals_torch(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours, theirs = repr(CASES[name](tensorlib)), repr(CASES[name](torch))
    assert ours.replace("tensorlib.", "torch.") == theirs


def test_repr_without_torch():
    assert repr(tensorlib.tensor([1.5, -2.0])) == "tensor([ 1.5000, -2.0000])"
    assert (
        repr(tensorlib.tensor([1], dtype=tensorlib.int32)) == "tensor([1], dtype=tensorlib.int32)"
    )
    assert repr(tensorlib.zeros(2, 0)) == "tensor([], size=(2, 0))"
    assert f"{tensorlib.tensor(1.25):.1f}" == "1.2"


def test_repr_of_a_parameter_names_it():
    made = repr(tensorlib.nn.Parameter(tensorlib.ones(1)))
    assert made == "Parameter containing:\ntensor([1.], requires_grad=True)"
