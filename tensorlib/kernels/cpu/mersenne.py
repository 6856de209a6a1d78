"""Compiled draws: one thread, since each state of the generator follows from the one before."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib.kernels import mersenne
from tensorlib.kernels.cpu import Tasks, address, empty, worth

_run = Tasks("random")
_CHUNK = 16 * mersenne.WORDS


def _moved(position: int, words: int) -> int:
    return (position + words - 1) % mersenne.WORDS + 1 if words else position


def _state(key: Any) -> Any:
    """A copy of the state with room for a second one."""
    held = np.empty(2 * mersenne.WORDS, np.uint32)
    held[: mersenne.WORDS] = key
    return held


@mersenne.mersenne_words.override("many", lambda key, position, count: worth(count, mersenne.LARGE))
def words(key: Any, position: int, count: int) -> tuple[Any, Any, int]:
    """See the reference."""
    held, out = _state(key), empty((count,), np.uint32)
    _run.words(1, address(held), position, address(out), count)
    return out, held[: mersenne.WORDS], _moved(position, count)


@mersenne.mersenne_bernoulli.override(
    "many", lambda key, position, p, count, one: worth(count, mersenne.LARGE)
)
def bernoulli(key: Any, position: int, p: float, count: int, one: Any) -> tuple[Any, Any, int]:
    """See the reference."""
    held, out, chunk = _state(key), empty((count,)), np.empty(_CHUNK, np.uint32)
    limit = math.ceil(p * 2.0**53)
    places = address(held), position, address(out), count, limit, one, address(chunk)
    _run.bernoulli(1, *places)
    return out, held[: mersenne.WORDS], _moved(position, 2 * count)
