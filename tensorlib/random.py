"""Random numbers equal to PyTorch's on the CPU for the same seed: Mersenne Twister, its floats, its
Box-Muller, its permutations.

Uniform and integer draws agree bit for bit, normal ones within rounding of the logarithm and
cosine.
Bernoulli with one probability and exponential draws follow PyTorch's x86 build, which seeds a
multiplicative
congruential generator (MCG31m1) with one draw.
"""

from __future__ import annotations

import math
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import wrap
from tensorlib.device import Array, device
from tensorlib.errors import ArgumentError, DeviceError, DTypeError, ShapeError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Shape = tuple[int, ...]
_DEFAULT_SEED = 67280421310721
_STATE = struct.Struct("<Qiiq624Qdddi4xf?3x")


class Generator:
    """A stream of random numbers; `manual_seed(s)` gives what torch's gives."""

    def __init__(self, device: device | str = "cpu") -> None:
        from tensorlib.device import device as device_type

        self.device = device_type(device)
        if self.device.type != "cpu":
            raise DeviceError("Generator", f"device {self.device} is not supported", "'cpu'")
        self._lock = threading.RLock()
        self._bits = np.random.MT19937()
        self._cached: float | None = None
        self.manual_seed(_DEFAULT_SEED)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed` (negative ones count from 2**64)."""
        if not isinstance(seed, int | np.integer):
            raise ArgumentError("manual_seed", f"seed {seed!r} is not an integer")
        number = int(seed)
        if not -(1 << 63) <= number < 1 << 64:
            raise ShapeError(
                "manual_seed", f"Overflow when unpacking long, seed {number}", "a 64-bit integer"
            )
        with self._lock:
            self._seed = number % (1 << 64)
            self._bits._legacy_seeding(self._seed & 0xFFFFFFFF)
            self._cached = None
        return self

    def initial_seed(self) -> int:
        """The seed the stream was started with."""
        return self._seed

    def seed(self) -> int:
        """Start a stream from the clock and return its seed."""
        self.manual_seed(time.time_ns() ^ (id(self) << 16))
        return self._seed

    def get_state(self) -> Tensor:
        """The state as PyTorch lays it out: 5056 bytes."""
        with self._lock:
            state = self._bits.state["state"]
            pos = int(state["pos"])
            cached = self._cached
            packed = _STATE.pack(
                self._seed,
                625 - pos,
                1,
                pos,
                *state["key"].tolist(),
                0.0,
                cached or 0.0,  # PyTorch keeps the waiting number in the second field
                0.0,
                cached is not None,
                0.0,
                False,
            )
        return wrap(np.frombuffer(packed, np.uint8).copy())

    def set_state(self, new_state: Tensor) -> Generator:
        """Continue from a state of `get_state` (PyTorch's own included)."""
        array = new_state.array if hasattr(new_state, "array") else np.asarray(new_state)
        if array.dtype != np.uint8:
            raise ArgumentError("set_state", f"RNG state must be a uint8 tensor, got {array.dtype}")
        if array.size != _STATE.size:
            raise ShapeError("set_state", f"RNG state has {array.size} bytes", f"{_STATE.size}")
        values = _STATE.unpack(array.tobytes())
        seed, left, key = values[0], values[1], np.array(values[4:628], np.uint32)
        waiting, valid = values[629], values[631]
        with self._lock:
            self._seed = seed
            self._bits.state = {
                "bit_generator": "MT19937",
                "state": {"key": key, "pos": 625 - left},
            }
            self._cached = waiting if valid else None
        return self

    def clone_state(self) -> Generator:
        """A second generator at the same place."""
        return Generator().set_state(self.get_state())

    # -- raw draws ---------------------------------------------------------------------------------

    def _raw(self, count: int) -> Array:
        return self._bits.random_raw(count)

    def _raw64(self, count: int) -> Array:
        pairs = self._raw(2 * count).reshape(-1, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    def _unit(self, count: int, kind: np.dtype[Any]) -> Array:
        """Uniforms in [0, 1) with as many bits as the type holds."""
        if kind.itemsize == 8:
            return (self._raw64(count) & np.uint64((1 << 53) - 1)).astype(np.float64) * 2.0**-53
        raw = self._raw(count).astype(np.uint32) & np.uint32((1 << 24) - 1)
        return (raw.astype(np.float32) * np.float32(2.0**-24)).astype(kind)

    # -- distributions: arrays ---------------------------------------------------------------------

    def uniform(self, shape: Shape, kind: Any, low: float = 0.0, high: float = 1.0) -> Array:
        """Uniform numbers in [low, high)."""
        kind = _floating("uniform", kind)
        with self._lock:
            unit = self._unit(math.prod(shape), kind)
        if (low, high) != (0, 1):
            # one rounding, as PyTorch's fused multiply-add
            wide: Any = np.float64 if kind.itemsize < 8 else np.longdouble
            span = wide(kind.type(high) - kind.type(low))
            unit = unit.astype(wide) * span + wide(kind.type(low))
        return unit.astype(kind, copy=False).reshape(shape)

    def normal(self, shape: Shape, kind: Any, mean: float = 0.0, std: float = 1.0) -> Array:
        """Normal numbers: blocks of 16 for 16 or more, one by one (the second of a pair kept) for
        fewer.
        """
        kind = _floating("normal", kind)
        if kind.itemsize == 2:
            return self.normal(shape, np.float32, mean, std).astype(kind)
        count = math.prod(shape)
        with self._lock:
            if count < 16:
                values = (
                    np.array([self._one_normal() for _ in range(count)], np.float64) * std + mean
                )
                return values.astype(kind).reshape(shape)
            unit = self._unit(count, kind)
            tail = self._unit(16, kind) if count % 16 else None
        out = np.empty(count, kind)
        whole = count - count % 16
        out[:whole] = _box_muller(unit[:whole], mean, std)
        if tail is not None:
            out[-16:] = _box_muller(tail, mean, std)
        return out.reshape(shape)

    def _one_normal(self) -> float:
        if self._cached is not None:
            value, self._cached = self._cached, None
            return value
        u1, u2 = self._unit(2, np.dtype(np.float64)).tolist()
        radius, angle = math.sqrt(-2.0 * math.log1p(-u2)), 2.0 * math.pi * u1
        self._cached = radius * math.sin(angle)
        return radius * math.cos(angle)

    def integers(self, low: int, high: int, shape: Shape, kind: Any = np.int64) -> Array:
        """Integers in [low, high)."""
        span = high - low
        count = math.prod(shape)
        with self._lock:
            raw = self._raw64(count) if span >= _WIDE else self._raw(count)
        return ((raw % np.uint64(span)).astype(np.int64) + low).astype(kind).reshape(shape)

    def permutation(self, count: int) -> Array:
        """The numbers 0 to count-1 in random order."""
        with self._lock:
            raw = self._raw(max(count - 1, 0))
        steps = (raw % np.arange(count, 1, -1, dtype=np.uint64)).tolist() if count > 1 else []
        order = list(range(count))
        for i, step in enumerate(steps):
            j = i + step
            order[i], order[j] = order[j], order[i]
        return np.array(order, np.int64)

    def bernoulli(self, shape: Shape, p: Any, kind: Any) -> Array:
        """Ones with probability `p`, a number or an array of `shape`."""
        kind = np.dtype(kind)
        with self._lock:
            if isinstance(p, np.ndarray):
                single = p.dtype.kind != "f" or p.dtype.itemsize < 8
                unit = self._unit(math.prod(shape), np.dtype(np.float32 if single else np.float64))
            else:
                unit = self._unit(math.prod(shape), np.dtype(np.float64))
        drawn: Array = (unit.reshape(shape) < p).astype(kind)
        return drawn

    def exponential(self, shape: Shape, kind: Any, rate: float = 1.0) -> Array:
        """Exponential numbers of the given rate."""
        kind = _floating("exponential", kind)
        with self._lock:
            unit = self._unit(math.prod(shape), np.dtype(np.float64))
        return (-1.0 / rate * np.log1p(-unit)).astype(kind).reshape(shape)


_WIDE = 1 << 28  # from here on PyTorch draws 64 bits


def _floating(where: str, kind: Any) -> np.dtype[Any]:
    kind = np.dtype(kind)
    if kind.kind != "f":
        raise DTypeError(where, f"not implemented for {dtypes.of(kind)}", "a floating-point dtype")
    return kind  # type: ignore[no-any-return]  # NumPy's stubs are wider


def _box_muller(unit: Array, mean: float, std: float) -> Array:
    """Pairs inside blocks of 16: the first eight give radii, the last eight angles."""
    blocks = unit.reshape(-1, 2, 8)
    kind = unit.dtype.type
    radius = np.sqrt(kind(-2) * np.log(kind(1) - blocks[:, 0]))
    angle = kind(2 * math.pi) * blocks[:, 1]
    out = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
    if (mean, std) != (0, 1):
        out = out * kind(std) + kind(mean)
    return out


default_generator = Generator()


def pick(generator: Generator | None) -> Generator:
    """The given generator or the default one."""
    if generator is None:
        return default_generator
    if not isinstance(generator, Generator):
        raise ArgumentError(
            "generator", f"{type(generator).__name__} given", "a tensorlib.Generator"
        )
    return generator


def manual_seed(seed: int) -> Generator:
    """Seed the default generator."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the clock; returns the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """State of the default generator, a uint8 tensor."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Put the default generator into a state from `get_rng_state`."""
    default_generator.set_state(new_state)


@contextmanager
def fork_rng(devices: Iterable[Any] | None = None, enabled: bool = True) -> Iterator[None]:
    """Give the default generator its state back at the end of the block."""
    if devices:
        raise DeviceError("fork_rng", f"devices {list(devices)}", "the CPU only")
    if not enabled:
        yield
        return
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
