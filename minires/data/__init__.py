"""Data sets, downloads, augmentation and the loader.

``load("digits")`` works everywhere; ``get("mnist")`` downloads; ``DataLoader(load("mnist"), 128,
shuffle=True)`` iterates over batches.
"""

from minires.data.collate import default_collate
from minires.data.dataset import (
    DATASETS,
    Dataset,
    ImageDataset,
    Source,
    data_root,
    find_source,
    load,
)
from minires.data.distributed import DistributedSampler
from minires.data.download import get
from minires.data.loader import DataLoader
from minires.data.parts import ConcatDataset, Subset, random_split
from minires.data.samplers import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from minires.data.tensors import TensorDataset
from minires.data.transforms import (
    Compose,
    Draws,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
)

__all__ = [
    "DATASETS",
    "BatchSampler",
    "Compose",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "Draws",
    "ImageDataset",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Source",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "data_root",
    "default_collate",
    "find_source",
    "get",
    "load",
    "random_split",
]
