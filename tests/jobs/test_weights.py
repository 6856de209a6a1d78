"""What `--weights` takes: files of both formats, wrapped or not, with model and class names."""

from __future__ import annotations

from pathlib import Path

import pytest

import tensorlib
from jobs.weights import IMAGENET, load
from orchestrator.errors import UsageError
from tensorlib.serialization import save_safetensors
from tensorlib.vision import models


@pytest.fixture(scope="module")
def state() -> dict[str, tensorlib.Tensor]:
    tensorlib.manual_seed(0)
    return dict(models.get_model("resnet18").state_dict())


@pytest.mark.parametrize("kind", ["pth", "wrapped", "safetensors"])
def test_a_file_builds_its_model(
    state: dict[str, tensorlib.Tensor], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_safetensors(state, path)
    else:
        tensorlib.save({"state_dict": state} if kind == "wrapped" else state, path)
    weights = load(path, "resnet18", None)
    module = weights.build()
    assert not module.training
    assert (module.fc.weight.detach().numpy() == state["fc.weight"].numpy()).all()
    assert (len(weights.classes), weights.preset) == (1000, IMAGENET)


def test_labels_come_from_a_file(state: dict[str, tensorlib.Tensor], tmp_path: Path) -> None:
    tensorlib.save(state, tmp_path / "weights.pth")
    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(1000)))
    weights = load(tmp_path / "weights.pth", "resnet18", tmp_path / "labels.txt")
    assert list(weights.classes[:2]) == ["class 0", "class 1"]


def test_a_file_without_a_model_and_one_that_is_no_state(tmp_path: Path) -> None:
    tensorlib.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="--model resnet50"):
        load(tmp_path / "list.pth", None, None)
    with pytest.raises(UsageError, match="holds a list; expected a state dict"):
        load(tmp_path / "list.pth", "resnet18", None)
