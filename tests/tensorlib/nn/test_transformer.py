"""Multi-head attention and the Transformer next to torch's."""

import contextlib
import copy
import pickle
import warnings

import numpy as np
import pytest

import tensorlib
from tensorlib import nn

SEED = 21
L, S, N, E = 4, 5, 3, 8
RNG = np.random.default_rng(8)
ARRAYS = {
    "q": RNG.standard_normal((N, L, E)),
    "k": RNG.standard_normal((N, S, E)),
    "k6": RNG.standard_normal((N, S, 6)),
    "v5": RNG.standard_normal((N, S, 5)),
    "float mask": RNG.standard_normal((L, S)),
    "float square": RNG.standard_normal((L, L)),
    "mask": RNG.random((L, S)) < 0.4,
    "square": (RNG.random((L, L)) < 0.5) & ~np.eye(L, dtype=bool),
    "heads mask": RNG.random((2 * N, L, S)) < 0.3,
    "padding": np.arange(S) >= np.array([[5], [3], [4]]),
    "own padding": np.arange(L) >= np.array([[4], [2], [3]]),
    "holes": np.array([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]], bool),
    "float padding": RNG.standard_normal((N, S)),
}


class Of:
    """The arrays above as tensors of one library; `t` puts time first, `one` takes one sample."""

    def __init__(self, library):
        self.library, self.leaves = library, []

    def __call__(self, name, t=False, one=False):
        array = ARRAYS[name]
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        if one:
            array = array[1]
        elif t:
            array = array.swapaxes(0, 1)
        made = self.library.tensor(np.ascontiguousarray(array))
        if array.dtype.kind == "f":
            made.requires_grad_()
            self.leaves.append(made)
        return made

    def causal(self, size=L):
        return self.library.nn.Transformer.generate_square_subsequent_mask(size)


def mha(n, *args, **kwargs):
    return n.MultiheadAttention(E, 2, *args, **kwargs)


def itself(o, *names, **kwargs):
    x = o(*names, **kwargs)
    return x, x, x


ATTENTION = {
    "plain": (mha, lambda o: ((o("q", t=True), o("k", t=True), o("k", t=True)), {})),
    "self": (mha, lambda o: (itself(o, "q", t=True), {})),
    "batch first": (
        lambda n: mha(n, 0.4, batch_first=True),
        lambda o: ((o("q"), o("k"), o("k")), {"average_attn_weights": False}),
    ),
    "no weights": (
        lambda n: mha(n, 0.4, batch_first=True),
        lambda o: (itself(o, "q"), {"need_weights": False}),
    ),
    "one": (
        lambda n: mha(n, 0.3, batch_first=True),
        lambda o: ((o("q", one=True), o("k", one=True), o("k", one=True)), {}),
    ),
    "one with masks": (
        mha,
        lambda o: (
            (o("q", one=True), o("k", one=True), o("k", one=True)),
            {"key_padding_mask": o("padding", one=True), "attn_mask": o("mask")},
        ),
    ),
    "sizes": (
        lambda n: mha(n, 0.2, kdim=6, vdim=5),
        lambda o: ((o("q", t=True), o("k6", t=True), o("v5", t=True)), {}),
    ),
    "extra keys": (
        lambda n: mha(n, add_bias_kv=True, add_zero_attn=True, batch_first=True),
        lambda o: (
            (o("q"), o("k"), o("k")),
            {"attn_mask": o("float mask"), "key_padding_mask": o("float padding")},
        ),
    ),
    "no bias": (
        lambda n: mha(n, 0.3, bias=False, kdim=6, add_zero_attn=True),
        lambda o: (
            (o("q", t=True), o("k6", t=True), o("k", t=True)),
            {"key_padding_mask": o("padding"), "need_weights": False},
        ),
    ),
    "mask of each head": (
        lambda n: mha(n, batch_first=True),
        lambda o: ((o("q"), o("k"), o("k")), {"attn_mask": o("heads mask"), "need_weights": False}),
    ),
    "mixed masks": (
        lambda n: mha(n, batch_first=True),
        lambda o: (
            (o("q"), o("k"), o("k")),
            {"attn_mask": o("float mask"), "key_padding_mask": o("padding"), "need_weights": False},
        ),
    ),
    "causal": (
        lambda n: mha(n, 0.3, batch_first=True),
        lambda o: (
            itself(o, "q"),
            {"attn_mask": o.causal(), "is_causal": True, "need_weights": False},
        ),
    ),
    "causal with weights": (
        lambda n: mha(n, batch_first=True),
        lambda o: (itself(o, "q"), {"attn_mask": o.causal(), "is_causal": True}),
    ),
    "causal with padding": (
        lambda n: mha(n, batch_first=True),
        lambda o: (
            itself(o, "q"),
            {"attn_mask": o.causal(), "is_causal": True, "key_padding_mask": o("own padding")},
        ),
    ),
}


