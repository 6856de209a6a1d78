"""A torchvision ResNet-50 state dict, read without torch, gives PyTorch's own answers (N0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from .conftest import cli, result_of

pytestmark = [pytest.mark.integration, pytest.mark.oracle, pytest.mark.timeout(400)]
torch = pytest.importorskip("torch", reason="PyTorch is the oracle; make oracle installs it")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of different shapes and modes that come with scikit-image."""
    import skimage

    data = Path(skimage.__file__).parent / "data"
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png"):
        (folder / name).write_bytes((data / name).read_bytes())
    return folder


def preprocess(path: Path) -> np.ndarray:
    """torchvision's preset in PIL and NumPy alone: resize 256, centre crop 224, normalise."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short = min(width, height)
    size = (int(256 * width / short), int(256 * height / short))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((pixels - mean) / std).astype(np.float32).transpose(2, 0, 1)


def test_n0_classify_equals_pytorch(photos: Path, tmp_path: Path) -> None:
    import tensorlib
    from tensorlib.vision import models
    from tensorlib.vision.weights import imagenet

    from .torch_resnet import seeded

    oracle = seeded()
    weights = tmp_path / "resnet50.pth"
    torch.save(oracle.state_dict(), weights)
    paths = sorted(photos.iterdir())
    batch = np.stack([preprocess(path) for path in paths])
    with torch.no_grad():
        expected = oracle(torch.from_numpy(batch))

    model = models.get_model("resnet50")
    model.load_state_dict(tensorlib.load(weights))
    model.eval()
    with tensorlib.no_grad():
        logits = model(tensorlib.from_numpy(batch)).numpy()
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=0)

    done = cli(
        tmp_path / "home",
        *("classify", photos, "--model", "resnet50", "--weights", weights, "--top-k", "1000"),
        "--json",
        timeout_s=300,
    )
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert (result["inputs"], result["ok"], result["quarantined"]) == (len(paths), len(paths), 0)
    table = pd.read_parquet(result["output"])
    assert table["path"].tolist() == [str(path) for path in paths]
    probabilities, indices = expected.softmax(1).topk(5)
    for k in range(5):
        assert table[f"index_{k + 1}"].tolist() == indices[:, k].tolist()
        np.testing.assert_allclose(table[f"prob_{k + 1}"], probabilities[:, k], atol=1e-5)
    # All probabilities are all logits but for one number an image, whose sum of exponentials is 1.
    found = np.empty((len(paths), 1000))
    rows = np.arange(len(paths))
    for k in range(1000):
        found[rows, table[f"index_{k + 1}"]] = table[f"prob_{k + 1}"]
    wanted = expected.double().log_softmax(1).numpy()
    assert wanted.min() > -60  # no probability is lost to float32
    np.testing.assert_allclose(np.log(found), wanted, atol=1e-4, rtol=0)
    names = imagenet()
    assert table["label_1"].tolist() == [names[i] for i in table["index_1"]]
