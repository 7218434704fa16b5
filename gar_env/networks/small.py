"""A small convolutional network that a CPU trains."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with stride 2 and 32, 64, 128 channels, batch normalisation, mean over places.

    Strides instead of pooling as in Springenberg et al. (2015), "Striving for Simplicity". About 94,000 parameters for
    ten classes of RGB images.

    Args:
        image_shape: ``(channels, height, width)``.
        num_classes: How many logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        widths = (image_shape[0], 32, 64, 128)
        self.features = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
                )
                for inputs, outputs in pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, channels, height, width]`` to logits ``[n, num_classes]``."""
        return self.head(self.features(inputs).mean((2, 3)))
