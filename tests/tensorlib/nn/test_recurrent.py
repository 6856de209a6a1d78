"""Recurrent layers and cells: next to torch's, packed next to alone, and their gradients."""

import copy
import pickle

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.nn.utils import rnn

SEED = 11
BATCH, STEPS = 3, 5
LENGTHS = [2, 5, 4]
LAYERS = {
    "LSTM": lambda n: n.LSTM(4, 6),
    "LSTM stacked": lambda n: n.LSTM(4, 6, 3, dropout=0.4),
    "LSTM both ways": lambda n: n.LSTM(4, 6, 2, batch_first=True, bidirectional=True, dropout=0.3),
    "LSTM without bias": lambda n: n.LSTM(4, 6, bias=False, bidirectional=True),
    "LSTM projected": lambda n: n.LSTM(4, 6, 2, proj_size=3, bidirectional=True),
    "LSTM projected without bias": lambda n: n.LSTM(4, 6, 1, False, True, proj_size=3),
    "GRU": lambda n: n.GRU(4, 6),
    "GRU both ways": lambda n: n.GRU(4, 6, 2, True, True, 0.2, True),
    "GRU without bias": lambda n: n.GRU(4, 6, 2, bias=False, dropout=1.0),
    "RNN": lambda n: n.RNN(4, 6),
    "RNN relu": lambda n: n.RNN(4, 6, 2, "relu", bidirectional=True, dropout=0.3),
    "RNN without bias": lambda n: n.RNN(4, 6, nonlinearity="tanh", bias=False, batch_first=True),
}
CELLS = {
    "LSTMCell": lambda n: n.LSTMCell(4, 6),
    "LSTMCell without bias": lambda n: n.LSTMCell(4, 6, bias=False),
    "GRUCell": lambda n: n.GRUCell(4, 6),
    "GRUCell without bias": lambda n: n.GRUCell(4, 6, False),
    "RNNCell": lambda n: n.RNNCell(4, 6),
    "RNNCell relu": lambda n: n.RNNCell(4, 6, False, "relu"),
}
# the input: a batch or one sequence, packed or not, its state given or not
FORMS = ("batch", "batch and state", "one", "one and state", "packed", "packed and state")


def utils(library):
    return library.nn.utils.rnn


def arrays(build, form):
    """The input and the states a form needs."""
    rng = np.random.default_rng(3)
    module = build(nn)
    turn = module.batch_first
    lead = {"one": (STEPS,)}.get(form.split()[0], (BATCH, STEPS) if turn else (STEPS, BATCH))
    found = [rng.standard_normal((*lead, 4))]
    if form.endswith("state"):
        count = module.num_layers * (2 if module.bidirectional else 1)
        middle = () if form.startswith("one") else (BATCH,)
        found.append(rng.standard_normal((count, *middle, module.proj_size or 6)))
        if isinstance(module, nn.LSTM):
            found.append(rng.standard_normal((count, *middle, 6)))
    return found


def flat(value):
    if isinstance(value, (tuple, list)):
        return [one for item in value for one in flat(item)]
    return [] if value is None else [value]


def run(library, module, form, given):
    """Outputs, and gradients of one random projection, as arrays."""
    leaves = [library.tensor(a.astype(np.float32), requires_grad=True) for a in given]
    x, states = leaves[0], leaves[1:]
    if form.startswith("packed"):
        x = utils(library).pack_padded_sequence(
            x, LENGTHS, batch_first=module.batch_first, enforce_sorted=False
        )
    hx = None if not states else (tuple(states) if len(states) == 2 else states[0])
    library.manual_seed(5)
    outputs = [t for t in flat(module(x, hx)) if t.requires_grad]
    return differentiated(library, outputs, [*leaves, *module.parameters()])


def differentiated(library, outputs, leaves):
    rng = np.random.default_rng(4)
    weights = [rng.standard_normal(tuple(t.shape)).astype(np.float32) for t in outputs]
    grads = library.autograd.grad(
        outputs, leaves, [library.tensor(w) for w in weights], allow_unused=True
    )
    return [t.detach().numpy() for t in (*outputs, *grads) if t is not None]


