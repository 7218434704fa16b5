"""``gar-env augment``: what a search space holds, and what it looks like."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from torch import Tensor

from agents.cli.tables import show
from gar_env.errors import ConfigurationError, DatasetFormatError, GarEnvError

LARGEST = 256  # pixels a side of a panel


def augment(
    image: tyro.conf.Positional[Path | None] = None,
    space: str = "wl",
    plot: Path | None = None,
    markdown: bool = False,
) -> None:
    """The operations of a search space with their ranges; with --plot, a picture of operations by strengths.

    Args:
        image: The picture to draw them on; an arrow by default.
        space: wl, ra, ra-translate, ta-wide, some of one as "wl[rotate,color]", or a .json file.
        plot: The PNG to write.
        markdown: Print the table as Markdown.
    """
    from agents.experiments.tables import Table
    from gar_env.augment import STRENGTHS, load_space

    console = Console()
    chosen = load_space(space)
    table = Table(
        f"Search space {chosen.name}: {len(chosen)} operations, strengths 0 to {STRENGTHS - 1}",
        ["operation", "at 0", "at 15", "at 30", "unit", "sign", "changes nothing at"],
    )
    for choice in chosen.choices:
        noops = [k for k in range(STRENGTHS) if choice.is_noop(k)]
        ranged = choice.op.unit is not None
        values = [f"{choice.value(k):.4g}" if ranged else "" for k in (0, 15, 30)]
        always = "any" if len(noops) == STRENGTHS else ", ".join(map(str, noops))
        table.append([choice.name, *values, choice.op.unit or "", "either" if choice.signed else "", always])
    show(table, console, markdown)
    if image is not None and plot is None:
        raise ConfigurationError(f"{image} is there to be drawn on. Say where to: --plot operations.png.")
    if plot is not None:
        from agents.plots import operations_grid, save

        pixels = _read(image)
        if max(pixels.shape[1:]) > LARGEST:
            pixels = F.adaptive_avg_pool2d(pixels.float(), _smaller(*pixels.shape[1:])).round().to(torch.uint8)
            console.print(f"Drawn at {pixels.shape[1]}x{pixels.shape[2]} pixels, since every panel is small.")
        console.print(str(save(operations_grid(pixels, chosen), plot)), soft_wrap=True, highlight=False)


def _smaller(height: int, width: int) -> tuple[int, int]:
    factor = LARGEST / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _read(path: Path | None) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    from gar_env.augment import to_tensor
    from gar_env.data import load_dataset

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
