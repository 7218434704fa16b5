"""Operations that move pixels: nearest neighbour, black outside, in Pillow's 16.16 fixed-point arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gar_env.augment.operation import Parameters, register_op

ONE = 1 << 16
TABLE_PIXELS = 96 * 96  # up to this size, where every pixel comes from is tabled once (18 KiB for each value)

Coefficients = tuple[int, int, int, int, int, int]
"""``x_in = (a2 + a0 x + a1 y) >> 16``, ``y_in = (a5 + a3 x + a4 y) >> 16``."""


def fixed_point(a: float, b: float, c: float, d: float, e: float, f: float) -> Coefficients:
    """What Pillow makes of ``Image.transform(size, AFFINE, (a, b, c, d, e, f))``: from pixel centre to pixel."""

    def fix(value: float) -> int:
        return math.floor(value * ONE + 0.5)

    return fix(a), fix(b), fix(c + a * 0.5 + b * 0.5), fix(d), fix(e), fix(f + d * 0.5 + e * 0.5)


def rotation(degrees: float, height: int, width: int) -> Coefficients:
    """Counter-clockwise about the centre; multiples of 90 degrees are transposes where the shape allows it."""
    degrees = degrees % 360
    last_x, last_y = (width - 1) * ONE, (height - 1) * ONE
    if degrees == 180:
        return -ONE, 0, last_x, 0, -ONE, last_y
    if degrees == 90 and width == height:
        return 0, -ONE, last_x, ONE, 0, 0
    if degrees == 270 and width == height:
        return 0, ONE, 0, -ONE, 0, last_y
    angle = -math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    minus_sin = round(-math.sin(angle), 15)
    x, y = width / 2.0, height / 2.0
    return fixed_point(cos, sin, cos * -x + sin * -y + 0.0 + x, minus_sin, cos, minus_sin * -x + cos * -y + 0.0 + y)


def _flipped_lr(value: float, height: int, width: int) -> Coefficients:
    return -ONE, 0, (width - 1) * ONE, 0, ONE, 0


def _flipped_ud(value: float, height: int, width: int) -> Coefficients:
    return ONE, 0, 0, 0, -ONE, (height - 1) * ONE


def source_pixels(coefficients: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from.

    Args:
        coefficients: int64 ``[k, 6]``.
        height: Of the images.
        width: Likewise.

    Returns:
        int64 ``[k, height * width]``: the number of a pixel, row by row, or ``height * width`` for outside.
    """
    a0, a1, a2, a3, a4, a5 = coefficients[:, :, None, None].unbind(1)
    x = torch.arange(width, device=coefficients.device)
    y = torch.arange(height, device=coefficients.device)[:, None]
    x_in, y_in = (a2 + a1 * y + a0 * x) >> 16, (a5 + a4 * y + a3 * x) >> 16
    inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
    return torch.where(inside, y_in * width + x_in, height * width).flatten(1)


def _parameters(of_value: Callable[[float, int, int], Coefficients]) -> Parameters:
    def parameters(values: Sequence[float], height: int, width: int) -> Tensor:
        coefficients = torch.tensor([of_value(value, height, width) for value in values], dtype=torch.int64)
        if height * width > TABLE_PIXELS:
            return coefficients
        return source_pixels(coefficients, height, width).to(torch.int16)  # short, to be read fast

    return parameters


def _affine(*of_value: Callable[[float], float]) -> tuple[Callable[..., Image.Image], Parameters]:
    """Pillow's call and our parameters from six functions of the value."""

    def pillow(image: Image.Image, value: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, tuple(of(value) for of in of_value))

    return pillow, _parameters(lambda value, height, width: fixed_point(*(of(value) for of in of_value)))


def _zero(value: float) -> float:
    return 0.0


def _one(value: float) -> float:
    return 1.0


def _value(value: float) -> float:
    return value


def move(images: Tensor, rows: Tensor) -> Tensor:
    """Gather every pixel from where it comes from.

    Args:
        images: uint8 ``[m, c, h, w]``.
        rows: int16 ``[m, h * w]`` of :func:`source_pixels`, or int64 ``[m, 6]`` coefficients.
    """
    if rows.dtype == torch.int64 and images.device.type == "cpu":
        moved = torch.empty(images.shape, dtype=images.dtype)
        for image, coefficients, out in zip(images.contiguous(), rows.tolist(), moved, strict=True):
            _move_one(image, coefficients, out)
        return moved
    if rows.dtype == torch.int64:
        rows = source_pixels(rows, *images.shape[2:])
    source = rows.long()[:, None].expand(-1, images.shape[1], -1)
    with_black = F.pad(images.flatten(2), (0, 1))  # one more pixel, for what comes from outside
    return with_black.gather(2, source).view_as(images)


