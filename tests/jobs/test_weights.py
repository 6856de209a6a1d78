"""What `--weights` takes: files of both formats, wrapped or not, with model and class names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tensorlib
from jobs.weights import IMAGENET, load, resolve
from orchestrator.errors import UsageError
from orchestrator.tracking import registry
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


def test_weights_come_from_a_uri_and_stay_in_the_cache(
    state: dict[str, tensorlib.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORLIB_CACHE", str(tmp_path / "cache"))
    tensorlib.save(state, tmp_path / "weights.pth")
    uri = (tmp_path / "weights.pth").as_uri()
    assert resolve(uri) == uri
    weights = load(uri, "resnet18", None)
    assert weights.path.is_relative_to(tmp_path / "cache")
    assert weights.path.read_bytes() == (tmp_path / "weights.pth").read_bytes()
    with pytest.raises(UsageError, match=r"none\.pth.*cannot be fetched"):
        load((tmp_path / "none.pth").as_uri(), "resnet18", None)
    with pytest.raises(UsageError, match=r"cannot be fetched.*404"), website() as site:
        load(f"{site}/none.pth", "resnet18", None)
    with website(tmp_path) as site:
        assert load(f"{site}/weights.pth", "resnet18", None).sha256 == weights.sha256


@contextmanager
def website(folder: Path = Path("/nowhere")) -> Iterator[str]:
    """The files of a folder on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_version_in_the_registry_is_pinned_and_fetched(
    state: dict[str, tensorlib.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORLIB_CACHE", str(tmp_path / "cache"))
    tensorlib.save(state, tmp_path / "w.pth")
    aliases = {"best": "3"}

    def pin(uri: str, home: Path) -> str:
        return uri.replace("@best", f"/{aliases['best']}")

    def download(uri: str, home: Path, folder: Path) -> Path:
        assert uri == "models:/net/3"
        folder.mkdir(parents=True)
        (folder / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes())
        return folder

    monkeypatch.setattr(registry, "pin", pin)
    monkeypatch.setattr(registry, "download", download)
    pinned = resolve("mlflow:models:/net@best")
    aliases["best"] = "4"
    assert pinned == "mlflow:models:/net/3"
    assert load(pinned, "resnet18", None).path.name == "w.pth"
    assert load(pinned, "resnet18", None).path.exists()  # from the cache