def encoder_layer(n, **kwargs):
    return n.TransformerEncoderLayer(E, 2, 12, **{"dropout": 0.3, "batch_first": True} | kwargs)


def encoder(n, norm=False, **kwargs):
    options = {k: kwargs.pop(k) for k in ("enable_nested_tensor", "mask_check") if k in kwargs}
    return n.TransformerEncoder(
        encoder_layer(n, **kwargs), 2, n.LayerNorm(E) if norm else None, **options
    )


def decoder_layer(n, **kwargs):
    return n.TransformerDecoderLayer(E, 2, 12, **{"dropout": 0.3, "batch_first": True} | kwargs)


def transformer(n, **kwargs):
    sizes = {"d_model": E, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 2}
    return n.Transformer(**sizes | {"dim_feedforward": 12, "batch_first": True} | kwargs)


STACKS = {
    "encoder layer": (encoder_layer, lambda o: ((o("q"),), {})),
    "encoder layer, time first": (
        lambda n: encoder_layer(n, batch_first=False),
        lambda o: ((o("q", t=True), o.causal()), {"is_causal": True}),
    ),
    "encoder layer, norm first": (
        lambda n: encoder_layer(n, norm_first=True, activation="gelu", layer_norm_eps=1e-3),
        lambda o: ((o("q"), o("square")), {"src_key_padding_mask": o("own padding")}),
    ),
    "encoder layer without bias": (
        lambda n: encoder_layer(n, bias=False, activation=n.functional.silu),
        lambda o: ((o("q", one=True),), {}),
    ),
    "encoder layer of a module": (
        lambda n: encoder_layer(n, activation=n.GELU(), dropout=0.0),
        lambda o: ((o("q"),), {"src_mask": o("float square")}),
    ),
    "encoder": (encoder, lambda o: ((o("q"),), {})),
    "encoder with padding": (
        lambda n: encoder(n, norm=True),
        lambda o: ((o("q"),), {"src_key_padding_mask": o("own padding")}),
    ),
    "encoder with holes": (
        encoder,
        lambda o: ((o("q"),), {"src_key_padding_mask": o("holes")}),
    ),
    "encoder that does not look": (
        lambda n: encoder(n, mask_check=False),
        lambda o: ((o("q"),), {"src_key_padding_mask": o("holes")}),
    ),
    "encoder without nesting": (
        lambda n: encoder(n, enable_nested_tensor=False),
        lambda o: ((o("q"),), {"src_key_padding_mask": o("own padding")}),
    ),
    "encoder of another form": (
        lambda n: encoder(n, norm_first=True),
        lambda o: ((o("q"),), {"src_key_padding_mask": o("own padding")}),
    ),
    "encoder with both masks": (
        encoder,
        lambda o: ((o("q"), o.causal()), {"src_key_padding_mask": o("own padding")}),
    ),
    "decoder layer": (decoder_layer, lambda o: ((o("q"), o("k")), {})),
    "decoder layer, norm first": (
        lambda n: decoder_layer(n, norm_first=True, activation="gelu", batch_first=False),
        lambda o: (
            (o("q", t=True), o("k", t=True)),
            {
                "tgt_mask": o("square"),
                "memory_mask": o("float mask"),
                "memory_key_padding_mask": o("padding"),
            },
        ),
    ),
    "decoder": (
        lambda n: n.TransformerDecoder(decoder_layer(n, bias=False), 2, n.LayerNorm(E)),
        lambda o: (
            (o("q"), o("k"), o.causal()),
            {"tgt_key_padding_mask": o("own padding"), "memory_key_padding_mask": o("padding")},
        ),
    ),
    "transformer": (transformer, lambda o: ((o("k"), o("q")), {"tgt_mask": o.causal()})),
    "transformer, time first": (
        lambda n: transformer(n, batch_first=False, norm_first=True, bias=False, activation="gelu"),
        lambda o: (
            (o("k", t=True), o("q", t=True)),
            {
                "tgt_mask": o.causal(),
                "tgt_is_causal": True,
                "src_key_padding_mask": o("padding"),
                "memory_key_padding_mask": o("padding"),
            },
        ),
    ),
    "transformer of one": (
        transformer,
        lambda o: ((o("k", one=True), o("q", one=True)), {"src_mask": o.causal(S)}),
    ),
}
CASES = ATTENTION | STACKS
# torch's fast path without gradients takes any number in a floating mask for a hidden key
FLOAT_MASKS = ("encoder layer of a module",)


