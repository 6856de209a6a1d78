"""Each layer next to torch's: text, first weights, state dict, values and gradients."""

import numpy as np
import pytest

import tensorlib
from tensorlib import nn

SEED = 1234

# constructor, shape of the input
LAYERS = {
    "Linear": (lambda n: n.Linear(5, 3), (4, 5)),
    "Linear without bias": (lambda n: n.Linear(5, 3, bias=False), (2, 4, 5)),
    "Identity": (lambda n: n.Identity(54, unused=1), (3,)),
    "Conv1d": (lambda n: n.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    "Conv1d strided": (
        lambda n: n.Conv1d(4, 6, 3, 2, dilation=2, groups=2, bias=False),
        (2, 4, 11),
    ),
    "Conv2d": (lambda n: n.Conv2d(3, 4, 3), (2, 3, 8, 7)),
    "Conv2d options": (
        lambda n: n.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2, groups=2),
        (2, 4, 9, 8),
    ),
    "Conv2d same": (lambda n: n.Conv2d(2, 3, 4, padding="same", bias=False), (2, 2, 6, 6)),
    "Conv2d valid": (lambda n: n.Conv2d(2, 3, 3, padding="valid"), (2, 2, 6, 6)),
    "Conv2d reflect": (
        lambda n: n.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        (2, 2, 6, 5),
    ),
    "Conv2d replicate": (
        lambda n: n.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="replicate"),
        (2, 2, 6, 5),
    ),
    "Conv2d circular": (
        lambda n: n.Conv2d(2, 3, 4, padding="same", padding_mode="circular"),
        (2, 2, 6, 5),
    ),
    "BatchNorm1d": (lambda n: n.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d 3d": (lambda n: n.BatchNorm1d(3, eps=1e-3, momentum=None), (5, 3, 4)),
    "BatchNorm2d": (lambda n: n.BatchNorm2d(3, momentum=0.3), (4, 3, 5, 6)),
    "BatchNorm2d plain": (lambda n: n.BatchNorm2d(3, affine=False), (4, 3, 5, 6)),
    "BatchNorm2d untracked": (lambda n: n.BatchNorm2d(3, track_running_stats=False), (4, 3, 5, 6)),
    "BatchNorm3d": (lambda n: n.BatchNorm3d(2), (3, 2, 2, 3, 4)),
    "LayerNorm": (lambda n: n.LayerNorm(6), (4, 6)),
    "LayerNorm 2 dims": (lambda n: n.LayerNorm([3, 4], bias=False), (5, 3, 4)),
    "LayerNorm plain": (lambda n: n.LayerNorm((4,), elementwise_affine=False), (5, 3, 4)),
    "GroupNorm": (lambda n: n.GroupNorm(2, 6), (3, 6, 4, 4)),
    "GroupNorm plain": (lambda n: n.GroupNorm(3, 6, affine=False), (3, 6, 4)),
    "MaxPool2d": (lambda n: n.MaxPool2d(2), (2, 3, 7, 6)),
    "MaxPool2d options": (lambda n: n.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 8, 8)),
    "MaxPool2d dilated": (lambda n: n.MaxPool2d((2, 3), (1, 2), dilation=2), (2, 3, 8, 8)),
    "AvgPool2d": (lambda n: n.AvgPool2d(2), (2, 3, 7, 6)),
    "AvgPool2d options": (
        lambda n: n.AvgPool2d((3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 3, 8, 8),
    ),
    "AdaptiveAvgPool2d": (lambda n: n.AdaptiveAvgPool2d((1, 1)), (2, 3, 7, 6)),
    "AdaptiveAvgPool2d uneven": (lambda n: n.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 6)),
    "Flatten": (lambda n: n.Flatten(), (2, 3, 4)),
    "Flatten part": (lambda n: n.Flatten(0, 1), (2, 3, 4)),
    "Unflatten": (lambda n: n.Unflatten(1, (2, 3)), (4, 6)),
    "ReLU": (lambda n: n.ReLU(), (4, 5)),
    "ReLU6": (lambda n: n.ReLU6(), (4, 5)),
    "LeakyReLU": (lambda n: n.LeakyReLU(0.2), (4, 5)),
    "PReLU": (lambda n: n.PReLU(), (4, 5)),
    "PReLU per channel": (lambda n: n.PReLU(5, 0.1), (4, 5)),
    "ELU": (lambda n: n.ELU(0.7), (4, 5)),
    "CELU": (lambda n: n.CELU(0.7), (4, 5)),
    "SELU": (lambda n: n.SELU(), (4, 5)),
    "GELU": (lambda n: n.GELU(), (4, 5)),
    "GELU tanh": (lambda n: n.GELU(approximate="tanh"), (4, 5)),
    "Sigmoid": (lambda n: n.Sigmoid(), (4, 5)),
    "Tanh": (lambda n: n.Tanh(), (4, 5)),
    "SiLU": (lambda n: n.SiLU(), (4, 5)),
    "Mish": (lambda n: n.Mish(), (4, 5)),
    "Hardswish": (lambda n: n.Hardswish(), (4, 5)),
    "Hardsigmoid": (lambda n: n.Hardsigmoid(), (4, 5)),
    "Hardtanh": (lambda n: n.Hardtanh(-0.5, 0.7), (4, 5)),
    "Softplus": (lambda n: n.Softplus(2, 1.5), (4, 5)),
    "Softsign": (lambda n: n.Softsign(), (4, 5)),
    "Softshrink": (lambda n: n.Softshrink(0.3), (4, 5)),
    "Hardshrink": (lambda n: n.Hardshrink(0.3), (4, 5)),
    "Tanhshrink": (lambda n: n.Tanhshrink(), (4, 5)),
    "Threshold": (lambda n: n.Threshold(0.1, 20), (4, 5)),
    "LogSigmoid": (lambda n: n.LogSigmoid(), (4, 5)),
    "Softmax": (lambda n: n.Softmax(dim=1), (4, 5)),
    "LogSoftmax": (lambda n: n.LogSoftmax(dim=-1), (4, 5)),
    "Softmin": (lambda n: n.Softmin(dim=0), (4, 5)),
    "GLU": (lambda n: n.GLU(), (4, 6)),
    "Conv3d": (lambda n: n.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 5, 3)),
    "ConvTranspose1d": (lambda n: n.ConvTranspose1d(3, 4, 3, 2), (2, 3, 5)),
    "ConvTranspose2d": (lambda n: n.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), (2, 2, 5, 4)),
    "ConvTranspose2d dilated": (
        lambda n: n.ConvTranspose2d(2, 3, (2, 3), dilation=2, bias=False),
        (2, 2, 5, 4),
    ),
    "ConvTranspose3d": (lambda n: n.ConvTranspose3d(2, 2, 2, 2), (1, 2, 3, 2, 3)),
    "InstanceNorm1d": (lambda n: n.InstanceNorm1d(3), (4, 3, 5)),
    "InstanceNorm1d alone": (lambda n: n.InstanceNorm1d(3), (3, 5)),
    "InstanceNorm2d": (
        lambda n: n.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (4, 3, 5, 6),
    ),
    "InstanceNorm3d": (lambda n: n.InstanceNorm3d(2, momentum=0.3), (2, 2, 3, 3, 2)),
    "RMSNorm": (lambda n: n.RMSNorm(6), (4, 6)),
    "RMSNorm plain": (lambda n: n.RMSNorm([2, 3], 1e-3, False), (4, 2, 3)),
    "LocalResponseNorm": (lambda n: n.LocalResponseNorm(3, 0.1), (2, 6, 4, 4)),
    "MaxPool1d": (lambda n: n.MaxPool1d(3, 2, 1), (2, 3, 9)),
    "MaxPool3d": (lambda n: n.MaxPool3d(2), (2, 3, 4, 5, 6)),
    "AvgPool1d": (lambda n: n.AvgPool1d(2), (2, 3, 9)),
    "AvgPool1d options": (lambda n: n.AvgPool1d(3, 2, 1, True, False), (2, 3, 8)),
    "AvgPool3d": (lambda n: n.AvgPool3d(2, divisor_override=3), (2, 3, 4, 5, 6)),
    "LPPool1d": (lambda n: n.LPPool1d(2, 3, stride=2), (2, 3, 9)),
    "LPPool2d": (lambda n: n.LPPool2d(2, 3), (2, 3, 9, 7)),
    "AdaptiveAvgPool1d": (lambda n: n.AdaptiveAvgPool1d(4), (2, 3, 9)),
    "AdaptiveAvgPool3d": (lambda n: n.AdaptiveAvgPool3d((2, 1, 3)), (2, 3, 4, 5, 6)),
    "AdaptiveMaxPool1d": (lambda n: n.AdaptiveMaxPool1d(4), (2, 3, 9)),
    "AdaptiveMaxPool2d": (lambda n: n.AdaptiveMaxPool2d((3, 2)), (2, 3, 8, 7)),
    "AdaptiveMaxPool3d": (lambda n: n.AdaptiveMaxPool3d(2), (2, 3, 4, 5, 6)),
    "ConstantPad1d": (lambda n: n.ConstantPad1d((1, 2), 3.5), (2, 3, 4)),
    "ConstantPad2d": (lambda n: n.ConstantPad2d(1, -1), (2, 3, 4, 4)),
    "ConstantPad3d": (lambda n: n.ConstantPad3d(1, 0.5), (1, 2, 3, 2, 2)),
    "ZeroPad1d": (lambda n: n.ZeroPad1d(2), (2, 3, 4)),
    "ZeroPad2d": (lambda n: n.ZeroPad2d((1, 0, 2, 1)), (2, 3, 4, 4)),
    "ZeroPad3d": (lambda n: n.ZeroPad3d(1), (1, 2, 3, 2, 2)),
    "ReflectionPad1d": (lambda n: n.ReflectionPad1d((2, 1)), (2, 3, 4)),
    "ReflectionPad2d": (lambda n: n.ReflectionPad2d((1, 0, 2, 1)), (2, 3, 4, 4)),
    "ReflectionPad3d": (lambda n: n.ReflectionPad3d(1), (1, 2, 3, 2, 2)),
    "ReplicationPad1d": (lambda n: n.ReplicationPad1d((2, 1)), (2, 3, 4)),
    "ReplicationPad2d": (lambda n: n.ReplicationPad2d((1, 0, 2, 1)), (2, 3, 4, 4)),
    "ReplicationPad3d": (lambda n: n.ReplicationPad3d(1), (1, 2, 3, 2, 2)),
    "CircularPad1d": (lambda n: n.CircularPad1d((2, 1)), (2, 3, 4)),
    "CircularPad2d": (lambda n: n.CircularPad2d((1, 0, 2, 1)), (2, 3, 4, 4)),
    "CircularPad3d": (lambda n: n.CircularPad3d(1), (1, 2, 3, 2, 2)),
    "PixelShuffle": (lambda n: n.PixelShuffle(2), (2, 8, 3, 2)),
    "PixelUnshuffle": (lambda n: n.PixelUnshuffle(2), (2, 2, 6, 4)),
    "ChannelShuffle": (lambda n: n.ChannelShuffle(2), (2, 6, 3)),
    "Unfold": (lambda n: n.Unfold((2, 3), padding=1, stride=2), (2, 3, 5, 6)),
    "Fold": (lambda n: n.Fold((4, 5), 2, stride=1), (2, 12, 12)),
    "Softmax2d": (lambda n: n.Softmax2d(), (2, 4, 3, 3)),
    "LPPool2d of infinite norm": (lambda n: n.LPPool2d(float("inf"), 2), (2, 3, 9, 7)),
    "LPPool3d": (lambda n: n.LPPool3d(3, 2, stride=1), (2, 3, 4, 5, 3)),
    "FractionalMaxPool2d": (lambda n: n.FractionalMaxPool2d(2, (3, 4)), (2, 3, 8, 7)),
    "FractionalMaxPool3d": (lambda n: n.FractionalMaxPool3d(2, None, 0.6), (2, 3, 6, 5, 7)),
    "CrossMapLRN2d": (lambda n: n.CrossMapLRN2d(3, 0.1), (2, 6, 4, 4)),
    "SyncBatchNorm alone": (lambda n: n.SyncBatchNorm(3), (4, 3, 5)),
    "Upsample": (lambda n: n.Upsample(scale_factor=2), (2, 3, 4, 5)),
    "Upsample to a size": (
        lambda n: n.Upsample((7, 5), mode="bicubic", align_corners=True),
        (2, 3, 4, 5),
    ),
    "UpsamplingNearest2d": (lambda n: n.UpsamplingNearest2d((7, 9)), (2, 3, 4, 5)),
    "UpsamplingBilinear2d": (lambda n: n.UpsamplingBilinear2d(scale_factor=1.5), (2, 3, 4, 5)),
    "FeatureAlphaDropout": (lambda n: n.FeatureAlphaDropout(0.4), (6, 5, 3)),
    "AlphaDropout": (lambda n: n.AlphaDropout(0.4), (6, 5)),
    "RReLU": (lambda n: n.RReLU(), (6, 5)),
}
# printed forms that need no second forward
TEXTS = {
    "ReLU in place": lambda n: n.ReLU(inplace=True),
    "ReLU6 in place": lambda n: n.ReLU6(True),
    "LeakyReLU in place": lambda n: n.LeakyReLU(inplace=True),
    "Hardtanh in place": lambda n: n.Hardtanh(inplace=True),
    "Hardswish in place": lambda n: n.Hardswish(True),
    "Threshold in place": lambda n: n.Threshold(1, 2, True),
    "ELU in place": lambda n: n.ELU(inplace=True),
    "Embedding": lambda n: n.Embedding(10, 3),
    "Embedding options": lambda n: n.Embedding(10, 3, -1, 1.0, 1.0, True),
    "Bilinear": lambda n: n.Bilinear(2, 3, 4),
    "Dropout": lambda n: n.Dropout(0.4),
    "Dropout2d": lambda n: n.Dropout2d(inplace=True),
    "AlphaDropout": lambda n: n.AlphaDropout(),
    "RReLU": lambda n: n.RReLU(0.1, 0.2),
    "MaxUnpool2d": lambda n: n.MaxUnpool2d(2),
    "MaxUnpool1d": lambda n: n.MaxUnpool1d(2, 1),
    "MaxUnpool3d": lambda n: n.MaxUnpool3d(2, padding=1),
    "EmbeddingBag": lambda n: n.EmbeddingBag(9, 2, 1.0, 1.0, True, "max", padding_idx=-1),
    "AdaptiveLogSoftmaxWithLoss": lambda n: n.AdaptiveLogSoftmaxWithLoss(64, 20, [5, 9]),
    "LazyConv2d": lambda n: n.LazyConv2d(3, 2, padding=1),
    "LazyBatchNorm1d": lambda n: n.LazyBatchNorm1d(),
    "LinearCrossEntropyLoss": lambda n: n.LinearCrossEntropyLoss(3, 4, out_features=(2,)),
    "CosineSimilarity": lambda n: n.CosineSimilarity(),
    "PairwiseDistance": lambda n: n.PairwiseDistance(),
    "TripletMarginLoss": lambda n: n.TripletMarginLoss(),
    "MSELoss": lambda n: n.MSELoss(),
    "CrossEntropyLoss": lambda n: n.CrossEntropyLoss(label_smoothing=0.1),
    "empty Sequential": lambda n: n.Sequential(),
    "empty ModuleList": lambda n: n.ModuleList(),
    "empty ModuleDict": lambda n: n.ModuleDict(),
}


