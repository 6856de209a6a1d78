"""Compiled products of matrices, attention and recurrent layers: errors against float64, gradients
of the operations on them, and the same bits for any number of threads.
"""

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.kernels import attention, cpu, matrix, recurrent
from tensorlib.nn import functional as F

rng = np.random.default_rng(0)
KERNELS = {
    "matmul": matrix.matmul,
    "sum_rows": matrix.sum_rows,
    "attention": attention.attention,
    "attention_grad": attention.attention_grad,
    "lstm": recurrent.lstm,
    "lstm_grad": recurrent.lstm_grad,
    "gru": recurrent.gru,
    "gru_grad": recurrent.gru_grad,
}


@pytest.fixture(autouse=True)
def compiled_whatever_the_size(monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)


@pytest.fixture
def threads():
    before = tensorlib.get_num_threads()
    yield tensorlib.set_num_threads
    tensorlib.set_num_threads(before)


def single(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def flat(found):
    found = found if isinstance(found, tuple) else (found,)
    return [np.array(a) for a in found if a is not None]


@pytest.mark.parametrize("name", KERNELS)
def test_results_do_not_depend_on_the_number_of_threads(name, threads):
    made = KERNELS[name]
    for sample in made.samples():
        if not made.overrides[0].condition(*sample):
            continue
        threads(1)
        expected = flat(made(*sample))
        for count in (2, 3, 5):
            threads(count)
            for one, other in zip(flat(made(*sample)), expected, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(64, 784, 512), (300, 512, 500), (31, 2048, 100), (1000, 37, 61), (5, 4096, 7), (256, 900, 1)],
)
@pytest.mark.parametrize("turned", ["nn", "nt", "tn", "tt"])
def test_the_error_of_a_product_is_within_four_times_torchs(rows, depth, columns, turned):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    a = single(rows, depth) if turned[0] == "n" else single(depth, rows).T
    b = single(depth, columns) if turned[1] == "n" else single(columns, depth).T
    truth = a.astype(np.float64) @ b.astype(np.float64)
    own = np.abs(matrix.matmul(a, b) - truth)
    other = np.abs((torch.from_numpy(a) @ torch.from_numpy(b)).numpy() - truth)
    assert own.max() <= 4 * other.max() + 1e-12
    assert own.mean() <= 4 * other.mean() + 1e-12


def gradients(library, function, arrays, kind):
    """The value and the gradients of a random projection, as float64 arrays."""
    tensors = [library.tensor(a.astype(kind)).requires_grad_() for a in arrays]
    output = function(library, *tensors)
    weights = np.random.default_rng(1).standard_normal(tuple(output.shape)).astype(kind)
    (output * library.tensor(weights)).sum().backward()
    return [t.detach().numpy().astype(np.float64) for t in (output, *(t.grad for t in tensors))]


def attend(library, q, k, v, **kwargs):
    return library.nn.functional.scaled_dot_product_attention(q, k, v, **kwargs)


def masked(library, q, k, v):
    hidden = np.arange(k.shape[-2])[None] % 5 == 1
    mask = np.where(hidden, -np.inf, 0).astype(np.float32)
    return attend(library, q, k, v, attn_mask=library.tensor(mask).to(q.dtype))


def rows(library, x, w, b):
    return library.nn.functional.linear(x, w, b)


def projected(library, x, into, outof):
    """Self-attention of five heads."""
    made = library.nn.MultiheadAttention(20, 5, bias=False, batch_first=True).to(x.dtype)
    parameters = {"in_proj_weight": into, "out_proj.weight": outof}
    arguments = (x, x, x), {"need_weights": False}
    return library.func.functional_call(made, parameters, *arguments)[0]


CASES = {
    "linear": (rows, (40, 7, 130), (61, 130), (61,)),
    "product": (lambda library, a, b: a @ b, (3, 41, 70), (3, 70, 33)),
    "product with a matrix": (lambda library, a, b: a @ b, (3, 41, 70), (70, 33)),
    "attention": (attend, (2, 3, 70, 24), (2, 3, 300, 24), (2, 3, 300, 10)),
    "masked attention": (masked, (2, 3, 70, 24), (2, 3, 300, 24), (2, 3, 300, 10)),
    "causal attention": (
        lambda *x: attend(*x, is_causal=True),
        (2, 3, 300, 16),
        (2, 3, 300, 16),
        (2, 3, 300, 16),
    ),
    "self-attention": (projected, (4, 60, 20), (60, 20), (20, 20)),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_errors_of_values_and_gradients_are_within_four_times_torchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    function, *shapes = CASES[name]
    arrays = [single(*shape) for shape in shapes]
    truth = gradients(torch, function, arrays, np.float64)
    other = gradients(torch, function, arrays, np.float32)
    own = gradients(tensorlib, function, arrays, np.float32)
    for mine, theirs, exact in zip(own, other, truth, strict=True):
        assert mine.shape == exact.shape
        assert np.abs(mine - exact).max() <= 4 * np.abs(theirs - exact).max() + 1e-6


def test_long_sequences_keep_no_matrix_of_queries_and_keys(monkeypatch):
    monkeypatch.setattr(np, "exp", None)  # of the reference
    length = 3000
    q, k, v = (tensorlib.from_numpy(single(1, 1, length, 8)).requires_grad_() for _ in range(3))
    output = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    output.sum().backward()
    first = v.detach().numpy()[0, 0, 0]
    np.testing.assert_allclose(output.detach().numpy()[0, 0, 0], first, 1e-5, 1e-6)
    assert np.isfinite(q.grad.numpy()).all()


def test_dropout_of_attention_draws_the_same_noise_compiled_and_composed():
    x = single(2, 9, 8)
    found = []
    for need_weights in (False, True):
        tensorlib.manual_seed(3)
        layer = nn.MultiheadAttention(8, 2, dropout=0.5)
        tensorlib.manual_seed(4)
        t = tensorlib.from_numpy(x)
        found.append(layer(t, t, t, need_weights=need_weights)[0].detach().numpy())
    np.testing.assert_allclose(*found, 1e-5, 1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_equal_their_float64_twins(kind, bidirectional):
    tensorlib.manual_seed(0)
    layer = getattr(nn, kind)(13, 35, 2, bidirectional=bidirectional)
    wide = getattr(nn, kind)(13, 35, 2, bidirectional=bidirectional).double()
    wide.load_state_dict(layer.state_dict())
    x = single(11, 9, 13)
    outputs = []
    for made, kept in ((layer, np.float32), (wide, np.float64)):
        t = tensorlib.tensor(x.astype(kept), requires_grad=True)
        out, _ = made(t)
        out.pow(2).sum().backward()
        outputs.append([out.detach().numpy(), t.grad.numpy()])
        outputs[-1] += [p.grad.numpy() for p in made.parameters()]
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_allclose(one, other, 1e-4, 1e-5)


def test_a_product_of_nan_and_infinity_is_numpys():
    a, b = single(30, 40), single(40, 50)
    a[3, 5], a[4, 6], b[7, 8] = np.nan, np.inf, -np.inf
    np.testing.assert_allclose(matrix.matmul(a, b), a @ b, 1e-4, 1e-5)
