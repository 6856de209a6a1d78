"""Models in 8 bits: exact sums, results near the float32 model's, a report that adds up."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest

import tensorlib
from tensorlib import inference, nn
from tensorlib.errors import ArgumentError, InvalidValueError
from tensorlib.inference import quantized
from tensorlib.inference.lowered import int8
from tensorlib.kernels import Unsupported
from tensorlib.kernels.cpu import Tasks, address, host, runtime, scratch
from tensorlib.kernels.cpu.convolution import NOTHING
from tensorlib.nn import functional as F
from tensorlib.vision import models


def has_int8():
    try:
        runtime()
    except Unsupported:
        return False
    return bool(host.features().get("avx2"))


needs_int8 = pytest.mark.skipif(not has_int8(), reason="no products of 8 bits here")


@pytest.fixture
def faster(monkeypatch):
    """8 bits win each race."""

    def race(forms):
        for form in forms:
            form()
        return [2.0, 1.0]

    monkeypatch.setattr(quantized, "_race", race)


@pytest.fixture
def slower(monkeypatch):
    monkeypatch.setattr(quantized, "_race", lambda forms: [1.0, 2.0])


def convolve(x, w, stride, padding, dilation, zero):
    """The sums of the task, as int64."""
    n, h, width, c = x.shape
    outputs, _, kh, kw = w.shape
    depth = -(-c // 4) * 4
    oh = (h + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    ow = (width + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    image = np.zeros((n, h, width, depth), np.uint8)
    image[..., :c] = x
    out = np.full((n * oh * ow + 1, outputs), -1, np.float32)  # a row of guards
    packed, size = int8._packed(w, depth), -(-outputs // 16) * 16
    one, none, outside = np.ones(size, "f4"), np.zeros(size, "f4"), np.full(depth, zero, "u1")
    rows, step, splits = n * oh * ow, 12, min(2, size // 16)
    Tasks("int8").convolve(
        -(-rows // step) * splits, address(image), address(packed), address(out), address(one),
        address(none), NOTHING, -math.inf, math.inf, address(outside),
        *scratch(step * (kh * kw + 1) * 8 * 4), rows, step, splits, depth, outputs, h, width,
        oh, ow, kh, kw, stride, stride, padding, padding, dilation, dilation,
    )  # fmt: skip
    assert (out[-1] == -1).all()
    return out[:-1].reshape(n, oh, ow, outputs).astype(np.int64)


def exactly(x, w, stride, padding, dilation, zero):
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = np.pad(x.astype(np.int64), pads, constant_values=zero)
    kh, kw = w.shape[2:]
    oh = (x.shape[1] - dilation * (kh - 1) - 1) // stride + 1
    ow = (x.shape[2] - dilation * (kw - 1) - 1) // stride + 1
    total = 0
    for a in range(kh):
        for b in range(kw):
            rows = slice(a * dilation, a * dilation + (oh - 1) * stride + 1, stride)
            columns = slice(b * dilation, b * dilation + (ow - 1) * stride + 1, stride)
            total = total + x[:, rows, columns] @ w[:, :, a, b].astype(np.int64).T
    return total


@needs_int8
class TestTasks:
    @pytest.mark.parametrize("sizes", [
        (1, 1, 1, 1, 1, 0, 1, 1),
        (2, 5, 7, 3, 2, 1, 1, 9),
        (1, 64, 64, 1, 1, 0, 1, 5),
        (3, 37, 33, 3, 1, 1, 1, 8),
        (2, 16, 50, 1, 2, 0, 1, 7),
        (1, 18, 40, 5, 3, 2, 2, 17),
    ])  # fmt: skip
    def test_sums_are_exact(self, sizes):
        images, channels, outputs, kernel, stride, padding, dilation, size = sizes
        draw = np.random.default_rng(channels)
        x = draw.integers(0, 128, (images, size, size + 2, channels))
        w = draw.integers(-127, 128, (outputs, channels, kernel, kernel)).astype(np.int8)
        rest = (stride, padding, dilation, 45)
        np.testing.assert_array_equal(convolve(x, w, *rest), exactly(x, w, *rest))

    @pytest.mark.parametrize("sign", [1, -1])
    def test_the_largest_numbers_do_not_saturate(self, sign):
        x, w = np.full((1, 2, 2, 64), 127), np.full((17, 64, 1, 1), sign * 127, np.int8)
        assert (convolve(x, w, 1, 0, 1, 0) == sign * 127 * 127 * 64).all()

    @pytest.mark.parametrize("depth", [1, 3, 4, 31, 32, 36, 70])
    def test_bytes_of_activations(self, depth):
        padded = -(-depth // 4) * 4
        x = np.random.default_rng(depth).standard_normal((11, depth)).astype(np.float32) * 3
        x[0, 0], x[1, 0], x[2, 0] = np.inf, -np.inf, np.nan
        made = np.full((12, padded), 99, np.uint8)
        Tasks("int8").quantise(
            3, address(x), address(made), 11, 4, depth, padded, 20.0, 30.5
        )  # fmt: skip
        wanted = np.clip(np.floor(np.nan_to_num(x.astype(np.float64), nan=-10) * 20 + 30.5), 0, 127)
        assert np.abs(made[:11, :depth] - wanted).max() <= 1  # where rounding decides
        assert (made[:11, :depth] == wanted).mean() > 0.99
        assert (made[:11, depth:] == 0).all()
        assert (made[11] == 99).all()


def photographs(size, count=12):
    """Parts of the photographs of scikit-image as normalised batches."""
    skimage = pytest.importorskip("skimage")
    from PIL import Image

    draw = np.random.default_rng(0)
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    parts = []
    for i in range(count):
        image = Image.open(Path(skimage.__file__).parent / "data" / names[i % 4]).convert("RGB")
        left, top = (int(draw.integers(0, s - 200)) for s in image.size)
        part = image.crop((left, top, left + 200, top + 200)).resize((size, size))
        parts.append((np.asarray(part, np.float32) / 255 - 0.45) / 0.22)
    return tensorlib.tensor(np.stack(parts).transpose(0, 3, 1, 2).copy())


def settled(model, x):
    with tensorlib.no_grad():
        model.train()
        for _ in range(2):
            model(x)
    return model.eval()


def digits():
    """The digits of scikit-learn as images of 28 by 28."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    images = np.kron(found.images, np.ones((3, 3))).astype(np.float32) / 8 - 1
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)), constant_values=-1)[:, None]
    return tensorlib.tensor(images), tensorlib.tensor(found.target)


