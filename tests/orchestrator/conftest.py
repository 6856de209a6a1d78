"""A job on disk, specs that name it, and a home directory of its own for every test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator import config, plan
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir

JOB = """
from pathlib import Path
from typing import Annotated, Literal, Union
from pydantic import BaseModel, ConfigDict, Field

ENGINE = "{engine}"

class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

class Sgd(Part):
    name: Literal["sgd"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9

class Adam(Part):
    name: Literal["adam"]
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)

class Data(Part):
    root: Path = Path("data")
    split: Literal["train", "test"] = "train"

class Layer(Part):
    width: int = 8

class Config(Part):
    epochs: int = 1
    optimizer: Annotated[Union[Sgd, Adam], Field(discriminator="name")] = Sgd()
    data: Data = Data()
    layers: list[Layer] = []
    fallback: Data | None = None

    def check(self, resources):
        if self.epochs > 100:
            raise ValueError(f"epochs: {{self.epochs}} would take for ever; expected at most 100.")
        if resources.workers == 13:
            raise ValueError("13 workers bring bad luck")

def run(config, ctx):
    ctx.metrics.log({{"loss": 1.0}}, step=1)
"""

SPEC = """\
version: 1
name: toy
job: toyjobs.toy
params:
  epochs: 3
  optimizer:
    name: sgd
    lr: 1e-3
resources: {workers: 2}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$ORCHESTRATOR_HOME of the test; the working directory is the test's own too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def toyjobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of jobs in the working directory: `toy` trains, `batch` classifies."""
    package = tmp_path / "toyjobs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "toy.py").write_text(JOB.format(engine="training"))
    (package / "batch.py").write_text(JOB.format(engine="batch"))
    (package / "empty.py").write_text("")
    (package / "broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "toyjobs"]:
        del sys.modules[name]


@pytest.fixture
def spec_file(tmp_path: Path, toyjobs: Path) -> Path:
    """A valid spec."""
    path = tmp_path / "toy.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def make_plan(spec_file: Path) -> Callable[..., RunPlan]:
    """Plans of the toy spec; `overrides` as on the command line."""

    def make(*overrides: str, run_id: str | None = None, job: str = "toy") -> RunPlan:
        loaded = config.load(spec_file, overrides=[f"job=toyjobs.{job}", *overrides])
        return plan.plan(loaded, run_id=run_id)

    return make


@pytest.fixture
def run_dir(make_plan: Callable[..., RunPlan]) -> RunDir:
    """The directory of a planned run."""
    return RunDir.create(make_plan(run_id="toy-1"))
