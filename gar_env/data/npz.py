"""Data sets in one ``.npz`` file: ``x_train``, ``y_train``, ``x_test``, ``y_test``, optionally ``group_train``."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from gar_env.data.dataset import Dataset
from gar_env.errors import DatasetFormatError, DatasetNotFoundError

REQUIRED = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: str | Path) -> Dataset:
    """Read a data set from an ``.npz`` file.

    The file holds ``x_train``, ``x_test``: uint8 ``[n, h, w]`` or ``[n, h, w, channels]`` with 1, 3 or 4
    channels; ``y_train``, ``y_test``: integers ``[n]``; optionally ``group_train`` ``[n]``, integers or
    strings that name the source of each training example, and ``classes``, the class names.

    Raises:
        DatasetNotFoundError: If there is no such file.
        DatasetFormatError: If it is no ``.npz``, or a key, shape, type or label does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetNotFoundError(f"No file at {path}. Pass the path of an .npz file with {', '.join(REQUIRED)}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise DatasetFormatError(
            f"{path} cannot be read as an .npz file of plain arrays: {error}. Write it with numpy.savez."
        ) from error

    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise DatasetFormatError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}. "
            f"Needed: {', '.join(REQUIRED)}."
        )
    y_train, y_test = (_integers(path, name, arrays[name]) for name in ("y_train", "y_test"))
    if "classes" in arrays:
        classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"]))
    else:
        used = np.union1d(y_train, y_test)
        if len(used) and len(used) <= used.max():
            raise DatasetFormatError(
                f"{path}: labels go up to {used.max()}, but only {len(used)} different ones occur. Renumber them "
                "from 0 without gaps, or add an array classes with the name of each."
            )
        classes = tuple(str(label) for label in range(max(y_train.max(initial=-1), y_test.max(initial=-1)) + 1))
    groups: tuple[str, ...] = ()
    group_train = None
    if "group_train" in arrays:
        names, group_train = np.unique(arrays["group_train"], return_inverse=True)
        groups = tuple(str(name) for name in names)
        group_train = torch.from_numpy(group_train.astype(np.int64))
    return Dataset(
        path.stem,
        _images(path, "x_train", arrays["x_train"]),
        torch.from_numpy(y_train),
        _images(path, "x_test", arrays["x_test"]),
        torch.from_numpy(y_test),
        classes,
        group_train,
        groups,
    )


def _images(path: Path, name: str, images: np.ndarray) -> torch.Tensor:
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise DatasetFormatError(
            f"{path}: {name} must be uint8 [n, height, width] or [n, height, width, channels] with 1, 3 or 4 "
            f"channels; found {images.dtype} {list(images.shape)}. Scale to 0..255 and put the channels last."
        )
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _integers(path: Path, name: str, labels: np.ndarray) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DatasetFormatError(
            f"{path}: {name} must be integers [n], one per image; found {labels.dtype} {list(labels.shape)}."
        )
    return labels.astype(np.int64)
