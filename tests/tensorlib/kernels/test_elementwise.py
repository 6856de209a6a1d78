"""Compiled elementwise and row kernels: accuracy against PyTorch's, ends of the range, layouts,
threads, memory.
"""

import numpy as np
import pytest

import tensorlib
from tensorlib.kernels import activation, arithmetic, cpu, embedding
from tensorlib.kernels import softmax as rows
from tensorlib.kernels.cpu.activation import NAMES
from tensorlib.nn import functional as F

NUMBERS = {
    "hardtanh": (-1.0, 1.0),
    "leaky_relu": (0.1,),
    "softplus": (2.0, 20.0),
    "elu": (1.5, 1.25, 0.5),
}


@pytest.fixture(autouse=True)
def compiled_whatever_the_size(monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)


@pytest.fixture
def threads():
    before = tensorlib.get_num_threads()
    yield tensorlib.set_num_threads
    tensorlib.set_num_threads(before)


def torch_function(name):
    torch = pytest.importorskip("torch")
    G = torch.nn.functional
    return {
        "gelu_tanh": lambda x: G.gelu(x, approximate="tanh"),
        "leaky_relu": lambda x: G.leaky_relu(x, 0.1),
        "softplus": lambda x: G.softplus(x, 2.0, 20.0),
        "elu": lambda x: 1.25 * torch.where(x > 0, x, 1.5 * torch.expm1(0.5 * x)),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }.get(name) or getattr(G, name)


def values():
    spread = np.linspace(-30, 30, 40001)
    small = np.concatenate(
        [10.0 ** np.linspace(-40, 0, 2001), -(10.0 ** np.linspace(-40, 0, 2001))]
    )
    return np.concatenate([spread, small]).astype(np.float32)


def gradient(torch, function, x, grad):
    x = torch.tensor(x, requires_grad=True)
    return torch.autograd.grad(function(x), x, torch.tensor(grad, dtype=x.dtype))[0].numpy()


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
def test_an_activation_is_as_exact_as_torchs(name):
    torch = pytest.importorskip("torch")
    function, numbers, x = torch_function(name), NUMBERS.get(name, ()), values()
    grad = np.cos(np.arange(x.size, dtype=np.float32))
    kernel, slope = getattr(activation, name), getattr(activation, f"{name}_grad")
    held = kernel(x, *numbers) if name in ("relu", "sigmoid", "tanh", "hardtanh") else x
    wide = x.astype(np.float64)
    for ours, theirs, truth in (
        (
            kernel(x, *numbers),
            function(torch.tensor(x)).numpy(),
            function(torch.tensor(wide)).numpy(),
        ),
        (
            slope(grad, held, *numbers),
            gradient(torch, function, x, grad),
            gradient(torch, function, wide, grad),
        ),
    ):
        scale = np.maximum(np.abs(truth), 1e-3)  # near zero the error is an absolute one
        budget = 4 * np.abs(theirs - truth) / scale
        assert (np.abs(ours - truth) / scale).max() <= max(budget.max(), 2.5e-7)


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
def test_the_ends_of_the_range_are_torchs(name):
    torch = pytest.importorskip("torch")
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 100.0, -100.0, 3e38, -3e38, 1e-40] * 3)
    x = x.astype(np.float32)
    ours = getattr(activation, name)(x, *NUMBERS.get(name, ()))
    # with vectors of 512 bits PyTorch's float32 GELU of infinity is NaN
    wide = x.astype(np.float64) if name == "gelu" else x
    theirs = torch_function(name)(torch.tensor(wide)).numpy()
    np.testing.assert_allclose(ours, theirs.astype(np.float32), rtol=1e-5, atol=1e-30)
    if name != "relu":
        return
    grad = np.ones_like(x)
    np.testing.assert_array_equal(
        activation.relu_grad(grad, ours), gradient(torch, torch.relu, x, grad)
    )


@pytest.mark.parametrize("name", NAMES)
def test_any_dense_layout_is_kept_and_others_are_right(name):
    kernel, slope = getattr(activation, name), getattr(activation, f"{name}_grad")
    numbers = NUMBERS.get(name, ())
    x = np.random.default_rng(0).standard_normal((3, 5, 7, 11), np.float32)
    for given in (x.transpose(0, 3, 1, 2), x.transpose(2, 1, 0, 3), x[:, ::2], x[..., ::-1]):
        grad = np.cos(np.ascontiguousarray(given) * 3)  # laid out in another way
        found = kernel(given, *numbers)
        expected = kernel.reference(given, *numbers)
        assert found.strides == expected.strides
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            slope(grad, given, *numbers), slope.reference(grad, given, *numbers),
            rtol=1e-5, atol=1e-6,
        )  # fmt: skip


