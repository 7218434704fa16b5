"""What rewards are to serve: a sample of one's own, or shares of some sources, put aside."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from gar_env.data.dataset import Dataset
from gar_env.data.load import load_dataset
from gar_env.errors import ConfigurationError
from gar_env.registry import shown

EACH = "each"
"""A share of every source."""

SHARE = 0.1
"""Of a source that is named alone."""


@dataclass(frozen=True, eq=False)
class Target:
    """Where held-out batches come from.

    Args:
        shares: Of sources that are put aside, by name; empty with ``dataset``.
        dataset: A sample of one's own: its training examples.
    """

    shares: dict[str, float]
    dataset: Dataset | None = None


def read_target(
    target: str | os.PathLike[str] | Dataset,
    dataset: Dataset,
    *,
    image_background: str = "white",
    of_folders: Mapping[str, Any] | None = None,
) -> Target:
    """What ``target`` says, for training on ``dataset``.

    Args:
        target: Names of sources, each with the share to put aside: ``"english(0.1), french"`` (0.1 if none is said), or
            ``"each(0.05)"``; a path or name as of :func:`load_dataset`; or a data set.
        dataset: What is trained on. Classes of a target that are called as some of these are numbered alike.
        image_background: Of a folder of images.
        of_folders: ``image_size`` and ``sequence_length`` of :func:`load_dataset`, for folders.

    Raises:
        ConfigurationError: If it cannot be read, or is data of another kind, shape or vocabulary.
        GarEnvError: Whatever loading it raises.

    Warns:
        UserWarning: If examples of a sample of one's own are in the training data too; of text that is seen where
            sequences are cut alike.
    """
    if isinstance(target, str):
        if not target.strip():
            raise ConfigurationError("target is empty. Pass names of sources, the path of a sample, or a data set.")
        shares = _shares(target, dataset)
        if shares is not None:
            return Target(shares)
    folder = not isinstance(target, Dataset) and Path(target).expanduser().is_dir()
    found = load_dataset(target, image_background=image_background, **(of_folders or {} if folder else {}))
    found = _numbered_alike(found, dataset)
    _check_alike(found, dataset)
    common = _overlap(found, dataset)
    if common:
        warnings.warn(
            f"{common} of {len(found.x_train)} examples of target {found.name} are in the training data of "
            f"{dataset.name} too: what agrees with them is paid for being known. Leave them out of one of the two.",
            stacklevel=2,
        )
    return Target({}, found)


def _shares(text: str, dataset: Dataset) -> dict[str, float] | None:
    """Shares by source; ``None`` if the text names none."""
    known = (*dataset.groups, EACH)
    items = [re.fullmatch(r"(.+?)\s*(?:\(\s*(\d*\.?\d+)\s*\))?", piece.strip()) for piece in text.split(",")]
    names = [item[1] for item in items if item]
    odd = next((name for name in names if any(name != own and name.startswith(f"{own}(") for own in known)), None)
    if odd is not None and odd not in known:
        raise ConfigurationError(
            f"target={shown(text)}: {shown(odd)} has no share that can be read. Write 'name(0.1)'."
        )
    if not any(name in known for name in names):
        sources = any(item and item[2] for item in items)
        if sources:
            raise ConfigurationError(
                f"target={shown(text)} names no source of {dataset.name}, which has "
                f"{', '.join(dataset.groups) or 'none'}. Name sources with shares, 'name(0.1)' or 'each(0.05)', or "
                "pass the path of a sample."
            )
        return None
    found: dict[str, float] = {}
    for item in items:
        name, share = (item[1], float(item[2] or SHARE)) if item else ("", 0.0)
        if name not in known or name in found or not 0 < share < 1:
            raise ConfigurationError(
                f"target={shown(text)}: {shown(name)} must be a source of {dataset.name}, once, with a share above 0 "
                f"and below 1. Known: {', '.join(known)}."
            )
        found[name] = share
    if EACH in found and not dataset.groups:
        raise ConfigurationError(f"target={shown(text)} takes a share of each source, and {dataset.name} has none.")
    rest = found.pop(EACH, None)
    return found if rest is None else {name: found.get(name, rest) for name in dataset.groups}


def put_sources_aside(dataset: Dataset, shares: dict[str, float], generator: Generator) -> tuple[Tensor, Tensor]:
    """Shuffle all training examples, and put shares of some sources aside.

    Returns:
        ``(held out, the others)``, int64.

    Raises:
        ConfigurationError: If a share is no example.
    """
    assert dataset.group_train is not None
    order = torch.randperm(len(dataset.x_train), generator=generator)
    owner = dataset.group_train[order]
    aside = torch.zeros(len(order), dtype=torch.bool)
    for name, share in shares.items():
        own = (owner == dataset.groups.index(name)).nonzero().flatten()
        count = int(share * len(own))
        if not count:
            raise ConfigurationError(f"target: {share:g} of the {len(own)} examples of {name} is none. Raise it.")
        aside[own[:count]] = True
    return order[aside], order[~aside]


def _check_alike(target: Dataset, dataset: Dataset) -> None:
    for what, ours, theirs in (
        ("inputs", target.x_train, dataset.x_train),
        ("targets", target.y_train, dataset.y_train),
    ):
        if ours.dtype != theirs.dtype or ours.shape[1:] != theirs.shape[1:]:
            raise ConfigurationError(
                f"target {target.name} has {what} {ours.dtype} {list(ours.shape[1:])} an example, and the training "
                f"data {dataset.name} {theirs.dtype} {list(theirs.shape[1:])}. They must be alike."
            )
    if target.has_labels and set(target.classes) <= set(dataset.classes):
        return  # numbered alike
    if dataset.classes and int(target.y_train.max()) >= len(dataset.classes):
        raise ConfigurationError(
            f"target {target.name} has labels up to {int(target.y_train.max())}, and the training data {dataset.name} "
            f"{len(dataset.classes)} classes. Number them alike."
        )
    if target.classes and dataset.classes and tuple(target.classes) != tuple(dataset.classes[: len(target.classes)]):
        strange = next((name for name in target.classes if name not in dataset.classes), None)
        if strange is None:
            raise ConfigurationError(
                f"target {target.name} numbers the vocabulary of {dataset.name} in another order. Use one tokenizer "
                "for both."
            )
        raise ConfigurationError(
            f"target {target.name} has a class {shown(strange)}, which the training data {dataset.name} has not. Leave "
            "it out, or name classes alike."
        )


def _numbered_alike(target: Dataset, dataset: Dataset) -> Dataset:
    """The target with the training data's numbers for its classes, if all of them are there by name."""
    labels = target.has_labels and dataset.has_labels and bool(target.classes)
    if not labels or target.classes == dataset.classes or not set(target.classes) <= set(dataset.classes):
        return target
    numbers = torch.tensor([dataset.classes.index(name) for name in target.classes])
    renumbered = {name: numbers[getattr(target, name)] for name in ("y_train", "y_test")}
    return replace(target, classes=dataset.classes, **renumbered)


def _overlap(target: Dataset, dataset: Dataset) -> int:
    """How many of the target's examples are among the training examples, whatever their labels."""
    if target is dataset:
        return len(target.x_train)
    there = set(_digests(dataset.x_train))
    return sum(digest in there for digest in _digests(target.x_train))


def _digests(inputs: Tensor) -> Iterator[bytes]:
    for row in inputs.cpu().contiguous().numpy().reshape(len(inputs), -1):
        yield hashlib.blake2b(row.tobytes(), digest_size=12).digest()
