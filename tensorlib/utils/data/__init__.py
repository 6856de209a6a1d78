"""Data sets, samplers and the DataLoader, by torch's names."""

from .collate import default_collate
from .dataloader import DataLoader, SampleError
from .dataset import ConcatDataset, Dataset, Rows, Subset, TensorDataset, random_split
from .distributed import DistributedSampler
from .randomness import current_generator, sample_generator, using_generator
from .sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = [
    "BatchSampler",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "RandomSampler",
    "Rows",
    "SampleError",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "current_generator",
    "default_collate",
    "random_split",
    "sample_generator",
    "using_generator",
]
