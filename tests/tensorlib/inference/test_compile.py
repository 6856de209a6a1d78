"""Compiled models give what the models give."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest

import tensorlib
from tensorlib import inference, nn
from tensorlib.inference import InferenceWarning
from tensorlib.nn import functional as F
from tensorlib.vision import models

TOLERANCE = 1e-4


def tensors(value):
    if hasattr(value, "array"):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [t for part in parts for t in tensors(part)]


def expect_same(compiled, model, *args):
    with tensorlib.no_grad():
        wanted = tensors(model(*args))
    got = tensors(compiled(*args))
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        scale = np.abs(other.array).max(initial=0)
        np.testing.assert_allclose(one.array, other.array, rtol=0, atol=TOLERANCE * scale + 1e-30)


def settled(model, *shape):
    """The model in evaluation mode, with running statistics of some batches."""
    model.train()
    with tensorlib.no_grad():
        for _ in range(2):
            model(tensorlib.randn(4, *shape))
    return model.eval()


class Classifier(nn.Module):
    """Token ids through an LSTM to classes."""

    def __init__(self, **options):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True, **options)
        self.head = nn.Linear(32 if options.get("bidirectional") else 16, 3)

    def forward(self, x):
        output, _ = self.lstm(self.embed(x))
        return self.head(output[:, -1])


def encoder(batch_first=True):
    layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


class Branches(nn.Module):
    """Concatenation, shared modules, chunks, several results."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(3, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.shared = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        y = F.relu6(self.norm(tensorlib.cat([self.a(x), self.b(x)], 1)))
        y = self.shared(F.silu(self.shared(y))) + y
        left, right = y.chunk(2, 1)
        pooled = y.mean((2, 3))
        return {"logits": self.head(pooled), "parts": (left * right, pooled.softmax(-1))}


