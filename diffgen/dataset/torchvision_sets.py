"""The data sets that torchvision reads and downloads: five choices in one file."""

import abc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from diffgen.dataset.download import fetch
from diffgen.dataset.images import Images, Split, check_split, in_memory

DIGITS = tuple("0123456789")

Content = tuple[Tensor, Tensor, tuple[str, ...]]  # pixels, labels and class names


@dataclass(frozen=True)
class TorchvisionSet(abc.ABC):
    """A labelled set held in memory; `root` is laid out, and filled where it lacks files, by
    torchvision."""

    root: str = "data"
    flip: bool = False

    name: ClassVar[str]
    channels: ClassVar[int]
    files: ClassVar[str]  # what is expected below `root`

    @abc.abstractmethod
    def read(self, folder: Path, which: Split, download: bool) -> Content:
        """Pixels uint8 (N, C, H, W), labels (N,) and class names; any error where files lack."""

    def split(self, which: Split) -> Images:
        """The labelled images of a split."""
        check_split(which)
        read = partial(self.read, which=which)
        return in_memory(*fetch(self.name, read, self.root, self.files), self.name)


@dataclass(frozen=True)
class Mnist(TorchvisionSet):
    """MNIST (LeCun et al. 1998): 60,000 grey digits of 28x28 to train on, 10,000 to test."""

    name, channels = "mnist", 1
    files = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"

    def read(self, folder: Path, which: Split, download: bool) -> Content:
        found = MNIST(folder, train=which == "train", download=download)
        return found.data.unsqueeze(1), found.targets, DIGITS


@dataclass(frozen=True)
class FashionMnist(TorchvisionSet):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 grey clothes of 28x28, 10,000 more to test."""

    name, channels = "fashion_mnist", 1
    files = "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"

    def read(self, folder: Path, which: Split, download: bool) -> Content:
        found = FashionMNIST(folder, train=which == "train", download=download)
        return found.data.unsqueeze(1), found.targets, tuple(found.classes)


@dataclass(frozen=True)
class Cifar10(TorchvisionSet):
    """CIFAR-10 (Krizhevsky 2009): 50,000 colour images of 32x32 to train on, 10,000 to test."""

    flip: bool = True

    name, channels = "cifar10", 3
    files = "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}"

    def read(self, folder: Path, which: Split, download: bool) -> Content:
        return _cifar(CIFAR10(folder, train=which == "train", download=download))


@dataclass(frozen=True)
class Cifar100(TorchvisionSet):
    """CIFAR-100 (Krizhevsky 2009): as CIFAR-10 with a hundred classes, its fine labels."""

    flip: bool = True

    name, channels = "cifar100", 3
    files = "cifar-100-python/{train,test,meta}"

    def read(self, folder: Path, which: Split, download: bool) -> Content:
        return _cifar(CIFAR100(folder, train=which == "train", download=download))


@dataclass(frozen=True)
class Svhn(TorchvisionSet):
    """SVHN (Netzer et al. 2011): 73,257 colour digits of 32x32 to train on, 26,032 to test.

    Its extra set is not used. The digit 0, which the files call 10, is 0.
    """

    name, channels = "svhn", 3
    files = "{train,test}_32x32.mat"

    def read(self, folder: Path, which: Split, download: bool) -> Content:
        found = SVHN(folder, split=which, download=download)
        return torch.from_numpy(found.data).contiguous(), torch.from_numpy(found.labels), DIGITS


def _cifar(found: CIFAR10) -> Content:
    pixels: np.ndarray = found.data  # (N, H, W, C)
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return channels_first, torch.tensor(found.targets), tuple(found.classes)
