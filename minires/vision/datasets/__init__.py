"""Data sets of pictures, with torchvision's names, arguments, folders and results.

Their samples are PIL images with a class; a ``transform`` makes tensors of them.

>>> from minires.vision import datasets, transforms
>>> noise = datasets.FakeData(3, (3, 8, 8), transform=transforms.ToTensor())
>>> image, target = noise[0]
>>> image.shape
(3, 8, 8)
"""

from minires.vision.datasets.cifar import CIFAR10, CIFAR100
from minires.vision.datasets.fakedata import FakeData
from minires.vision.datasets.folder import DatasetFolder, ImageFolder
from minires.vision.datasets.mnist import MNIST, FashionMNIST
from minires.vision.datasets.pictures import open_picture
from minires.vision.datasets.vision import VisionDataset

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "DatasetFolder",
    "FakeData",
    "FashionMNIST",
    "ImageFolder",
    "VisionDataset",
    "open_picture",
]
