"""The networks of few-shot learning: four convolutions, with the statistics of whatever batch there is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from gar_env.errors import ConfigurationError


def conv4(input_shape: Sequence[int], num_outputs: int, *, channels: int, strided: bool) -> nn.Sequential:
    """Four 3x3 convolutions, each with batch normalisation and a rectifier, and a linear layer.

    Batch statistics are those of the batch in every mode, and none are kept: a network that is adapted to a task has
    seen no other examples of it.

    Args:
        input_shape: ``(channels, height, width)``.
        num_outputs: How many logits.
        channels: Of each convolution.
        strided: Whether convolutions have stride 2 and features are averaged over places, as for Omniglot; else 2x2
            max-pooling follows each, as for miniImageNet.

    Raises:
        ConfigurationError: If inputs are no images, or too small.

    Source:
        Vinyals et al. (2016); Finn, Abbeel & Levine (2017), whose initialisation, Xavier's with biases of 0, this is.
    """
    if len(input_shape) != 3:
        raise ConfigurationError(f"conv4 takes images, and inputs are {list(input_shape)}. Use mlp-64-64.")
    inputs, height, width = input_shape
    if not strided and min(height, width) < 16:
        raise ConfigurationError(
            f"conv4 halves images four times, and they are {height}x{width}. Use conv4-{channels}-strided."
        )
    network = nn.Sequential()
    for _ in range(4):
        convolution = nn.Conv2d(inputs, channels, 3, stride=2 if strided else 1, padding=1)
        network.extend([convolution, nn.BatchNorm2d(channels, track_running_stats=False), nn.ReLU()])
        if strided:
            height, width = -(-height // 2), -(-width // 2)
        else:
            network.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        inputs = channels
    if strided:
        network.append(nn.AdaptiveAvgPool2d(1))
        height = width = 1
    network.extend([nn.Flatten(), nn.Linear(channels * height * width, num_outputs)])
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return network


def tanh_mlp(input_shape: Sequence[int], num_outputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with hyperbolic tangents between them, and torch's own initialisation.

    Args:
        input_shape: Of one input.
        num_outputs: How many numbers.
        widths: Of the hidden layers.

    Source:
        The demonstration of Reptile (Nichol, Achiam & Schulman, 2018), 64 and 64.
    """
    network, inputs = nn.Sequential(nn.Flatten()), math.prod(input_shape)
    for width in widths:
        network.extend([nn.Linear(inputs, width), nn.Tanh()])
        inputs = width
    return network.append(nn.Linear(inputs, num_outputs))
