"""Batches: a gather from uint8 tensors and a normalisation, on the device where the data are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gar_env.registry import check_choice
from gar_env.state import plain

SCALINGS = ("unit", "symmetric", "standardised")


@plain
class Batch(NamedTuple):
    """What a network sees in one step: ``inputs`` ``[n, ...]``, float32 images and vectors or int64 tokens, and
    ``targets`` ``[n, ...]``."""

    inputs: Tensor
    targets: Tensor


def in_batches(
    images: Tensor, labels: Tensor, normalise: Callable[[Tensor], Tensor], device: torch.device, size: int = 1000
) -> Iterator[Batch]:
    """All examples in order, ``size`` at a time, normalised on ``device``."""
    for some, their_labels in zip(images.split(size), labels.split(size), strict=True):
        yield Batch(normalise(some.to(device)), their_labels.to(device))


@dataclass(frozen=True, eq=False)
class Normalisation:
    """``inputs = images * scale + shift`` per channel.

    Args:
        scale: float32 ``[channels, 1, 1]``, or of one input's shape.
        shift: Likewise.
    """

    scale: Tensor
    shift: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Inputs ``[n, ...]`` to float32 of the same shape."""
        return torch.addcmul(self.shift, images.to(torch.float32), self.scale)


def as_they_are(inputs: Tensor) -> Tensor:
    """Tokens as int64, vectors as float32."""
    return inputs.to(torch.float32 if inputs.is_floating_point() else torch.int64)


def normalisation(inputs: Tensor, scaling: str) -> Callable[[Tensor], Tensor]:
    """How to turn examples into a network's inputs.

    Tokens are taken as they are. Vectors too, but for ``"standardised"``: mean 0 and standard deviation 1 per entry.

    Args:
        inputs: The training data: images are uint8 ``[n, channels, height, width]``.
        scaling: Of images. ``"unit"``: [0, 1] (the paper's toy experiment). ``"symmetric"``: [-1, 1].
            ``"standardised"``: mean 0 and standard deviation 1 per channel.

    Raises:
        ConfigurationError: If the scaling is unknown.
    """
    check_choice("inputs", scaling, SCALINGS)
    if inputs.is_floating_point() and scaling == "standardised":
        spread, middle = torch.std_mean(inputs.to(torch.float64), 0, correction=0)
        spread = torch.where(spread > 0, spread, 1)
        return Normalisation((1 / spread).to(torch.float32), (-middle / spread).to(torch.float32))
    if inputs.dtype != torch.uint8:
        return as_they_are
    images, channels = inputs, inputs.shape[1]
    if scaling == "unit":
        mean, deviation = torch.zeros(channels), torch.ones(channels)
    elif scaling == "symmetric":
        mean, deviation = torch.full((channels,), 0.5), torch.full((channels,), 0.5)
    else:
        values = torch.arange(256, dtype=torch.float64) / 255
        # In chunks: as int64, all pixels would take eight times the memory of the images.
        counts = torch.stack(
            [
                sum(torch.bincount(some[:, c].flatten().long(), minlength=256) for some in images.split(4096))
                for c in range(channels)
            ]  # pyright: ignore[reportArgumentType]
        )
        weights = counts.cpu() / counts.cpu().sum(1, keepdim=True, dtype=torch.float64)
        mean = weights @ values
        deviation = ((weights @ values.square()) - mean.square()).clamp_min(1e-12).sqrt()
    shape = (channels, 1, 1)
    return Normalisation(
        (1 / (255 * deviation)).to(images.device, torch.float32).view(shape),
        (-mean / deviation).to(images.device, torch.float32).view(shape),
    )
