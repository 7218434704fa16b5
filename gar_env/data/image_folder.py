"""Data sets as folders of image files, one sub-folder a class, optionally one folder above it a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from gar_env.data.dataset import Dataset
from gar_env.errors import DatasetFormatError, DatasetNotFoundError

LAYOUT = "root/train/[source/]class/image.png and root/test/class/image.png"


def load_image_folder(root: str | Path, image_size: int | None = None) -> Dataset:
    """Read ``root/train/[source/]class/*`` and ``root/test/class/*`` into memory as RGB.

    Args:
        root: A folder with the sub-folders ``train`` and ``test``. When the folders in ``train`` hold
            folders rather than images, they are sources (``group_train``), and the folders in them classes.
        image_size: Height and width to resize to (bilinear); without it all images must have one size.

    Raises:
        DatasetNotFoundError: If ``root``, ``train`` or ``test`` is not there.
        DatasetFormatError: If there are no images, an image cannot be read, the sizes differ, or the test
            part has a class that the training part lacks.
    """
    root = Path(root)
    for folder in (root, root / "train", root / "test"):
        if not folder.is_dir():
            raise DatasetNotFoundError(f"No folder at {folder}. An image folder looks like {LAYOUT}.")
    sources = _folders(root / "train")
    has_sources = any(_folders(source) for source in sources)
    train = _files(sources) if has_sources else _files([root / "train"])
    test = _files([root / "test"])
    classes = tuple(sorted({label for _, label, _ in train}))
    strange = sorted({label for _, label, _ in test} - set(classes))
    if not train or not test:
        raise DatasetFormatError(
            f"{root / ('test' if train else 'train')} holds no images ({', '.join(IMG_EXTENSIONS)}). "
            f"An image folder looks like {LAYOUT}."
        )
    if strange:
        raise DatasetFormatError(
            f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(strange)}. "
            f"Known: {', '.join(classes)}."
        )
    groups = tuple(source.name for source in sources) if has_sources else ()
    size: tuple[int, int] | None = (image_size, image_size) if image_size else None
    if size is None:
        size = _open(train[0][0]).size
    return Dataset(
        root.name,
        _read([path for path, _, _ in train], size, image_size is not None),
        torch.tensor([classes.index(label) for _, label, _ in train]),
        _read([path for path, _, _ in test], size, image_size is not None),
        torch.tensor([classes.index(label) for _, label, _ in test]),
        classes,
        torch.tensor([groups.index(source) for _, _, source in train]) if has_sources else None,
        groups,
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(roots: list[Path]) -> list[tuple[Path, str, str]]:
    """``(file, class, source)`` of every image two levels below ``roots``."""
    return [
        (path, folder.name, root.name)
        for root in roots
        for folder in _folders(root)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMG_EXTENSIONS
    ]


def _read(paths: list[Path], size: tuple[int, int], resize: bool) -> torch.Tensor:
    images = np.empty((len(paths), 3, size[1], size[0]), np.uint8)
    for row, path in enumerate(paths):
        image = _open(path)
        if resize:
            image = image.resize(size, Image.Resampling.BILINEAR)
        if image.size != size:
            raise DatasetFormatError(
                f"{path} is {image.size[0]}x{image.size[1]}, the first image is {size[0]}x{size[1]}. "
                "Pass image_size=... to resize all images to one size."
            )
        images[row] = np.asarray(image).transpose(2, 0, 1)
    return torch.from_numpy(images)


def _open(path: Path) -> Image.Image:
    """One image as 8-bit RGB.

    Raises:
        DatasetFormatError: If it cannot be read, or has more than 8 bits a channel, which RGB would clip.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise DatasetFormatError(
                    f"{path} has more than 8 bits a channel (mode {file.mode}). Save it with 8 bits."
                )
            return file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DatasetFormatError(f"{path} cannot be read as an image: {error}.") from error
