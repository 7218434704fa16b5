"""Hugging Face's ``datasets`` that were saved to disk: text, or a tokenizer's ids, in sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gar_env.data.dataset import Dataset
from gar_env.data.text import BYTES, LENGTH, token_dataset
from gar_env.errors import DatasetFormatError, MissingExtraError

MARK = "dataset_dict.json"
"""What ``DatasetDict.save_to_disk`` leaves in its folder."""

SINGLE = "dataset_info.json"
"""What ``Dataset.save_to_disk`` leaves: one part alone."""

IDS, TEXT, SOURCE = "input_ids", "text", "source"

LARGEST = 2**22
"""Tokens of a vocabulary: more is no tokenizer's."""


def is_saved(root: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (root / MARK).is_file() or (root / SINGLE).is_file()


def load_saved_datasets(root: str | Path, length: int = LENGTH) -> Dataset:
    """Read what ``DatasetDict.save_to_disk`` wrote: parts ``train`` and ``test`` (or ``validation``).

    A column ``input_ids`` holds a tokenizer's ids, the vocabulary reaching to the largest; else ``text`` is read as
    bytes. A column ``source``, names or a ``ClassLabel``, says which source a row is of. Rows of a source are put one
    behind the other, text with a line's end between them, and cut into sequences.

    Args:
        root: The folder.
        length: Tokens of a sequence.

    Raises:
        DatasetFormatError: If a part or a column is missing, or of another kind; as :func:`token_dataset`.
        MissingExtraError: If ``datasets`` is not installed.
    """
    if not (Path(root) / MARK).is_file():
        raise DatasetFormatError(
            f"{root} is one saved Dataset; expected a DatasetDict with the parts train and test: "
            "DatasetDict({'train': ..., 'test': ...}).save_to_disk(...)."
        )
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"{root} was saved by Hugging Face's datasets: pip install 'gar-env[huggingface]' to read it. ({error})"
        ) from error
    try:
        saved: Any = datasets.load_from_disk(str(root))
        saved.reset_format()
    except Exception as error:  # whatever Arrow, JSON or pickled features come to
        raise DatasetFormatError(f"{root} cannot be read as saved datasets: {type(error).__name__}: {error}") from error
    test = "test" if "test" in saved else "validation"
    for part in ("train", test):
        if part not in saved:
            raise DatasetFormatError(
                f"{root} has the parts {', '.join(saved)}; expected train, and test or validation."
            )
    ids = IDS in saved["train"].column_names
    train, tested = (_streams(saved[part], part, Path(root).name, ids) for part in ("train", test))
    vocabulary: Any = BYTES
    if ids:
        vocabulary = 1 + max(int(stream.max(initial=0)) for part in (train, tested) for stream in part.values())
        if vocabulary > LARGEST:
            raise DatasetFormatError(f"{root}: the token {vocabulary - 1} is of no vocabulary; at most {LARGEST - 1}.")
    return token_dataset(train, tested, length=length, vocabulary=vocabulary, name=Path(root).name)


def _streams(part: Any, name: str, where: str, ids: bool) -> Mapping[str, np.ndarray]:
    """One long stream for each source, in the order of their rows."""
    column = IDS if ids else TEXT
    if column not in part.column_names:
        wanted = f"{IDS!r}, as train has" if ids else f"{IDS!r} or {TEXT!r}, and {SOURCE!r} if there are several"
        raise DatasetFormatError(f"{where}: {name} has the columns {', '.join(part.column_names)}; expected {wanted}.")
    names = [where] * len(part)
    if SOURCE in part.column_names:
        labels = getattr(part.features[SOURCE], "names", None)
        for row, own in enumerate(part[SOURCE]):
            if own is None or (labels and not 0 <= own < len(labels)):
                raise DatasetFormatError(
                    f"{where}: row {row} of {name} has the source {own}. Leave the row out, or name its source."
                )
            names[row] = str(labels[own] if labels else own)
    found: dict[str, list[np.ndarray]] = {}
    for source, row in zip(names, part[column], strict=True):
        if ids:
            own = np.asarray(row)
            fits = own.ndim == 1 and (own.dtype.kind in "iu" or not len(own))
        else:
            fits = isinstance(row, str)
            own = np.frombuffer((row + "\n").encode(), np.uint8) if fits else np.zeros(0)
        if not fits:
            raise DatasetFormatError(
                f"{where}: a row of {name} has {type(row).__name__} in {column!r}; expected "
                f"{'a list of integers' if ids else 'a string'}."
            )
        found.setdefault(source, []).append(own.astype(np.int64))
    return {source: np.concatenate(rows) for source, rows in sorted(found.items())}
