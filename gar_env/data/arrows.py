"""A data set with a known answer: arrows, whose label some image operations keep and others turn into another."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gar_env.data.builtin import register_dataset
from gar_env.data.dataset import Dataset
from gar_env.errors import ConfigurationError

DIRECTIONS = ("up-right", "up-left", "down-left", "down-right")  # at 45, 135, 225 and 315 degrees
SIZE = 32
NUM_TRAIN, NUM_TEST = 2000, 1000
HARMLESS = (
    "identity", "auto_contrast", "equalize", "solarize", "color", "posterize", "contrast", "brightness", "sharpness",
    "translate_x", "translate_y", "blur", "invert", "cutout",
)  # fmt: skip
SPREAD = 15.0  # degrees to either side of a diagonal


@register_dataset("synthetic_invariances")
def synthetic_invariances(download: bool = False) -> Dataset:
    """3,000 generated colour images of 32x32 pixels, arrows in four diagonal directions; 2,000 to train on.

    Colours, brightness, place, size and the last 15 degrees of the direction are random. A flip turns every arrow into
    one of another class, and so does a rotation by more than 60 degrees; by less than 30 none: :func:`share_of_lies`.
    The images are the same for every seed.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(len(DIRECTIONS), (NUM_TRAIN + NUM_TEST,), generator=generator)
    images = draw_arrows(labels, generator)
    return Dataset(
        "synthetic_invariances",
        images[:NUM_TRAIN],
        labels[:NUM_TRAIN],
        images[NUM_TRAIN:],
        labels[NUM_TRAIN:],
        DIRECTIONS,
        mirrored_is_same=False,
    )


def share_of_lies(operation: str, value: float) -> float:
    """Share of arrows that an image operation turns into one of another class, so that their labels are lies.

    By geometry, over all directions that are drawn. What hides an arrow (black images, large translations) is no lie,
    only useless.

    Args:
        operation: Its registered name.
        value: In its unit: degrees for ``rotate``, pixels per pixel for ``shear_x`` and ``shear_y``.

    Returns:
        In [0, 1]; 0 for operations that leave directions alone, 1 for flips.

    Raises:
        ConfigurationError: If it is an operation of one's own, of which nothing is known.

    Example:
        >>> [round(share_of_lies("rotate", degrees), 2) for degrees in (20, 36, 45, -54, 90)]
        [0.0, 0.2, 0.5, 0.8, 1.0]
    """
    spread = torch.linspace(-SPREAD, SPREAD, 2001, dtype=torch.float64)
    degrees = (45 + 90 * torch.arange(len(DIRECTIONS))[:, None] + spread).flatten()
    x, y = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()  # y upwards
    if operation == "flip_lr":
        moved = -x, y
    elif operation == "flip_ud":
        moved = x, -y
    elif operation == "rotate":
        turned = torch.deg2rad(degrees + value)
        moved = turned.cos(), turned.sin()
    elif operation == "shear_x":  # Pillow's map goes from output to input
        moved = x + value * y, y
    elif operation == "shear_y":
        moved = x, y + value * x
    elif operation in HARMLESS:
        return 0.0
    else:
        raise ConfigurationError(
            f"Whether {operation!r} turns arrows into others is not known. Leave it out of the search space."
        )
    return float(((moved[0] > 0) != (x > 0)).logical_or((moved[1] > 0) != (y > 0)).double().mean())


def draw_arrows(labels: Tensor, generator: Generator) -> Tensor:
    """One arrow per label, uint8 ``[n, 3, 32, 32]``: a shaft and a triangular head on a plain, noisy ground."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(labels), *(shape or (1, 1)), generator=generator)

    angles = torch.deg2rad(45 + 90 * labels[:, None, None] + uniform(-SPREAD, SPREAD))
    x = torch.arange(SIZE) - (SIZE - 1) / 2 - uniform(-4, 4)
    y = (SIZE - 1) / 2 - torch.arange(SIZE)[:, None] - uniform(-4, 4)  # upwards
    along, across = x * angles.cos() + y * angles.sin(), y * angles.cos() - x * angles.sin()
    half = uniform(8, 12)
    shaft = (along.abs() < half) & (across.abs() < uniform(1, 2))
    head = (along < half) & (along > half - 7) & (across.abs() < 0.9 * (half - along))
    ground, arrow = uniform(0, 255, 3, 1, 1), uniform(0, 255, 3, 1, 1)
    # The two must differ in brightness, or a gray image would not show the arrow.
    darker = ground.mean(1, keepdim=True) > 128
    arrow = torch.where(darker, arrow * 0.35, 255 - (255 - arrow) * 0.35)
    colours = torch.where((shaft | head)[:, None], arrow, ground)
    noise = 12 * torch.randn(colours.shape, generator=generator)
    return (colours + noise).round().clamp(0, 255).to(torch.uint8)
