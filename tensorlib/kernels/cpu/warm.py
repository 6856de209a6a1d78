"""Compile all tasks ahead of time, for images and nodes: `python -m tensorlib.kernels warm`."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tensorlib.kernels import Unsupported
from tensorlib.kernels.cpu import host, loader

__all__ = ["Warmed", "families", "warm", "warm_family"]


@dataclass(frozen=True)
class Warmed:
    """What compiling a family came to."""

    family: str
    tasks: int
    compiled: int
    seconds: float
    problem: str = ""


def families() -> list[str]:
    """The families of compiled tasks, those with the longest sources first."""
    files = [p for p in (Path(__file__).parent / "tasks").glob("*.py") if p.stem != "__init__"]
    return [path.stem for path in sorted(files, key=lambda p: -p.stat().st_size)]


def warm_family(family: str) -> Warmed:
    """Compile what the cache lacks of one family."""
    began = time.perf_counter()
    names = loader.complete(family)
    if names is not None:
        return Warmed(family, len(names), 0, time.perf_counter() - began)
    compiled = 0
    try:
        kinds = import_module("tensorlib.kernels.cpu.compiler").COMPILED
        module = import_module(f"{loader.TASKS}.{family}")
        names = sorted(
            name
            for name, made in vars(module).items()
            if isinstance(made, kinds) and made.function.__module__ == module.__name__
        )
        for name in names:
            compiled += loader.prepare(family, name)
    except (Unsupported, ImportError) as problem:
        spent = time.perf_counter() - began
        return Warmed(family, len(names or ()), compiled, spent, str(problem))
    loader.set_complete(family, names)
    return Warmed(family, len(names), compiled, time.perf_counter() - began)


def warm(wanted: list[str]) -> Iterator[Warmed]:
    """Compile what the cache lacks of some families, on all cores."""
    missing = []
    for family in wanted:
        if loader.complete(family) is None:
            missing.append(family)
        else:
            yield warm_family(family)
    processes = min(host.cores(), len(missing))
    if processes <= 1:
        yield from map(warm_family, missing)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as executor:
        yield from executor.map(warm_family, missing)
