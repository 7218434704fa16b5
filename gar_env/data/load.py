"""One string names a data set: a registered name, an ``.npz`` file or an image folder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from gar_env.data import arrows  # noqa: F401 - registers itself
from gar_env.data.builtin import DATASETS
from gar_env.data.dataset import Dataset
from gar_env.data.image_folder import load_image_folder
from gar_env.data.npz import load_npz
from gar_env.errors import ConfigurationError, DatasetNotFoundError


def load_dataset(name: str | Dataset, *, download: bool = False, image_size: int | None = None) -> Dataset:
    """Load a data set into memory; the last few are kept, so that several environments share one copy.

    Args:
        name: A registered name (``"digits"``, ``"cifar10"``, ``"module:name"``), the path of an ``.npz``
            file, or of an image folder. A data set is returned as it is.
        download: Whether torchvision may fetch what is not there.
        image_size: Height and width to resize an image folder to; refused for the others.

    Raises:
        UnknownNameError: If the name is no data set, file or folder.
        DatasetNotFoundError: If a path leads nowhere.
        DatasetFormatError: If the content does not fit (see :class:`~gar_env.data.Dataset`).
        DownloadError: If fetching failed.

    Example:
        >>> load_dataset("digits").x_train.shape
        torch.Size([1437, 1, 8, 8])
    """
    if isinstance(name, Dataset):
        return name
    if not name:
        raise ConfigurationError(f"dataset is empty. Pass one of {', '.join(DATASETS)}, or a path.")
    path = Path(name).expanduser()
    # A registered name wins over a folder that happens to be called so; "./digits" is the folder.
    is_path = name not in DATASETS and (name.endswith(".npz") or path.is_dir() or "/" in name or "\\" in name)
    if image_size is not None and image_size < 1:
        raise ConfigurationError(f"image_size={image_size} must be at least 1.")
    if image_size is not None and (not is_path or name.endswith(".npz")):
        raise ConfigurationError(f"image_size={image_size} goes with an image folder; {name!r} is none. Leave it out.")
    if not is_path:
        return _named(name, download)
    if not path.exists():
        raise DatasetNotFoundError(
            f"Nothing at {path}. Pass an .npz file, a folder of images, or one of {', '.join(DATASETS)}."
        )
    return _at_path(str(path), _newest(path), image_size)


@lru_cache(maxsize=4)
def _named(name: str, download: bool) -> Dataset:
    return DATASETS[name](download=download)


def _newest(path: Path) -> tuple[int, int]:
    """Number and newest time of the files at a path: a changed file or folder is read again."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return len(files), max((file.stat().st_mtime_ns for file in files), default=0)


@lru_cache(maxsize=2)
def _at_path(path: str, newest: tuple[int, int], image_size: int | None) -> Dataset:
    return load_npz(path) if Path(path).is_file() else load_image_folder(path, image_size)
