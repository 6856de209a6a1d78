"""Compiled steps: every kind of convolution and product with every epilogue, memory, chunks."""

import numpy as np
import pytest

import tensorlib
from tensorlib import inference, kernels, nn
from tensorlib.inference import chunks
from tensorlib.inference.plan import Buffer, place
from tensorlib.inference.segment import Segment
from tensorlib.kernels import Unsupported
from tensorlib.kernels.cpu import runtime
from tensorlib.nn import functional as F
from tensorlib.vision import models


def compiled_kernels():
    try:
        runtime()
    except Unsupported:
        return False
    return True


pytestmark = pytest.mark.skipif(not compiled_kernels(), reason="no compiled kernels here")


def segments(compiled):
    return [s for s in compiled._program.steps if isinstance(s, Segment)]


def expect_same(compiled, model, x, tolerance=2e-5):
    with tensorlib.no_grad():
        wanted = model(x).array
    got = compiled(x).array
    assert got.shape == wanted.shape
    scale = np.abs(wanted).max(initial=1e-30)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


class Epilogue(nn.Module):
    """A layer, a sum with another layer's result, a limit."""

    def __init__(self, layer, other, limit, order):
        super().__init__()
        self.layer, self.other, self.limit, self.order = layer, other, limit, order

    def forward(self, x):
        y, z = self.layer(x), self.other(x)
        total = y + z if self.order else z + y
        return self.limit(total)


LIMITS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(-0.1, 0.2),
    "min": lambda x: x.clamp(max=0.1),
    "gelu": F.gelu,
}

CONVOLUTIONS = {
    "direct": (16, 24, {"kernel_size": 1}),
    "strided": (8, 20, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "dilated": (8, 20, {"kernel_size": 3, "dilation": 2, "padding": 2}),
    "same": (8, 20, {"kernel_size": (5, 3), "padding": "same"}),
    "even same": (8, 20, {"kernel_size": 4, "padding": "same"}),
    "winograd": (16, 32, {"kernel_size": 3, "padding": 1}),
    "grouped": (12, 24, {"kernel_size": 3, "groups": 3, "padding": 1}),
    "depthwise": (24, 24, {"kernel_size": 3, "groups": 24, "padding": 1}),
    "narrow": (3, 24, {"kernel_size": 7, "stride": 2, "padding": 3}),
    "tall": (5, 7, {"kernel_size": (3, 1), "padding": (1, 0)}),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind, limit):
    inputs, outputs, options = CONVOLUTIONS[kind]
    layer = nn.Conv2d(inputs, outputs, **options)
    other = nn.Sequential(
        nn.Conv2d(inputs, outputs, bias=False, **options), nn.BatchNorm2d(outputs)
    )
    model = Epilogue(layer, other, LIMITS[limit], limit > "min").eval()
    compiled = inference.compile(model, tensorlib.randn(3, inputs, 13, 11))
    for n in (3, 1, 2, 5):
        expect_same(compiled, model, tensorlib.randn(n, inputs, 13, 11))
    if kind != "even same":
        assert "convolution" in compiled.summary().partition("compiled: ")[2]
    if limit not in ("none", "gelu"):
        assert "1 activations fused" in compiled.summary()


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("shape", [(7,), (5, 9), (1,)])
def test_products(limit, shape):
    layer, other = nn.Linear(shape[-1], 21), nn.Linear(shape[-1], 21, bias=False)
    model = Epilogue(layer, other, LIMITS[limit], True).eval()
    compiled = inference.compile(model, tensorlib.randn(4, *shape))
    for n in (4, 1, 9):
        expect_same(compiled, model, tensorlib.randn(n, *shape))
    assert segments(compiled)


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "max dilated": nn.MaxPool2d((2, 3), dilation=2),
    "max ceil": nn.MaxPool2d(2, ceil_mode=True),
    "average": nn.AvgPool2d(3, 2, 1),
    "average ceil": nn.AvgPool2d(2, ceil_mode=True),
    "average inside": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "divisor": nn.AvgPool2d(2, divisor_override=3),
    "global": nn.AdaptiveAvgPool2d(1),
    "adaptive": nn.AdaptiveAvgPool2d((3, 2)),
}


@pytest.mark.parametrize("kind", POOLS)
def test_pools(kind):
    model = nn.Sequential(
        nn.Conv2d(3, 21, 3), nn.SiLU(), POOLS[kind], nn.Flatten(), nn.LazyLinear(5)
    ).eval()
    model(tensorlib.randn(1, 3, 12, 15))
    compiled = inference.compile(model, tensorlib.randn(3, 3, 12, 15))
    for n in (3, 1, 7):
        expect_same(compiled, model, tensorlib.randn(n, 3, 12, 15))
    whole = kind not in ("average ceil", "average inside", "adaptive")
    assert len(segments(compiled)) == (1 if whole else 2)


