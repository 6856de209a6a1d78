"""How results for images lie in memory: row-major, or with channels innermost, as PyTorch's."""

import itertools

import pytest

import tensorlib

LAYERS = {
    "conv2d": lambda t, x: t.nn.functional.conv2d(x, t.ones(5, 3, 2, 2)),
    "conv2d without windows": lambda t, x: t.nn.functional.conv2d(x, t.ones(5, 3, 1, 1)),
    "grouped": lambda t, x: t.nn.functional.conv2d(x, t.ones(6, 1, 3, 3), t.ones(6), groups=3),
    "conv_transpose2d": lambda t, x: t.nn.functional.conv_transpose2d(
        x, t.ones(3, 4, 2, 2), t.ones(4)
    ),
    "max_pool2d": lambda t, x: t.nn.functional.max_pool2d(x, 2, padding=1),
    "max_pool2d, indices": lambda t, x: t.nn.functional.max_pool2d(x, 2, return_indices=True)[1],
    "avg_pool2d": lambda t, x: t.nn.functional.avg_pool2d(x, 3, 2, 1),
    "adaptive_avg_pool2d": lambda t, x: t.nn.functional.adaptive_avg_pool2d(x, (2, 3)),
    "global average": lambda t, x: t.nn.functional.adaptive_avg_pool2d(x, 1),
    "adaptive_max_pool2d": lambda t, x: t.nn.functional.adaptive_max_pool2d(x, (2, 3)),
    "batch_norm": lambda t, x: t.nn.BatchNorm2d(3)(x),
    "batch_norm, eval": lambda t, x: t.nn.BatchNorm2d(3).eval()(x),
    "group_norm": lambda t, x: t.nn.GroupNorm(3, 3)(x),
    "instance_norm": lambda t, x: t.nn.InstanceNorm2d(3)(x),
    "local_response_norm": lambda t, x: t.nn.LocalResponseNorm(2)(x),
    "relu": lambda t, x: t.relu(x),
    "gelu": lambda t, x: t.nn.functional.gelu(x),
    "softmax": lambda t, x: x.softmax(1),
    "prelu": lambda t, x: t.nn.PReLU(3)(x),
    "dropout": lambda t, x: t.nn.functional.dropout(x, 0.5),
    "dropout2d": lambda t, x: t.nn.functional.dropout2d(x, 0.5),
    "nearest": lambda t, x: t.nn.functional.interpolate(x, scale_factor=2),
    "bilinear": lambda t, x: t.nn.functional.interpolate(x, size=(3, 9), mode="bilinear"),
    "bicubic": lambda t, x: t.nn.functional.interpolate(x, size=(3, 9), mode="bicubic"),
    "pad": lambda t, x: t.nn.functional.pad(x, (1, 2, 0, 1)),
    "reflected": lambda t, x: t.nn.functional.pad(x, (1, 2, 0, 1), mode="reflect"),
    "pixel_unshuffle": lambda t, x: t.nn.functional.pixel_unshuffle(x, 2),
    "unfold": lambda t, x: t.nn.functional.unfold(x, 2),
    "sum": lambda t, x: x + x,
    "cat": lambda t, x: t.cat([x, x], 1),
    "clone": lambda t, x: x.clone(),
    "rand_like": lambda t, x: t.rand_like(x),
}
IMAGES = {
    "row-major": lambda t: t.rand(2, 3, 6, 8),
    "channels last": lambda t: t.rand(2, 3, 6, 8).contiguous(memory_format=t.channels_last),
    "one channel": lambda t: t.rand(2, 1, 6, 8).expand(2, 3, 6, 8),
    "turned": lambda t: t.rand(2, 3, 8, 6).transpose(2, 3),
    "batch inside": lambda t: t.rand(3, 2, 6, 8).transpose(0, 1),
    "cut": lambda t: t.rand(2, 3, 7, 9)[:, :, 1:, 1:],
}

# products of arrays in different orders, and strides of dimensions of one element
OTHERS = {
    ("dropout2d", "batch inside"),
    ("local_response_norm", "turned"),
    ("local_response_norm", "batch inside"),
    ("global average", "channels last"),
}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("layer", "image"),
    [pair for pair in itertools.product(LAYERS, IMAGES) if pair not in OTHERS],
)
def test_results_lie_in_memory_as_torchs(layer, image):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")

    def strides(t):
        x = IMAGES[image](t).detach().requires_grad_()
        made = LAYERS[layer](t, x)
        return made.stride(), made.is_contiguous()

    assert strides(tensorlib) == strides(torch)


def test_a_convolution_can_be_viewed_as_rows():
    x = tensorlib.rand(2, 3, 8, 8)
    for layer in (
        tensorlib.nn.Conv2d(3, 4, 3),
        tensorlib.nn.Sequential(tensorlib.nn.Conv2d(3, 4, 3), tensorlib.nn.MaxPool2d(2)),
        tensorlib.nn.Sequential(tensorlib.nn.ConvTranspose2d(3, 4, 3), tensorlib.nn.BatchNorm2d(4)),
    ):
        assert layer(x).view(2, -1).shape[1] % 4 == 0


@pytest.mark.oracle
def test_images_of_one_channel_are_told_apart_by_their_strides():
    """They are contiguous in every format; `to` gives them the asked one's strides all the same."""
    torch = pytest.importorskip("torch")
    seen = []
    for lib in (tensorlib, torch):
        x = lib.rand(4, 1, 6, 5)
        last = x.to(memory_format=lib.channels_last)
        conv = lib.nn.Conv2d(1, 3, 3).to(memory_format=lib.channels_last)
        rows = last.to(memory_format=lib.contiguous_format)
        assert last.to(memory_format=lib.channels_last) is last
        seen.append([t.stride() for t in (x, last, rows, conv.weight, conv(x), conv(last))])
    assert seen[0] == seen[1]
