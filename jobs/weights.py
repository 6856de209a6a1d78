"""From what a user calls "weights" to a ready classifier: model, class names, preprocessing."""

from __future__ import annotations

import hashlib
import pickle
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import tensorlib
from jobs.config import ModelConfig, build_model
from orchestrator import checkpoint
from orchestrator.errors import CheckpointError, UsageError
from orchestrator.files import atomic_write
from orchestrator.places import MANIFEST
from orchestrator.plan import default_home
from orchestrator.remote import RemotePath, is_uri
from orchestrator.store import resolve_run
from tensorlib import nn
from tensorlib.ops.draws import unspecified
from tensorlib.serialization import load_safetensors
from tensorlib.vision.transforms import ImageClassification
from tensorlib.vision.weights import WEIGHTS, default_cache, imagenet

# torchvision's preset of the ResNet weights: short side to 256 (bilinear), 224 from the middle.
IMAGENET = ImageClassification(crop_size=224, resize_size=256)
_TIMEOUT_S = 30.0  # without a byte from a server


@dataclass(frozen=True)
class Weights:
    """A model's state and what belongs to it."""

    path: Path
    model: ModelConfig
    state: Mapping[str, Any]
    classes: Sequence[str]
    preset: ImageClassification
    sha256: str

    @cached_property
    def module(self) -> nn.Module:
        """`build()`, once."""
        return self.build()

    def build(self) -> nn.Module:
        """The model in eval mode; UsageError lists every name that does not fit."""
        with unspecified():
            module = build_model(self.model, {"num_classes": len(self.classes)})
        hint = "the name of the model in the file, and a line of labels for each of its classes"
        refusal = f"{self.path}: does not fit the model {self.model.name}"
        load_into(module, self.state, refusal, hint)
        return module.eval()


def resolve(weights: str) -> str:
    """What does not change while a run lasts: `run:/ID` and `run:/latest` become the path of the
    run's best checkpoint, an alias in MLflow the version it stands for, a path absolute.
    """
    if weights.startswith("mlflow:"):
        from orchestrator.tracking import registry

        return "mlflow:" + registry.pin(weights.removeprefix("mlflow:"), default_home())
    if is_uri(weights):
        return weights
    if not weights.startswith("run:/"):
        return str(Path(weights).expanduser().absolute())
    run = resolve_run(default_home(), weights)
    metric = run.plan().spec.checkpoint.best_metric()
    found = checkpoint.best(run.checkpoints_dir, metric)
    if found is None:
        raise UsageError(
            f"{weights}: run {run.run_id} has no good checkpoint in {run.checkpoints_dir}; "
            f"expected at least one. Hint: orchestrator report {run.run_id}"
        )
    if not isinstance(found.path, Path):  # in a bucket: bring it beside the run's other files
        here = run.path / "checkpoints"
        return str(checkpoint.write(here, found.state, step=found.step, metrics=found.metrics))
    return str(found.path)


def fetched(weights: str) -> Path:
    """The file or directory of resolved weights, brought to this machine where they are not.

    A URI's file is kept in the cache as long as it has its size; of a bucket's prefix or a version
    of a registered model that holds one checkpoint, or one file of weights, that is taken. Raises
    UsageError, BackendUnavailable.
    """
    if not (weights.startswith("mlflow:") or is_uri(weights)):
        return Path(weights)
    folder = default_cache() / "weights" / hashlib.sha256(weights.encode()).hexdigest()[:16]
    if weights.startswith("mlflow:"):
        from orchestrator.tracking import registry

        done = folder / "whole"
        if not done.exists():
            registry.download(weights.removeprefix("mlflow:"), default_home(), folder / "model")
            done.touch()
        return _weights_in(folder / "model", weights)
    if weights.startswith(("http://", "https://")):
        return _downloaded(weights, folder)
    return _copied(weights, folder)


def _weights_in(folder: Path, weights: str) -> Path:
    """The one checkpoint, or file of weights, below a folder."""
    checkpoints = [path.parent for path in folder.rglob(MANIFEST)]
    files = [path for path in folder.rglob("*") if path.suffix in (".pth", ".pt", ".safetensors")]
    files = [path for path in files if path.parent not in checkpoints]
    if len(checkpoints or files) == 1:
        return (checkpoints or files)[0]
    raise UsageError(
        f"{weights}: holds {len(checkpoints)} checkpoints and {len(files)} files of weights; "
        "expected one of either"
    )


def _copied(weights: str, folder: Path) -> Path:
    """An object, or a checkpoint under a prefix, of a store."""
    place = RemotePath.of(weights)
    try:
        try:
            names = [("", place.stat().st_size)]
        except FileNotFoundError:
            names = list(place.walk())
            if not names:
                raise
        for name, size in names:
            target = folder / place.name / name if name else folder / place.name
            if target.exists() and target.stat().st_size == size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, (place / name if name else place).read_bytes())
    except OSError as error:
        raise UsageError(f"{weights}: cannot be fetched: {error}") from error
    return folder / place.name


def _downloaded(weights: str, folder: Path) -> Path:
    target = folder / (Path(urllib.parse.urlsplit(weights).path).name or "weights")
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(weights, timeout=_TIMEOUT_S) as answer:
            atomic_write(target, answer.read())
    except (OSError, ValueError) as error:
        raise UsageError(f"{weights}: cannot be fetched: {error}") from error
    return target