def twins(build):
    """The module in both libraries from one seed; torch's weights in both."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    torch.manual_seed(SEED)
    theirs = build(torch.nn)
    tensorlib.manual_seed(SEED)
    ours = build(nn)
    for (name, a), (key, b) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == key
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-7, atol=6e-8)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return torch, ours, theirs


@pytest.mark.oracle
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_layers_equal_torchs(name, form, training):
    torch, ours, theirs = twins(LAYERS[name])
    given = arrays(LAYERS[name], form)
    found = run(tensorlib, ours.train(training), form, given)
    expected = run(torch, theirs.train(training), form, given)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
    assert str(ours) == str(theirs)


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["batch", "batch and state", "one", "one and state"])
@pytest.mark.parametrize("name", CELLS)
def test_cells_equal_torchs(name, form):
    torch, ours, theirs = twins(CELLS[name])
    rng = np.random.default_rng(6)
    lead = () if form.startswith("one") else (BATCH,)
    given = [rng.standard_normal((*lead, 4))]
    if form.endswith("state"):
        given += [rng.standard_normal((*lead, 6)) for _ in range(1 + name.startswith("LSTM"))]

    def cell(library, module):
        leaves = [library.tensor(a.astype(np.float32), requires_grad=True) for a in given]
        hx = None if len(leaves) == 1 else tuple(leaves[1:]) if len(leaves) == 3 else leaves[1]
        outputs = flat(module(leaves[0], hx))
        return differentiated(library, outputs, [*leaves, *module.parameters()])

    for one, other in zip(cell(tensorlib, ours), cell(torch, theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
    assert str(ours) == str(theirs)


REFUSED = {
    "no input size": lambda n, t: n.LSTM(0, 4),
    "no hidden size": lambda n, t: n.GRU(3, -1),
    "no layers": lambda n, t: n.RNN(3, 4, 0),
    "float size": lambda n, t: n.LSTM(3.0, 4),
    "bias 1": lambda n, t: n.LSTM(3, 4, 1, 1),
    "batch_first 1": lambda n, t: n.LSTM(3, 4, batch_first=1),
    "dropout 2": lambda n, t: n.LSTM(3, 4, 2, dropout=2),
    "dropout True": lambda n, t: n.LSTM(3, 4, 2, dropout=True),
    "negative projection": lambda n, t: n.LSTM(3, 4, proj_size=-1),
    "wide projection": lambda n, t: n.LSTM(3, 4, proj_size=4),
    "projected GRU": lambda n, t: n.GRU(3, 4, proj_size=2),
    "projected RNN": lambda n, t: n.RNN(3, 4, proj_size=2),
    "mode": lambda n, t: n.RNNBase("SRU", 3, 4),
    "base": lambda n, t: n.RNNBase("GRU", 3, 4)(t.zeros(2, 1, 3)),
    "nonlinearity": lambda n, t: n.RNN(3, 4, nonlinearity="sigmoid"),
    "cell's nonlinearity": lambda n, t: n.RNNCell(3, 4, nonlinearity="selu")(t.zeros(2, 3)),
    "one dimension": lambda n, t: n.GRU(3, 4)(t.zeros(3)),
    "input size": lambda n, t: n.GRU(3, 4)(t.zeros(2, 1, 5)),
    "dtype": lambda n, t: n.LSTM(3, 4)(t.zeros(2, 1, 3, dtype=t.float64)),
    "no steps": lambda n, t: n.LSTM(3, 4)(t.zeros(0, 2, 3)),
    "state dims": lambda n, t: n.GRU(3, 4)(t.zeros(2, 1, 3), t.zeros(1, 4)),
    "state dims of one": lambda n, t: n.GRU(3, 4)(t.zeros(2, 3), t.zeros(1, 1, 4)),
    "state size": lambda n, t: n.GRU(3, 4)(t.zeros(2, 2, 3), t.zeros(1, 1, 4)),
    "states' dims": lambda n, t: n.LSTM(3, 4)(t.zeros(2, 1, 3), (t.zeros(1, 4), t.zeros(1, 4))),
    "cell size": lambda n, t: n.LSTM(3, 4, proj_size=2)(
        t.zeros(2, 1, 3), (t.zeros(1, 1, 2), t.zeros(1, 1, 2))
    ),
    "one state": lambda n, t: n.LSTM(3, 4)(t.zeros(2, 1, 3), (t.zeros(1, 1, 4),)),
    "cell's input": lambda n, t: n.GRUCell(3, 4)(t.zeros(2, 5)),
    "cell's dims": lambda n, t: n.GRUCell(3, 4)(t.zeros(2, 2, 3)),
    "cell's batch": lambda n, t: n.RNNCell(3, 4)(t.zeros(2, 3), t.zeros(3, 4)),
    "cell's state": lambda n, t: n.LSTMCell(3, 4)(t.zeros(2, 3), (t.zeros(2, 4), t.zeros(2, 5))),
    "cell's state dims": lambda n, t: n.LSTMCell(3, 4)(
        t.zeros(2, 3), (t.zeros(1, 2, 4), t.zeros(2, 4))
    ),
    "two hidden states": lambda n, t: t.lstm(
        t.zeros(2, 1, 3), (t.zeros(1, 1, 4),), [], True, 1, 0.0, False, False, False
    ),
    "odd parameters": lambda n, t: t.gru(
        t.zeros(2, 1, 3), t.zeros(1, 1, 4), [t.zeros(12, 3)], True, 1, 0.0, False, False, False
    ),
    "few weights": lambda n, t: t.gru(
        t.zeros(2, 1, 3),
        t.zeros(2, 1, 4),
        [t.zeros(12, 3), t.zeros(12, 4)],
        False,
        2,
        0.0,
        False,
        False,
        False,
    ),
    "few states": lambda n, t: t.rnn_tanh(
        t.zeros(2, 1, 3),
        t.zeros(1, 1, 4),
        [t.zeros(4, 3), t.zeros(4, 4), t.zeros(4, 4), t.zeros(4, 4)],
        False,
        2,
        0.0,
        False,
        False,
        False,
    ),
    "gates": lambda n, t: t.rnn_relu_cell(
        t.zeros(2, 3), t.zeros(2, 4), t.zeros(8, 3), t.zeros(8, 4)
    ),
    "lstm_cell's state": lambda n, t: t.lstm_cell(
        t.zeros(2, 3), (t.zeros(2, 4),), t.zeros(16, 3), t.zeros(16, 4)
    ),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_torchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # its type is what is compared
        REFUSED[name](torch.nn, torch)
    with pytest.raises(theirs.type):
        REFUSED[name](nn, tensorlib)


def test_a_layer_warns_of_a_dropout_that_never_drops():
    with pytest.warns(UserWarning, match="num_layers greater than 1") as caught:
        nn.GRU(3, 4, dropout=0.5)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", LAYERS)
def test_a_packed_batch_is_each_sequence_alone(name):
    module = LAYERS[name](nn).eval()
    (x,) = arrays(LAYERS[name], "packed")
    x = tensorlib.tensor(x, dtype=tensorlib.float32)
    turned = x if module.batch_first else x.transpose(0, 1)
    packed = rnn.pack_padded_sequence(turned, LENGTHS, batch_first=True, enforce_sorted=False)
    output, states = module(packed)
    padded, lengths = rnn.pad_packed_sequence(output, batch_first=True)
    assert lengths.tolist() == LENGTHS
    for i, length in enumerate(LENGTHS):
        alone, last = module(turned[i, :length])
        tensorlib.testing.assert_close(padded[i, :length], alone)
        for one, other in zip(flat(states), flat(last), strict=True):
            tensorlib.testing.assert_close(one[:, i], other)
        assert not padded[i, length:].any()


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_differences_and_have_gradients(kind, reverse):
    """First and second derivatives of a packed batch along one random direction."""
    rng = np.random.default_rng(1)
    gates, size = {"lstm": 4, "gru": 3}.get(kind, 1), 2 if kind == "lstm" else 3
    count = 2 if reverse else 1
    shapes = [(6, 2), (count, 3, size)] + [(count, 3, 3)] * (kind == "lstm")
    each = [(gates * 3, 2), (gates * 3, size), (gates * 3,), (gates * 3,)]
    shapes += (each + [(2, 3)] * (kind == "lstm")) * count
    point, line, mix = ([rng.standard_normal(s) for s in shapes] for _ in range(3))
    sizes = tensorlib.tensor([3, 2, 1])

    def derivatives(step):
        """The layer's projection, the gradients' projection, and both slopes along the line."""
        inputs = [
            tensorlib.tensor(p + step * d, requires_grad=True)
            for p, d in zip(point, line, strict=True)
        ]
        states = (inputs[1], inputs[2]) if kind == "lstm" else inputs[1]
        weights = inputs[3 if kind == "lstm" else 2 :]
        outputs = getattr(tensorlib, kind)(
            inputs[0], sizes, states, weights, True, 1, 0.0, False, reverse
        )
        value = sum((out * (1 + out)).sum() for out in outputs)
        first = tensorlib.autograd.grad(value, inputs, create_graph=True)
        again = sum((g * tensorlib.tensor(m)).sum() for g, m in zip(first, mix, strict=True))
        second = tensorlib.autograd.grad(again, inputs)
        slopes = [
            sum(
                (g.detach() * tensorlib.tensor(d)).sum().item()
                for g, d in zip(gs, line, strict=True)
            )
            for gs in (first, second)
        ]
        return value.item(), again.item(), *slopes

    step = 1e-5
    after, here, before = derivatives(step), derivatives(0.0), derivatives(-step)
    assert here[2] == pytest.approx((after[0] - before[0]) / (2 * step), rel=1e-7)
    assert here[3] == pytest.approx((after[1] - before[1]) / (2 * step), rel=1e-6)


def test_an_output_changed_in_place_is_noticed():
    module = nn.LSTM(3, 4)
    output, _ = module(tensorlib.randn(5, 2, 3))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("dtype", ["float16", "complex64"])
def test_layers_of_other_types_follow_float64(dtype):
    tensorlib.manual_seed(0)
    kind = getattr(tensorlib, dtype)
    for name in ("LSTM both ways", "GRU both ways", "RNN"):
        module = LAYERS[name](nn).double().eval()
        x = tensorlib.randn(BATCH, STEPS, 4, dtype=tensorlib.float64)
        expected = module(x)[0]
        output = module.to(kind)(x.to(kind))[0]
        assert output.dtype == kind
        tensorlib.testing.assert_close(output.to(expected.dtype), expected, rtol=5e-3, atol=5e-3)


def test_copies_and_pickles_compute_the_same():
    module = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2).eval()
    x = tensorlib.randn(5, 2, 3)
    expected = module(x)[0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        tensorlib.testing.assert_close(other(x)[0], expected)
        assert other.weight_hr_l1_reverse is not module.weight_hr_l1_reverse
        assert [w.shape for w in other.all_weights[3]] == [w.shape for w in module.all_weights[3]]


def test_weights_put_in_place_of_others_are_used():
    module = nn.GRU(3, 4)
    x = tensorlib.randn(5, 2, 3)
    before = module(x)[0]
    module.weight_hh_l0 = nn.Parameter(tensorlib.zeros(12, 4))
    assert not tensorlib.allclose(module(x)[0], before)
    assert module.flatten_parameters() is None
    assert module.double()(x.double())[0].dtype is tensorlib.float64


def test_an_empty_batch_has_gradients():
    for name in ("LSTM both ways", "GRU", "RNN relu"):
        module = LAYERS[name](nn)
        output, _ = module(
            tensorlib.zeros(0, 5, 4) if module.batch_first else tensorlib.zeros(5, 0, 4)
        )
        output.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in module.parameters())
