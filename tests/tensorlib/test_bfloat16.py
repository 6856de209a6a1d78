"""bfloat16, whose arithmetic ml_dtypes adds to NumPy: as in PyTorch, computed in float32."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tensorlib

VALUES = [1.5, -2.25, 0.0, 3.140625, -0.0078125, 100.5, 7.0, -1.0]
OPERATIONS = {
    "add": lambda t, x, y: x + y,
    "sub": lambda t, x, y: x - y,
    "mul": lambda t, x, y: x * y,
    "div": lambda t, x, y: x / y,
    "number": lambda t, x, y: (2.5 - x * 3) / 1.7,
    "integer tensor": lambda t, x, y: x + t.arange(8),
    "float tensor": lambda t, x, y: x + t.arange(8.0),
    "half tensor": lambda t, x, y: x + t.arange(8.0).half(),
    "zero-dim float": lambda t, x, y: x * t.tensor(1.1),
    "comparison": lambda t, x, y: (x < y) | (x == 1.5),
    "pow": lambda t, x, y: x.abs() ** 1.5,
    "exp": lambda t, x, y: y.exp(),
    "tanh": lambda t, x, y: x.tanh(),
    "sqrt": lambda t, x, y: x.abs().sqrt(),
    "gelu": lambda t, x, y: t.nn.functional.gelu(x),
    "clamp": lambda t, x, y: x.clamp(-1, 2.2),
    "where": lambda t, x, y: t.where(x > 0, x, y),
    "maximum": lambda t, x, y: t.maximum(x, y),
    "sum": lambda t, x, y: x.sum(),
    "sum of dim": lambda t, x, y: x.reshape(2, 4).sum(1),
    "sum in float32": lambda t, x, y: x.sum(dtype=t.float32),
    "mean": lambda t, x, y: x.mean(),
    "var": lambda t, x, y: x.var(),
    "max": lambda t, x, y: x.reshape(2, 4).max(1).values,
    "argmax": lambda t, x, y: x.argmax(),
    "cumsum": lambda t, x, y: x.cumsum(0),
    "sort": lambda t, x, y: x.sort().values,
    "softmax": lambda t, x, y: x.softmax(0),
    "matmul": lambda t, x, y: x.reshape(2, 4) @ y.reshape(4, 2),
    "linear": lambda t, x, y: t.nn.functional.linear(x.reshape(2, 4), y.reshape(2, 4)),
    "cat": lambda t, x, y: t.cat([x, y]),
    "stack": lambda t, x, y: t.stack([x, y], 1),
    "index": lambda t, x, y: x[[0, 3]],
    "slice": lambda t, x, y: x.reshape(2, 4)[:, 1::2],
    "transpose": lambda t, x, y: x.reshape(2, 4).t(),
    "gather": lambda t, x, y: x.gather(0, t.tensor([1, 5])),
    "layer_norm": lambda t, x, y: t.nn.functional.layer_norm(x.reshape(2, 4), (4,)),
    "cross_entropy": lambda t, x, y: t.nn.functional.cross_entropy(
        x.reshape(2, 4), t.tensor([1, 2])
    ),
    "in place": lambda t, x, y: x.clone().add_(y).mul_(0.3),
    "zeros_like": lambda t, x, y: t.zeros_like(x),
    "full": lambda t, x, y: t.full((3,), 1.1, dtype=t.bfloat16),
    "arange": lambda t, x, y: t.arange(0, 2, 0.3, dtype=t.bfloat16),
    "linspace": lambda t, x, y: t.linspace(0, 2, 4, dtype=t.bfloat16),
    "tensor": lambda t, x, y: t.tensor([[1.1, 2], [3, 4]], dtype=t.bfloat16),
    "to int": lambda t, x, y: x.to(t.int32),
    "to half": lambda t, x, y: x.half(),
    "from double": lambda t, x, y: t.arange(9).double().div(7).bfloat16(),
    "from int": lambda t, x, y: t.tensor([2**24 + 1, 257, -3]).bfloat16(),
    "from bool": lambda t, x, y: (x > 0).bfloat16(),
    "to complex": lambda t, x, y: x.cfloat(),
}


def numbers(library):
    x = library.tensor(VALUES).to(library.bfloat16)
    return x, library.tensor(VALUES[::-1]).to(library.bfloat16)


@pytest.mark.oracle
@pytest.mark.parametrize("name", OPERATIONS)
def test_values_and_types_equal_torch(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours = OPERATIONS[name](tensorlib, *numbers(tensorlib))
    theirs = OPERATIONS[name](torch, *numbers(torch))
    assert str(ours.dtype).partition(".")[2] == str(theirs.dtype).partition(".")[2]
    expected = theirs.float() if theirs.dtype is torch.bfloat16 else theirs
    actual = ours.float() if ours.dtype is tensorlib.bfloat16 else ours
    if theirs.dtype is torch.bfloat16:  # 8 bits: a step is 1/128
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0.008, atol=1e-5)
    else:
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-6)


DIFFERENTIABLE = ["add", "mul", "div", "number", "tanh", "sum", "softmax", "matmul", "layer_norm"]


@pytest.mark.oracle
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_equal_torch(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    grads = []
    for library in (tensorlib, torch):
        x, y = numbers(library)
        x.requires_grad_()
        (OPERATIONS[name](library, x, y + 0.5) * 2).sum().backward()
        assert x.grad.dtype == library.bfloat16
        grads.append(x.grad.float().numpy())
    np.testing.assert_allclose(*grads, rtol=0.016, atol=1e-3)


@pytest.mark.oracle
def test_random_numbers_equal_torch_bit_for_bit():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    draws = [
        lambda t, n: t.rand(n, dtype=t.bfloat16),
        lambda t, n: t.randn(n, dtype=t.bfloat16),
        lambda t, n: t.empty(n, dtype=t.bfloat16).uniform_(-1.3, 2.7),
        lambda t, n: t.empty(n, dtype=t.bfloat16).normal_(1.3, 2.7),
        lambda t, n: t.empty(n, dtype=t.bfloat16).exponential_(),
        lambda t, n: t.empty(n, dtype=t.bfloat16).random_(),
        lambda t, n: t.empty(n, dtype=t.bfloat16).random_(-5, 90),
        lambda t, n: t.empty(n, dtype=t.bfloat16).bernoulli_(0.3),
        lambda t, n: t.nn.functional.dropout(t.ones(n, dtype=t.bfloat16), 0.3),
        lambda t, n: t.randperm(n, dtype=t.bfloat16),
    ]
    for draw in draws:
        for size in (3, 16, 100, 250):
            found = []
            for library in (tensorlib, torch):
                library.manual_seed(size)
                found.append(draw(library, size).float().numpy())
            np.testing.assert_array_equal(*found)


def test_a_cast_passes_gradients_both_ways():
    wide = tensorlib.ones(3, requires_grad=True)
    (wide.bfloat16() * 2.5).float().sum().backward()
    assert wide.grad.dtype is tensorlib.float32
    assert wide.grad.tolist() == [2.5, 2.5, 2.5]


def test_numbers_and_text():
    x = tensorlib.tensor([1.0, 2.0, 3.140625]).bfloat16()
    assert x.tolist() == [1.0, 2.0, 3.140625]
    assert x[2].item() == float(x[2]) == 3.140625
    assert repr(x) == "tensor([1.0000, 2.0000, 3.1406], dtype=tensorlib.bfloat16)"
    assert x.type() == "tensorlib.BFloat16Tensor"
    assert x.element_size() == 2
    assert x.is_floating_point()
    assert tensorlib.finfo(tensorlib.bfloat16).eps == 0.0078125
    assert tensorlib.promote_types(tensorlib.bfloat16, tensorlib.float16) is tensorlib.float32
    assert tensorlib.promote_types(tensorlib.bfloat16, tensorlib.int64) is tensorlib.bfloat16


def test_numpy_is_refused_as_in_torch():
    x = tensorlib.ones(2).bfloat16()
    for convert in (lambda: x.numpy(), lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="BFloat16"):
            convert()


def test_copies_share_as_other_types_do():
    x = tensorlib.arange(6).bfloat16()
    view = x.reshape(2, 3)[:, 1]
    view.fill_(9)
    assert x.tolist() == [0, 9, 2, 3, 9, 5]
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.dtype is tensorlib.bfloat16
        assert twin.tolist() == x.tolist()
    assert pickle.loads(pickle.dumps(tensorlib.bfloat16)) is tensorlib.bfloat16


def test_the_default_type_may_be_bfloat16():
    tensorlib.set_default_dtype(tensorlib.bfloat16)
    try:
        assert tensorlib.ones(2).dtype is tensorlib.bfloat16
        assert tensorlib.tensor([1.5]).dtype is tensorlib.bfloat16
    finally:
        tensorlib.set_default_dtype(tensorlib.float32)


def test_its_library_is_loaded_only_when_it_is_asked_for():
    code = (
        "import sys, tensorlib as t; x = t.ones(2).half(); assert 'ml_dtypes' not in sys.modules;"
        " x.bfloat16(); assert 'ml_dtypes' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