def pair(build):
    torch = pytest.importorskip("torch")
    tensorlib.manual_seed(SEED)
    torch.manual_seed(SEED)
    return build(nn), build(torch.nn)


def copy_state(source, target):
    """The state of torch's `source` into our `target`, by arrays."""
    state = {name: value.numpy() for name, value in source.state_dict().items()}
    target.load_state_dict(state)


@pytest.mark.oracle
@pytest.mark.parametrize("name", LAYERS)
def test_first_weights_equal_torchs(name):
    ours, theirs = pair(LAYERS[name][0])
    mine, reference = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(reference)
    for key, value in reference.items():
        assert mine[key].dtype is getattr(tensorlib, str(value.dtype)[6:])
        # uniform draws scaled to a range: torch's compiler may fuse the product and the sum
        np.testing.assert_allclose(mine[key].numpy(), value.numpy(), rtol=2e-7, atol=6e-8)
    assert {n: v["version"] for n, v in mine._metadata.items()} == {
        n: v["version"] for n, v in reference._metadata.items()
    }


@pytest.mark.oracle
@pytest.mark.parametrize("name", [*LAYERS, *TEXTS])
def test_printed_form_equals_torchs(name):
    ours, theirs = pair(LAYERS[name][0] if name in LAYERS else TEXTS[name])
    assert str(ours) == str(theirs)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_equal_torchs(name, training):
    torch = pytest.importorskip("torch")
    build, shape = LAYERS[name]
    ours, theirs = pair(build)
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for value in (*theirs.parameters(), *theirs.buffers()):
            if value.is_floating_point():
                value.add_(torch.from_numpy(np.asarray(rng.uniform(0, 0.5, value.shape))))
    copy_state(theirs, ours)
    ours.train(training)
    theirs.train(training)
    tensorlib.manual_seed(3)
    torch.manual_seed(3)
    for _ in range(2):  # the second pass sees what the first left in the buffers
        data = rng.normal(size=shape).astype("float32")
        x = tensorlib.from_numpy(data).requires_grad_()
        y = torch.from_numpy(data).requires_grad_()
        mine, reference = ours(x), theirs(y)
        weights = rng.normal(size=tuple(reference.shape)).astype("float32")
        (mine * tensorlib.from_numpy(weights)).sum().backward()
        (reference * torch.from_numpy(weights)).sum().backward()
        close(mine.detach(), reference.detach())
        close(x.grad, y.grad)
    for (key, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        close(a.grad, b.grad, key)
    for (key, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        close(a, b, key)


def close(a, b, name=""):
    assert tuple(a.shape) == tuple(b.shape)
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.oracle
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx):
    torch = pytest.importorskip("torch")
    ours, theirs = pair(lambda n: n.Embedding(6, 4, padding_idx=padding_idx))
    # normal draws agree to the last places only
    np.testing.assert_allclose(ours.weight.detach(), theirs.weight.detach(), rtol=2e-6, atol=1e-7)
    copy_state(theirs, ours)
    index = np.array([[0, 2, 2], [5, 1, 0]])
    mine, reference = ours(tensorlib.from_numpy(index)), theirs(torch.from_numpy(index))
    mine.square().sum().backward()
    reference.square().sum().backward()
    close(mine.detach(), reference.detach())
    close(ours.weight.grad, theirs.weight.grad)


IN_PLACE = {
    "ReLU": (),
    "ReLU6": (),
    "SiLU": (),
    "Mish": (),
    "SELU": (),
    "Hardswish": (),
    "Hardsigmoid": (),
    "LeakyReLU": (0.3,),
    "ELU": (0.7,),
    "CELU": (0.7,),
    "Hardtanh": (-0.5, 0.5),
    "Threshold": (0.2, 3.0),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_activations(name):
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("f")
    results = []
    for inplace in (False, True):
        layer = getattr(nn, name)(*IN_PLACE[name], inplace=inplace)
        x = tensorlib.from_numpy(data).requires_grad_()
        middle = x * 2
        out = layer(middle)
        assert np.shares_memory(out.detach().numpy(), middle.detach().numpy()) == inplace
        (out * tensorlib.arange(4)).sum().backward()
        results.append((out.detach(), x.grad))
    for plain, in_place in zip(*results, strict=True):
        close(in_place, plain)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("Dropout", (50, 40)), ("Dropout1d", (50, 40, 3)), ("Dropout2d", (50, 40, 3, 2)),
     ("Dropout3d", (50, 40, 1, 2, 3))],
)  # fmt: skip
def test_dropout(name, shape):
    tensorlib.manual_seed(0)
    layer = getattr(nn, name)(0.4)
    x = tensorlib.ones(shape, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    values = y.detach().numpy()
    np.testing.assert_array_equal(x.grad.numpy(), values)
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.6)}
    dropped = (values == 0).reshape(50, 40, -1)
    assert (dropped.all(2) == dropped.any(2)).all()  # whole channels
    assert 0.35 < dropped.mean() < 0.45
    assert layer.eval()(x) is x
    assert np.shares_memory(getattr(nn, name)(0.4, inplace=True)(y).detach().numpy(), values)