def test_results_do_not_depend_on_the_number_of_threads(threads):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 1003), np.float32)
    t, index = rng.integers(0, 1003, 300), rng.integers(0, 77, 300)
    found = []
    for count in (1, 2, 3):
        threads(count)
        losses, powers, totals = rows.cross_entropy(x, t, True)
        found.append(
            [
                activation.gelu(x),
                activation.gelu_grad(x, x),
                arithmetic.add(x, x[0]),
                rows.softmax(x, 1),
                rows.softmax(x, 0),
                losses,
                rows.cross_entropy_grad(powers, totals, t, np.float32(0.1)),
                embedding.take_rows_grad(x, index, 77, -1),
            ]
        )
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(7, 1003), (3, 50021), (64, 33)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_as_exact_as_torchs(shape, reduction):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, np.float32) * 8
    t = rng.integers(0, shape[1], shape[0])

    def run(library, array):
        given = library.tensor(array, requires_grad=True)
        loss = library.nn.functional.cross_entropy(given, library.tensor(t), reduction=reduction)
        loss.backward(library.ones_like(loss) * 0.5)
        return loss.detach().numpy(), given.grad.numpy()

    truth = run(torch, x.astype(np.float64))
    for ours, theirs, true in zip(run(tensorlib, x), run(torch, x), truth, strict=True):
        budget = 4 * np.abs(theirs - true).max() + 1e-7 * np.abs(true).max()
        assert np.abs(ours - true).max() <= budget


def test_logits_may_change_after_cross_entropy():
    x = tensorlib.randn(8, 2000, requires_grad=True)
    logits = x * 1.0
    loss = F.cross_entropy(logits, tensorlib.arange(8))
    with tensorlib.no_grad():
        logits.zero_()
    loss.backward()
    expected = F.softmax(x.detach(), 1).numpy() / 8
    expected[np.arange(8), np.arange(8)] -= 1 / 8
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("grad", [False, True])
def test_relu_in_place_takes_no_memory(grad):
    leaf = tensorlib.randn(64, 1000, requires_grad=grad)
    x = leaf * 1.0
    before, place = x.detach().clone(), x.array.ctypes.data
    y = F.relu(x, inplace=True)
    assert y is x
    assert x.array.ctypes.data == place
    np.testing.assert_array_equal(y.detach().numpy(), np.maximum(before.numpy(), 0))
    if grad:
        y.sum().backward()
        np.testing.assert_array_equal(leaf.grad.numpy(), (before.numpy() > 0).astype(np.float32))


@pytest.mark.parametrize("name", ["silu", "mish", "elu", "leaky_relu", "hardswish", "relu6"])
@pytest.mark.parametrize("grad", [False, True])
def test_in_place_equals_out_of_place(name, grad):
    results = []
    for inplace in (False, True):
        leaf = tensorlib.linspace(-7, 7, 4001, requires_grad=grad)
        y = getattr(F, name)(leaf * 1.0, inplace=inplace)
        if grad:
            (y * y).sum().backward()
        results.append((y.detach().numpy(), leaf.grad.numpy() if grad else 0))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_gradient_in_kept_memory_is_not_copied():
    x = tensorlib.randn(1 << 19, requires_grad=True)
    (x * 2.0).backward(tensorlib.ones(1 << 19))
    assert x.grad.array.base is not None
    first = x.grad.array.copy()
    (x * 2.0).backward(tensorlib.ones(1 << 19))
    np.testing.assert_array_equal(x.grad.array, first * 2)


def test_gradients_that_share_memory_stay_apart():
    a = tensorlib.randn(1 << 19, requires_grad=True)
    b = tensorlib.randn(1 << 19, requires_grad=True)
    ((a + b) * 3.0).sum().backward()
    a.grad.zero_()
    assert (b.grad.array == 3).all()


@pytest.mark.oracle
@pytest.mark.parametrize("count", [1 << 14, 100_003])
def test_large_draws_are_torchs_bit_for_bit(count):
    torch = pytest.importorskip("torch")
    for p in (0.1, 0.5, 0.9999):
        torch.manual_seed(3)
        tensorlib.manual_seed(3)
        for _ in range(2):
            theirs = torch.nn.functional.dropout(torch.ones(count), p).numpy()
            np.testing.assert_array_equal(F.dropout(tensorlib.ones(count), p).numpy(), theirs)
        np.testing.assert_array_equal(tensorlib.rand(count).numpy(), torch.rand(count).numpy())
        np.testing.assert_array_equal(
            tensorlib.get_rng_state().numpy(), torch.get_rng_state().numpy()
        )


@pytest.mark.oracle
def test_an_embeddings_gradient_is_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    table, index = rng.standard_normal((301, 19), np.float32), rng.integers(0, 301, (40, 25))
    seed = rng.standard_normal((40, 25, 19), np.float32)
    found = []
    for library in (tensorlib, torch):
        w = library.tensor(table, requires_grad=True)
        out = library.nn.functional.embedding(library.tensor(index), w, padding_idx=7)
        out.backward(library.tensor(seed))
        found.append((out.detach().numpy(), w.grad.numpy()))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)