class TestModels:
    @pytest.mark.parametrize("name", sorted(models.list_models()))
    def test_every_vision_model(self, name):
        tensorlib.manual_seed(0)
        deep = name in ("resnet101", "resnet152")
        size = 28 if name in ("small_cnn", "mlp") else 32 if deep else 64
        channels = 1 if size == 28 else 3
        model = settled(models.get_model(name), channels, size, size)
        x = tensorlib.randn(3, channels, size, size)
        compiled = inference.compile(model, x)
        for n in (3, 1, 2, 7):
            expect_same(compiled, model, tensorlib.randn(n, channels, size, size))
        if "resnet" in name:
            assert "batch norms folded" in compiled.summary()

    @pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
    def test_lstm_classifier(self, options):
        model = Classifier(**options).eval()
        x = tensorlib.randint(0, 50, (6, 9))
        compiled = inference.compile(model, x)
        for n in (6, 1, 4, 13):
            expect_same(compiled, model, tensorlib.randint(0, 50, (n, 9)))

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_transformer_encoder(self, batch_first):
        model = encoder(batch_first)
        dim = 0 if batch_first else 1
        shape = (6, 5, 32) if batch_first else (5, 6, 32)
        compiled = inference.compile(model, tensorlib.randn(*shape), batch_dim=dim)
        for n in (6, 1, 15):
            shape = (n, 5, 32) if batch_first else (5, n, 32)
            expect_same(compiled, model, tensorlib.randn(*shape))

    @pytest.mark.parametrize("given", ["padding", "causal", "both"])
    def test_transformer_encoder_with_masks(self, given):
        model = encoder()
        causal = tensorlib.ones(5, 5, dtype=tensorlib.bool).triu(1)

        def masked(x, padding):
            mask = None if given == "padding" else causal
            padding = None if given == "causal" else padding
            return model(x, mask=mask, src_key_padding_mask=padding)

        def batch(n):
            padding = tensorlib.zeros(n, 5, dtype=tensorlib.bool)
            padding[:, 4] = True
            padding[0, 2:] = True
            return tensorlib.randn(n, 5, 32), padding

        compiled = inference.compile(masked, batch(6))
        for n in (6, 1, 3, 15):
            expect_same(compiled, masked, *batch(n))

    @pytest.mark.parametrize("order", [(True, 0), (False, 1)])
    def test_cross_attention(self, order):
        batch_first, dim = order
        layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=batch_first, norm_first=True)
        model = nn.TransformerDecoder(layer, 2).eval()

        def batch(n):
            target, memory = tensorlib.randn(n, 5, 32), tensorlib.randn(n, 7, 32)
            return (
                (target, memory)
                if batch_first
                else (target.transpose(0, 1), memory.transpose(0, 1))
            )

        compiled = inference.compile(model, batch(4), batch_dim=dim)
        for n in (4, 1, 2, 9):
            expect_same(compiled, model, *batch(n))

    def test_states_as_results(self):
        model = nn.GRU(4, 6, num_layers=2, bidirectional=True).eval()
        compiled = inference.compile(model, tensorlib.randn(5, 3, 4), batch_dim=1)
        assert "up to 3" in compiled.summary()
        for n in (3, 1, 8):
            expect_same(compiled, model, tensorlib.randn(5, n, 4))

    def test_branches(self):
        model = settled(Branches(), 3, 10, 10)
        compiled = inference.compile(model, tensorlib.randn(4, 3, 10, 10))
        for n in (4, 1, 9):
            expect_same(compiled, model, tensorlib.randn(n, 3, 10, 10))

    def test_one_dimensional_convolutions(self):
        model = settled(
            nn.Sequential(
                nn.Conv1d(4, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU(),
                nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Hardtanh(-0.5, 0.5),
            ),
            4, 16,
        )  # fmt: skip
        compiled = inference.compile(model, tensorlib.randn(4, 4, 16))
        assert "2 batch norms folded" in compiled.summary()
        assert "2 activations fused" in compiled.summary()
        expect_same(compiled, model, tensorlib.randn(3, 4, 16))

    def test_double(self):
        model = settled(models.get_model("small_cnn"), 1, 28, 28).double()
        compiled = inference.compile(model, tensorlib.randn(2, 1, 28, 28).double())
        expect_same(compiled, model, tensorlib.randn(2, 1, 28, 28).double())

    @pytest.mark.parametrize("last", [True, False])
    def test_memory_layouts(self, last):
        model = settled(models.get_model("resnet18"), 3, 32, 32)
        compiled = inference.compile(model, tensorlib.randn(2, 3, 32, 32))
        x = (
            tensorlib.randn(2, 32, 32, 3).permute(0, 3, 1, 2)
            if last
            else tensorlib.randn(2, 3, 64, 32)[:, :, ::2]
        )
        expect_same(compiled, model, x)


class TestChangesInPlace:
    def test_of_values_with_views(self):
        def model(x):
            y = x * 2
            left = y[:, :2]
            left += 1
            z = y.clone()
            F.relu(z, inplace=True)
            y[:, 0] = 5.0
            return y, z, left

        compiled = inference.compile(model, tensorlib.randn(4, 3))
        expect_same(compiled, model, tensorlib.randn(4, 3))

    def test_of_the_argument(self):
        model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)).eval()
        compiled = inference.compile(model, tensorlib.randn(4, 3))
        x = tensorlib.randn(4, 3)
        compiled(x)
        assert (x >= 0).all()

    def test_of_a_buffer(self):
        class Counts(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("seen", tensorlib.zeros(()))

            def forward(self, x):
                self.seen += 1
                return x * 2

        model = Counts().eval()
        compiled = inference.compile(model, tensorlib.randn(4, 3))
        before = model.seen.item()
        for _ in range(3):
            compiled(tensorlib.randn(4, 3))
        assert model.seen.item() == before + 3

    def test_results_are_new_each_time(self):
        model = settled(models.get_model("small_cnn"), 1, 28, 28)
        compiled = inference.compile(model, tensorlib.randn(2, 1, 28, 28))
        x, y = tensorlib.randn(2, 1, 28, 28), tensorlib.randn(2, 1, 28, 28)
        first = compiled(x)
        kept = first.clone()
        compiled(y)
        assert tensorlib.equal(first, kept)


class TestFallback:
    @pytest.mark.parametrize(
        ("model", "why"),
        [
            (lambda x: x if x.sum() > 0 else -x, "bool"),
            (lambda x: F.dropout(x), "random"),
            (lambda x: x * float(x.array.mean()), r"\.array"),
        ],
    )
    def test_the_model_itself_runs(self, model, why):
        with pytest.warns(InferenceWarning, match=why):
            compiled = inference.compile(model, tensorlib.randn(4, 3))
        assert "not compiled" in compiled.summary()
        for _ in range(3):
            x = tensorlib.randn(4, 3)
            tensorlib.manual_seed(1)
            wanted = model(x)
            tensorlib.manual_seed(1)
            assert tensorlib.equal(compiled(x), wanted)

    def test_another_shape_warns_once(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        compiled = inference.compile(model, tensorlib.randn(2, 3, 16, 16))
        x = tensorlib.randn(2, 3, 20, 20)
        with pytest.warns(InferenceWarning, match="planned"):
            expect_same(compiled, model, x)
        expect_same(compiled, model, x)

    def test_an_empty_batch(self):
        model = nn.Linear(3, 2).eval()
        compiled = inference.compile(model, tensorlib.randn(2, 3))
        with pytest.warns(InferenceWarning, match="empty"):
            assert compiled(tensorlib.randn(0, 3)).shape == (0, 2)

    def test_one_shape_alone(self):
        compiled = inference.compile(lambda x: x.view(4, -1), tensorlib.randn(4, 3))
        assert "alone" in compiled.summary()
        expect_same(compiled, lambda x: x.view(4, -1), tensorlib.randn(4, 3))

    def test_training_mode_is_refused(self):
        with pytest.raises(ValueError, match=r"model\.eval"):
            inference.compile(nn.Linear(3, 2), tensorlib.randn(2, 3))

    def test_an_example_without_tensors(self):
        with pytest.raises(TypeError, match="no Tensor"):
            inference.compile(nn.Linear(3, 2).eval(), 3)


class TestLife:
    def model(self):
        return settled(models.get_model("small_cnn"), 1, 28, 28)

    def test_weights_that_change_are_taken_over(self):
        model = self.model()
        x = tensorlib.randn(2, 1, 28, 28)
        compiled = inference.compile(model, x)
        before = compiled(x)
        with tensorlib.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        assert not tensorlib.equal(compiled(x), before)
        expect_same(compiled, model, x)
        model.load_state_dict(copy.deepcopy(self.model().state_dict()))
        expect_same(compiled, model, x)

    def test_refresh_takes_over_other_modules(self):
        model = self.model()
        x = tensorlib.randn(2, 1, 28, 28)
        compiled = inference.compile(model, x)
        model[2] = nn.Sigmoid()
        compiled.refresh()
        expect_same(compiled, model, x)

    def test_pickle(self):
        model = self.model()
        x = tensorlib.randn(2, 1, 28, 28)
        compiled = inference.compile(model, x)
        again = pickle.loads(pickle.dumps(compiled))
        assert tensorlib.equal(again(x), compiled(x))

    def test_threads(self):
        model = self.model()
        compiled = inference.compile(model, tensorlib.randn(4, 1, 28, 28))
        inputs = [tensorlib.randn(1 + i % 4, 1, 28, 28) for i in range(8)]
        wanted = [compiled(x) for x in inputs]
        failures = []

        def work(place):
            for _ in range(5):
                if not tensorlib.equal(compiled(inputs[place]), wanted[place]):
                    failures.append(place)  # noqa: PERF401

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_fork(self):
        model = self.model()
        x = tensorlib.randn(2, 1, 28, 28)
        compiled = inference.compile(model, x)
        wanted = compiled(x)
        child = os.fork()
        if not child:
            os._exit(0 if tensorlib.equal(compiled(x), wanted) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_summary(self):
        compiled = inference.compile(self.model(), tensorlib.randn(2, 1, 28, 28))
        assert "Sequential, compiled" in repr(compiled)
        assert "batches of up to 2" in compiled.summary()