@pytest.mark.parametrize("width", [1, 7, 32, 65])
@pytest.mark.parametrize("affine", [True, False])
def test_rows(width, affine):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, width), nn.Linear(width, 9)
            self.norm = nn.LayerNorm(width, elementwise_affine=affine)

        def forward(self, x):
            y = self.b(self.norm(self.a(x)))
            return y.softmax(-1) + y.log_softmax(2) * F.softplus(F.elu(y, 0.5))

    model = Model().eval()
    compiled = inference.compile(model, tensorlib.randn(3, 4, 5))
    assert len(segments(compiled)) == 1
    assert "layer norm" in compiled.summary()
    for n in (3, 1, 8):
        expect_same(compiled, model, tensorlib.randn(n, 4, 5))


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_encoder_is_one_run(batch_first):
    layer = nn.TransformerEncoderLayer(64, 4, 96, activation="gelu", batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    shape = (4, 33, 64) if batch_first else (33, 4, 64)
    compiled = inference.compile(model, tensorlib.randn(*shape), batch_dim=1 - batch_first)
    assert len(segments(compiled)) == len(compiled._program.steps) == 1
    expect_same(compiled, model, tensorlib.randn(*shape))


@pytest.mark.parametrize("keep", [True, False])
def test_means_sums_and_products(keep):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 18, 3, padding=1), nn.Conv2d(4, 18, 1)

        def forward(self, x):
            y, z = self.a(x), self.b(x)
            total = F.gelu(y) * F.leaky_relu(z) + F.hardswish(y)
            return total.mean((-1, 2), keepdim=keep)

    model = Model().eval()
    compiled = inference.compile(model, tensorlib.randn(3, 4, 9, 7))
    assert len(segments(compiled)) == 1
    for n in (3, 2, 5):
        expect_same(compiled, model, tensorlib.randn(n, 4, 9, 7))


def test_one_value_is_the_residual_of_both():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            y = self.a(x) + x
            return F.relu(self.b(y) + y) + y

    model = Model().eval()
    compiled = inference.compile(model, tensorlib.randn(4, 6))
    expect_same(compiled, model, tensorlib.randn(4, 6))


def test_not_a_number_and_infinity():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    compiled = inference.compile(model, tensorlib.randn(2, 16, 8, 8))
    x = tensorlib.randn(2, 16, 8, 8)
    x.array[0, 3, 2, 2] = np.nan
    got = compiled(x).array
    assert np.isnan(got[0, :, 1:4, 1:4]).all()
    assert np.isfinite(got[1]).all()


def test_an_example_gives_the_same_bits_in_any_batch_and_with_any_threads():
    model = models.get_model("resnet18").eval()
    x = tensorlib.randn(5, 3, 48, 48)
    compiled = inference.compile(model, x)
    before = tensorlib.get_num_threads()
    whole = compiled(x).array
    try:
        for threads in (1, 2, 3, 7):
            tensorlib.set_num_threads(threads)
            assert np.array_equal(compiled(x).array, whole)
    finally:
        tensorlib.set_num_threads(before)
    for n in (1, 2, 3):
        assert np.array_equal(compiled(x[:n]).array, whole[:n])


def test_reference_kernels_alone(monkeypatch):
    model = models.get_model("small_cnn").eval()
    monkeypatch.setenv("TENSORLIB_KERNELS", "reference")
    compiled = inference.compile(model, tensorlib.randn(2, 1, 28, 28))
    assert not segments(compiled)
    assert "TENSORLIB_KERNELS=reference" in compiled.summary()
    expect_same(compiled, model, tensorlib.randn(2, 1, 28, 28))


def test_where_nothing_can_be_compiled(monkeypatch):
    def absent(*arguments):
        raise Unsupported("no compiled kernels on this machine")

    model = models.get_model("small_cnn").eval()
    for kernel in kernels.REGISTRY.values():  # what is given up here answers in other tests again
        monkeypatch.setattr(kernel, "_active", kernel._active)
    monkeypatch.setattr("tensorlib.kernels.cpu.convolution.panel", absent)
    compiled = inference.compile(model, tensorlib.randn(2, 1, 28, 28))
    assert "no compiled kernels on this machine" in compiled.summary()


def test_chunks_give_the_same_bits(monkeypatch):
    model = models.get_model("resnet50").eval()
    x = tensorlib.randn(5, 3, 64, 64)
    whole = inference.compile(model, x)
    monkeypatch.setattr(chunks, "_cache_bytes", lambda: 300_000)
    parts = inference.compile(model, x)
    assert any(g.chunk < 5 for s in segments(parts) for g in s.groups)
    assert all(g.chunk == 5 for s in segments(whole) for g in s.groups)
    for n in (5, 1, 3):
        assert np.array_equal(whole(x[:n]).array, parts(x[:n]).array)


