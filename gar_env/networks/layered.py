"""Networks of any widths, by name: rectified layers, and convolutions in the letters of Daniel et al. (2016)."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from gar_env.errors import ConfigurationError

WIDEST = 99_999
"""Most units of a layer that a name can say."""

LAYERED = re.compile(r"(mlp|[cpr]*cs)((?:-\d{1,5})+)")
"""``mlp-100-50``, ``cpcpcrcs-20-50-500``: a kind, and the widths of its layers."""


def widths_of(name: object) -> tuple[str, tuple[int, ...]] | None:
    """Kind and widths of a network that goes by such a name, ``None`` of others.

    Example:
        >>> widths_of("mlp-100-50"), widths_of("fc")
        (('mlp', (100, 50)), None)
    """
    found = LAYERED.fullmatch(name) if isinstance(name, str) else None
    return None if found is None else (found[1], tuple(int(width) for width in found[2].split("-")[1:]))


def layered(name: str, input_shape: Sequence[int], num_outputs: int) -> nn.Sequential:
    """Build a network by its name.

    ``mlp-w1-w2``: linear layers of these widths, each followed by a rectifier, and a linear layer to the outputs.

    ``cpcpcrcs-20-50-500``: letter by letter, ``c`` a 3x3 convolution with padding, ``p`` 2x2 max-pooling, ``r`` a
    rectifier, ``s`` the softmax of the loss; the last ``c`` is the linear layer to the outputs, the others have the
    widths for channels.

    Weights are Xavier-normal, biases 0.

    Args:
        name: See above.
        input_shape: Of one input; of an image ``(channels, height, width)``.
        num_outputs: How many logits, or other numbers.

    Raises:
        ConfigurationError: If there are more or fewer widths than layers to have them, or the image is too small.

    Source:
        Daniel, Taylor & Nowozin (2016) train c-p-c-p-c-r-c-s. Size and padding of the filters and the initialisation
        are those of "Automated dynamic algorithm configuration" (Adriaensen et al., 2022); the widths 20-50-500 are
        MatConvNet's, whose own filters are 5x5, 5x5 and 4x4 without padding.
    """
    found = widths_of(name)
    assert found is not None
    kind, widths = found
    if min(widths) < 1:
        raise ConfigurationError(f"network={name!r} has a layer without units.")
    network = _mlp(widths, input_shape, num_outputs) if kind == "mlp" else _conv(name, kind, widths, input_shape)
    if kind != "mlp":
        network.extend([nn.Flatten(), nn.Linear(_features(network, input_shape, name), num_outputs)])
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return network


def _mlp(widths: tuple[int, ...], input_shape: Sequence[int], num_outputs: int) -> nn.Sequential:
    network, inputs = nn.Sequential(nn.Flatten()), math.prod(input_shape)
    for width in widths:
        network.extend([nn.Linear(inputs, width), nn.ReLU()])
        inputs = width
    return network.append(nn.Linear(inputs, num_outputs))


def _conv(name: str, kind: str, widths: tuple[int, ...], input_shape: Sequence[int]) -> nn.Sequential:
    if len(input_shape) != 3:
        raise ConfigurationError(f"network={name!r} takes images, and inputs are {list(input_shape)}. Use mlp-100.")
    letters = kind[:-2]
    if letters.count("c") != len(widths):
        raise ConfigurationError(
            f"network={name!r} has {letters.count('c')} convolutions before its last layer, and {len(widths)} widths. "
            "Give one to each."
        )
    network, channels, left = nn.Sequential(), input_shape[0], iter(widths)
    for letter in letters:
        if letter == "c":
            width = next(left)
            network.append(nn.Conv2d(channels, width, 3, padding=1))
            channels = width
        else:
            network.append(nn.MaxPool2d(2) if letter == "p" else nn.ReLU())
    return network


def _features(network: nn.Sequential, input_shape: Sequence[int], name: str) -> int:
    channels, height, width = input_shape
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            height, width = height // 2, width // 2
    if height < 1 or width < 1:
        raise ConfigurationError(f"network={name!r} pools more often than images {list(input_shape)} can be halved.")
    return channels * height * width


@torch.no_grad()
def padded(network: nn.Module, into: nn.Module) -> nn.Module:
    """The same function in the shape of a wider network: units are added whose weights, in and out, are 0.

    They stay 0 under every update rule that goes nowhere where the gradient is 0, so networks of several widths train
    as one stack; up to rounding each as it would by itself.

    Args:
        network: Of :func:`layered`.
        into: Of the same kind, at least as wide everywhere; not changed.

    Example:
        >>> small, wide = (layered(name, (3,), 2) for name in ("mlp-4", "mlp-8"))
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(small(x), padded(small, wide)(x), atol=1e-6)
        True
    """
    wide = copy.deepcopy(into)
    own = dict(network.named_parameters())
    for name, p in wide.named_parameters():
        p.zero_()
        # Channels come first in what Flatten makes, so leading entries are those of the smaller network.
        p[tuple(slice(0, side) for side in own[name].shape)] = own[name]
    return wide