def logits(model, x):
    with tensorlib.no_grad():
        return model(x).array


@needs_int8
@pytest.mark.usefixtures("faster")
class TestModels:
    def test_a_trained_model_keeps_its_accuracy(self):
        tensorlib.manual_seed(0)
        x, y = digits()
        model = models.get_model("small_cnn")
        optimizer = tensorlib.optim.Adam(model.parameters(), lr=1e-3)
        for start in range(0, 1200, 60):
            loss = F.cross_entropy(model(x[start : start + 60]), y[start : start + 60])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        loader = [(x[i : i + 100], y[i : i + 100]) for i in range(1200, 1600, 100)]
        compiled = inference.quantize(model, loader)
        report = compiled.report
        assert report.count >= 2
        assert report.accuracy_float32 > 0.7
        assert abs(report.accuracy_float32 - report.accuracy_int8) < 0.03
        assert report.agreement >= 0.95
        wanted = logits(model, x[1600:])
        got = compiled(x[1600:]).array
        assert (got.argmax(1) == wanted.argmax(1)).mean() >= 0.95
        exact = np.mean(wanted.argmax(1) == y[1600:].array)
        assert abs(np.mean(got.argmax(1) == y[1600:].array) - exact) < 0.03

    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    def test_residual_networks_on_photographs(self, name):
        tensorlib.manual_seed(0)
        x = photographs(64)
        model = settled(models.get_model(name, num_classes=10), x)
        compiled = inference.quantize(model, [x[:8], x[8:]])
        assert compiled.report.count == (20 if name == "resnet18" else 53)
        assert "of 8 bits" in compiled.summary()
        wanted, got = logits(model, x), compiled(x).array
        assert compiled.report.max_error < 0.15
        assert np.abs(got - wanted).max() < 0.15 * np.abs(wanted).max()
        assert (got.argmax(1) == wanted.argmax(1)).mean() >= 0.9

    def test_every_form_of_layer(self):
        class Forms(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Conv2d(6, 18, (3, 1), stride=2, padding=(2, 1))
                self.b = nn.Conv2d(18, 18, 3, padding=2, dilation=2, bias=False)
                self.groups = nn.Conv2d(18, 18, 3, padding=1, groups=2)
                self.each = nn.Conv2d(18, 18, 3, padding=1, groups=18)
                self.line = nn.Linear(18, 9, bias=False)

            def forward(self, x):
                y = self.a(x)  # signed: the zero point is in the middle
                y = F.relu6(self.b(y) + y)
                y = self.each(self.groups(y))
                return self.line(y.mean((2, 3))[:, None]).flatten(1)

        tensorlib.manual_seed(0)
        model, x = Forms().eval(), tensorlib.randn(5, 6, 13, 11)
        compiled = inference.quantize(model, [x])
        told = {layer.name: layer for layer in compiled.report.layers}
        assert {n for n, layer in told.items() if layer.int8} == {"a", "b", "line"}
        assert "groups" in told["groups"].reason
        wanted = logits(model, x)
        assert np.abs(compiled(x).array - wanted).max() < 0.05 * np.abs(wanted).max()

    def test_batches_threads_and_copies_give_the_same_bits(self):
        tensorlib.manual_seed(0)
        x = tensorlib.randn(9, 16, 12, 12)
        conv = nn.Conv2d(16, 24, 3, padding=1)
        model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(24 * 144, 5)).eval()
        compiled = inference.quantize(model, [x[:4], x[4:6]])
        whole = compiled(x).array
        before = tensorlib.get_num_threads()
        try:
            for threads in (1, 2, 3):
                tensorlib.set_num_threads(threads)
                for i in (0, 8):
                    np.testing.assert_array_equal(compiled(x[i : i + 1]).array, whole[i : i + 1])
        finally:
            tensorlib.set_num_threads(before)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(compiled))(x).array, whole)

    def test_changed_weights_are_quantised_anew(self):
        tensorlib.manual_seed(0)
        model, x = nn.Linear(64, 32).eval(), tensorlib.randn(8, 64)
        compiled = inference.quantize(model, [x])
        before = compiled(x).array
        with tensorlib.no_grad():
            model.weight.mul_(2.0)
        wanted = logits(model, x)
        assert np.abs(compiled(x).array - wanted).max() < 0.05 * np.abs(wanted).max()
        assert np.abs(before - wanted).max() > 0.2 * np.abs(wanted).max()
        with pytest.warns(inference.InferenceWarning):  # another form: the model itself
            np.testing.assert_array_equal(compiled(x[:, None]).array, logits(model, x[:, None]))

    def test_what_cannot_be_quantised_stays_float32(self):
        x = tensorlib.randn(4, 8)
        zeros = nn.Sequential(nn.Threshold(1e9, 0.0), nn.Linear(8, 3)).eval()
        told = inference.quantize(zeros, [x]).report
        assert (told.count, told.layers[0].reason) == (0, "its input is zero")
        x.array[0, 0] = np.nan
        told = inference.quantize(nn.Linear(8, 3).eval(), [x]).report
        assert (told.count, told.layers[0].reason) == (0, "its input is not finite")
        told = inference.quantize(nn.Linear(8, 3).double().eval(), [x.double()]).report
        assert told.count == 0
        assert "float64" in told.layers[0].reason
        told = inference.quantize(nn.ReLU().eval(), [x]).report
        assert told.reason == "it has no layers to quantise"


