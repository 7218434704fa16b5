"""One string or path names a data set: a registered name, an ``.npz`` file, a folder of images, of text or saved."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gar_env.data import arrows  # noqa: F401 - registers itself
from gar_env.data.builtin import DATASETS
from gar_env.data.dataset import Dataset
from gar_env.data.image_files import fingerprint
from gar_env.data.image_folder import load_image_folder
from gar_env.data.npz import load_npz
from gar_env.data.saved_datasets import is_saved, load_saved_datasets
from gar_env.data.text import LENGTH, load_text_folder
from gar_env.errors import ConfigurationError, DatasetFormatError, DatasetNotFoundError, GarEnvError
from gar_env.functional import own_surroundings
from gar_env.registry import shown

LARGEST_SIDE = 2**14
"""Pixels."""


def load_dataset(
    name: str | os.PathLike[str] | Dataset,
    *,
    download: bool = False,
    image_size: int | None = None,
    image_background: str = "white",
    sequence_length: int | None = None,
) -> Dataset:
    """Load a data set into memory; the last few are kept, so that several environments share one copy.

    Args:
        name: A registered name (``"digits"``, ``"cifar10"``, ``"module:name"``), the path of an ``.npz``
            file, or of a folder of images, of text or saved by Hugging Face's ``datasets``
            (:func:`gar_env.data.saved_datasets.load_saved_datasets`). A data set is returned as it is.
        download: Whether torchvision may fetch what is not there.
        image_size: Height and width to resize an image folder to; refused for the others.
        image_background: ``"white"`` or ``"black"``, under transparent images of a folder.
        sequence_length: Of a folder of text, the bytes of a sequence: with it a folder is read as text
            (:func:`gar_env.data.text.load_text_folder`); of saved datasets the tokens, 128 by default; refused for the
            others.

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
    name = "./" + str(name) if isinstance(name, os.PathLike) and not os.path.isabs(name) else name
    if not isinstance(name, str | os.PathLike):
        raise ConfigurationError(f"dataset={shown(name)} must be a name, a path or a Dataset.")
    name = os.fspath(name)
    if not name:
        raise ConfigurationError(f"dataset is empty. Pass one of {', '.join(DATASETS)}, or a path.")
    if "\0" in name or len(name) > 4096:
        raise ConfigurationError(f"dataset={shown(name)} is no name, and no path that a system would take.")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # somebody's home
        raise DatasetNotFoundError(f"dataset={shown(name)}: {error}") from error
    # A registered name wins over a folder that happens to be called so; "./digits" is the folder.
    is_path = name not in DATASETS and (name.endswith(".npz") or _is_folder(path) or "/" in name or "\\" in name)
    if image_size is not None and (type(image_size) is not int or not 1 <= image_size <= LARGEST_SIDE):
        raise ConfigurationError(
            f"image_size={shown(image_size)} must be at least 1, and a whole number up to {LARGEST_SIDE}."
        )
    if image_size is not None and (not is_path or name.endswith(".npz")):
        raise ConfigurationError(f"image_size={image_size} goes with an image folder; {name!r} is none. Leave it out.")
    if sequence_length is not None and (not is_path or name.endswith(".npz") or image_size is not None):
        found = "image_size goes with one of images" if image_size is not None else f"{name!r} is no folder"
        raise ConfigurationError(
            f"sequence_length={shown(sequence_length)} goes with a folder of text, and {found}. Leave it out."
        )
    if not is_path:
        return _named(name, download)
    if not _exists(path):
        raise DatasetNotFoundError(
            f"Nothing at {shown(str(path)).strip(chr(39))}. Pass an .npz file, a folder of images, or one of "
            f"{', '.join(DATASETS)}."
        )
    if not path.is_dir() and not path.is_file():
        raise DatasetNotFoundError(f"{path} is neither a file nor a folder.")
    try:
        return _at_path(str(path), fingerprint(path), image_size, image_background, sequence_length)
    except OSError as error:
        if isinstance(error, GarEnvError):
            raise
        raise DatasetFormatError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from error


def _is_folder(path: Path) -> bool:
    return _exists(path) and path.is_dir()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for the file system
        return False


class _Recent:
    """The last few data sets that were read. The turn is taken for reading only: threads of a pass that has it may ask
    for what is here; and those that wait for it find what another has read.

    Args:
        load: From a key to a data set.
        size: How many are kept.
    """

    def __init__(self, load: Callable[..., Dataset], size: int) -> None:
        self.load, self.size = load, size
        self._kept: OrderedDict[Any, Dataset] = OrderedDict()

    def __call__(self, *key: Any) -> Dataset:
        found = self._kept.get(key)
        if found is not None:
            with suppress(KeyError):  # another thread may have read two more meanwhile
                self._kept.move_to_end(key)
            return found
        with own_surroundings():
            if key not in self._kept:
                self._kept[key] = self.load(*key)
                while len(self._kept) > self.size:
                    self._kept.popitem(last=False)
            return self._kept[key]


def _load_named(name: str, download: bool) -> Dataset:
    found = DATASETS[name](download=download)
    if not isinstance(found, Dataset):
        raise DatasetFormatError(f"The loader of {name!r} returned {type(found).__name__}; expected a Dataset.")
    return found


def _load_path(path: str, fingerprint: str, image_size: int | None, background: str, length: int | None) -> Dataset:
    if is_saved(Path(path)):
        if image_size is not None:
            raise ConfigurationError(
                f"image_size={image_size} goes with an image folder; {path} is text. Leave it out."
            )
        return load_saved_datasets(path, LENGTH if length is None else length)
    if length is not None:
        return load_text_folder(path, length)
    return load_image_folder(path, image_size, background) if Path(path).is_dir() else load_npz(path)


_named, _at_path = _Recent(_load_named, 4), _Recent(_load_path, 2)
