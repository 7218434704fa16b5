"""Ways to spoil a split, by name. The controller should find the spoiled split by itself."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import Registry

Corruption = Callable[[Tensor, Tensor, int, Generator], tuple[Tensor, Tensor]]

CORRUPTIONS: Registry[Corruption] = Registry("corruption")
register_corruption = CORRUPTIONS.register


@register_corruption("label_noise")
def label_noise(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Labels drawn uniformly from all classes, the right one included (the paper, section 6)."""
    return images, torch.randint(num_classes, labels.shape, generator=generator)


@register_corruption("pixel_noise")
def pixel_noise(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Every pixel drawn uniformly from 0..255; the labels stay."""
    return torch.randint(256, images.shape, generator=generator, dtype=torch.uint8), labels


@register_corruption("easy")
def easy(images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One trivial image per class, repeated: low in loss after a few steps, and useless.

    Class ``c`` lights every pixel whose number is ``c`` modulo the number of classes, so the classes are
    linearly separable and nothing about them helps with real images. The labels stay.
    """
    if images[0].numel() < num_classes:
        raise ConfigurationError(
            f"easy needs a pixel per class; images have {images[0].numel()}, there are {num_classes} classes."
        )
    pixels = torch.arange(images[0].numel()) % num_classes
    patterns = (pixels[None] == torch.arange(num_classes)[:, None]).to(torch.uint8) * 255
    return patterns.view(num_classes, *images.shape[1:])[labels], labels


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
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d+)\s*:\s*([^();\s]+)\s*(?:\(\s*(\d*\.?\d+)\s*\))?", item)
        share = float(match[3] or 1) if match else 0
        if not match or not 0 < share <= 1:
            raise ConfigurationError(
                f"corrupt has the item {item!r}. Write 'split:name' or 'split:name(share)' with a share above 0 "
                "and up to 1, separated by commas: '0:label_noise, 3:easy(0.5)'."
            )
        split, name = int(match[1]), match[2]
        _ = CORRUPTIONS[name]
        if split in found:
            raise ConfigurationError(
                f"corrupt names split {split} twice: {found[split][0]} and {name}. Keep one of them."
            )
        found[split] = name, share
    return found
