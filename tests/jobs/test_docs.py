"""docs/jobs.md names every key of every job, and the specs that come with us can be planned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import jobs
from orchestrator import config, plan

ROOT = Path(jobs.__file__).parents[1]
TEXT = (ROOT / "docs" / "jobs.md").read_text()
TRAININGS = [name for name in plan.jobs_available() if name != "classify_images"]


def keys(kind: Any) -> Iterator[str]:
    """The names of a model's fields and those of the models inside it."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield name
            yield from keys(field.annotation)
    for part in get_args(kind):
        yield from keys(part)


@pytest.mark.parametrize("job", TRAININGS)
def test_every_key_is_described(job: str) -> None:
    described = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|```.*?```", TEXT, re.DOTALL))))
    missing = set(keys(import_module(f"jobs.{job}").Config)) - described
    assert f"`{job}`" in TEXT
    assert not missing


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "train").glob("*.yaml")), ids=str)
def test_every_spec_can_be_planned(path: Path) -> None:
    made = plan.plan(config.load(path))
    assert made.job_module.removeprefix("jobs.") in TRAININGS
    assert path.name in TEXT
