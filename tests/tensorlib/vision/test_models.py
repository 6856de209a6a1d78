"""Models: torchvision's names and sizes, torch's logits, and that the small ones learn."""

import math
from pathlib import Path

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.nn.module import StateDictError
from tensorlib.serialization import load, save
from tensorlib.vision import models

GOLDEN = Path(__file__).parent / "resnet50_logits.npy"


def torch_or_skip():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # its threads spin, which costs seconds where cores are shared
    return torch


def numpy_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights with sane statistics from a seed alone, the same on every side of a comparison."""
    rng = np.random.default_rng(seed)
    state = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(1000, np.int64)
            continue
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(("running_mean", "bias")):
            value = rng.normal(0, 0.1, shape)
        elif len(shape) == 1:  # the last norm of a block is small, so that the sum stays tame
            low = 0.2 if ".bn3" in name else 0.8
            value = rng.uniform(low, low + 0.4, shape)
        elif len(shape) == 2:
            value = rng.normal(0, 0.01, shape)
        else:
            value = rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        state[name] = value.astype(np.float32)
    return state


def picture() -> np.ndarray:
    """Something like a normalised photograph: smooth shapes, edges and grain; (2, 3, 224, 224)."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:224, 0:224] / 224
    channels = []
    for i in range(6):
        sky = 0.5 + 0.4 * np.sin(2 * np.pi * (x * (i + 1) / 3 + y * (i % 3)))
        disc = ((x - 0.3 - 0.1 * (i % 2)) ** 2 + (y - 0.6) ** 2 < 0.04) * 0.5
        channels.append(sky * (1 - y) + disc + rng.normal(0, 0.05, x.shape))
    pixels = np.clip(np.stack(channels).reshape(2, 3, 224, 224), 0, 1)
    mean = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    return ((pixels - mean) / std).astype(np.float32)


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def torch_resnet50(torch):
    """ResNet-50 in plain torch.nn, with torchvision's names."""
    n = torch.nn

    class Block(n.Module):
        def __init__(self, inputs, planes, stride):
            super().__init__()
            outputs = planes * 4
            self.conv1 = n.Conv2d(inputs, planes, 1, bias=False)
            self.bn1 = n.BatchNorm2d(planes)
            self.conv2 = n.Conv2d(planes, planes, 3, stride, 1, bias=False)
            self.bn2 = n.BatchNorm2d(planes)
            self.conv3 = n.Conv2d(planes, outputs, 1, bias=False)
            self.bn3 = n.BatchNorm2d(outputs)
            self.downsample = None
            if stride != 1 or inputs != outputs:
                shortcut = n.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.downsample = n.Sequential(shortcut, n.BatchNorm2d(outputs))

        def forward(self, x):
            out = torch.relu(self.bn1(self.conv1(x)))
            out = torch.relu(self.bn2(self.conv2(out)))
            out = self.bn3(self.conv3(out))
            return torch.relu(out + (x if self.downsample is None else self.downsample(x)))

    class ResNet50(n.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = n.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = n.BatchNorm2d(64)
            self.maxpool = n.MaxPool2d(3, 2, 1)
            inputs = 64
            for i, (planes, count) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
                blocks = []
                for j in range(count):
                    blocks.append(Block(inputs, planes, 2 if i > 1 and j == 0 else 1))
                    inputs = planes * 4
                self.add_module(f"layer{i}", n.Sequential(*blocks))
            self.fc = n.Linear(2048, 1000)

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

    return ResNet50().eval()


# --- ResNet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [
        ("resnet18", 11_689_512, 122),
        ("resnet34", 21_797_672, 218),
        ("resnet50", 25_557_032, 320),
        ("resnet101", 44_549_160, 626),
        ("resnet152", 60_192_808, 932),
    ],
)
def test_sizes_are_torchvisions(name, parameters, tensors):
    model = models.get_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    state = shapes_of(model)
    assert len(state) == tensors
    assert next(iter(state)) == "conv1.weight"
    assert state["fc.weight"] == (1000, 512 if name in ("resnet18", "resnet34") else 2048)
    assert "layer4.1.bn2.num_batches_tracked" in state
    assert ("layer1.0.downsample.0.weight" in state) == (name not in ("resnet18", "resnet34"))


def test_zero_init_residual_makes_each_block_the_identity():
    for name in ("resnet18", "resnet50"):
        model = models.get_model(name, zero_init_residual=True, num_classes=3)
        last = "bn2" if name == "resnet18" else "bn3"
        assert not getattr(model.layer1[1], last).weight.any()
        x = tensorlib.rand(1, 64 if name == "resnet18" else 256, 4, 4)
        assert model.layer1[1](x).tolist() == x.tolist()


def test_resnet50_gives_the_recorded_logits():
    """Recorded from torch 2.13 by `record` below; holds where torch is not installed."""
    model = models.resnet50()
    model.load_state_dict(numpy_state(shapes_of(model)))
    with tensorlib.no_grad():
        logits = model.eval()(tensorlib.from_numpy(picture()))
    expected = np.load(GOLDEN)
    assert expected.shape == (2, 1000)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.oracle
