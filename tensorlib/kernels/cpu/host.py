"""The CPU this process runs on: its vector width, the block of the matrix product in registers, and
a name under which compiled code may be kept.

`TENSORLIB_SIMD` (`avx2`, `avx512`, `neon`) replaces what was found, for tests of the other widths;
LLVM lowers vectors the host does not have to those it has.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import cache

from tensorlib.errors import InvalidValueError
from tensorlib.kernels import Unsupported

__all__ = ["Blocking", "blocking", "cores", "name"]


@dataclass(frozen=True)
class Blocking:
    """float32 numbers in a vector, and the block of an output kept in registers by the matrix
    product: `rows` by `vectors * lanes` columns.
    """

    lanes: int
    rows: int
    vectors: int

    @property
    def panel(self) -> int:
        """Columns of a block."""
        return self.lanes * self.vectors


# Registers: 16 of 8 lanes (12 sums, 2 of B, 1 of A), 32 of 16 lanes, 32 of 4 lanes.
BLOCKINGS = {
    "avx2": Blocking(8, 6, 2),
    "avx512": Blocking(16, 12, 2),
    "neon": Blocking(4, 8, 2),
}


@cache
def features() -> dict[str, bool]:
    """LLVM's names of what the CPU can do; empty where LLVM cannot tell (some ARM systems)."""
    import llvmlite.binding as llvm

    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:
        return {}


@cache
def blocking() -> Blocking:
    """The vector width and register block for this CPU.

    Raises Unsupported where fused multiply-add would be a function call.
    """
    wanted = os.environ.get("TENSORLIB_SIMD")
    if wanted is not None:
        if wanted not in BLOCKINGS:
            raise InvalidValueError(
                "TENSORLIB_SIMD", f"{wanted!r} is unknown", " or ".join(map(repr, BLOCKINGS))
            )
        return BLOCKINGS[wanted]
    if platform.machine().lower() in ("aarch64", "arm64"):
        return BLOCKINGS["neon"]
    found = features()
    if found.get("avx512f") and found.get("avx512vl"):
        return BLOCKINGS["avx512"]
    if found.get("avx2") and found.get("fma"):
        return BLOCKINGS["avx2"]
    raise Unsupported(
        f"this {platform.machine()} CPU has no AVX2 with FMA, AVX-512 or NEON for compiled kernels"
    )


@cache
def name() -> str:
    """A short name of the CPU type and all its features, for the directory of compiled code."""
    import llvmlite.binding as llvm

    cpu = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    text = ",".join(sorted(k for k, v in features().items() if v))
    text += os.environ.get("NUMBA_CPU_FEATURES", "") + os.environ.get("TENSORLIB_SIMD", "")
    return f"{platform.machine()}-{cpu}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def cores() -> int:
    """CPU cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