def test_alpha_dropout_keeps_the_statistics():
    tensorlib.manual_seed(0)
    x = tensorlib.randn(200, 200)
    y = nn.AlphaDropout(0.3)(x)
    assert abs(y.mean().item()) < 0.02
    assert abs(y.std().item() - 1) < 0.02


def test_rrelu_draws_slopes():
    tensorlib.manual_seed(0)
    layer = nn.RReLU(0.1, 0.5)
    x = tensorlib.full((1000,), -1.0)
    slopes = -layer(x).numpy()
    assert 0.1 <= slopes.min() < 0.15
    assert 0.45 < slopes.max() <= 0.5
    np.testing.assert_allclose(layer.eval()(x).numpy(), -0.3, rtol=1e-6)


@pytest.mark.oracle
def test_output_size_of_a_transposed_convolution():
    torch = pytest.importorskip("torch")
    ours, theirs = pair(lambda n: n.ConvTranspose2d(2, 3, 3, stride=2, padding=1))
    copy_state(theirs, ours)
    data = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype("f")
    for size in ((7, 8), (1, 3, 8, 7)):
        mine = ours(tensorlib.from_numpy(data), output_size=size)
        close(mine.detach(), theirs(torch.from_numpy(data), output_size=size).detach())
    with pytest.raises(ValueError, match="dimension 0 must be from 7 to 8"):
        ours(tensorlib.from_numpy(data), output_size=(9, 8))