def test_the_arguments_are_read_only_and_stay():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    compiled = inference.compile(model, tensorlib.randn(2, 3, 8, 8))
    array = np.random.randn(2, 3, 8, 8).astype(np.float32)
    array.flags.writeable = False
    kept = array.copy()
    expect_same(compiled, model, tensorlib.from_numpy(array.copy()))
    compiled(tensorlib.Tensor._wrap(array))
    assert np.array_equal(array, kept)


def test_memory_is_shared_by_values_that_do_not_live_together():
    draw = np.random.default_rng(0)
    for _ in range(50):
        buffers = []
        for _ in range(30):
            first = int(draw.integers(0, 40))
            last = first + int(draw.integers(0, 8))
            buffers.append(Buffer(int(draw.integers(1, 5000)), first, last))
        total = place(buffers)
        for i, a in enumerate(buffers):
            assert a.offset % 64 == 0
            assert a.offset + a.size <= total
            for b in buffers[:i]:
                together = a.first <= b.last and b.first <= a.last
                apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
                assert apart or not together
        busiest = max(sum(b.size for b in buffers if b.first <= t <= b.last) for t in range(50))
        assert total <= 2 * busiest + 64 * 30


def test_memory_of_a_deep_model_does_not_grow_with_its_depth():
    def sized(depth):
        layers = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth)]
        model = nn.Sequential(*layers).eval()
        return inference.compile(model, tensorlib.randn(2, 16, 32, 32))._program.arena.size

    assert sized(12) == sized(4)


class Sums(nn.Module):
    """Sums whose second part ends there, is read again, or is the convolution's own input."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(16, 16, k, padding=k // 2) for k in (1, 3, 1))

    def forward(self, x):
        first = self.a(x).relu()
        ends = self.b(self.c(first)) + first
        again = (self.c(ends.relu()) + ends) * ends
        return self.a(again) + again


def test_a_sum_takes_the_place_of_what_ends_in_it():
    model, x = Sums().eval(), tensorlib.randn(3, 16, 12, 12)
    compiled = inference.compile(model, x)
    with tensorlib.no_grad():
        assert tensorlib.allclose(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    segment = next(s for s in compiled._program.steps if isinstance(s, Segment))
    places = compiled._program.arena.offsets
    sums = [part for part in segment.parts if getattr(part, "residual", None) is not None]
    shared = [places[part.output] == places[part.residual] for part in sums]
    assert shared == [True, False, False]


def test_operations_between_segments_keep_their_memory():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(5))

        def forward(self, x):
            first = self.convs[0](x)
            view = first[:, ::2].transpose(2, 3)  # keeps the memory of `first` in use
            y = self.convs[1](first)
            y = self.convs[3](self.convs[2](y))
            z = tensorlib.sin(y)
            return self.convs[4](z).sum((2, 3)) + view.sum(2)[..., :1].repeat(1, 2, 1)[..., 0]

    model = Model().eval()
    compiled = inference.compile(model, tensorlib.randn(3, 16, 9, 9))
    assert len(segments(compiled)) == 3
    expect_same(compiled, model, tensorlib.randn(3, 16, 9, 9))


def test_a_result_that_is_a_view_of_the_arena_is_copied():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3)

        def forward(self, x):
            y = self.conv(x)
            return y[:, 1:], y.transpose(2, 3)

    model = Model().eval()
    compiled = inference.compile(model, tensorlib.randn(2, 16, 8, 8))
    one = compiled(tensorlib.randn(2, 16, 8, 8))
    kept = [t.clone() for t in one]
    compiled(tensorlib.randn(2, 16, 8, 8))
    for t, before in zip(one, kept, strict=True):
        assert tensorlib.equal(t, before)


def test_photographs_keep_their_classes():
    datasets = pytest.importorskip("sklearn.datasets")
    from tensorlib.vision import transforms

    images = datasets.load_sample_images().images
    prepare = transforms.Compose([transforms.Resize(96), transforms.CenterCrop(80)])
    from PIL import Image

    arrays = []
    for image in images:
        for turned in (image, image[:, ::-1], image[::2]):
            small = np.asarray(prepare(Image.fromarray(np.ascontiguousarray(turned))))
            arrays.append((small.astype(np.float32) / 255 - 0.45) / 0.22)
    x = tensorlib.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy())
    tensorlib.manual_seed(0)
    for name in ("resnet18", "resnet50"):
        model = models.get_model(name).train()
        with tensorlib.no_grad():
            for _ in range(3):
                model(x)
            model.eval()
            wanted = model(x)
        got = inference.compile(model, x[:2])(x)
        assert got.argmax(1).tolist() == wanted.argmax(1).tolist()


def test_memory_seen_through_a_view_stays_in_use():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 64)

        def forward(self, x):
            return self.second(self.first(x)[:, None])  # a view between two products

    tensorlib.manual_seed(0)
    model, x = Viewed().eval(), tensorlib.randn(300, 16)
    compiled = inference.compile(model, x)
    assert len(segments(compiled)) == 2
    expect_same(compiled, model, x)