def _move_one(image: Tensor, coefficients: Coefficients, out: Tensor) -> None:
    """One large image ``[c, h, w]`` on the CPU: whole rows and blocks are copied where the operation allows it."""
    a0, a1, a2, a3, a4, a5 = coefficients
    height, width = image.shape[1:]
    if a1 == a3 == 0 and abs(a0) == abs(a4) == ONE:
        return _copy_block(image, a0 // ONE, a2 >> 16, a4 // ONE, a5 >> 16, out)
    if (a0, a3, a4) == (ONE, 0, ONE) and a5 >> 16 == 0:
        return _shift(image.numpy(), (a2 + a1 * np.arange(height)) >> 16, out.numpy())
    if (a0, a1, a4) == (ONE, 0, ONE) and a2 >> 16 == 0:
        return _shift(image.mT.numpy(), (a5 + a3 * np.arange(width)) >> 16, out.mT.numpy())
    largest = max(abs(a0) * width + abs(a1) * height + abs(a2), abs(a3) * width + abs(a4) * height + abs(a5))
    dtype = torch.int32 if largest < 2**31 else torch.int64
    x, y = torch.arange(width, dtype=dtype), torch.arange(height, dtype=dtype)[:, None]
    x_in = (a0 * x).add(a1 * y + a2).bitwise_right_shift_(16).clamp_(-1, width)
    y_in = (a3 * x).add(a4 * y + a5).bitwise_right_shift_(16).clamp_(-1, height)
    source = y_in.mul_(width + 2).add_(x_in).add_(width + 3).flatten().int()
    for channel, moved in zip(F.pad(image, (1, 1, 1, 1)).flatten(1), out.view(len(image), -1), strict=True):
        torch.index_select(channel, 0, source, out=moved)


def _shift(image: np.ndarray, shifts: np.ndarray, out: np.ndarray) -> None:
    """``x_in = x + shifts[y]`` of ``[c, h, w]``: every row is a window of a row with black on both sides."""
    channels, height, width = image.shape
    rows = np.zeros((channels, height, 3 * width), np.uint8)
    rows[:, :, width : 2 * width] = image
    # NumPy copies a window whole, torch pixel by pixel. Of a row of 3 w numbers, 2 w + 1 windows of w begin at 0..2 w,
    # and so do the clipped shifts: none reads past its row.
    strides = (height * 3 * width, 3 * width, 1, 1)
    windows = np.lib.stride_tricks.as_strided(rows, (channels, height, 2 * width + 1, width), strides)
    out[:] = windows[:, np.arange(height), shifts.clip(-width, width) + width]


def _copy_block(image: Tensor, x_sign: int, x_shift: int, y_sign: int, y_shift: int, out: Tensor) -> None:
    """``x_in = x_sign x + x_shift`` and likewise for rows: flips, and translations by whole pixels."""
    _, height, width = image.shape
    if x_sign < 0:
        image, x_shift = image.flip(2), width - 1 - x_shift
    if y_sign < 0:
        image, y_shift = image.flip(1), height - 1 - y_shift
    left, right = max(0, -x_shift), min(width, width - x_shift)
    top, bottom = max(0, -y_shift), min(height, height - y_shift)
    out.zero_()
    if left < right and top < bottom:
        source = image[:, top + y_shift : bottom + y_shift, left + x_shift : right + x_shift]
        out[:, top:bottom, left:right] = source


register_op(
    "rotate",
    unit="degrees",
    identity=0,
    parameters=_parameters(rotation),
    pillow=lambda image, value: image.rotate(value),
)(move)
for _name, _unit, _of_value in (
    ("shear_x", "x", (_one, _value, _zero, _zero, _one, _zero)),
    ("shear_y", "x", (_one, _zero, _zero, _value, _one, _zero)),
    ("translate_x", "pixels", (_one, _zero, _value, _zero, _one, _zero)),
    ("translate_y", "pixels", (_one, _zero, _zero, _zero, _one, _value)),
):
    _pillow, _rows = _affine(*_of_value)
    # Pillow moves by fractions of a pixel in double precision, and adds up roundings on the way: whole pixels only.
    register_op(_name, unit=_unit, identity=0, parameters=_rows, pillow=_pillow, whole=_unit == "pixels")(move)
register_op(
    "flip_lr",
    parameters=_parameters(_flipped_lr),
    pillow=lambda image, value: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
)(move)
register_op(
    "flip_ud",
    parameters=_parameters(_flipped_ud),
    pillow=lambda image, value: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
)(move)
