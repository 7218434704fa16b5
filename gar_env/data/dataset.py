"""A labelled image data set, held as uint8 tensors in memory."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gar_env.errors import DatasetFormatError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, checked once when built.

    Args:
        name: What it is called in messages and results.
        x_train: uint8 ``[n, channels, height, width]``.
        y_train: int64 ``[n]``, each in ``0..len(classes)-1``.
        x_test: Like ``x_train``.
        y_test: Like ``y_train``.
        classes: One name per class.
        group_train: int64 ``[n]``, the source each training example came from, if the data have sources.
        groups: One name per source.
        mirrored_is_same: Whether a mirrored image keeps its label, as photographs do and digits do not.

    Raises:
        DatasetFormatError: If a shape, a type, a label or a name does not fit, or there are fewer than two classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    group_train: Tensor | None = None
    groups: tuple[str, ...] = ()
    mirrored_is_same: bool = True

    def __repr__(self) -> str:
        sizes = f"{len(self.x_train):,} + {len(self.x_test):,} images {list(self.x_train.shape[1:])}"
        sources = f", {len(self.groups)} sources" if self.groups else ""
        return f"Dataset({self.name!r}, {sizes}, {len(self.classes)} classes{sources})"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DatasetFormatError(f"A data set's name must be a string; found {type(self.name).__name__}.")
        for part, images, labels in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if not isinstance(images, Tensor) or images.is_meta or images.dtype != torch.uint8 or images.ndim != 4:
                raise DatasetFormatError(
                    f"{self.name}: x_{part} must be uint8 images [n, channels, height, width]; found {_found(images)}."
                )
            if images.numel() == 0:
                raise DatasetFormatError(
                    f"{self.name}: x_{part} holds no {'pixels' if len(images) else 'images'}; found {_found(images)}."
                )
            self._check_labels(f"y_{part}", labels, len(images), len(self.classes), "classes")
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DatasetFormatError(
                f"{self.name}: training images are {list(self.x_train.shape[1:])} and test images "
                f"{list(self.x_test.shape[1:])}. They must have the same size."
            )
        self._check_names("classes", self.classes)
        self._check_names("groups", self.groups)
        if len(self.classes) < 2:
            raise DatasetFormatError(f"{self.name}: there is 1 class; a classifier needs at least 2 to tell apart.")
        if self.group_train is not None:
            self._check_labels("group_train", self.group_train, len(self.x_train), len(self.groups), "groups")

    def _check_labels(self, name: str, labels: Tensor, examples: int, limit: int, kind: str) -> None:
        if (
            not isinstance(labels, Tensor)
            or labels.is_meta
            or labels.dtype != torch.int64
            or labels.shape != (examples,)
        ):
            raise DatasetFormatError(
                f"{self.name}: {name} must be int64 [{examples}], one per image; found {_found(labels)}."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= limit:
            raise DatasetFormatError(
                f"{self.name}: {name} has values from {low} to {high}, but there are {limit} {kind}: "
                f"0..{limit - 1}. Renumber them."
            )

    def _check_names(self, kind: str, names: tuple[str, ...]) -> None:
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise DatasetFormatError(f"{self.name}: {kind} must be a tuple of strings, one name each.")
        spelled: dict[str, str] = {}
        for name in names:
            # A name typed on one system and one copied from another may look alike, and be other characters.
            same = unicodedata.normalize("NFC", name)
            if same in spelled:
                how = "twice" if spelled[same] == name else "in two Unicode spellings, which look the same"
                raise DatasetFormatError(f"{self.name}: {kind} has {name!r} {how}. Merge them, or rename one.")
            spelled[same] = name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    def taking(self, rows: Tensor) -> Dataset:
        """The same data with only those training examples, int64 ``[m]``."""
        groups = None if self.group_train is None else self.group_train[rows]
        return replace(self, x_train=self.x_train[rows], y_train=self.y_train[rows], group_train=groups)

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on ``device``."""
        return replace(
            self,
            x_train=self.x_train.to(device),
            y_train=self.y_train.to(device),
            x_test=self.x_test.to(device),
            y_test=self.y_test.to(device),
            group_train=None if self.group_train is None else self.group_train.to(device),
        )


def _found(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {list(value.shape)}{' on the meta device' if value.is_meta else ''}"
