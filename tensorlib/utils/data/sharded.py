"""ShardedBatchSampler: every rank its shards of each global batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .dataset import length
from .randomness import order
from .sampler import Sampler


class ShardIndices(list[int]):
    """This rank's indices of a global batch of `total` samples."""

    def __init__(self, indices: list[int], total: int):
        super().__init__(indices)
        self.total = total


class ShardedBatchSampler(Sampler[list[int]]):
    """Global batches of one order of the data set, of which each rank gets its shards.

    The order depends on (seed, epoch) only, and batch b holds its positions b * batch_size
    onwards: so a batch holds the same samples for any number of ranks. A rank owns the shards
    [rank * shards // num_replicas, (rank + 1) * shards // num_replicas), and of a batch of `count`
    samples shard s holds [s * count // shards, (s + 1) * count // shards); see
    `distributed.ShardedDataParallel`. All ranks have as many batches. In a short last batch a rank
    may have no sample: its list is empty then, and a `DataLoader` gives an empty batch.

    The position of a `DataLoader(batch_sampler=...)` counts global samples: its state continues
    with another number of ranks.

    Args:
        batch_size: of the global batch.
        shards: into how many parts a batch is cut; at least the number of ranks.
        num_replicas, rank: default from `tensorlib.distributed`, one and 0 without a group.
        shuffle: the order of `DistributedSampler`, `randperm` of a generator seeded `seed + epoch`;
            else 0, 1, 2, ...
        drop_last: leave out a short last batch.

    The order changes with `set_epoch`; a `DataLoader` calls it for every epoch.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        shards: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ):
        from tensorlib import distributed

        grouped = distributed.is_initialized()
        if num_replicas is None:
            num_replicas = distributed.get_world_size() if grouped else 1
        if rank is None:
            rank = distributed.get_rank() if grouped else 0
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(
                f"ShardedBatchSampler: batch_size={batch_size!r}; expected an integer >= 1"
            )
        if not 0 <= rank < num_replicas:
            raise ValueError(
                f"ShardedBatchSampler: rank={rank} of num_replicas={num_replicas}; "
                "expected 0 <= rank < num_replicas"
            )
        if shards < num_replicas:
            raise ValueError(
                f"ShardedBatchSampler: shards={shards} for {num_replicas} ranks; expected as many "
                "shards at least"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.shards = shards
        self.num_replicas = num_replicas
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self._own = (rank * shards // num_replicas, (rank + 1) * shards // num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        count = length(self.dataset)
        indices = order(count, self.seed, self.epoch) if self.shuffle else np.arange(count)
        return self._batches(indices)

    def _batches(self, indices: Any) -> Iterator[list[int]]:
        for number in range(len(self)):
            total, base = self.global_count(number), number * self.batch_size
            start, stop = (base + shard * total // self.shards for shard in self._own)
            yield ShardIndices(indices[start:stop].tolist(), total)

    def __len__(self) -> int:
        count = length(self.dataset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def global_count(self, batch: int) -> int:
        """How many samples batch number `batch` of an epoch has, over all ranks."""
        return min(self.batch_size, length(self.dataset) - batch * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch
