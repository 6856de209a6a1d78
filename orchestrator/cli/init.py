"""`orchestrator init DIR`: a working job of one's own to start from."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import UsageError

# Where each file of the template goes. A job is text there: importing it would take tensorlib.
FILES = {
    "fit_curve.py.txt": "myjobs/fit_curve.py",
    "spec.yaml": "spec.yaml",
    "README.md": "README.md",
}


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
) -> None:
    """Write an example of your own job: a module, a spec, a README."""
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            what = "has files in it" if directory.is_dir() else "is a file"
            raise UsageError(
                f"init: {directory} {what}; expected a new or empty directory, as nothing is "
                "overwritten. Hint: orchestrator init myproject"
            )
        template = resources.files("orchestrator.cli") / "template"
        for name, place in FILES.items():
            path = directory / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((template / name).read_text(encoding="utf-8"), encoding="utf-8")
            print(path)
    except OSError as error:
        raise UsageError(
            f"init: {directory}: cannot be written: {error.strerror}; expected a directory that "
            "can be made"
        ) from error
    print(f"next: cd {shlex.quote(str(directory))} && orchestrator run spec.yaml")
