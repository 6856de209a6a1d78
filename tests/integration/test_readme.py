"""Every command of the README, as a reader would type it, in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, Head, environment

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

README = (ROOT / "README.md").read_text()
# `make demo` has its own test below; `make test` is what runs this.
ELSEWHERE = {"make demo", "make test"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_make_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "demo", f"PYTHON={sys.executable}", f"DEMO={tmp_path / 'images'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(tmp_path / "home"),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    for words in ("val/accuracy", "362", "corrupt.jpg", "orchestrator report", "orchestrator ui"):
        assert words in text


def test_every_command(tmp_path: Path, head: Head) -> None:
    import skimage

    import tensorlib
    from tensorlib.vision import models

    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "photos").mkdir()
    photo = Path(skimage.__file__).parent / "data" / "astronaut.png"
    (tmp_path / "photos" / photo.name).write_bytes(photo.read_bytes())
    tensorlib.manual_seed(0)
    tensorlib.save(models.get_model("resnet50").state_dict(), tmp_path / "resnet50.pth")

    commands = [line for block in blocks("bash") for line in block.splitlines()]
    script = "\n".join(["set -eux", *(line for line in commands if line not in ELSEWHERE)])
    assert len(commands) - len(ELSEWHERE) >= 10
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path / "home", HEAD=head.address, RAY_AUTH_TOKEN=head.token),
        timeout=450,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("place", [0, 1])
def test_the_python_blocks(place: int) -> None:
    program = blocks("python")[place]
    assert len(blocks("python")) == 2
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=110, check=True
    )
    assert f"# {done.stdout.strip()}," in program


def test_commands_in_the_text_exist() -> None:
    """`orchestrator VERB` in running text names a verb that there is."""
    verbs = set(re.findall(r"`orchestrator (\w+)", README))
    from typer.main import get_command

    from orchestrator.cli.main import app

    assert verbs <= set(get_command(app).commands), verbs
