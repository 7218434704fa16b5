"""What every image goes through after the policy, on plain steps too: crop, flip, and Cutout on the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gar_env.errors import ConfigurationError


@dataclass(frozen=True)
class StandardAugmentation:
    """Random crop of the padded image and random left-right flip of uint8 images; Cutout of normalised inputs.

    Nothing waits for the device.

    Args:
        crop_padding: Black pixels added on each side before cropping to the size it had; 0 for no crop.
        flip: Whether a fair coin mirrors each image.
        cutout: Side of the square that is set to 0, centred anywhere and cut off at the border; 0 for none.

    Raises:
        ConfigurationError: If a number is negative.

    Source:
        Krizhevsky et al. (2012) for crops and flips; DeVries & Taylor (2017), "Improved Regularization of
        Convolutional Neural Networks with Cutout".
    """

    crop_padding: int
    flip: bool
    cutout: int

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name}={getattr(self, name)} must not be negative; 0 leaves it out.")

    def crop_and_flip(self, images: Tensor, generator: Generator) -> Tensor:
        """uint8 ``[n, channels, height, width]`` to new images of that size."""
        if self.crop_padding == 0 and not self.flip:
            return images
        n, channels, height, width = images.shape
        device, padding = images.device, self.crop_padding
        shifts = torch.randint(2 * padding + 1, (2, n, 1), generator=generator, device=device)
        rows = shifts[0] + torch.arange(height, device=device)
        columns = shifts[1] + torch.arange(width, device=device)
        if self.flip:
            mirrored = torch.rand(n, 1, generator=generator, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(images, (padding,) * 4)
        source = (rows[:, :, None] * padded.shape[3] + columns[:, None]).flatten(1)
        return padded.flatten(2).gather(2, source[:, None].expand(-1, channels, -1)).view(images.shape)

    def cut_out(self, inputs: Tensor, generator: Generator) -> Tensor:
        """float ``[n, channels, height, width]`` to new inputs of that size."""
        if self.cutout == 0:
            return inputs

        def covered(size: int) -> Tensor:
            centres = torch.randint(size, (len(inputs), 1), generator=generator, device=inputs.device)
            pixels = torch.arange(size, device=inputs.device)
            start = centres - self.cutout // 2
            return (pixels >= start) & (pixels < start + self.cutout)

        rows, columns = covered(inputs.shape[2]), covered(inputs.shape[3])
        return inputs.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)
