"""Operations that look at one pixel, and perhaps at statistics of the image.

Index legend: ``m`` images, ``c`` channels (1 or 3), ``h`` rows, ``w`` columns. Every formula is that of Pillow's C
code, and equals it in every bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from gar_env.augment.operation import register_op


def blend(degenerate: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    """``degenerate + (pixels - degenerate) * factor``, cut to 0..255 and to whole numbers.

    Args:
        degenerate: float32, whole numbers, broadcast over ``pixels``.
        pixels: float32 ``[m, c, h, w]``, whole numbers.
        factors: float32 ``[m]``.

    Returns:
        uint8 ``[m, c, h, w]``.
    """
    # Two roundings, as in C. A fused multiply-add, torch.lerp or addcmul has one, and differs in 1 of 2,000 pairs.
    blended = pixels.sub(degenerate).mul_(factors[:, None, None, None]).add_(degenerate).clamp_(0, 255)
    return blended.to(torch.int16).to(torch.uint8)  # a third of the time of going there directly


def gray(pixels: Tensor) -> Tensor:
    """Pillow's mode ``L`` of float32 ``[m, c, h, w]``, whole numbers: float32 ``[m, 1, h, w]``, whole numbers.

    ``(19595 R + 38470 G + 7471 B + 0x8000) >> 16``, all below 2**24 and so exact in float32, however it is rounded.
    """
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, 1)
    return red.mul(19595).add_(green * 38470).add_(blue * 7471).add_(0x8000).mul_(1 / 65536).floor_()


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace every pixel by the entry of its image's and channel's table, uint8 ``[m, c, 256]``."""
    return tables.gather(2, images.flatten(2).long()).view_as(images)


@register_op("brightness", unit="x", identity=1, pillow=lambda im, v: ImageEnhance.Brightness(im).enhance(v))
def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with black."""
    return blend(torch.zeros((), device=images.device), images.float(), factors)


@register_op("contrast", unit="x", identity=1, pillow=lambda im, v: ImageEnhance.Contrast(im).enhance(v))
def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean gray of the image."""
    pixels = images.float()
    n = images.shape[2] * images.shape[3]
    total = gray(pixels).sum((1, 2, 3), dtype=torch.float64).long()
    mean = (2 * total + n) // (2 * n)  # whole numbers: a GPU divides floats by a Python number with two roundings
    return blend(mean.float()[:, None, None, None], pixels, factors)


@register_op("color", unit="x", identity=1, pillow=lambda im, v: ImageEnhance.Color(im).enhance(v))
def color(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the gray image; a gray image stays as it is."""
    pixels = images.float()
    return blend(gray(pixels), pixels, factors)


# posterize, solarize and invert are one kernel: out = (v ^ (flip if v > below else 0) ^ always) & mask


def _bits(rows: Sequence[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def posterize_bits(values: Sequence[float], height: int, width: int) -> Tensor:
    """Keep the highest ``value`` of 8 bits."""
    return _bits([(0, 0, 0, 256 - 2 ** (8 - int(value))) for value in values])


def solarize_bits(values: Sequence[float], height: int, width: int) -> Tensor:
    """Invert from the threshold on; from 256 on nothing."""
    below = [min(math.ceil(value) - 1, 255) for value in values]
    return _bits([(level, 255, 0, 255) if level >= 0 else (0, 0, 255, 255) for level in below])


def invert_bits(values: Sequence[float], height: int, width: int) -> Tensor:
    """Invert from 0 on."""
    return _bits([(0, 0, 255, 255)] * len(values))


@register_op("invert", parameters=invert_bits, pillow=lambda im, v: ImageOps.invert(im))
@register_op(
    "solarize", unit="threshold", identity=256, parameters=solarize_bits, pillow=lambda im, v: ImageOps.solarize(im, v)
)
@register_op(
    "posterize",
    unit="bits",
    identity=8,
    whole=True,
    limits=(0, 8),
    parameters=posterize_bits,
    pillow=lambda im, v: ImageOps.posterize(im, int(v)),
)
def bits(images: Tensor, rows: Tensor) -> Tensor:
    """Bit by bit; ``rows`` is uint8 ``[m, 4]``: below, flip, always, mask."""
    below, flip, always, mask = rows[:, :, None].unbind(1)
    pixels = images.flatten(1)
    # 1 where a pixel is above, without a comparison: those of bytes are ten times slower than arithmetic.
    above = torch.maximum(pixels, below).sub_(below).clamp_(max=1)
    return above.mul_(flip).bitwise_xor_(pixels).bitwise_xor_(always).bitwise_and_(mask).view_as(images)


@register_op("auto_contrast", pillow=lambda im, v: ImageOps.autocontrast(im))
def auto_contrast(images: Tensor, values: Tensor) -> Tensor:
    """Stretch every channel to 0..255."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True).double(), flat.amax(2, keepdim=True).double()
    spread = high - low
    flat_one = spread == 0  # stays as it is
    scale = torch.full_like(spread, 255) / spread  # a Python number divided by a tensor is rounded twice
    scale, offset = scale.masked_fill(flat_one, 1), (-low * scale).masked_fill(flat_one, 0)
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    stretched = (levels * scale).add_(offset).clamp_(0, 255)  # to whole numbers by cutting off, as in C
    return look_up(images, stretched.to(torch.uint8))


@register_op("equalize", pillow=lambda im, v: ImageOps.equalize(im))
def equalize(images: Tensor, values: Tensor) -> Tensor:
    """Even out every channel's histogram."""
    flat = images.flatten(2).long()
    counts = _histograms(images.flatten(2), flat)
    last = counts.gather(2, flat.amax(2, keepdim=True)).long()
    step = (flat.shape[2] - last) // 255
    below = counts.cumsum(2).sub_(counts)
    # Tensor by tensor, of whole numbers below 2**53: the quotient cannot be rounded up to the next whole one.
    evened = below.add_(step // 2).div_(step.clamp_min(1)).floor_().clamp_max_(255)
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    return torch.where(step > 0, evened, levels).to(torch.uint8).gather(2, flat).view_as(images)


def _histograms(pixels: Tensor, levels: Tensor) -> Tensor:
    """Of every image's and channel's bytes, float64 ``[m, c, 256]``, whole numbers; ``levels`` are they as int64."""
    if pixels.device.type == "cpu" and pixels.shape[2] > 2**12:
        counts = [torch.bincount(channel, minlength=256) for channel in pixels.flatten(0, 1)]
        return torch.stack(counts).double().view(*pixels.shape[:2], 256)
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.float64, device=pixels.device)
    return counts.scatter_add_(2, levels, torch.ones_like(levels, dtype=torch.float64))  # faster than whole numbers


def _same(image: Image.Image, value: float) -> Image.Image:
    return image


@register_op("identity", identity=0, pillow=_same)
def identity(images: Tensor, values: Tensor) -> Tensor:
    """The image as it is."""
    return images