def quietly(build):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def twins(build):
    """The module in both libraries from one seed; torch's weights in both."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    torch.manual_seed(SEED)
    theirs = quietly(lambda: build(torch.nn))
    tensorlib.manual_seed(SEED)
    ours = quietly(lambda: build(nn))
    for (name, a), (key, b) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == key
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-6, atol=1e-7)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return torch, ours, theirs


def run(library, module, arguments, grad=True):
    """Outputs, and gradients of one random projection, as arrays; the warnings given."""
    of = Of(library)
    args, kwargs = arguments(of)
    library.manual_seed(5)
    context = contextlib.nullcontext() if grad else library.no_grad()
    with warnings.catch_warnings(record=True) as caught, context:
        warnings.simplefilter("always")
        found = module(*args, **kwargs)
    told = [str(w.message) for w in caught if "deprecated" in str(w.message)]
    outputs = [t for t in (found if isinstance(found, tuple) else (found,)) if t is not None]
    grads = []
    if grad:
        rng = np.random.default_rng(4)
        weights = [
            library.tensor(rng.standard_normal(tuple(t.shape)).astype(np.float32)) for t in outputs
        ]
        leaves = [*of.leaves, *module.parameters()]
        grads = library.autograd.grad(outputs, leaves, weights, allow_unused=True)
    return [None if t is None else t.detach().numpy() for t in (*outputs, *grads)], told


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["train", "eval", "no_grad"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_torchs(name, mode):
    build, arguments = CASES[name]
    torch, ours, theirs = twins(build)
    grad = mode != "no_grad"
    theirs.train(mode == "train")
    expected, theirs_told = run(torch, theirs, arguments, grad or name in FLOAT_MASKS)
    found, told = run(tensorlib, ours.train(mode == "train"), arguments, grad)
    assert set(told) == set(theirs_told)
    for one, other in zip(found, expected, strict=grad):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=3e-5, atol=3e-5)
    assert str(ours) == str(theirs)


WARNED = {
    "norm_first": {"norm_first": True},
    "batch_first": {"batch_first": False},
    "bias": {"bias": False},
    "activation": {"activation": "tanh"},
    "heads": {"nhead": 1},
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", WARNED)
def test_an_encoder_warns_as_torchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")

    def told(library):
        kwargs = {"nhead": 2, "batch_first": True} | WARNED[name]
        if kwargs.get("activation") == "tanh":
            kwargs["activation"] = library.tanh
        layer = library.nn.TransformerEncoderLayer(E, dim_feedforward=4, **kwargs)
        with pytest.warns(UserWarning, match="use_nested_tensor") as caught:
            library.nn.TransformerEncoder(layer, 1)
        return str(caught[0].message)

    assert told(tensorlib) == told(torch)


REFUSED = {
    "no size": lambda n, t: n.MultiheadAttention(0, 1),
    "no heads": lambda n, t: n.MultiheadAttention(4, 0),
    "heads": lambda n, t: n.MultiheadAttention(5, 2),
    "embedding": lambda n, t: mha(n)(*[t.zeros(4, 2, 6)] * 3),
    "query dims": lambda n, t: mha(n)(*[t.zeros(4)] * 3),
    "key dims": lambda n, t: mha(n)(t.zeros(4, 2, E), t.zeros(4, E), t.zeros(4, E)),
    "key dims of one": lambda n, t: mha(n)(t.zeros(4, E), t.zeros(4, 1, E), t.zeros(4, 1, E)),
    "value": lambda n, t: mha(n)(t.zeros(4, 2, E), t.zeros(4, 2, E), t.zeros(3, 2, E)),
    "separate value": lambda n, t: mha(n, kdim=6)(
        t.zeros(4, 2, E), t.zeros(4, 2, 6), t.zeros(3, 2, E)
    ),
    "separate sizes": lambda n, t: mha(n, kdim=6)(
        t.zeros(4, 2, E), t.zeros(4, 2, 5), t.zeros(4, 2, E)
    ),
    "mask type": lambda n, t: mha(n)(
        *[t.zeros(4, 2, E)] * 3, attn_mask=t.zeros(4, 4, dtype=t.int64)
    ),
    "mask size": lambda n, t: mha(n)(*[t.zeros(4, 2, E)] * 3, attn_mask=t.zeros(4, 5)),
    "mask dims": lambda n, t: mha(n)(*[t.zeros(4, 2, E)] * 3, attn_mask=t.zeros(4)),
    "mask of heads": lambda n, t: mha(n)(*[t.zeros(4, 2, E)] * 3, attn_mask=t.zeros(3, 4, 4)),
    "mask of one": lambda n, t: mha(n)(*[t.zeros(4, E)] * 3, attn_mask=t.zeros(3, 4, 4)),
    "padding size": lambda n, t: mha(n)(
        *[t.zeros(4, 2, E)] * 3, key_padding_mask=t.zeros(2, 5, dtype=t.bool)
    ),
    "padding dims": lambda n, t: mha(n)(
        *[t.zeros(4, 2, E)] * 3, key_padding_mask=t.zeros(4, dtype=t.bool)
    ),
    "padding dims of one": lambda n, t: mha(n)(
        *[t.zeros(4, E)] * 3, key_padding_mask=t.zeros(1, 4, dtype=t.bool)
    ),
    "hint without mask": lambda n, t: mha(n)(*[t.zeros(4, 2, E)] * 3, is_causal=True),
    "activation": lambda n, t: n.TransformerEncoderLayer(E, 2, activation="tanh"),
    "batches": lambda n, t: transformer(n)(t.zeros(2, 3, E), t.zeros(3, 3, E)),
    "features": lambda n, t: transformer(n)(t.zeros(2, 3, E), t.zeros(2, 3, 6)),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_torchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # its type is what is compared
        REFUSED[name](torch.nn, torch)
    with pytest.raises(theirs.type):
        REFUSED[name](nn, tensorlib)


def test_padding_does_not_reach_the_output():
    module = encoder(nn).eval()
    padding = tensorlib.tensor(ARRAYS["own padding"])
    x = tensorlib.tensor(ARRAYS["q"], dtype=tensorlib.float32)
    with tensorlib.no_grad():
        output = module(x, src_key_padding_mask=padding)
        for i, length in enumerate((4, 2, 3)):
            tensorlib.testing.assert_close(output[i, :length], module(x[i : i + 1, :length])[0])
            assert not output[i, length:].any()


def test_a_query_without_keys_is_no_nan():
    module = encoder_layer(nn).eval()
    x = tensorlib.tensor(ARRAYS["q"], dtype=tensorlib.float32)
    padding = tensorlib.ones(N, L, dtype=tensorlib.bool)
    with tensorlib.no_grad():
        assert module(x, src_key_padding_mask=padding).isfinite().all()


def test_copies_and_pickles_compute_the_same():
    module = transformer(nn).eval()
    src, tgt = (tensorlib.tensor(ARRAYS[n], dtype=tensorlib.float32) for n in ("k", "q"))
    expected = module(src, tgt)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        tensorlib.testing.assert_close(other(src, tgt), expected)
        assert other.encoder.layers[0].linear1.weight is not module.encoder.layers[0].linear1.weight
