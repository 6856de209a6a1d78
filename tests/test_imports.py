"""Who may import whom, read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tensorlib", "orchestrator", "jobs")
# A package never imports those on its right.
FORBIDDEN = {"tensorlib": {"orchestrator", "jobs"}, "orchestrator": {"tensorlib", "jobs"}}
# A library is imported in these places only.
ONLY = {
    "ray": ("orchestrator/engine/",),
    "mlflow": ("orchestrator/tracking/",),
    "cupy": (
        "tensorlib/device.py",
        "tensorlib/kernels/cuda/",
        "tensorlib/distributed/nccl.py",
    ),
    "PIL": ("tensorlib/vision/", "jobs/data/"),
    "torch": (),
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_direction(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    wrong = []
    for line, module in imported(ast.parse(path.read_text())):
        top = module.split(".")[0]
        if top in FORBIDDEN.get(name.split("/")[0], ()):
            wrong.append(f"{name}:{line} imports {module}")
        if top in ONLY and not name.startswith(ONLY[top] or ("nowhere",)):
            wrong.append(f"{name}:{line} imports {module}, which only {ONLY[top]} may")
    assert not wrong


def test_nothing_needs_torch_or_cupy() -> None:
    """N0, N39: every module of the product imports where neither can be imported."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        if path.name not in {"__init__.py", "__main__.py"}
    ]
    program = (
        "import sys, importlib\n"
        "sys.modules.update(torch=None, cupy=None)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
