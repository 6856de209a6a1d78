"""A user's mistake: one clear line, its exit code, nothing half-written, within ten seconds."""

from __future__ import annotations

import io
import pickle
import shutil
import socket
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import DIGITS, cli

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

LIMIT_S = 10.0


def refuse(home: Path, arguments: Sequence[str | Path], code: int, *words: str) -> str:
    """Run a command that must be refused; gives its one line."""
    before = sorted(home.iterdir()) if home.is_dir() else []
    started = time.monotonic()
    done = cli(home, *arguments)
    took = time.monotonic() - started
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert took < LIMIT_S, f"{took:.1f} s"
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    if home.is_dir():
        assert sorted(home.iterdir()) == before, "something was left behind"
    return done.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "a.png")
    return folder


def test_unknown_and_mistyped_keys(tmp_path: Path) -> None:
    spec = tmp_path / "typo.yaml"
    spec.write_text(DIGITS.read_text().replace("lr: 0.1", "learning_rat: 0.1"))
    line = (
        DIGITS.read_text()
        .splitlines()
        .index(next(text for text in DIGITS.read_text().splitlines() if "lr: 0.1" in text))
    )
    text = refuse(
        tmp_path / "home", ["run", spec], 2, f"typo.yaml:{line + 1}", "learning_rat", "lr"
    )
    assert len(text.strip().splitlines()) == 1
    refuse(tmp_path / "home", ["run", DIGITS, "--set", "params.epochs=ten"], 2, "params.epochs")
    refuse(tmp_path / "home", ["run", tmp_path / "no.yaml"], 2, "no.yaml")


def test_missing_data_folder(tmp_path: Path) -> None:
    arguments = ["run", "configs/train/fashion_mnist.yaml", "--set", f"params.data.root={tmp_path}"]
    refuse(tmp_path / "home", arguments, 2, str(tmp_path), "train-images-idx3-ubyte")


def test_folder_without_images(home: Path, digits: dict[str, Any], tmp_path: Path) -> None:
    weights = ["--weights", "run:/digits"]
    refuse(home, ["classify", tmp_path, *weights], 2, "no inputs; expected at least one image")
    refuse(home, ["classify", tmp_path / "nowhere", *weights], 2, "no such folder")


def test_checkpoint_of_another_model(home: Path, digits: dict[str, Any], photos: Path) -> None:
    arguments = ["classify", photos, "--weights", "run:/digits", "--model", "resnet18"]
    text = refuse(home, arguments, 2, "does not fit the model resnet18", "conv1.weight", " more")
    assert len(text.splitlines()) == 1


def test_truncated_checkpoint(
    home: Path, digits: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    source = sorted((Path(digits["run_dir"]) / "checkpoints").iterdir())[-1]
    damaged = tmp_path / source.name
    shutil.copytree(source, damaged)
    tensors = damaged / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    refuse(home, ["classify", photos, "--weights", damaged], 2, "tensors.safetensors", "bytes")


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.target}",)


def test_hostile_pickle(home: Path, photos: Path, tmp_path: Path) -> None:
    weights, target = tmp_path / "evil.pth", tmp_path / "owned"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"fc.weight": Hostile(target)}, 2))
        archive.writestr("evil/version", "3\n")
    weights.write_bytes(buffer.getvalue())
    arguments = ["classify", photos, "--model", "resnet18", "--weights", weights]
    refuse(home, arguments, 2, "posix.system", "evil.pth")
    assert not target.exists()


def test_port_in_use(home: Path, digits: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = cli(home, "ui", "--port", port)
    assert done.returncode == 2
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_more_cpus_than_there_are(tmp_path: Path) -> None:
    arguments = ["run", DIGITS, "--set", "resources.workers=64"]
    refuse(tmp_path / "home", arguments, 2, "64 CPUs", "64 workers x 1")


def test_unwritable_output(
    home: Path, digits: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file is no folder")
    weights = ["--weights", "run:/digits"]
    refuse(
        home, ["classify", photos, *weights, "--output", blocked / "out"], 2, "cannot be written"
    )
    refuse(home, ["classify", photos, *weights, "--output", photos], 2, "is not empty")
    assert [path.name for path in photos.iterdir()] == ["a.png"]


def test_unwritable_home(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file is no folder")
    done = cli(blocked / "home", "run", DIGITS)
    assert done.returncode == 2
    assert "ORCHESTRATOR_HOME" in done.stderr


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    arguments = ["submit", DIGITS, "--address", "http://127.0.0.1:9"]
    refuse(tmp_path / "home", arguments, 3, "127.0.0.1:9")


def test_weights_that_are_not_there(home: Path, digits: dict[str, Any], photos: Path) -> None:
    refuse(home, ["classify", photos, "--weights", "run:/digit"], 2, "did you mean 'digits'")
    refuse(home, ["classify", photos, "--weights", "no.pth", "--model", "resnet18"], 2, "no.pth")
    refuse(home, ["classify", photos, "--weights", "run:/digits", "--top-k", "11"], 2, "10 classes")
