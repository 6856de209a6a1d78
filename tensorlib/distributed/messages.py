"""What ranks say to each other before the data: which collective, of what, as which number.

Every message begins with such a header, so that ranks that do different things notice it instead of
reading each other's numbers as something else.

Errors:
    DistributedError(ConnectionError)    a peer died, timed out, or called something else
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np


class DistributedError(ConnectionError):
    """A collective failed; the text names the collective, the rank at fault and the reason.

    After it the communicator is closed: its peers have been told and raise as well.
    """


class ReduceOp(enum.Enum):
    """How `all_reduce` and `reduce_scatter` combine the ranks' values."""

    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    PRODUCT = "product"


_OPS = list(ReduceOp)
_NAMES = (
    "all_reduce",
    "broadcast",
    "all_gather",
    "reduce_scatter",
    "gather",
    "barrier",
    "broadcast_object",
    "all_gather_object",
    "all_reduce_shards",
    "reduce",
    "scatter",
    "all_to_all",
    "send",
    "gather_object",
    "scatter_object",
    "new_group",
    "allocate",
)
_DTYPES = [
    np.dtype(kind)
    for kind in ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16"]
]
_HEADER = struct.Struct("<4sBBBBIQQ8Q")
HEADER_BYTES = _HEADER.size
_MAGIC = b"TLC1"
_ABORT = 255
_MAX_DIMS = 8


class Call:
    """What a rank is doing; travels before each message, so that ranks can compare."""

    __slots__ = ("dtype", "name", "op", "ranks", "sequence", "shape")

    def __init__(
        self,
        name: str,
        dtype: np.dtype[Any] | None = None,
        shape: tuple[int, ...] = (),
        op: ReduceOp | None = None,
    ):
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.op = op
        self.sequence = 0  # of the collectives of the group; messages between two have none
        self.ranks: Sequence[int] | None = None  # the members' names, where not 0, 1, 2, ...

    def who(self, *peers: int) -> str:
        """Members of the group by name."""
        names = self.ranks
        return " and ".join(f"rank {peer if names is None else names[peer]}" for peer in peers)

    def pack(self, nbytes: int) -> bytes:
        """The header of a message of `nbytes`."""
        shape = self.shape[:_MAX_DIMS]
        dims = shape + (0,) * (_MAX_DIMS - len(shape))
        kind = _NAMES.index(self.name)
        op = 0 if self.op is None else 1 + _OPS.index(self.op)
        dtype = 0 if self.dtype is None else 1 + _DTYPES.index(self.dtype)
        return _HEADER.pack(_MAGIC, kind, op, dtype, len(shape), 0, self.sequence, nbytes, *dims)

    def check(self, peer: int, header: bytes | bytearray, nbytes: int) -> None:
        """Compare a received header with this call; raises DistributedError on a difference."""
        if bytes(header) == self.pack(nbytes):
            return
        magic, kind, op, dtype, ndim, _, sequence, length, *dims = _HEADER.unpack(header)
        if magic != _MAGIC or (kind >= len(_NAMES) and kind != _ABORT):
            raise DistributedError(f"{self.name}: {self.who(peer)} sent what is no message")
        other = Call(
            _NAMES[kind],
            _DTYPES[dtype - 1] if dtype else None,
            tuple(dims[:ndim]),
            _OPS[op - 1] if op else None,
        )
        other.sequence = sequence
        sizes = "" if length == nbytes else f" ({nbytes} and {length} bytes)"
        raise DistributedError(
            f"{self.name}: this rank called {self}, {self.who(peer)} called {other}{sizes}; "
            "expected the same calls in the same order on all ranks"
        )

    def __str__(self) -> str:
        inside = [] if self.dtype is None else [f"{self.dtype.name}{list(self.shape)}"]
        inside += [] if self.op is None else [self.op.name]
        number = f" as number {self.sequence}" if self.sequence else ""
        return f"{self.name}({', '.join(inside)}){number}"


def abort_header(reason_bytes: int) -> bytes:
    """Announces the reason why a rank leaves, instead of a message."""
    return _HEADER.pack(_MAGIC, _ABORT, 0, 0, 0, 0, 0, reason_bytes, *(0,) * _MAX_DIMS)


def abort_bytes(header: bytes | bytearray | memoryview) -> int | None:
    """How long the reason after an abort header is; None when it is another header."""
    magic, kind, *_, length = _HEADER.unpack(header)[:8]
    return min(int(length), 4096) if magic == _MAGIC and kind == _ABORT else None


def raise_gone(call: Call, ranks: Sequence[int]) -> NoReturn:
    """The error for peers whose connection ended."""
    raise DistributedError(
        f"{call.name}: {call.who(*ranks)} closed the connection (the process ended or was killed)"
    )


def raise_timeout(call: Call, ranks: Sequence[int], timeout_s: float) -> NoReturn:
    """The error for peers that made no progress in time."""
    raise DistributedError(
        f"{call.name}: no progress for {timeout_s:g} s while waiting for {call.who(*ranks)}. "
        "Hint: that rank hangs, or did not call this collective"
    )


def raise_abort(call: Call, peer: int, reason: str) -> NoReturn:
    """The error for a peer that said why it leaves."""
    raise DistributedError(f"{call.name}: {call.who(peer)} gave up: {reason}")


def check_dtype(array: np.ndarray) -> np.dtype[Any]:
    """The dtype of an array that can be sent; TypeError for others."""
    if array.dtype not in _DTYPES:
        known = ", ".join(dtype.name for dtype in _DTYPES)
        raise TypeError(f"collective on dtype {array.dtype}; expected one of {known}")
    return array.dtype


def check_reduce(array: np.ndarray, op: ReduceOp) -> None:
    """TypeError where `op` is not defined for the array's dtype."""
    kind = check_dtype(array).kind
    if op is ReduceOp.AVG and kind not in "fc":
        raise TypeError(f"ReduceOp.AVG on dtype {array.dtype}; expected floats. Hint: use SUM")
    if kind == "b" and op in (ReduceOp.SUM, ReduceOp.PRODUCT):
        raise TypeError(f"ReduceOp.{op.name} on bool; expected MIN (all) or MAX (any)")
    if kind == "c" and op in (ReduceOp.MIN, ReduceOp.MAX):
        raise TypeError(f"ReduceOp.{op.name} on dtype {array.dtype}; expected an ordered dtype")


def as_bytes(array: np.ndarray) -> Any:
    """The bytes of a contiguous array: a memoryview, or an array where they are on a device."""
    # through uint8: memoryview.cast refuses empty and 0-dim arrays and some dtypes
    flat = array.reshape(-1).view(np.uint8)
    return flat if on_device(array) else flat.data


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array itself, or a copy in C order where it is; NumPy's function knows no devices."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def on_device(array: Any) -> bool:
    """Whether the memory of an array, or of what `as_bytes` gives, is a CUDA device's."""
    return hasattr(array, "__cuda_array_interface__")