class TestReport:
    @needs_int8
    def test_it_adds_up(self, faster):
        tensorlib.manual_seed(0)
        x, y = tensorlib.randn(6, 32), tensorlib.randint(0, 4, (6,))
        model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
        compiled = inference.quantize(model, [(x, y), [x * 2, y]], batches=2)
        report = compiled.report
        both = tensorlib.cat([x, x * 2])
        wanted, got = logits(model, both), compiled(both).array
        differ = np.abs(got - wanted)
        assert report.max_error == pytest.approx(differ.max() / np.abs(wanted).max(), rel=1e-3)
        assert report.mean_error == pytest.approx(differ.mean() / np.abs(wanted).mean(), rel=1e-3)
        assert report.agreement == (got.argmax(1) == wanted.argmax(1)).mean()
        labels = np.concatenate([y.array, y.array])
        assert report.accuracy_float32 == (wanted.argmax(1) == labels).mean()
        assert report.accuracy_int8 == (got.argmax(1) == labels).mean()
        assert report.count == len(report.layers) == 2
        assert [layer.seconds_float32 for layer in report.layers] == [2.0, 2.0]
        for words in ("2 of 2 layers in 8 bits", "accuracy: float32", "whole model", "  0: "):
            assert words in repr(report)

    @needs_int8
    def test_slower_layers_stay_float32(self, slower):
        model, x = nn.Linear(32, 16).eval(), tensorlib.randn(6, 32)
        y = tensorlib.zeros(6, dtype=tensorlib.int64)
        compiled = inference.quantize(model, [(x, y)])
        assert compiled.report.count == 0
        assert compiled.report.reason == "no layer is faster in 8 bits"
        assert compiled.report.accuracy_float32 == compiled.report.accuracy_int8 is not None
        words = "int8 is not faster by 5 % (float32 1000.000 ms, int8 2000.000 ms)"
        assert words in repr(compiled.report)
        np.testing.assert_array_equal(compiled(x).array, inference.compile(model, x)(x).array)

    @needs_int8
    def test_a_slower_whole_stays_float32(self, monkeypatch):
        times = iter(([2.0, 1.0], [2.0, 2.5]))
        monkeypatch.setattr(quantized, "_race", lambda forms: next(times))
        compiled = inference.quantize(nn.Linear(32, 16).eval(), [tensorlib.randn(6, 32)])
        assert compiled.report.count == 0
        assert compiled.report.reason == "the whole model is not faster"
        assert (compiled.report.agreement, compiled.report.max_error) == (1.0, 0.0)

    @needs_int8
    def test_times_are_measured(self):
        tensorlib.manual_seed(0)
        model, x = nn.Linear(256, 256).eval(), tensorlib.randn(64, 256)
        layer = inference.quantize(model, [x]).report.layers[0]
        assert 0 < layer.seconds_float32 < 10
        assert 0 < layer.seconds_int8 < 10

    @pytest.mark.parametrize("how", ["no avx2", "reference"])
    def test_hosts_without_it_keep_float32(self, monkeypatch, how):
        if how == "reference":
            monkeypatch.setenv("TENSORLIB_KERNELS", "reference")
        else:
            monkeypatch.setattr(host, "features", dict)
        model, x = nn.Linear(32, 16).eval(), tensorlib.randn(6, 32)
        compiled = inference.quantize(model, [x])
        assert compiled.report.count == 0
        assert compiled.report.reason
        np.testing.assert_allclose(compiled(x).array, logits(model, x), rtol=1e-4, atol=1e-5)

    def test_models_that_cannot_be_traced_run_as_they_are(self):
        def model(x):
            return x * 2 if x.sum() > 0 else x

        with pytest.warns(inference.InferenceWarning):
            compiled = inference.quantize(model, [tensorlib.ones(3)])
        assert "as it is" in compiled.report.reason
        assert (compiled(tensorlib.ones(3)).array == 2).all()


class TestErrors:
    @pytest.mark.parametrize(("loader", "error", "words"), [
        ([], InvalidValueError, "no batches"),
        (tensorlib.ones(3), ArgumentError, "the loader is a Tensor"),
        (3, ArgumentError, "the loader is a int"),
        ([np.ones(3)], ArgumentError, "a batch is a ndarray"),
        ([(tensorlib.ones(3), 1)], ArgumentError, "a pair of input and labels"),
        ([()], ArgumentError, "a batch is a tuple of 0"),
    ])  # fmt: skip
    def test_loaders(self, loader, error, words):
        with pytest.raises(error, match=words):
            inference.quantize(nn.Linear(3, 3).eval(), loader)

    def test_others(self):
        x = tensorlib.ones(2, 3)
        with pytest.raises(InvalidValueError, match=r"quantize: the model is in training mode"):
            inference.quantize(nn.Linear(3, 3), [x])
        with pytest.raises(InvalidValueError, match="batches is 0"):
            inference.quantize(nn.Linear(3, 3).eval(), [x], batches=0)
        with pytest.raises(InvalidValueError, match="planned was"):
            inference.quantize(nn.ReLU().eval(), [x, tensorlib.ones(2, 4)])
