"""Sums, differences and products of large arrays, for which one thread of NumPy is slow; below
`LARGE` elements operations use NumPy's operators directly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import kernel

LARGE = 1 << 17  # elements


def _samples() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    image, other = draw(2, 5, 7, 19), draw(2, 5, 7, 19)
    last = image.transpose(0, 3, 1, 2)
    return [
        (draw(1037), draw(1037)),
        (image, other),
        (last, other.transpose(0, 3, 1, 2)),
        (last, np.ascontiguousarray(last)),
        (image[:, ::2], other[:, ::2]),
        (image, draw(19)),
        (image, draw(5, 1, 1)),
        (image, draw(1, 5, 1, 1)),
        (last, draw(19, 1, 1)),
        (draw(6, 32), draw(32)),
        (draw(6, 32), draw(6, 1)),
        (draw(6, 33), draw(1, 1)),
        (draw(6, 33), np.array(0.3, np.float32)),
        (draw(6, 1), draw(1, 7)),
        (draw(0, 3), draw(3)),
        (draw(100), 0.1),
        (image, 2),
    ]


@kernel(_samples)
def add(a: Any, b: Any, out: Any = None) -> Any:
    """a + b, broadcast; `b` may be a Python number."""
    return a + b if out is None else np.add(a, b, out=out)


@kernel(_samples)
def sub(a: Any, b: Any, out: Any = None) -> Any:
    """a - b, broadcast; `b` may be a Python number."""
    return a - b if out is None else np.subtract(a, b, out=out)


@kernel(_samples)
def mul(a: Any, b: Any, out: Any = None) -> Any:
    """a b, broadcast; `b` may be a Python number."""
    return a * b if out is None else np.multiply(a, b, out=out)


# What `a op= b` is for a large `a`.
LARGE_FORMS = {np.add: add, np.subtract: sub, np.multiply: mul}
