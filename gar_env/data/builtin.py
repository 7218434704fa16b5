"""Data sets by name: the embedded digits, and torchvision's, downloaded on request."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gar_env.data.dataset import Dataset
from gar_env.errors import DatasetFormatError, DatasetNotFoundError, DownloadError
from gar_env.registry import Registry

DATASETS: Registry = Registry("data set")
register_dataset = DATASETS.register

NUM_TEST_DIGITS = 360  # of 1,797


def download_folder() -> Path:
    """Where torchvision's files are: ``$GAR_ENV_DATA``, or ``~/.cache/gar_env``."""
    return Path(os.environ.get("GAR_ENV_DATA", Path.home() / ".cache" / "gar_env"))


@register_dataset("digits")
def digits(download: bool = False) -> Dataset:
    """1,797 real handwritten digits of 8x8 pixels in 10 classes; 1,437 to train on. Embedded in scikit-learn.

    The test part is the same for every seed, so that accuracies of different runs can be compared.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = order[:NUM_TEST_DIGITS], order[NUM_TEST_DIGITS:]
    names = tuple(str(i) for i in range(10))
    return Dataset("digits", images[train], labels[train], images[test], labels[test], names, mirrored_is_same=False)


@register_dataset("cifar10")
def cifar10(download: bool = False) -> Dataset:
    """60,000 colour images of 32x32 pixels in 10 classes; 50,000 to train on (Krizhevsky, 2009)."""
    return _torchvision("cifar10", "CIFAR10", download)


@register_dataset("cifar100")
def cifar100(download: bool = False) -> Dataset:
    """60,000 colour images of 32x32 pixels in 100 classes; 50,000 to train on (Krizhevsky, 2009)."""
    return _torchvision("cifar100", "CIFAR100", download)


@register_dataset("fashion_mnist")
def fashion_mnist(download: bool = False) -> Dataset:
    """70,000 gray images of 28x28 pixels in 10 classes; 60,000 to train on (Xiao et al., 2017).

    From torchvision's files, or else from Debian's package ``dataset-fashion-mnist``.
    """
    try:
        return _torchvision("fashion_mnist", "FashionMNIST", download)
    except DatasetNotFoundError:
        if not DEBIAN_FASHION.is_dir():
            raise
    from torchvision import datasets

    parts = [_idx(DEBIAN_FASHION / f"{part}-{kind}.gz") for part in ("train", "t10k") for kind in _IDX]
    x_train, y_train, x_test, y_test = parts
    names = tuple(datasets.FashionMNIST.classes)
    return Dataset("fashion_mnist", x_train[:, None], y_train.long(), x_test[:, None], y_test.long(), names)


@register_dataset("svhn")
def svhn(download: bool = False) -> Dataset:
    """99,289 colour images of 32x32 pixels in 10 classes; 73,257 to train on (Netzer et al., 2011)."""
    return replace(_torchvision("svhn", "SVHN", download), mirrored_is_same=False)


DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _idx(path: Path) -> torch.Tensor:
    """Bytes in the format of MNIST, compressed: two zeros, type, number of sides, each side in four bytes, numbers."""
    try:
        content = gzip.decompress(path.read_bytes())
        sides = np.frombuffer(content, ">i4", count=content[3], offset=4).tolist()
        return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * len(sides)).reshape(sides).copy())
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DatasetFormatError(f"{path} cannot be read as images or labels: {error}") from error


@register_dataset("omniglot")
def omniglot(download: bool = False) -> Dataset:
    """32,460 drawings of 1,623 characters, 20 of each, in 28x28 pixels, ink white; 964 of the characters to train on.

    No character is in both parts, so this is for few-shot tasks. Scaled down from 105x105 by area.

    Source:
        Lake, Salakhutdinov & Tenenbaum (2015).
    """
    parts = _parts("omniglot", "Omniglot", [{"background": True}, {"background": False}], download)
    images, labels, first = [], [], 0
    for part in parts:
        drawn, own = zip(*(part[i] for i in range(len(part))), strict=True)
        ink = 255 - torch.from_numpy(np.stack([np.asarray(image, np.uint8) for image in drawn]))
        images.append(torch.nn.functional.adaptive_avg_pool2d(ink[:, None].float(), 28).round().to(torch.uint8))
        labels.append(torch.tensor(own) + first)
        first = int(labels[-1].max()) + 1
    names = tuple(map(str, range(first)))
    return Dataset("omniglot", images[0], labels[0], images[1], labels[1], names, mirrored_is_same=False)


def _torchvision(name: str, kind: str, download: bool) -> Dataset:
    # SVHN names its parts with split=, the others with train=.
    by_name = kind == "SVHN"
    train, test = _parts(name, kind, [{"split": "train"}, {"split": "test"}] if by_name else _TRAIN_TEST, download)

    def arrays(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.asarray(part.data)
        labels = part.labels if hasattr(part, "labels") else part.targets
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] == 3:
            images = images.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(images)), torch.as_tensor(np.asarray(labels)).long()

    classes = tuple(getattr(train, "classes", [str(i) for i in range(10)]))
    return Dataset(name, *arrays(train), *arrays(test), classes)


_TRAIN_TEST = [{"train": True}, {"train": False}]


def _parts(name: str, kind: str, parts: list[dict[str, Any]], download: bool) -> list[Any]:
    """Data sets of torchvision."""
    from torchvision import datasets  # takes longer to import than all of ours

    factory, root = getattr(datasets, kind), download_folder()
    try:
        return [factory(str(root), download=download, **part) for part in parts]
    except OSError as error:  # URLError and ConnectionError are OSErrors
        raise DownloadError(
            f"{name} could not be downloaded to {root}: {error}. Check the network, or copy torchvision's files "
            "there, or pass dataset='path/to.npz' with x_train, y_train, x_test, y_test."
        ) from error
    except RuntimeError as error:
        if download:
            raise DownloadError(
                f"{name} could not be downloaded to {root}: {error} Check the network, or copy torchvision's "
                "files there, or pass dataset='path/to.npz' with x_train, y_train, x_test, y_test."
            ) from error
        raise DatasetNotFoundError(
            f"{name} is not in {root}. Pass download=True (--download on a command line) to fetch it, set GAR_ENV_DATA "
            "to the folder that has it, or pass dataset='path/to.npz'."
        ) from error
