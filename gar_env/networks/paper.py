"""The three small networks of the paper's toy experiment (section 6, table 1).

The paper names them; sizes it leaves open are chosen here and stated in each docstring.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class FC(nn.Module):
    """One hidden layer of 200 rectified units.

    Args:
        image_shape: ``(channels, height, width)``.
        num_classes: How many logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(image_shape), 200), nn.ReLU(), nn.Linear(200, num_classes)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, channels, height, width]`` to logits ``[n, num_classes]``."""
        return self.layers(inputs)


class FC_BN(nn.Module):
    """:class:`FC` with batch normalisation before the rectifier.

    Args:
        image_shape: ``(channels, height, width)``.
        num_classes: How many logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(image_shape), 200),
            nn.BatchNorm1d(200),
            nn.ReLU(),
            nn.Linear(200, num_classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, channels, height, width]`` to logits ``[n, num_classes]``."""
        return self.layers(inputs)


class CNN_BN(nn.Module):
    """One 3x3 convolution without padding to a single channel, batch normalisation, rectifier, linear layer.

    The single channel can die: once its rectifier is closed for every example, no gradient opens it again and the
    network answers with a constant. At a step size of 0.1 on inputs in [0, 1] that happens in many seeds.

    Args:
        image_shape: ``(channels, height, width)``, height and width at least 3.
        num_classes: How many logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 1, 3),
            nn.BatchNorm2d(1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear((height - 2) * (width - 2), num_classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, channels, height, width]`` to logits ``[n, num_classes]``."""
        return self.layers(inputs)
