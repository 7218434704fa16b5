"""A data set in memory: images, vectors, tokens; labels, tokens, numbers."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gar_env.errors import ConfigurationError, DatasetFormatError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, checked once when built.

    ===========  ===========================================  ======================================================
    inputs       ``x_train``, ``x_test``                      a network sees
    ===========  ===========================================  ======================================================
    images       uint8 ``[n, channels, height, width]``       float32, scaled as the environment's ``inputs`` says
    tokens       int64 ``[n, T]``, from 0                           int64, as they are
    vectors      floating point ``[n, ...]``                  float32, standardised per entry or as they are
    ===========  ===========================================  ======================================================

    ===========  ===========================================  ======================================================
    targets      ``y_train``, ``y_test``                      loss, and what accuracy is
    ===========  ===========================================  ======================================================
    labels       int64 ``[n]``, in ``0..len(classes)-1``      cross entropy; share of right answers
    tokens       int64 ``[n, T]``, likewise, or -1: none      mean cross entropy of an example; share of right tokens
    numbers      float32 ``[n, k]``; no ``classes``           mean squared error; R squared
    ===========  ===========================================  ======================================================

    Args:
        name: What it is called in messages and results.
        x_train: See above.
        y_train: See above.
        x_test: Like ``x_train``.
        y_test: Like ``y_train``.
        classes: One name per class, or per token of the vocabulary.
        group_train: int64 ``[n]``, the source each training example came from, if the data have sources.
        groups: One name per source.
        mirrored_is_same: Whether a mirrored image keeps its label, as photographs do and digits do not.
        group_test: Likewise of each test example, if it is known: what is learned of each source.

    Raises:
        DatasetFormatError: If a shape, a type, a label or a name does not fit, or there are fewer than two classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...] = ()
    group_train: Tensor | None = None
    groups: tuple[str, ...] = ()
    mirrored_is_same: bool = True
    group_test: Tensor | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.x_train):,} + {len(self.x_test):,} {self.kind} {list(self.input_shape)}"
        sources = f", {len(self.groups)} sources" if self.groups else ""
        return f"Dataset({self.name!r}, {sizes}, {self.outputs} {'classes' if self.classes else 'outputs'}{sources})"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DatasetFormatError(f"A data set's name must be a string; found {type(self.name).__name__}.")
        both = isinstance(self.y_train, Tensor) and isinstance(self.y_test, Tensor)
        if both and (self.y_train.shape[1:] != self.y_test.shape[1:] or self.y_train.dtype != self.y_test.dtype):
            raise DatasetFormatError(
                f"{self.name}: y_train is {_found(self.y_train)} and y_test {_found(self.y_test)}. They must be alike."
            )
        for part, inputs, targets in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            self._check_inputs(f"x_{part}", inputs)
            self._check_targets(f"y_{part}", targets, len(inputs))
        if self.x_train.shape[1:] != self.x_test.shape[1:] or self.x_train.dtype != self.x_test.dtype:
            found = [f"{list(x.shape[1:])}" for x in (self.x_train, self.x_test)]
            if self.x_train.dtype != self.x_test.dtype:
                found = [f"{x.dtype} {of}" for x, of in zip((self.x_train, self.x_test), found, strict=True)]
            raise DatasetFormatError(
                f"{self.name}: training {self.kind} are {found[0]} and test {self.kind} {found[1]}. They must have the "
                "same size and type."
            )
        self._check_names("classes", self.classes)
        self._check_names("groups", self.groups)
        if len(self.classes) < 2 and not self.y_train.is_floating_point():
            raise DatasetFormatError(
                f"{self.name}: there is {len(self.classes)} class; a classifier needs at least 2 to tell apart."
            )
        if self.group_train is not None:
            self._check_labels("group_train", self.group_train, len(self.x_train), len(self.groups), "groups")
        if self.group_test is not None:
            self._check_labels("group_test", self.group_test, len(self.x_test), len(self.groups), "groups")

    def _check_inputs(self, name: str, inputs: Any) -> None:
        plain = isinstance(inputs, Tensor) and not inputs.is_meta and inputs.layout is torch.strided
        if not plain or inputs.ndim < 2 or inputs.dtype == torch.bool or inputs.is_complex():
            raise DatasetFormatError(
                f"{self.name}: {name} must be images, uint8 [n, channels, height, width], or other numbers [n, ...]; "
                f"found {_found(inputs)}."
            )
        if inputs.dtype == torch.uint8 and inputs.ndim != 4:
            raise DatasetFormatError(
                f"{self.name}: {name} must be uint8 images [n, channels, height, width]; found {_found(inputs)}. Bytes "
                "that are tokens go in as int64."
            )
        if inputs.numel() == 0:
            what = "entries" if len(inputs) else "examples"
            if inputs.dtype == torch.uint8:
                what = "pixels" if len(inputs) else "images"
            raise DatasetFormatError(f"{self.name}: {name} holds no {what}; found {_found(inputs)}.")
        if inputs.requires_grad:
            raise DatasetFormatError(f"{self.name}: {name} requires a gradient. Pass {name}.detach().")
        if inputs.is_floating_point():
            if inputs.dtype not in _FLOATS:
                raise DatasetFormatError(f"{self.name}: {name} is {inputs.dtype}. Pass float32.")
            if not bool(inputs.to(torch.float32).isfinite().all()):
                raise DatasetFormatError(
                    f"{self.name}: {name} holds NaN or infinity, or numbers beyond float32. Fill them in, or leave "
                    "those examples out."
                )
        elif inputs.dtype != torch.uint8 and (inputs.ndim != 2 or int(inputs.min()) < 0):
            raise DatasetFormatError(
                f"{self.name}: {name} are whole numbers {list(inputs.shape)}, from {int(inputs.min())} on; expected "
                "tokens [n, T] from 0. Images go in as uint8, other numbers as float32."
            )

    def _check_targets(self, name: str, targets: Any, examples: int) -> None:
        if isinstance(targets, Tensor) and targets.is_floating_point() and not targets.is_meta:
            fits = targets.dtype == torch.float32 and targets.ndim == 2 and len(targets) == examples
            if not fits or targets.shape[1] == 0 or self.classes or not bool(targets.isfinite().all()):
                raise DatasetFormatError(
                    f"{self.name}: {name} must be finite float32 [{examples}, k], without classes, or int64 labels; "
                    f"found {_found(targets)}, {len(self.classes)} classes."
                )
            return
        tokens = isinstance(targets, Tensor) and targets.ndim == 2
        if tokens and isinstance(self.x_train, Tensor) and self.x_train.dtype == torch.uint8:
            raise DatasetFormatError(
                f"{self.name}: {name} must be int64 [{examples}], one per image; found {_found(targets)}. Of one-hot "
                "labels, pass their argmax(1)."
            )
        self._check_labels(name, targets, examples, len(self.classes), "classes", tokens=tokens)

    def _check_labels(
        self, name: str, labels: Tensor, examples: int, limit: int, kind: str, *, tokens: bool = False
    ) -> None:
        if (
            not isinstance(labels, Tensor)
            or labels.is_meta
            or labels.dtype != torch.int64
            or labels.ndim != 1 + tokens
            or len(labels) != examples
        ):
            raise DatasetFormatError(
                f"{self.name}: {name} must be int64 [{examples}], one per {self.one}; found {_found(labels)}."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < -tokens or high >= limit:
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
    def kind(self) -> str:
        """What the inputs are: ``"images"``, ``"tokens"`` or ``"vectors"``."""
        if self.x_train.is_floating_point():
            return "vectors"
        return "images" if self.x_train.dtype == torch.uint8 else "tokens"

    @property
    def one(self) -> str:
        """What one input is."""
        return "image" if isinstance(self.x_train, Tensor) and self.x_train.dtype == torch.uint8 else "example"

    @property
    def loss(self) -> str:
        """What is minimised, by the name of a registered loss."""
        if self.y_train.is_floating_point():
            return "squared_error"
        return "cross_entropy" if self.has_labels else "token_cross_entropy"

    @property
    def has_labels(self) -> bool:
        """Whether each example has one class."""
        return self.y_train.ndim == 1

    @property
    def outputs(self) -> int:
        """How many numbers a network returns for an example, or for a token of it."""
        return len(self.classes) or self.y_train.shape[1]

    @property
    def guess(self) -> float:
        """The loss of a network that knows nothing: the same answer for all."""
        if self.classes:
            return float(torch.tensor(float(len(self.classes))).log())
        return float(self.y_train.var(0, correction=0).mean())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.x_train.shape[1:])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``.

        Raises:
            ConfigurationError: If there are no images.
        """
        if self.kind != "images":
            raise ConfigurationError(f"{self.name} holds {self.kind} {list(self.input_shape)}, no images.")
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """Of all numbers: of other data another one."""
        digest = hashlib.blake2b(digest_size=8)
        for tensor in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

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
            group_test=None if self.group_test is None else self.group_test.to(device),
        )


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _found(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {list(value.shape)}{' on the meta device' if value.is_meta else ''}"
