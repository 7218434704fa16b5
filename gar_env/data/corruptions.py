"""Ways to spoil a split, by name. The controller should find the spoiled split by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import Registry, shown

# For messages: the form of an item, and an example.
OF_SPLITS = ("'split:name' or 'split:name(share)'", "'0:label_noise, 3:easy(0.5)'")
OF_ALL = ("'name(share)'", "'symmetric_noise(0.4)'")

NEAR = 16
"""Of 255: how far the pixels of near-duplicates are apart, at most, from what they are copies of."""

Corruption = Callable[[Tensor, Tensor, int, Generator], tuple[Tensor, Tensor]]

CORRUPTIONS: Registry[Corruption] = Registry("corruption")
register_corruption = CORRUPTIONS.register


@register_corruption("label_noise")
def label_noise(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Labels drawn uniformly from all classes, the right one included (the paper, section 6).

    Where targets are no labels, each example gets the target of another one, drawn at random.
    """
    if labels.ndim > 1 or labels.is_floating_point():
        return images, labels[torch.randint(len(labels), (len(labels),), generator=generator)]
    return images, torch.randint(num_classes, labels.shape, generator=generator)


@register_corruption("symmetric_noise")
def symmetric_noise(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Every label replaced by one of the *other* classes, uniformly: all of them are wrong."""
    _check_labels(labels)
    return images, (labels + torch.randint(1, num_classes, labels.shape, generator=generator)) % num_classes


@register_corruption("asymmetric_noise")
def asymmetric_noise(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Every label replaced by the next class, the last by the first: a systematic mistake.

    Source:
        Patrini et al. (2017), "Making Deep Neural Networks Robust to Label Noise", as for CIFAR-100's superclasses.
    """
    _check_labels(labels)
    return images, (labels + 1) % num_classes


@register_corruption("pixel_noise")
def pixel_noise(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Every pixel drawn uniformly from 0..255; the labels stay."""
    _check_images(images)
    return torch.randint(256, images.shape, generator=generator, dtype=torch.uint8), labels


@register_corruption("easy")
def easy(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One trivial image per class, repeated: low in loss after a few steps, and useless.

    Class ``c`` lights a random half of all pixels, the same half for every seed, so the classes are linearly separable
    and nothing about them helps with real images. The labels stay.
    """
    _check_images(images)
    _check_labels(labels)
    if images[0].numel() < num_classes:
        raise ConfigurationError(
            f"easy needs a pixel per class; images have {images[0].numel()}, there are {num_classes} classes."
        )
    half = torch.rand(num_classes, images[0].numel(), generator=torch.Generator().manual_seed(0)) < 0.5
    patterns = half.to(torch.uint8) * 255
    return patterns.view(num_classes, *images.shape[1:])[labels], labels


@register_corruption("near_easy")
def near_easy(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """As ``easy``, each pixel up to :data:`NEAR` away from it: near-duplicates, of which none are identical."""
    again, labels = easy(images, labels, num_classes, generator)
    moved = again.short() + torch.randint(-NEAR, NEAR + 1, again.shape, generator=generator, dtype=torch.int16)
    return moved.clamp(0, 255).to(torch.uint8), labels


@register_corruption("repeated")
def repeated(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The first few examples over and over, one per class or a fiftieth: useful until they are known by heart."""
    few = min(len(labels), max(num_classes, len(labels) // 50, 1))
    again = torch.arange(len(labels)) % few
    return images[again], labels[again]


def _check_labels(targets: Tensor) -> None:
    if targets.ndim > 1 or targets.is_floating_point():
        raise ConfigurationError("it changes labels, and there are none. Use label_noise, which exchanges targets.")


def _check_images(inputs: Tensor) -> None:
    if inputs.ndim != 4 or inputs.dtype != torch.uint8:
        raise ConfigurationError("it changes pixels, and there are none. Use label_noise or repeated.")


def parse_corruptions(text: str) -> dict[int, tuple[str, float]]:
    """Read ``"0:label_noise, 3:easy(0.5)"`` as ``{split: (name, share of its examples)}``.

    Raises:
        ConfigurationError: If the text is not of that form.
        UnknownNameError: If a corruption has no such name.

    Example:
        >>> parse_corruptions("0:label_noise, 3:easy(0.5)")
        {0: ('label_noise', 1.0), 3: ('easy', 0.5)}
    """
    found: dict[int, tuple[str, float]] = {}
    for item in _items(text):
        split, colon, rest = item.partition(":")
        if not colon or not split.strip().isdecimal() or len(split) > 9:
            raise _unreadable(item, *OF_SPLITS)
        number = int(split)
        name, share = _name_and_share(item, rest, *OF_SPLITS)
        if number in found:
            raise ConfigurationError(
                f"corrupt names split {number} twice: {found[number][0]} and {name}. Keep one of them."
            )
        found[number] = name, share
    return found


def parse_shares(text: str, known: Registry[Any] = CORRUPTIONS) -> list[tuple[str, float]]:
    """Read ``"symmetric_noise(0.3), easy(0.1)"`` as ``[(name, share of all examples)]``, for disjoint shares.

    Args:
        text: See above.
        known: Where the names are registered.

    Raises:
        ConfigurationError: If the text is not of that form, or the shares add up to more than 1.
        UnknownNameError: If a corruption has no such name.

    Example:
        >>> parse_shares("symmetric_noise(0.3), easy(0.1)")
        [('symmetric_noise', 0.3), ('easy', 0.1)]
    """
    found = [_name_and_share(item, item, *OF_ALL, known) for item in _items(text)]
    if sum(share for _, share in found) > 1 + 1e-9:
        raise ConfigurationError(f"corrupt={shown(text)} spoils more than all examples. Lower the shares.")
    return found


def _items(text: str) -> list[str]:
    if not isinstance(text, str):
        raise ConfigurationError(f"corrupt={shown(text)} must be text: {OF_SPLITS[1]}, or {OF_ALL[1]}.")
    return [piece.strip() for piece in text.split(",") if piece.strip()]


def _name_and_share(
    item: str, text: str, form: str, example: str, known: Registry[Any] = CORRUPTIONS
) -> tuple[str, float]:
    match = (
        None if re.match(r"\s*\d+\s*:", text) else re.fullmatch(r"\s*([^();\s]+)\s*(?:\(\s*(\d*\.?\d+)\s*\))?\s*", text)
    )
    share = float(match[2] or 1) if match else 0
    if not match or not 0 < share <= 1:
        raise _unreadable(item, form, example)
    _ = known[match[1]]
    return match[1], share


def _unreadable(item: str, form: str, example: str) -> ConfigurationError:
    return ConfigurationError(
        f"corrupt has the item {shown(item)}. Write {form} with a share above 0 and up to 1, separated by commas: "
        f"{example}."
    )
