"""The randomness of samples: functions of (seed, epoch, index), never a worker's stream.

So neither the number of loader threads nor of ranks nor a restart changes a sample. Two kinds:

- the *order* of an epoch is torch's `randperm` of a generator seeded with `seed + epoch`
  (`order`), as `torch.utils.data.DistributedSampler` does it;
- the *augmentation* of a sample draws from `sample_generator(seed, epoch, index)`, a counter-based
  Philox stream. A `DataLoader` makes it the current generator while it asks the dataset for the
  sample, so that transforms, the library's and a user's own, need no extra argument:

      class Jitter:
          def __call__(self, image):
              return image + current_generator().normal(0, 0.1, image.shape)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tensorlib import Generator

_MASK = (1 << 64) - 1


class _Stream:
    """The generator of one sample, made when something draws from it."""

    __slots__ = ("generator", "where")

    def __init__(self, where: tuple[int, int, int], generator: np.random.Generator | None = None):
        self.where = where
        self.generator = generator

    def get(self) -> np.random.Generator:
        if self.generator is None:
            self.generator = sample_generator(*self.where)
        return self.generator


_current: ContextVar[_Stream | None] = ContextVar("tensorlib_sample_stream", default=None)


def sample_generator(seed: int, epoch: int, index: int, stream: int = 0) -> np.random.Generator:
    """A NumPy generator that is a pure function of its arguments (Philox 4x64-10, Salmon 2011).

    `stream` gives one sample several independent streams (0 is what transforms draw from).
    """
    key = np.array([seed & _MASK, epoch & _MASK], np.uint64)
    counter = np.array([0, 0, index & _MASK, stream & _MASK], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def current_generator() -> np.random.Generator:
    """The generator that random transforms draw from.

    Inside a `DataLoader` it belongs to the sample being loaded, inside `using_generator` it is the
    one given. Elsewhere a fresh one is seeded by one draw from tensorlib's global generator, so a
    transform called by hand follows `manual_seed`, as torchvision's do.
    """
    stream = _current.get()
    if stream is not None:
        return stream.get()
    from tensorlib import randint

    return np.random.Generator(np.random.Philox(int(randint(0, 1 << 62, (1,)).item())))


@contextmanager
def using_generator(generator: np.random.Generator) -> Iterator[None]:
    """Random transforms inside the block draw from `generator`."""
    token = _current.set(_Stream((0, 0, 0), generator))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def sampling(seed: int, epoch: int, index: int) -> Iterator[None]:
    """What a `DataLoader` does around `dataset[index]`."""
    token = _current.set(_Stream((seed, epoch, index)))
    try:
        yield
    finally:
        _current.reset(token)


def order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of `count` samples in an epoch: torch's `randperm` of `epoch_generator`."""
    from tensorlib import randperm

    permutation: NDArray[np.int64] = randperm(count, generator=epoch_generator(seed, epoch)).numpy()
    return permutation


def epoch_generator(seed: int, epoch: int) -> Generator:
    """A generator seeded `seed + epoch`, what random samplers draw an epoch's order from."""
    from tensorlib import Generator

    return Generator().manual_seed((seed + epoch) & _MASK)
