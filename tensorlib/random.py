"""Random numbers equal to PyTorch's on the CPU for the same seed: Mersenne Twister, its floats, its
Box-Muller, its permutations.

Uniform and integer draws and float32 normals agree bit for bit; what goes through a float64
logarithm, sine or exponential agrees but for the rounding of those functions.
"""

from __future__ import annotations

import math
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import wrap
from tensorlib.device import Array, device
from tensorlib.errors import ArgumentError, DeviceError, InvalidValueError, ShapeError
from tensorlib.kernels import mersenne
from tensorlib.kernels.random import box_muller, fused

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Shape = tuple[int, ...]
_DEFAULT_SEED = 67280421310721
# seed, draws left, seeded, next, the words, normals that wait (x, y, rho, whether), a float32 one
_STATE = struct.Struct("<Qiiq624Qdddi4xf?3x")
_WORDS = 624
_WIDE = 1 << 28  # from ranges of this size on PyTorch draws 64 bits


class Generator:
    """A stream of random numbers; `manual_seed(s)` gives what torch's gives."""

    def __init__(self, device: Any = "cpu") -> None:
        from tensorlib.device import device as device_type

        self._device = device_type(device)
        if self._device.type != "cpu":
            raise DeviceError("Generator", f"device {self._device} is not supported", "'cpu'")
        self._lock = threading.RLock()
        self._waiting: float | None = None  # the second normal of a pair
        self._seed = _DEFAULT_SEED

    @cached_property
    def _bits(self) -> Any:
        """The Mersenne Twister, made for the first draw: numpy.random is slow to import."""
        bits = np.random.MT19937()
        bits._legacy_seeding(self._seed & 0xFFFFFFFF)
        return bits

    @cached_property
    def _source(self) -> Any:
        return np.random.Generator(self._bits)

    @property
    def device(self) -> device:
        """Where it draws: the CPU."""
        return self._device

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed` (negative ones count from 2**64)."""
        if type(seed) is not int:
            raise ShapeError("manual_seed", f"expected a long, but got {type(seed).__name__}")
        if not -(1 << 63) <= seed < 1 << 64:
            raise InvalidValueError(
                "manual_seed", f"Overflow when unpacking long long, {seed}", "a 64-bit integer"
            )
        with self._lock:
            self._seed = seed % (1 << 64)
            if "_bits" in self.__dict__:
                self._bits._legacy_seeding(self._seed & 0xFFFFFFFF)
            self._waiting = None
        return self

    def initial_seed(self) -> int:
        """The seed the stream was started with."""
        return self._seed

    def seed(self) -> int:
        """Start a stream from the system's entropy and return its seed."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little") >> 11)
        return self._seed

    def get_state(self) -> Tensor:
        """The state as PyTorch lays it out: 5056 bytes."""
        with self._lock:
            state = self._bits.state["state"]
            key, position = state["key"], int(state["pos"])
            waiting = self._waiting
            untouched = position == _WORDS and key[0] == self._seed & 0xFFFFFFFF
            packed = _STATE.pack(
                self._seed,
                _WORDS + 1 - position,
                1,
                0 if untouched else position,
                *key.tolist(),
                0.0,
                waiting or 0.0,  # PyTorch keeps the waiting number in the second field
                0.0,
                waiting is not None,
                0.0,
                False,
            )
        return wrap(np.frombuffer(packed, np.uint8).copy())

    def set_state(self, new_state: Tensor) -> Generator:
        """Continue from a state of `get_state` (PyTorch's own included)."""
        if not hasattr(new_state, "array"):
            raise ArgumentError(
                "set_state", f"expected a torch.ByteTensor, but got {type(new_state).__name__}"
            )
        array = new_state.array
        if array.dtype != np.uint8:
            raise ArgumentError(
                "set_state", f"RNG state must be a torch.ByteTensor, got {new_state.dtype}"
            )
        if array.size != _STATE.size:
            raise ShapeError("set_state", f"RNG state has {array.size} bytes", f"{_STATE.size}")
        values = _STATE.unpack(array.tobytes())
        seed, left, seeded = values[:3]
        if not (seeded and 0 < left <= _WORDS):
            raise ShapeError("set_state", f"Invalid mt19937 state: {left} words left")
        with self._lock:
            self._seed = seed
            words = np.array(values[4 : 4 + _WORDS], np.uint32)
            self._bits.state = {
                "bit_generator": "MT19937",
                "state": {"key": words, "pos": _WORDS + 1 - left},
            }
            self._waiting = values[629] if values[631] else None
        return self

    def clone_state(self) -> Generator:
        """A second generator at the same place."""
        return Generator().set_state(self.get_state())

    def get_offset(self) -> int:
        """Refused: offsets belong to generators of other devices."""
        raise ShapeError("get_offset", "CPU Generator does not use offset")

    def set_offset(self, offset: int) -> Generator:
        """Refused: offsets belong to generators of other devices."""
        raise ShapeError("set_offset", "CPU Generator does not use offset")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.get_state(),)

    # -- raw draws ---------------------------------------------------------------------------------

    def _words(self, count: int) -> Array:
        words: Array
        if count < 512:  # where this one's overhead is the smaller
            words = self._bits.random_raw(count).astype(np.uint32)
        elif count >= mersenne.LARGE:
            words = self._many(mersenne.mersenne_words, count)
        else:
            words = self._source.integers(0, 1 << 32, count, np.uint32)
        return words

    def _many(self, draw: Any, *arguments: Any) -> Array:
        """The result of a kernel of `kernels.mersenne`, and the state after it."""
        state = self._bits.state
        words = state["state"]
        drawn: Array
        drawn, words["key"], words["pos"] = draw(words["key"], int(words["pos"]), *arguments)
        self._bits.state = state
        return drawn

    def _wide_words(self, count: int) -> Array:
        words = self._words(2 * count)
        wide = words[::2].astype(np.uint64)
        wide <<= np.uint64(32)
        wide |= words[1::2]
        return wide

    def _unit(self, count: int, kind: Any) -> Array:
        """Uniforms in [0, 1) with all bits of float32 or float64."""
        if kind == np.float64:
            wide = self._wide_words(count)
            wide &= np.uint64((1 << 53) - 1)
            unit = wide.view(np.int64).astype(np.float64)
            unit *= 2.0**-53
            return unit
        words = self._words(count)
        words &= np.uint32((1 << 24) - 1)
        unit = words.view(np.int32).astype(np.float32)
        unit *= np.float32(2.0**-24)
        return unit

    @contextmanager
    def _one_by_one(self) -> Iterator[Callable[[], float]]:
        """A function that draws single float64 uniforms, for sampling by rejection."""
        with self._lock:
            before = self._bits.state
            drawn = 0
            ready: list[float] = []

            def draw() -> float:
                nonlocal drawn
                if not ready:
                    ready.extend(self._unit(min(4096, 16 + drawn), np.float64)[::-1].tolist())
                drawn += 1
                return ready.pop()

            yield draw
            self._bits.state = before
            self._bits.random_raw(2 * drawn, output=False)

    # -- distributions: flat arrays in the order PyTorch fills memory ------------------------------

    def uniform(self, count: int, kind: Any, low: float = 0.0, high: float = 1.0) -> Array:
        """Uniform numbers in [low, high)."""
        work = _work_type(kind)
        with self._lock:
            drawn = self._unit(count, work)
        if (low, high) != (0, 1):
            low, high = work.type(low), work.type(high)
            drawn = fused(drawn, float(high - low), float(low))
        elif work == kind:
            return drawn
        if work != kind:
            drawn = drawn.astype(kind)
        # rounding may reach the upper bound, which is excluded
        drawn[drawn == kind.type(high)] = low
        return drawn

    def normal(
        self, count: int, kind: Any, mean: float = 0.0, std: float = 1.0, dense: bool = True
    ) -> Array:
        """Normal numbers: blocks of 16 for 16 or more into `dense` memory, else pairs of which the
        second may wait for the next draw.
        """
        work = _work_type(kind)
        if count < 16 or not dense:
            drawn = self._paired_normals(count)
            if (mean, std) != (0, 1):
                drawn = fused(drawn, std, mean)
            return _cast(drawn, kind)
        whole = count - count % 16
        with self._lock:
            unit = self._unit(count if work == kind else whole, work)
            tail = self._unit(16, work) if whole < count else None
        drawn = box_muller(unit[:whole], mean, std)
        if tail is None:
            return drawn.astype(kind, copy=False)
        out = np.empty(count, kind)
        out[:whole] = drawn
        out[-16:] = box_muller(tail, mean, std)  # the last 16 are drawn again
        return out

    def _paired_normals(self, count: int) -> Array:
        with self._lock:
            first = [] if self._waiting is None or not count else [self._waiting]
            missing = (count - len(first) + 1) // 2
            unit = self._unit(2 * missing, np.float64).reshape(-1, 2)
            radius = np.sqrt(-2.0 * _library(math.log1p, np.log1p, -unit[:, 1]))
            angle = 2.0 * math.pi * unit[:, 0]
            made = np.empty((missing, 2))
            made[:, 0] = radius * _library(math.cos, np.cos, angle)
            made[:, 1] = radius * _library(math.sin, np.sin, angle)
            drawn = np.concatenate([first, made.reshape(-1)])
            if count:
                self._waiting = float(drawn[-1]) if len(drawn) > count else None
        return drawn[:count]

    def integers(self, count: int, low: int, span: int) -> Array:
        """int64 numbers in [low, low + span); `span` up to 2**64."""
        with self._lock:
            if span < _WIDE:
                found = (self._words(count) % np.uint32(span)).astype(np.int64)
            else:
                wide = self._wide_words(count)
                if span < 1 << 64:
                    wide %= np.uint64(span)
                found = wide.view(np.int64)
        if low:
            found += np.int64(low)
        return found

    def whole(self, count: int, kind: Any) -> Array:
        """Integers over all that the type holds exactly, from zero."""
        if kind == np.bool_:
            with self._lock:
                return (self._words(count) & np.uint32(1)).astype(np.bool_)
        if kind.kind in "iu":
            span = np.iinfo(kind).max + 1
        else:
            span = (1 << dtypes.digits(kind)) + 1
        with self._lock:
            drawn = self._wide_words(count) if kind.itemsize == 8 else self._words(count)
        drawn %= drawn.dtype.type(span)
        return drawn.astype(kind)

    def permutation(self, count: int) -> Array:
        """The numbers 0 to count-1 in random order."""
        if count >= 0xFFFFFFFF // 20:  # where 32 bits would be uneven
            return self._large_permutation(count)
        if count < 2:
            return np.arange(count)
        with self._lock:
            words = self._words(count - 1)
        words %= np.arange(count, 1, -1, dtype=np.uint32)
        words += np.arange(count - 1, dtype=np.uint32)
        order = list(range(count))
        for i, j in enumerate(words.tolist()):
            order[i], order[j] = order[j], order[i]
        return np.array(order, np.int64)

    def _large_permutation(self, count: int) -> Array:
        with self._lock:
            places = self._wide_words(count)
        places %= np.arange(1, count + 1, dtype=np.uint64)
        order = np.arange(count)
        for i in range(count):
            place = places[i]
            order[i], order[place] = order[place], i
        return order

    def bernoulli(self, p: Any, kind: Any, count: int | None = None, one: Any = 1) -> Array:
        """Ones with the probabilities of the array `p` (flat), or `count` with the number `p`; for
        float32, another number `one` in their place.
        """
        if count is not None and count >= mersenne.LARGE and kind == np.float32:
            with self._lock:
                return self._many(mersenne.mersenne_bernoulli, float(p), count, np.float32(one))
        single = count is None and p.dtype != np.float64
        with self._lock:
            unit = self._unit(
                len(p) if count is None else count, np.dtype("f4") if single else np.float64
            )
        drawn: Array = (unit < (p.astype(unit.dtype) if single else p)).astype(kind)
        return drawn if one == 1 else drawn * kind.type(one)

    def exponential(self, count: int, kind: Any, rate: float = 1.0) -> Array:
        """Exponential numbers of the given rate."""
        with self._lock:
            unit = self._unit(count, np.float64)
        return _cast(-1.0 / rate * _library(math.log1p, np.log1p, -unit, kind), kind)

    def cauchy(self, count: int, kind: Any, median: float = 0.0, sigma: float = 1.0) -> Array:
        """Cauchy numbers."""
        with self._lock:
            unit = self._unit(count, np.float64)
        angle = math.pi * (unit - 0.5)
        return _cast(fused(_library(math.tan, np.tan, angle, kind), sigma, median), kind)

    def geometric(self, count: int, kind: Any, p: float) -> Array:
        """How many trials of probability `p` the first success takes."""
        with self._lock:
            unit = self._unit(count, np.float64)
        return _cast(np.ceil(np.log(unit) / math.log1p(-p)), kind)

    def log_normal(self, count: int, kind: Any, mean: float = 1.0, std: float = 2.0) -> Array:
        """Numbers whose logarithms are normal."""
        power = fused(self._paired_normals(count), std, mean)
        return _cast(_library(math.exp, np.exp, power, kind), kind)


def _restored(state: Tensor) -> Generator:
    return Generator().set_state(state)


def _library(
    function: Callable[[float], float], ufunc: Any, values: Array, kind: Any = np.float64
) -> Array:
    """The function of the C library, as PyTorch's, where its last bit shows: NumPy has its own."""
    if kind == np.float64:
        try:
            return np.fromiter(map(function, values.tolist()), np.float64, values.size)
        except (OverflowError, ValueError):  # infinities, which NumPy returns
            pass
    found: Array = ufunc(values)
    return found


def _cast(values: Array, kind: Any) -> Array:
    """float64 numbers in another type, by way of float32 into narrow ones, as in PyTorch."""
    if kind.kind in "fV" and kind.itemsize == 2:
        values = values.astype(np.float32)
    return values.astype(kind, copy=False)


def _work_type(kind: Any) -> Any:
    """Narrow types are drawn in float32."""
    return kind if kind.itemsize > 2 else np.dtype(np.float32)


default_generator = Generator()
_override = threading.local()  # .generator: what stands for the default one in this thread


def current() -> Generator:
    """What draws without a generator come from: the default one, or what `draw_from` chose."""
    return getattr(_override, "generator", None) or default_generator


def draw_from(generator: Generator | None) -> Generator | None:
    """Let this thread's draws without a generator come from `generator`, the default one with None;
    returns what they came from before, for the call that ends it.
    """
    before: Generator | None = getattr(_override, "generator", None)
    _override.generator = generator
    return before


def pick(generator: Generator | None) -> Generator:
    """The given generator or the default one."""
    if generator is None:
        return current()
    if not isinstance(generator, Generator):
        raise ArgumentError(
            "generator", f"{type(generator).__name__} given", "a tensorlib.Generator"
        )
    return generator


def manual_seed(seed: Any) -> Generator:
    """Seed the default generator with `int(seed)`."""
    return current().manual_seed(int(seed))


def seed() -> int:
    """Seed the default generator from the system's entropy; returns the seed."""
    return current().seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return current().initial_seed()


def get_rng_state() -> Tensor:
    """State of the default generator, a uint8 tensor."""
    return current().get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Put the default generator into a state from `get_rng_state`."""
    current().set_state(new_state)


@contextmanager
def fork_rng(
    devices: Iterable[Any] | None = None, enabled: bool = True, device_type: str = "cuda"
) -> Iterator[None]:
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
