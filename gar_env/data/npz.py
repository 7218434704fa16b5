"""Data sets in one ``.npz`` file: ``x_train``, ``y_train``, ``x_test``, ``y_test``, optionally ``group_train``."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from gar_env.data.dataset import Dataset
from gar_env.errors import DatasetFormatError, DatasetNotFoundError
from gar_env.functional.free_memory import free_memory

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("group_train", "group_test", "classes")


def load_npz(path: str | Path) -> Dataset:
    """Read a data set from an ``.npz`` file.

    The file holds ``x_train``, ``x_test``: images, uint8 ``[n, h, w]`` or ``[n, h, w, channels]`` with 1, 3 or 4
    channels; vectors, floating point ``[n, ...]``; or tokens, integers ``[n, T]``, bytes (uint8) too. And ``y_train``,
    ``y_test``: labels, integers ``[n]``; tokens, integers ``[n, T]``; or numbers, floating point ``[n]`` or ``[n, k]``;
    see :class:`gar_env.data.Dataset`. Optionally ``group_train`` ``[n]``, integers or strings that name the source of
    each training example, ``group_test`` likewise, and ``classes``, the names of classes or of the vocabulary. Other
    arrays are not read.

    Raises:
        DatasetNotFoundError: If there is no such file.
        DatasetFormatError: If it is no ``.npz``, or a key, shape, type or label does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetNotFoundError(f"No file at {path}. Pass the path of an .npz file with {', '.join(REQUIRED)}.")
    arrays = _known_arrays(path)
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise DatasetFormatError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(_names(path)) or 'nothing'}. "
            f"Needed: {', '.join(REQUIRED)}."
        )
    y_train, y_test = (_targets(path, name, arrays[name]) for name in ("y_train", "y_test"))
    if "f" in (y_train.dtype.kind, y_test.dtype.kind):
        if "classes" in arrays:
            raise DatasetFormatError(
                f"{path} has classes, and labels in floating point: {y_train.dtype} and {y_test.dtype}. Write labels "
                "as integers, or leave classes out for numbers to predict."
            )
        classes = ()
    elif "classes" in arrays:
        classes = _strings(path, "classes", np.atleast_1d(arrays["classes"]))
    else:
        used = np.union1d(y_train, y_test)
        if y_train.ndim == 1 and len(used) and len(used) <= used.max():
            raise DatasetFormatError(
                f"{path}: labels go up to {used.max()}, but only {len(used)} different ones occur. Renumber them "
                "from 0 without gaps, or add an array classes with the name of each."
            )
        classes = tuple(str(label) for label in range(max(y_train.max(initial=-1), y_test.max(initial=-1)) + 1))
    groups: tuple[str, ...] = ()
    group_train = None
    if "group_train" in arrays:
        names, group_train = np.unique(arrays["group_train"], return_inverse=True)
        groups = _strings(path, "group_train", names)
        group_train = torch.from_numpy(group_train.astype(np.int64))
    group_test = None
    if "group_test" in arrays:
        places = {name: i for i, name in enumerate(groups)}
        tested = _strings(path, "group_test", np.ravel(arrays["group_test"]))
        strange = sorted(set(tested) - set(groups))
        if strange:
            raise DatasetFormatError(
                f"{path}: group_test names {strange[0]!r}, which no training example is of. Known: "
                f"{', '.join(groups) or 'none'}."
            )
        group_test = torch.tensor([places[name] for name in tested], dtype=torch.int64)
    return Dataset(
        path.stem,
        _inputs(path, "x_train", arrays["x_train"]),
        torch.from_numpy(y_train),
        _inputs(path, "x_test", arrays["x_test"]),
        torch.from_numpy(y_test),
        classes,
        group_train,
        groups,
        group_test=group_test,
    )


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _known_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a data set; headers are looked at first, and nothing else in the file is read.

    Raises:
        DatasetFormatError: If one of them cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            known = [name for name in (*REQUIRED, *OPTIONAL) if name in members]
            sizes = [_check_header(archive, members[name]) for name in known]
        free = free_memory()
        if sum(sizes) > free:
            raise ValueError(f"its arrays take {sum(sizes) / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in known}
    except (Exception, RecursionError) as error:  # of zipfile, a decompressor, numpy's reader of headers
        raise DatasetFormatError(
            f"{path} cannot be read as an .npz file of plain arrays: {_in_words(error)}. Write it with numpy.savez."
        ) from error


def _in_words(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _check_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes that an array claims to have.

    Raises:
        ValueError: If it is encrypted, holds Python objects, or claims more than it has.
    """
    if info.flag_bits & 1:
        raise ValueError(f"{info.filename} is encrypted")
    with archive.open(info) as file:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        claimed, held = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
    if claimed > held:
        raise ValueError(f"{info.filename} claims {list(shape)} of {dtype}, {claimed:,} bytes, and holds {held:,}")
    return claimed


def _strings(path: Path, name: str, values: np.ndarray) -> tuple[str, ...]:
    """Names from strings, bytes or numbers."""
    if values.dtype.kind == "f" and bool(np.isnan(values).any()):
        raise DatasetFormatError(f"{path}: {name} has NaN among its values, which names nothing. Name every entry.")
    try:
        return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist())
    except UnicodeDecodeError as error:
        raise DatasetFormatError(f"{path}: {name} holds bytes that are no UTF-8: {error}.") from error


def _inputs(path: Path, name: str, inputs: np.ndarray) -> torch.Tensor:
    if inputs.dtype.kind == "f" and inputs.ndim in (2, 3):
        return torch.from_numpy(np.ascontiguousarray(inputs, np.float32))
    if inputs.dtype.kind in "iu" and inputs.ndim == 2:
        if inputs.size and int(inputs.max()) > np.iinfo(np.int64).max:
            raise DatasetFormatError(f"{path}: {name} goes up to {inputs.max()}, more than int64 holds.")
        return torch.from_numpy(np.ascontiguousarray(inputs, np.int64))
    images = inputs[..., None] if inputs.ndim == 3 else inputs
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise DatasetFormatError(
            f"{path}: {name} must be uint8 [n, height, width] or [n, height, width, channels] with 1, 3 or 4 "
            f"channels; found {images.dtype} {list(images.shape)}. Scale images to 0..255 and put the channels last. "
            "Other inputs are floating point [n, d] or [n, T, d], or integers [n, T]."
        )
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _targets(path: Path, name: str, targets: np.ndarray) -> np.ndarray:
    if targets.dtype.kind == "f" and targets.ndim in (1, 2):
        return np.ascontiguousarray(targets.reshape(len(targets), -1), np.float32)
    if not np.issubdtype(targets.dtype, np.integer) or targets.ndim not in (1, 2):
        raise DatasetFormatError(
            f"{path}: {name} must be integers [n], one per image or other input; integers [n, T], or floating point "
            f"[n, k]; found {targets.dtype} {list(targets.shape)}."
        )
    if targets.size and int(targets.max()) > np.iinfo(np.int64).max:
        raise DatasetFormatError(f"{path}: {name} goes up to {targets.max()}, more than int64 holds.")
    return targets.reshape(-1).astype(np.int64) if targets.shape[1:] == (1,) else targets.astype(np.int64)
