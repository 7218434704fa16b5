"""Operations that look at a pixel's neighbours, and the one that paints over a rectangle."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from torch import Tensor

from gar_env.augment.operation import register_op
from gar_env.augment.pointwise import blend


def _window_sum(pixels: Tensor, size: int) -> Tensor:
    """Sums over ``size x size`` windows that lie inside, ``[m, c, h - size + 1, w - size + 1]``."""
    h, w = pixels.shape[2] - size + 1, pixels.shape[3] - size + 1
    rows = pixels[..., :w].clone()
    for shift in range(1, size):
        rows += pixels[..., shift : shift + w]
    total = rows[:, :, :h].clone()
    for shift in range(1, size):
        total += rows[:, :, shift : shift + h]
    return total


@register_op("sharpness", unit="x", identity=1, pillow=lambda im, v: ImageEnhance.Sharpness(im).enhance(v))
def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the smoothed image: 3x3 windows, the centre five times; a border of one pixel stays."""
    pixels = images.float()
    if min(images.shape[2:]) < 3:
        return images  # Pillow filters no image that is smaller than the window
    smooth = pixels.clone()
    inner = smooth[:, :, 1:-1, 1:-1]
    # 2 s + 13 is odd, so its 26th part is never whole, and floor is safe from rounding.
    inner.mul_(4).add_(_window_sum(pixels, 3)).mul_(2).add_(13).div_(26).floor_()
    return blend(smooth, pixels, factors)


@register_op("blur", pillow=lambda im, v: im.filter(ImageFilter.BLUR))
def blur(images: Tensor, values: Tensor) -> Tensor:
    """The mean of the 16 pixels at distance two; a border of two pixels stays."""
    if min(images.shape[2:]) < 5:
        return images
    pixels = images.to(torch.int16)
    ring = _window_sum(pixels, 5) - _window_sum(pixels[:, :, 1:-1, 1:-1], 3)
    blurred = images.clone()
    blurred[:, :, 2:-2, 2:-2] = (ring + 8) >> 4
    return blurred


def _paint(image: Image.Image, value: float, corner: tuple[int, int]) -> Image.Image:
    if value < 1:
        return image
    (x, y), painted = corner, image.copy()
    black = 0 if image.mode == "L" else (0,) * len(image.getbands())
    box = (x, y, min(image.width, x + int(value)), min(image.height, y + int(value)))
    ImageDraw.Draw(painted).rectangle(box, black)
    return painted


@register_op("cutout", unit="pixels", identity=0, placed=True, pillow=_paint)
def cutout(images: Tensor, values: Tensor, corners: Tensor) -> Tensor:
    """Paint a black square from the corner on. Like ``ImageDraw``, it includes both ends: ``value + 1`` pixels a side.

    Args:
        images: uint8 ``[m, c, h, w]``.
        values: float32 ``[m]``.
        corners: int64 ``[m, 2]``, ``(x, y)`` of the upper left pixel.
    """

    def covered(start: Tensor, size: int) -> Tensor:
        away = torch.arange(size, device=images.device) - start[:, None]
        return (away >= 0) & (away <= values[:, None]) & (values >= 1)[:, None]

    x, y = covered(corners[:, 0], images.shape[3]), covered(corners[:, 1], images.shape[2])
    return images * ~(y[:, None, :, None] & x[:, None, None, :])
