"""In which precision operations compute inside `tensorlib.amp.autocast`.

Products and convolutions take their arguments in lower precision, losses and recurrent layers in
float32; the rest computes in what it is given. Each of these operations asks `active` first, which
is 0 outside of all blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorlib.ops._common import astype

_SINGLE = np.dtype(np.float32)
active = 0  # blocks that threads are in; at zero no operation looks at its thread's choice
_lock = threading.Lock()


class _Chosen(threading.local):
    """By device type: the lower precision in this thread; none where autocast is off."""

    def __init__(self) -> None:
        self.dtypes: dict[str, Any] = {}


chosen = _Chosen()


@contextmanager
def within(dtypes: dict[str, Any]) -> Iterator[None]:
    """Compute as in a block that chose `dtypes`."""
    before = enter(dtypes)
    try:
        yield
    finally:
        leave(before)


def enter(dtypes: dict[str, Any]) -> dict[str, Any]:
    """Begin such a block; gives what `leave` needs."""
    global active
    before = chosen.dtypes
    with _lock:
        active += 1
    chosen.dtypes = dtypes
    return before


def leave(before: dict[str, Any]) -> None:
    """End it."""
    global active
    chosen.dtypes = before
    with _lock:
        active -= 1


def lower(*tensors: Any) -> tuple[Any, ...]:
    """Tensors of single or half precision in the lower one; others, and None, as they are."""
    return _cast(tensors, None)


def single(*tensors: Any) -> tuple[Any, ...]:
    """Tensors of half precision in float32; others, and None, as they are."""
    return _cast(tensors, _SINGLE)


def chosen_for(array: Any) -> Any:
    """The lower precision for arrays of this kind of device in this thread, or None."""
    return chosen.dtypes.get("cpu" if type(array) is np.ndarray else "cuda")


def _cast(tensors: tuple[Any, ...], wanted: Any) -> tuple[Any, ...]:
    made: dict[int, Any] = {}  # the same tensor twice stays one
    for tensor in tensors:
        array = getattr(tensor, "array", None)
        if array is None or array.dtype.char not in "efE":  # half, single, bfloat16
            continue
        dtype = chosen_for(array)
        if dtype is not None and id(tensor) not in made:
            made[id(tensor)] = astype(tensor, dtype if wanted is None else wanted)
    return tuple(made.get(id(tensor), tensor) for tensor in tensors)