@pytest.mark.oracle
def test_max_unpool():
    torch = pytest.importorskip("torch")
    data = np.random.default_rng(0).normal(size=(1, 2, 6, 4)).astype("f")
    results = []
    for lib in (tensorlib, torch):
        values, indices = lib.nn.MaxPool2d(2, return_indices=True)(lib.from_numpy(data))
        results.append(lib.nn.MaxUnpool2d(2)(values, indices))
    close(*results)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "build",
    [
        lambda n: n.CosineSimilarity(),
        lambda n: n.CosineSimilarity(0, 1e-3),
        lambda n: n.PairwiseDistance(),
        lambda n: n.PairwiseDistance(1.0, keepdim=True),
    ],
)
def test_distances(build):
    torch = pytest.importorskip("torch")
    a, b = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("f")
    ours, theirs = build(nn), build(torch.nn)
    close(
        ours(tensorlib.from_numpy(a), tensorlib.from_numpy(b)),
        theirs(torch.from_numpy(a), torch.from_numpy(b)),
    )


SIGNS = np.array([1, -1, -1, 1], "f")
PAIRS = {
    "SoftMarginLoss": (
        lambda n: n.SoftMarginLoss(),
        1,
        np.sign(np.sin(np.arange(12))).reshape(4, 3),
    ),
    "MultiLabelSoftMarginLoss": (lambda n: n.MultiLabelSoftMarginLoss(), 1, np.eye(4, 3)),
    "MultiMarginLoss": (lambda n: n.MultiMarginLoss(2, 0.5), 1, np.array([0, 2, 1, 1])),
    "PoissonNLLLoss": (lambda n: n.PoissonNLLLoss(full=True), 1, np.full((4, 3), 2.0)),
    "HingeEmbeddingLoss": (lambda n: n.HingeEmbeddingLoss(0.5, reduction="sum"), 1, SIGNS[:, None]),
    "MarginRankingLoss": (lambda n: n.MarginRankingLoss(0.1), 2, SIGNS[:, None]),
    "CosineEmbeddingLoss": (lambda n: n.CosineEmbeddingLoss(0.1), 2, SIGNS),
    "TripletMarginLoss": (lambda n: n.TripletMarginLoss(0.5, swap=True), 3, None),
    "GaussianNLLLoss": (lambda n: n.GaussianNLLLoss(full=True), 2, np.full((4, 3), 0.3)),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_several_inputs(name):
    torch = pytest.importorskip("torch")
    build, count, target = PAIRS[name]
    inputs = np.random.default_rng(2).normal(size=(count, 4, 3)).astype("f")
    extra = [] if target is None else [target if target.dtype == int else target.astype("f")]
    results = []
    for lib in (tensorlib, torch):
        tensors = [lib.from_numpy(np.array(value)) for value in (*inputs, *extra)]
        x = tensors[0].requires_grad_()
        loss = build(lib.nn)(*tensors)
        loss.backward()
        results.append((loss.detach(), x.grad))
    for mine, reference in zip(*results, strict=True):
        close(mine, reference)


@pytest.mark.oracle
def test_bilinear():
    torch = pytest.importorskip("torch")
    ours, theirs = pair(lambda n: n.Bilinear(3, 4, 5))
    close(ours.weight.detach(), theirs.weight.detach())
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3)).astype("f"), rng.normal(size=(2, 4)).astype("f")
    close(
        ours(tensorlib.from_numpy(a), tensorlib.from_numpy(b)).detach(),
        theirs(torch.from_numpy(a), torch.from_numpy(b)).detach(),
    )