def test_resnet50_from_a_torch_file_gives_torchs_logits(tmp_path):
    torch = torch_or_skip()
    theirs = torch_resnet50(torch)
    state = numpy_state(shapes_of(theirs), seed=5)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")

    ours = models.resnet50()
    ours.load_state_dict(load(tmp_path / "resnet50.pth"))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad(), tensorlib.no_grad():
        expected = theirs(torch.from_numpy(picture())).numpy()
        logits = ours.eval()(tensorlib.from_numpy(picture())).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert (logits.argmax(1) == expected.argmax(1)).all()


def test_a_file_of_another_model_lists_what_differs(tmp_path):
    save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(StateDictError) as caught:
        models.resnet50().load_state_dict(load(tmp_path / "resnet18.pth"))
    for words in (
        "layer1.0.conv3.weight",
        "fc.weight: (1000, 512) in the state dict, (1000, 2048)",
    ):
        assert words in str(caught.value)


def test_resnet18_trains():
    tensorlib.manual_seed(0)
    model = models.resnet18(num_classes=4)
    x, y = tensorlib.randn(4, 3, 32, 32), tensorlib.tensor([0, 1, 2, 3])
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert model.bn1.num_batches_tracked.item() == 6


# --- small models ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 28, (12, 20)])
def test_small_cnn_fits_its_images(size):
    model = models.small_cnn(num_classes=7, in_channels=3, image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert model(tensorlib.rand(2, 3, height, width)).shape == (2, 7)


def test_small_cnn_needs_room():
    with pytest.raises(ValueError, match="at least 4"):
        models.small_cnn(image_size=3)


def test_mlp():
    model = models.mlp(6, (5, 4), 3)
    assert [m.weight.shape for m in model if isinstance(m, nn.Linear)] == [(5, 6), (4, 5), (3, 4)]
    assert model(tensorlib.rand(2, 2, 3)).shape == (2, 3)


def test_small_cnn_learns_shapes():
    """Bars and boxes with noise, new ones at the end."""
    tensorlib.manual_seed(0)
    rng = np.random.default_rng(0)

    def batch(count):
        labels = rng.integers(0, 3, count)
        images = rng.normal(0, 0.3, (count, 1, 8, 8)).astype("f")
        for image, label in zip(images[:, 0], labels, strict=True):
            at = rng.integers(0, 5)
            if label == 0:
                image[at : at + 2] += 1
            elif label == 1:
                image[:, at : at + 2] += 1
            else:
                image[at : at + 3, at : at + 3] += 1
        return tensorlib.from_numpy(images), tensorlib.from_numpy(labels)

    model = models.small_cnn(num_classes=3, image_size=8)
    optimizer = optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(40):
        x, y = batch(32)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = batch(300)
    with tensorlib.no_grad():
        found = model.eval()(x).numpy().argmax(1)
    assert (found == y.numpy()).mean() > 0.95


@pytest.mark.oracle
@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_small_cnn_has_torchs_loss_curve_from_one_seed(rule):
    torch = torch_or_skip()
    options = {"SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}, "AdamW": {"lr": 1e-3}}
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 256)
    images = (rng.normal(0, 1, (10, 1, 8, 8))[labels] + rng.normal(0, 0.5, (256, 1, 8, 8))).astype(
        "f"
    )

    def build(n):
        if n is nn:
            return models.small_cnn(image_size=8)
        return n.Sequential(
            n.Conv2d(1, 16, 3, padding=1, bias=False), n.BatchNorm2d(16), n.ReLU(), n.MaxPool2d(2),
            n.Conv2d(16, 32, 3, padding=1, bias=False), n.BatchNorm2d(32), n.ReLU(), n.MaxPool2d(2),
            n.Flatten(), n.Linear(128, 128), n.ReLU(), n.Linear(128, 10),
        )  # fmt: skip

    curves, texts = [], []
    for lib in (tensorlib, torch):
        lib.manual_seed(7)
        model = build(lib.nn)
        optimizer = getattr(lib.optim, rule)(model.parameters(), **options[rule])
        losses = []
        for step in range(100):
            rows = slice(step % 8 * 32, step % 8 * 32 + 32)
            optimizer.zero_grad()
            output = model(lib.from_numpy(images[rows]))
            loss = lib.nn.functional.cross_entropy(output, lib.from_numpy(labels[rows]))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
        texts.append(str(model))
    assert texts[0] == texts[1]
    assert curves[1][-1] < 0.2 * curves[1][0]
    np.testing.assert_allclose(curves[0], curves[1], rtol=0, atol=1e-3)


# --- registry ------------------------------------------------------------------------------------


def test_registry():
    assert models.list_models() == sorted(models.list_models())
    assert {"resnet50", "small_cnn", "mlp"} <= set(models.list_models())
    assert models.get_model("resnet18", num_classes=5).fc.out_features == 5
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        models.get_model("resnet5")
    with pytest.raises(TypeError, match="depth"):
        models.get_model("mlp", depth=3)


def record() -> None:
    """Write the golden file; needs torch."""
    import torch

    model = torch_resnet50(torch)
    state = numpy_state(shapes_of(model))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    with torch.no_grad():
        np.save(GOLDEN, model(torch.from_numpy(picture())).numpy())


if __name__ == "__main__":
    record()
