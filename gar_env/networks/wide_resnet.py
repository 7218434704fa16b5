"""Wide residual networks, WRN-d-k, as published."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.errors import ConfigurationError


class PreActivationBlock(nn.Module):
    """Batch normalisation, rectifier, 3x3 convolution, twice; a 1x1 convolution on the way round if sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Identity() if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )
        self.same_shape = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
        activated = F.relu(self.norm1(x))
        y = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(activated)))))
        # As published: a shortcut that changes shape starts from the activated input, the others from x.
        return y + self.shortcut(x if self.same_shape else activated)


class WideResNet(nn.Module):
    """WRN-d-k: three groups of ``(d - 4) / 6`` pre-activation blocks with 16k, 32k and 64k channels.

    Args:
        image_shape: ``(channels, height, width)``, height and width at least 4.
        num_classes: How many logits.
        depth: ``6 b + 4`` for ``b`` blocks in each group.
        width: The factor k.
        dropout: Probability inside each block; 0 as in most published results.

    Raises:
        ConfigurationError: If the depth is not ``6 b + 4``, or the width is 0.

    Source:
        Zagoruyko & Komodakis (2016), Wide Residual Networks, table 1. He initialisation (fan out).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise ConfigurationError(
                f"wrn-{depth}-{width}: the depth must be 6 b + 4 (10, 16, 22, 28, 40, ...) and the width at least 1."
            )
        self.widths = (16, 16 * width, 32 * width, 64 * width)
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(image_shape[0], self.widths[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        PreActivationBlock(
                            self.widths[group] if block == 0 else self.widths[group + 1],
                            self.widths[group + 1],
                            stride=2 if block == 0 and group > 0 else 1,
                            dropout=dropout,
                        )
                        for block in range(blocks)
                    )
                )
                for group in range(3)
            )
        )
        self.norm = nn.BatchNorm2d(self.widths[3])
        self.head = nn.Linear(self.widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, channels, height, width]`` to logits ``[n, num_classes]``."""
        x = F.relu(self.norm(self.groups(self.stem(inputs))))
        return self.head(x.mean((2, 3)))