LOSSES = {
    "MSELoss": (lambda n, t: n.MSELoss(), "real"),
    "MSELoss sum": (lambda n, t: n.MSELoss(reduction="sum"), "real"),
    "MSELoss none": (lambda n, t: n.MSELoss(reduction="none"), "real"),
    "L1Loss": (lambda n, t: n.L1Loss(), "real"),
    "SmoothL1Loss": (lambda n, t: n.SmoothL1Loss(beta=0.5), "real"),
    "HuberLoss": (lambda n, t: n.HuberLoss(delta=0.7), "real"),
    "KLDivLoss": (lambda n, t: n.KLDivLoss(reduction="batchmean"), "chance"),
    "KLDivLoss log": (lambda n, t: n.KLDivLoss(reduction="sum", log_target=True), "real"),
    "BCEWithLogitsLoss": (lambda n, t: n.BCEWithLogitsLoss(), "chance"),
    "BCEWithLogitsLoss weighted": (
        lambda n, t: n.BCEWithLogitsLoss(pos_weight=t(np.array([1.0, 2.0, 3.0], "f"))),
        "chance",
    ),
    "CrossEntropyLoss": (lambda n, t: n.CrossEntropyLoss(), "class"),
    "CrossEntropyLoss options": (
        lambda n, t: n.CrossEntropyLoss(t(np.array([1, 2, 3], "f")), label_smoothing=0.2),
        "class",
    ),
    "CrossEntropyLoss chances": (lambda n, t: n.CrossEntropyLoss(), "chance"),
    "CrossEntropyLoss ignore": (lambda n, t: n.CrossEntropyLoss(ignore_index=1), "valid"),
    "NLLLoss": (lambda n, t: n.NLLLoss(t(np.array([1, 2, 3], "f"))), "class"),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_torchs(name):
    torch = pytest.importorskip("torch")
    build, kind = LOSSES[name]
    rng = np.random.default_rng(1)
    data = rng.normal(size=(4, 3)).astype("f")
    target = {
        "real": rng.normal(size=(4, 3)).astype("f"),
        "chance": rng.dirichlet([1, 1, 1], 4).astype("f"),
        "class": np.array([1, 0, 2, -100]),
        "valid": np.array([1, 0, 2, 1]),
    }[kind]
    results = []
    for lib in (tensorlib, torch):
        x = lib.from_numpy(data.copy()).requires_grad_()
        loss = build(lib.nn, lib.from_numpy)(x, lib.from_numpy(target))
        loss.sum().backward()
        results.append((loss.detach(), x.grad))
    for mine, reference in zip(*results, strict=True):
        close(mine, reference)


@pytest.mark.oracle
def test_bce_loss():
    torch = pytest.importorskip("torch")
    chances = np.array([[0.2, 0.9], [0.5, 0.1]], "f")
    target = np.array([[0, 1], [1, 1]], "f")
    for weight in (None, np.array([1, 3], "f")):
        mine, reference = (
            lib.nn.BCELoss(None if weight is None else lib.from_numpy(weight))(
                lib.from_numpy(chances), lib.from_numpy(target)
            )
            for lib in (tensorlib, torch)
        )
        close(mine, reference)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels must be divisible"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels must be divisible"),
        (lambda: nn.Conv2d(4, 4, 3, groups=0), ValueError, "positive integer"),
        (lambda: nn.Conv2d(4, 4, (3, 3, 3)), ValueError, "expected one number or 2"),
        (lambda: nn.Conv2d(4, 4, 3, padding="half"), ValueError, "'same' or 'valid'"),
        (lambda: nn.Conv2d(4, 4, 3, 2, padding="same"), ValueError, "strided"),
        (lambda: nn.Conv2d(4, 4, 3, padding_mode="wrap"), ValueError, "padding_mode"),
        (lambda: nn.ConvTranspose2d(1, 1, 1, padding_mode="reflect"), ValueError, '"zeros"'),
        (lambda: nn.ZeroPad2d((1, 2)), ValueError, "expected one number or 4"),
        (lambda: nn.TripletMarginLoss(0), ValueError, "greater than 0"),
        (lambda: nn.MultiMarginLoss(3), ValueError, "p == 2"),
        (lambda: nn.Softmax2d()(tensorlib.ones(2)), ValueError, "3D or 4D"),
        (
            lambda: nn.InstanceNorm2d(3, affine=True)(tensorlib.ones(1, 2, 3, 3)),
            ValueError,
            "match",
        ),
        (lambda: nn.GroupNorm(4, 6), ValueError, "divisible by num_groups"),
        (lambda: nn.Dropout(1.5), ValueError, "between 0 and 1"),
        (lambda: nn.Bilinear(0, 1, 1), ValueError, "in1_features"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), AssertionError, "padding_idx"),
        (lambda: nn.Embedding(3, 2, sparse=True), NotImplementedError, "sparse"),
        (lambda: nn.Hardtanh(1, 0), AssertionError, "max_val"),
        (
            lambda: nn.MSELoss(reduction="avg")(tensorlib.ones(2), tensorlib.ones(2)),
            ValueError,
            "avg is not a valid value",
        ),
        (lambda: nn.HuberLoss(delta=1j), TypeError, "delta must be a float or int"),
        (lambda: nn.CircularPad1d(1)(tensorlib.ones(2)), ValueError, "2D or 3D input"),
        (lambda: nn.FractionalMaxPool2d(2), ValueError, "one of them"),
        (lambda: nn.FractionalMaxPool2d(2, output_ratio=1.5), ValueError, "between 0 and 1"),
        (lambda: nn.FractionalMaxPool3d(0, 2), ValueError, "greater than 0"),
        (lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3, 3]), ValueError, "unique, positive"),
        (lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 9, []), ValueError, "unique, positive"),
        (lambda: nn.EmbeddingBag(3, 2, padding_idx=3), AssertionError, "padding_idx"),
        (
            lambda: nn.EmbeddingBag.from_pretrained(tensorlib.ones(2)),
            AssertionError,
            "2-dimensional",
        ),
        (lambda: nn.LinearCrossEntropyLoss(3, 4, label_smoothing=2), RuntimeError, "range"),
        (lambda: nn.LinearCrossEntropyOptions(batch_chunk_size=0), ValueError, "positive int"),
        (lambda: nn.LinearCrossEntropyOptions(chunking_method="x"), ValueError, "chunking_method"),
        (lambda: nn.TripletMarginWithDistanceLoss(margin=0), ValueError, "greater than 0"),
        (lambda: nn.LazyConv2d(4, 3)(tensorlib.ones(2)), RuntimeError, "4D"),
        (
            lambda: nn.LazyConv2d(4, 3, groups=2)(tensorlib.ones(1, 3, 9, 9)),
            ValueError,
            "divisible by groups",
        ),
        (lambda: nn.LazyLinear(3).weight.sum(), ValueError, "uninitialized"),
        (lambda: nn.LazyLinear(3).weight.shape, RuntimeError, "uninitialized"),
        (lambda: nn.CrossMapLRN2d(3)(tensorlib.ones(2, 3)), ValueError, "4D"),
        (lambda: nn.SyncBatchNorm(3)(tensorlib.ones(2)), ValueError, "2D"),
        (lambda: nn.Unflatten(1, 3), TypeError, "tuple of ints"),
        (lambda: nn.BatchNorm2d(3)(tensorlib.ones(2, 3)), ValueError, r"expected 4D.*got 2D"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_embedding_from_pretrained():
    table = tensorlib.arange(6.0).reshape(3, 2)
    layer = nn.Embedding.from_pretrained(table)
    assert not layer.weight.requires_grad
    assert layer(tensorlib.tensor([2, 0])).tolist() == [[4, 5], [0, 1]]


def test_layers_take_a_dtype():
    layer = nn.Sequential(nn.Linear(2, 2, dtype=tensorlib.float64), nn.BatchNorm1d(2))
    assert layer[0].weight.dtype is tensorlib.float64
    assert layer[1].weight.dtype is tensorlib.float32


# --- nn.init -----------------------------------------------------------------------------------

INITS = {
    "uniform_": lambda i, t: i.uniform_(t(6, 5), -2, 3),
    "normal_": lambda i, t: i.normal_(t(6, 5), 1, 2),
    "constant_": lambda i, t: i.constant_(t(2, 3), 0.3),
    "ones_": lambda i, t: i.ones_(t(2)),
    "zeros_": lambda i, t: i.zeros_(t(2)),
    "eye_": lambda i, t: i.eye_(t(3, 4)),
    "dirac_": lambda i, t: i.dirac_(t(4, 2, 3, 3), 2),
    "dirac_ 1d": lambda i, t: i.dirac_(t(2, 3, 5)),
    "xavier_uniform_": lambda i, t: i.xavier_uniform_(t(4, 3, 2, 2), 2.0),
    "xavier_normal_": lambda i, t: i.xavier_normal_(t(7, 6)),
    "kaiming_uniform_": lambda i, t: i.kaiming_uniform_(t(4, 3, 2), mode="fan_out"),
    "kaiming_normal_": lambda i, t: i.kaiming_normal_(t(8, 6), nonlinearity="relu"),
    "orthogonal_": lambda i, t: i.orthogonal_(t(4, 6), 2.0),
    "orthogonal_ tall": lambda i, t: i.orthogonal_(t(6, 2, 2)),
    "sparse_": lambda i, t: i.sparse_(t(10, 4), 0.3),
    "trunc_normal_": lambda i, t: i.trunc_normal_(t(30, 30)),
    "trunc_normal_ tight": lambda i, t: i.trunc_normal_(t(30, 30), 0, 1, 2.0, 2.5),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", INITS)
def test_init_equals_torchs(name):
    torch = pytest.importorskip("torch")
    results = []
    for lib in (tensorlib, torch):
        lib.manual_seed(9)
        results.append(INITS[name](lib.nn.init, lib.empty))
    mine, reference = results
    close_enough = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(mine.numpy(), reference.numpy(), **close_enough)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name", sorted({name.split()[0] for name in INITS} - {"ones_", "zeros_", "trunc_normal_"})
)
def test_old_names_warn_and_draw_the_same(name):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    arguments = {"constant_": (0.5,), "sparse_": (0.3,)}.get(name, ())
    shape = (3, 3, 3) if name == "dirac_" else (4, 3)
    results = []
    for lib in (tensorlib, torch):
        lib.manual_seed(2)
        with pytest.warns(FutureWarning, match=f"nn.init.{name[:-1]}` is now deprecated"):
            results.append(getattr(lib.nn.init, name[:-1])(lib.empty(shape), *arguments))
    np.testing.assert_allclose(results[0].numpy(), results[1].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "kaiming_uniform_", "orthogonal_"])
