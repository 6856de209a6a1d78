"""`orchestrator init DIR`: what it writes runs, as it is and as its last line says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import orchestrator
from orchestrator import config, plan
from orchestrator.cli.init import FILES
from orchestrator.cli.main import app

ROOT = Path(orchestrator.__file__).parents[1]


def init(directory: Path) -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, stderr."""
    done = CliRunner().invoke(app, ["init", str(directory)])
    return done.exit_code, done.stdout.splitlines(), done.stderr


def test_the_example_runs_without_ray(tmp_path: Path) -> None:
    directory = tmp_path / "my job"
    code, lines, _ = init(directory)
    assert code == 0
    assert lines[-1] == f"next: cd '{directory}' && orchestrator run spec.yaml"
    assert lines[:-1] == [str(directory / place) for place in FILES.values()]
    done = subprocess.run(
        [sys.executable, "-m", "myjobs.fit_curve", "spec.yaml", "params.epochs=4"],
        capture_output=True,
        text=True,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ORCHESTRATOR_HOME": str(tmp_path / "home")},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (loss,) = (line for line in done.stdout.splitlines() if "val/loss" in line)
    assert 0.01 <= float(loss.split()[-1]) < 0.1  # the noise alone is 0.01, a constant 0.5


def test_orchestrator_run_finds_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert init(tmp_path / "new")[0] == 0
    monkeypatch.chdir(tmp_path / "new")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    made = plan.plan(config.load("spec.yaml"))
    assert (made.job_module, made.config["width"], made.engine) == (
        *("myjobs.fit_curve", 32),
        "training",
    )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, lines, err = init(tmp_path)
    assert (code, lines) == (2, [])
    assert "has files in it; expected a new or empty directory" in err
    code, _, err = init(tmp_path / "file")
    assert code == 2
    assert "file is a file" in err
    code, _, err = init(tmp_path / "file" / "below")
    assert code == 2
    assert "cannot be written" in err
    assert (tmp_path / "file").read_text() == "mine"
    assert init(tmp_path / "empty")[0] == 0
    assert init(tmp_path / "empty")[0] == 2


def test_every_file_of_the_template_is_written() -> None:
    template = ROOT / "orchestrator" / "cli" / "template"
    assert {path.name for path in template.iterdir()} == FILES.keys()
