"""Functions of nn.functional that no layer and no table of samples covers, next to torch's."""

import numpy as np
import pytest

import tensorlib
from tensorlib.nn import functional as F

DATA = np.random.default_rng(0).normal(size=(4, 3, 6)).astype("f")
IMAGE = DATA.reshape(2, 2, 3, 6)

CASES = {
    "gumbel_softmax": lambda f, x: f.gumbel_softmax(x, 0.5, dim=1),
    "gumbel_softmax hard": lambda f, x: f.gumbel_softmax(x, 2.0, hard=True),
    "max_pool1d_with_indices": lambda f, x: f.max_pool1d_with_indices(x, 2),
    "adaptive_max_pool1d_with_indices": lambda f, x: f.adaptive_max_pool1d_with_indices(x, 4),
    "conv_tbc": lambda f, x: f.conv_tbc(x, x[:2, :, :].reshape(2, 6, 3), x[0, :, 0], pad=1),
    "softmin": lambda f, x: f.softmin(x, 1, _stacklevel=5),
    "multilabel_margin_loss": lambda f, x: f.multilabel_margin_loss(
        x[0], (x[0] > 0).long() * 3 - 1, reduction="none"
    ),
    "triplet_margin_with_distance_loss": lambda f, x: f.triplet_margin_with_distance_loss(
        x, x * 2, x + 1, distance_function=lambda a, b: ((a - b) ** 2).sum(-1), swap=True
    ),
    "linear_cross_entropy": lambda f, x: f.linear_cross_entropy(
        x[:, 0], x[:, 1], x[:, 2, 0].abs().long(), linear_bias=x[:, 0, 0], label_smoothing=0.1
    ),
    "linear_cross_entropy of probabilities": lambda f, x: f.linear_cross_entropy(
        x[0], x[:, 1], x[:3, 2, :4].softmax(1), weight=x[:, 0, 0].abs(), reduction="sum"
    ),
}
DEPRECATED = {
    "upsample": lambda f, x: f.upsample(x, scale_factor=2, mode="bilinear"),
    "upsample_nearest": lambda f, x: f.upsample_nearest(x, size=(5, 7)),
    "upsample_bilinear": lambda f, x: f.upsample_bilinear(x, scale_factor=2),
    "softmax": lambda f, x: f.softmax(x),
    "log_softmax": lambda f, x: f.log_softmax(x),
    "softmin": lambda f, x: f.softmin(x),
    "mse_loss": lambda f, x: f.mse_loss(x, x * 2, size_average=False),
    "l1_loss": lambda f, x: f.l1_loss(x, x * 2, reduce=False),
}
TWINS = {
    "relu_": (),
    "elu_": (0.7,),
    "selu_": (),
    "celu_": (0.7,),
    "hardtanh_": (-0.5, 0.7),
    "leaky_relu_": (0.2,),
    "rrelu_": (0.1, 0.3, True),
    "threshold_": (0.1, 5.0),
}


def beside_torch(call, data):
    """Values and gradient of one call in both libraries."""
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    for lib, out in ((tensorlib, []), (torch, [])):
        lib.manual_seed(8)
        x = lib.from_numpy(data.copy()).requires_grad_()
        result = call(lib.nn.functional, x)
        parts = list(result) if isinstance(result, tuple) else [result]
        weights = lib.arange(float(parts[0].numel())).reshape(parts[0].shape).cos()
        (parts[0] * weights).sum().backward()
        out += [*(np.asarray(part.detach().numpy()) for part in parts), x.grad.numpy()]
        yield out


def check(call, data):
    ours, theirs = beside_torch(call, data)
    assert len(ours) == len(theirs)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == reference.dtype
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_equals_torchs(name):
    check(CASES[name], DATA)


@pytest.mark.oracle
@pytest.mark.parametrize("name", DEPRECATED)
def test_what_is_deprecated_warns_and_equals_torchs(name):
    with pytest.warns(UserWarning, match="deprecated|Implicit dimension"):
        check(DEPRECATED[name], IMAGE)


@pytest.mark.oracle
@pytest.mark.parametrize("how", ["twin", "argument"])
@pytest.mark.parametrize("name", TWINS)
def test_in_place_activations(name, how):
    arguments = TWINS[name]

    def call(f, x):
        target = x * 2
        if how == "twin":
            result = getattr(f, name)(target, *arguments)
        else:
            result = getattr(f, name[:-1])(target, *arguments, inplace=True)
        assert result is target
        return result * target

    check(call, DATA)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda f, x: f.gumbel_softmax(x.long()), RuntimeError),
        (lambda f, x: f.linear_cross_entropy(x, x[0], x[0, :, 0].long()), RuntimeError),
        (lambda f, x: f.linear_cross_entropy(x[0], x[0, :, :2], x[0, :, 0].long()), RuntimeError),
        (
            lambda f, x: f.linear_cross_entropy(x[0], x[0], x[0, :, :3], ignore_index=1),
            RuntimeError,
        ),
        (lambda f, x: f.multilabel_margin_loss(x[0], x[0].long() * 0 + 9), RuntimeError),
        (lambda f, x: f.multilabel_margin_loss(x[0], x[0, :2].long()), RuntimeError),
        (lambda f, x: f.fractional_max_pool2d(x, 2), ValueError),
        (lambda f, x: f.fractional_max_pool2d(x, 2, 5), RuntimeError),
        (lambda f, x: f.max_unpool1d(x, x.long(), 2, output_size=(99,)), ValueError),
        (lambda f, x: f.max_unpool1d(x, x.long() * 0 + 99, 2), RuntimeError),
        (lambda f, x: f.max_unpool1d(x, x, 2), RuntimeError),
        (lambda f, x: f.rrelu(x, 0.5, 0.1), RuntimeError),
        (lambda f, x: f.hardtanh(x, 1.0, 0.0), ValueError),
        (lambda f, x: f.celu(x, 0.0), RuntimeError),
        (lambda f, x: f.glu(x[0, 0, 0]), RuntimeError),
        (lambda f, x: f.batch_norm(x, None, None, training=True, eps=0.0), ValueError),
    ],
)
def test_refuses_what_torch_refuses(call, error):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    for lib in (torch, tensorlib):
        with pytest.raises(error):
            call(lib.nn.functional, lib.from_numpy(DATA.copy()))


def test_a_leaf_is_not_changed_in_place():
    with pytest.raises(RuntimeError, match="leaf"):
        F.elu_(tensorlib.ones(2, requires_grad=True))
