"""Operations that look at a pixel's neighbours, and the one that paints over a rectangle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from torch import Tensor

from gar_env.augment.operation import register_op
from gar_env.augment.pointwise import blend


@register_op("sharpness", unit="x", identity=1, pillow=lambda im, v: ImageEnhance.Sharpness(im).enhance(v))
def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the smoothed image: 3x3 windows, the centre five times; a border of one pixel stays."""
    if min(images.shape[2:]) < 3:
        return images  # Pillow filters no image that is smaller than the window
    whole = images.to(torch.int16)
    rows = whole[..., :-2] + whole[..., 1:-1] + whole[..., 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * whole[:, :, 1:-1, 1:-1]
    pixels = images.float()
    smooth = pixels.clone()
    # Pillow's (2 s + 13) // 26: s / 13 + 1/2 is never nearer to a whole number than 1/26, so floor is safe in float32.
    smooth[:, :, 1:-1, 1:-1] = total.float().mul_(1 / 13).add_(0.5).floor_()
    return blend(smooth, pixels, factors)


@register_op("blur", pillow=lambda im, v: im.filter(ImageFilter.BLUR))
def blur(images: Tensor, values: Tensor) -> Tensor:
    """The mean of the 16 pixels around a 5x5 window; a border of two pixels stays."""
    if min(images.shape[2:]) < 5:
        return images
    whole = images.to(torch.int16)
    sides = whole[..., :-4] + whole[..., 4:]
    rows = sides + whole[..., 1:-3] + whole[..., 2:-2] + whole[..., 3:-1]
    ring = rows[:, :, :-4] + rows[:, :, 4:] + sides[:, :, 1:-3] + sides[:, :, 2:-2] + sides[:, :, 3:-1]
    blurred = images.clone()
    blurred[:, :, 2:-2, 2:-2] = ring.add_(8).bitwise_right_shift_(4)
    return blurred


def _paint(image: Image.Image, value: float, corner: tuple[int, int]) -> Image.Image:
    if value < 1:
        return image
    (x, y), painted = corner, image.copy()
    black = 0 if image.mode == "L" else (0,) * len(image.getbands())
    box = (x, y, min(image.width, x + int(value)), min(image.height, y + int(value)))
    ImageDraw.Draw(painted).rectangle(box, black)
    return painted


def _reach(values: Sequence[float], height: int, width: int) -> Tensor:
    """How many pixels follow the first one, float32 ``[k]``; -1 where not even that is painted."""
    return torch.tensor([float(value) if value >= 1 else -1.0 for value in values])


@register_op("cutout", unit="pixels", identity=0, placed=True, whole=True, parameters=_reach, pillow=_paint)
def cutout(images: Tensor, reach: Tensor, corners: Tensor) -> Tensor:
    """Paint a black square from the corner on. Like ``ImageDraw``, it includes both ends: ``value + 1`` pixels a side.

    Args:
        images: uint8 ``[m, c, h, w]``.
        reach: float32 ``[m]``, pixels that follow the first one.
        corners: int64 ``[m, 2]``, ``(x, y)`` of the upper left pixel.
    """

    def covered(start: Tensor, size: int) -> Tensor:
        away = torch.arange(size, device=images.device) - start[:, None]
        return (away >= 0) & (away <= reach[:, None])

    x, y = covered(corners[:, 0], images.shape[3]), covered(corners[:, 1], images.shape[2])
    black = y[:, :, None] & x[:, None, :]
    return images * (~black).view(torch.uint8)[:, None]
