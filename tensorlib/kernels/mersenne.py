"""Draws from the Mersenne Twister in bulk: `(result, key, position)` from a state, the 624 words
`key` of which `position` are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import kernel

WORDS = 624
LARGE = 1 << 14  # draws, from which on they are worth a kernel


def _states() -> list[tuple[Any, int]]:
    key = np.random.default_rng(0).integers(0, 1 << 32, WORDS, np.uint32)
    return [(key, 624), (key, 0), (key, 13)]


def _source(key: Any, position: int) -> Any:
    bits = np.random.MT19937(0)
    bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": position}}
    return bits


def _after(bits: Any) -> tuple[Any, int]:
    state = bits.state["state"]
    return state["key"], int(state["pos"])


@kernel(lambda: [(*state, n) for state in _states() for n in (0, 1, 611, 612, 5000)])
def mersenne_words(key: Any, position: int, count: int) -> tuple[Any, Any, int]:
    """`count` words of 32 bits."""
    bits = _source(key, position)
    words = np.random.Generator(bits).integers(0, 1 << 32, count, np.uint32)
    return words, *_after(bits)


@kernel(
    lambda: [
        (*state, p, n, np.float32(1.5))
        for state in _states()
        for n in (0, 1, 306, 20001)
        for p in (0.3, 0.5, 1.0, 1e-300)
    ]
)
def mersenne_bernoulli(
    key: Any, position: int, p: float, count: int, one: Any
) -> tuple[Any, Any, int]:
    """`one` with probability `p`, 0 otherwise: float32; of two words each, the last 53 bits."""
    words, key, position = mersenne_words.reference(key, position, 2 * count)
    wide = words[::2].astype(np.uint64)
    wide &= np.uint64((1 << 21) - 1)
    wide <<= np.uint64(32)
    wide |= words[1::2]
    unit = wide.view(np.int64).astype(np.float64)
    unit *= 2.0**-53
    return np.where(unit < p, one, np.float32(0)).astype(np.float32), key, position
