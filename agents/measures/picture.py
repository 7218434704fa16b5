"""The picture that operations are drawn on."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gar_env.augment import to_tensor
from gar_env.data import load_dataset
from gar_env.errors import DatasetFormatError, GarEnvError

LARGEST = 256  # pixels a side of a panel


def read_picture(path: Path | None) -> Tensor:
    """uint8 ``[channels, height, width]`` of an image file; an arrow without one.

    Raises:
        DatasetFormatError: If it is no image that Pillow reads, or has more than 8 bits a channel.
    """
    if path is None:
        return load_dataset("synthetic_invariances").x_train[1]
    if path.exists() and not path.is_file():
        raise DatasetFormatError(f"{path} is no file. Pass a PNG or JPEG file.")
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DatasetFormatError(
                    f"{path} has more than 8 bits a channel (mode {image.mode}). Save it with 8 bits."
                )
            return to_tensor(image if image.mode == "L" else image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise DatasetFormatError(f"{path} is no image that Pillow reads. Pass a PNG or JPEG file.") from error
    except GarEnvError:
        raise
    except Exception as error:  # of a decoder
        if isinstance(error, OSError) and error.filename is not None:  # not there: said by the command line
            raise
        raise DatasetFormatError(f"{path} cannot be read: {error}. Pass a whole PNG or JPEG file.") from error


def shrunk(pixels: Tensor) -> Tensor:
    """The same, or with :data:`LARGEST` pixels a side."""
    height, width = pixels.shape[1:]
    if max(height, width) <= LARGEST:
        return pixels
    factor = LARGEST / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return F.adaptive_avg_pool2d(pixels.float(), size).round().to(torch.uint8)
