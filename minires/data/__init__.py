"""Data sets, downloads, augmentation and the loader.

``load("digits")`` works everywhere; ``get("mnist")`` downloads; ``DataLoader(load("mnist"), 128,
shuffle=True)`` iterates over batches.
"""

from minires.data.dataset import DATASETS, Dataset, Source, data_root, find_source, load
from minires.data.download import get
from minires.data.loader import DataLoader, TensorDataset
from minires.data.transforms import (
    Compose,
    Draws,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
)

__all__ = [
    "DATASETS",
    "Compose",
    "DataLoader",
    "Dataset",
    "Draws",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "Source",
    "TensorDataset",
    "data_root",
    "find_source",
    "get",
    "load",
]