def test_draws_come_from_a_given_generator(name):
    draw = getattr(nn.init, name)
    stream = tensorlib.Generator()
    before = tensorlib.get_rng_state().tolist()
    first = draw(tensorlib.empty(4, 3), generator=stream.manual_seed(5)).tolist()
    assert draw(tensorlib.empty(4, 3), generator=stream).tolist() != first
    assert draw(tensorlib.empty(4, 3), generator=stream.manual_seed(5)).tolist() == first
    assert tensorlib.get_rng_state().tolist() == before


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "selu"])
def test_gains(name):
    torch = pytest.importorskip("torch")
    assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert nn.init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain(
        "leaky_relu", 0.3
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.init.kaiming_uniform_(tensorlib.empty(3)), "fewer than 2"),
        (lambda: nn.init.kaiming_uniform_(tensorlib.empty(3, 3), mode="fan"), "Mode fan"),
        (lambda: nn.init.calculate_gain("swish"), "Unsupported"),
        (lambda: nn.init.eye_(tensorlib.empty(3)), "expected 2"),
        (lambda: nn.init.dirac_(tensorlib.empty(3, 3)), "expected 3, 4 or 5"),
    ],
)
def test_init_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_default_text_of_a_convolution_and_a_batch_norm():
    """Holds where torch is not installed."""
    assert str(nn.Conv2d(1, 2, 3, padding=1, bias=False)) == (
        "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)"
    )
    assert str(nn.Sequential(nn.Linear(1, 2), nn.ReLU())) == (
        "Sequential(\n  (0): Linear(in_features=1, out_features=2, bias=True)\n  (1): ReLU()\n)"
    )
