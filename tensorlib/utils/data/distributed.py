"""DistributedSampler: every rank its part of one global order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from .dataset import length
from .randomness import order
from .sampler import Sampler


class DistributedSampler(Sampler[int]):
    """Rank r of w takes positions r, r+w, r+2w, ... of one order of the whole data set.

    That order depends on (seed, epoch) only, never on the number of ranks, so the samples of a
    global batch stay the same when the number of ranks changes and the global batch does not.

    Args:
        num_replicas, rank: default from `tensorlib.distributed`.
        shuffle: the order is `randperm` of a generator seeded `seed + epoch` (torch's numbers),
            else 0, 1, 2, ...
        drop_last: mode "padded" only: drop the tail instead of padding it.
        mode: "padded" (torch's behaviour) gives every rank the same number of samples by repeating
            the first ones, for training. "exact" gives every index exactly once over the ranks,
            whose numbers then differ by at most one: for evaluation, where repeats falsify counts.

    The order changes with `set_epoch`; a `DataLoader` calls it for every epoch.
    """

    def __init__(
        self,
        dataset: Any,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        mode: Literal["padded", "exact"] = "padded",
    ):
        if num_replicas is None or rank is None:
            from tensorlib import distributed

            num_replicas = distributed.get_world_size() if num_replicas is None else num_replicas
            rank = distributed.get_rank() if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise ValueError(
                f"DistributedSampler: rank={rank} of num_replicas={num_replicas}; "
                f"expected 0 <= rank < num_replicas"
            )
        if mode not in ("padded", "exact"):
            raise ValueError(f"DistributedSampler: mode={mode!r}; expected 'padded' or 'exact'")
        if mode == "exact" and drop_last:
            raise ValueError(
                "DistributedSampler: drop_last=True with mode='exact'; expected one of them "
                "(exact means that no sample is dropped)"
            )
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.mode = mode
        self.epoch = 0
        count = length(dataset)
        if mode == "exact":
            self.num_samples = len(range(rank, count, num_replicas))
            self.total_size = count
        else:
            rounding = math.floor if drop_last else math.ceil
            self.num_samples = rounding(count / num_replicas)
            self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[int]:
        count = length(self.dataset)
        indices = order(count, self.seed, self.epoch) if self.shuffle else np.arange(count)
        if count:  # np.resize repeats the order from its start, as torch pads; or cuts it
            indices = np.resize(indices, self.total_size)
        return iter(indices[self.rank :: self.num_replicas].tolist())

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch

    def global_position(self, taken: int) -> int:
        """Position in the global order after each rank took `taken` samples."""
        return min(taken * self.num_replicas, self.total_size)

    def local_position(self, position: int) -> int:
        """How many of the first `position` samples of the global order are this rank's."""
        if self.mode == "padded" and position % self.num_replicas and position < self.total_size:
            raise ValueError(
                f"DistributedSampler: position {position} of the epoch cannot be split evenly "
                f"over {self.num_replicas} ranks; expected a multiple of the number of ranks. "
                "Hint: keep the global batch size when the number of ranks changes"
            )
        return len(range(self.rank, min(position, self.total_size), self.num_replicas))
