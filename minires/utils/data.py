"""The names of ``torch.utils.data`` that :mod:`minires.data` has."""

from minires.data import DataLoader, Dataset, Subset, TensorDataset, random_split

__all__ = ["DataLoader", "Dataset", "Subset", "TensorDataset", "random_split"]