@lru_cache(maxsize=1)
def load(path: Path | str, model: str | None, labels: Path | None) -> Weights:
    """Read weights: a checkpoint directory of a run, a torch `.pth` file, or safetensors, or what
    `resolve` made of other names for them.

    A checkpoint brings its model, class names and preprocessing along; for a file `model` is
    needed, and the class names are ImageNet's or the lines of `labels`. Raises UsageError.
    """
    path = fetched(str(path))
    if not path.exists():
        raise UsageError(
            f"{path}: there are no such weights; expected a .pth or .safetensors file, a "
            "checkpoint directory or run:/ID. Hint: orchestrator list"
        )
    if path.is_dir():
        return _from_checkpoint(path, model, labels)
    if model is None:
        raise UsageError(
            f"{path}: holds weights only; expected the name of their model beside them. "
            "Hint: --model resnet50"
        )
    state = read_state(path)
    classes = _read_labels(labels) if labels else imagenet()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = ModelConfig(name=model)
    return Weights(path, config, state, classes, _published_preset(digest), digest)


def _published_preset(digest: str) -> ImageClassification:
    """The preprocessing of a file that was published, known by its hash; else ImageNet's."""
    for record in WEIGHTS:
        if digest.startswith(record.sha256):
            return ImageClassification.from_dict(record.preset)
    return IMAGENET


def _from_checkpoint(path: Path, model: str | None, labels: Path | None) -> Weights:
    state = load_checkpoint(path)
    facts = state.get("classifier")
    if facts is None:
        raise UsageError(
            f"{path}: is a checkpoint, but not of an image classifier; expected one that "
            "train_classifier wrote"
        )
    classes = _read_labels(labels) if labels else facts["classes"]
    if len(classes) != len(facts["classes"]):
        raise UsageError(
            f"labels: {labels} names {len(classes)} classes, the model of {path} has "
            f"{len(facts['classes'])}; expected a line for each"
        )
    if model is not None and model != facts["model"]:
        config = ModelConfig(name=model)
    else:
        config = ModelConfig(name=facts["model"], options=facts["options"])
    return Weights(
        path,
        config,
        final_weights(state),
        classes,
        ImageClassification.from_dict(facts["preset"]),
        str(checkpoint.read_manifest(path)["weights_sha256"]),
    )


def read_state(path: Path) -> Mapping[str, Any]:
    """The state dict in a `.pth` or `.safetensors` file. Raises UsageError."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_safetensors(path)
        else:
            state = tensorlib.load(path, map_location="cpu")
    except (ValueError, RuntimeError, OSError, pickle.UnpicklingError) as error:
        raise UsageError(str(error)) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # how training scripts wrap what they save
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UsageError(
            f"{path}: holds a {type(state).__name__}; expected a state dict, names to tensors. "
            "Hint: torch.save(model.state_dict(), FILE)"
        )
    return state


def _read_labels(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as class names, one a line: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def start_weights(module: nn.Module, path: Path) -> None:
    """Warm start: the weights of a file or checkpoint and nothing else, all of them and no others.

    Raises UsageError.
    """
    hint = "params.model as it was when saved; the job finetune gives a classifier a new head"
    load_into(module, weights_of(path), f"weights: {path} does not fit the model", hint)


def load_into(module: nn.Module, state: Mapping[str, Any], refusal: str, hint: str) -> None:
    """All of a state dict; UsageError says in a line, after `refusal`, what does not fit."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        own = module.state_dict()
        sizes = [
            f"{name} of {_size(state[name])} instead of {_size(value)}"
            for name, value in own.items()
            if name in state and _size(state[name]) != _size(value)
        ]
        problems = [
            f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" * (len(names) > 3))
            for what, names in (
                ("it lacks", [name for name in own if name not in state]),
                ("has besides", [name for name in state if name not in own]),
                ("has", sizes),
            )
            if names
        ]
        raise UsageError(
            f"{refusal}: {', '.join(problems) or ' '.join(str(error).split())}; expected the "
            f"names and sizes of {type(module).__name__}. Hint: {hint}"
        ) from error


def _size(value: Any) -> str:
    return str(tuple(getattr(value, "shape", ())))


def weights_of(path: Path) -> Mapping[str, Any]:
    """The state dict in a `.pth` or `.safetensors` file, or the weights that a checkpoint is to be
    used with: the averaged ones where it has them. Raises UsageError.
    """
    if not path.exists():
        raise UsageError(f"weights: {path}: there is no such file or checkpoint")
    if not path.is_dir():
        return read_state(path)
    state = load_checkpoint(path)
    return final_weights(state)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The verified state in a checkpoint directory. Raises UsageError."""
    try:
        state = checkpoint.load(path).state
    except CheckpointError as error:
        raise UsageError(f"{error} Hint: another checkpoint beside it may be whole") from error
    if not isinstance(state, dict) or "model" not in state:
        raise UsageError(f"{path}: is a checkpoint, but not of a training; expected a model in it")
    return state


def final_weights(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A training's weights to be used: the moving average where it keeps one."""
    averaged = state.get("ema")
    if not averaged or not np.asarray(averaged["n_averaged"]):
        return dict(state["model"])
    prefix = "module."
    return {k.removeprefix(prefix): v for k, v in averaged.items() if k.startswith(prefix)}
