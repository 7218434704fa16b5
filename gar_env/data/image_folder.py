"""Data sets as folders of image files, one sub-folder a class, optionally one folder above it a source."""

from __future__ import annotations

from pathlib import Path

import torch

from gar_env.data.dataset import Dataset
from gar_env.data.image_files import BACKGROUNDS, LAYOUT, as_rgb, images_below, laid_out, read
from gar_env.errors import DatasetFormatError, DatasetNotFoundError
from gar_env.registry import check_choice


def load_image_folder(root: str | Path, image_size: int | None = None, background: str = "white") -> Dataset:
    """Read ``root/train/[source/]class/*`` and ``root/test/class/*`` into memory as RGB.

    Every kind of image that Pillow reads counts, of animations the first picture; other files, images beside the
    classes and empty folders are named in a warning, hidden ones are not looked at. Inputs are turned upright as their
    EXIF data say.

    Args:
        root: A folder with the sub-folders ``train`` and ``test``. Where all images in ``train`` lie two folders deep,
            the outer ones are sources (``group_train``), and the inner ones classes.
        image_size: Height and width to resize to (bilinear); without it all images must have one size.
        background: ``"white"`` or ``"black"``: what transparent images are laid on.

    Raises:
        ConfigurationError: If there is no such background.
        DatasetNotFoundError: If ``root``, ``train`` or ``test`` is not there.
        DatasetFormatError: If there are no images, an image cannot be read or lies elsewhere, the sizes differ, or the
            test part has a class that the training part lacks.
    """
    root = Path(root)
    check_choice("image_background", background, BACKGROUNDS)
    for folder in (root, root / "train", root / "test"):
        if not folder.is_dir():
            raise DatasetNotFoundError(f"No folder at {folder}. An image folder looks like {LAYOUT}.")
    train = laid_out(root / "train", images_below(root / "train"), depths=(1, 2))
    test = laid_out(root / "test", images_below(root / "test"), depths=(1,))
    if not train or not test:
        raise DatasetFormatError(
            f"{root / ('test' if train else 'train')} holds no images. An image folder looks like {LAYOUT}. Of text, "
            "pass sequence_length."
        )
    classes = tuple(sorted({label for _, label, _ in train}))
    strange = sorted({label for _, label, _ in test} - set(classes))
    if strange:
        raise DatasetFormatError(
            f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(strange)}. "
            f"Known: {', '.join(classes)}."
        )
    groups = tuple(sorted({source for _, _, source in train if source}))
    size = (image_size, image_size) if image_size else as_rgb(train[0][0], background).size
    numbers, owners = ({name: i for i, name in enumerate(names)} for names in (classes, groups))
    parts = [
        torch.from_numpy(read([path for path, _, _ in part], size, resize=bool(image_size), background=background))
        for part in (train, test)
    ]
    return Dataset(
        root.name,
        parts[0],
        torch.tensor([numbers[label] for _, label, _ in train]),
        parts[1],
        torch.tensor([numbers[label] for _, label, _ in test]),
        classes,
        torch.tensor([owners[source] for _, _, source in train]) if groups else None,
        groups,
    )
