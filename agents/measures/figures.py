"""What all figures share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agents.files import write_whole
from gar_env.errors import ConfigurationError


def save(figure: Figure, path: str | Path) -> Path:
    """Write a PNG, and beside it the same as PDF, for papers; their folder is made.

    Returns:
        The PNG.

    Raises:
        ConfigurationError: If the name ends otherwise.
    """
    path = Path(path)
    if path.suffix.lower() != ".png" or path.is_dir():
        called = path.with_suffix(".png").name if path.name else "picture.png"
        raise ConfigurationError(f"{str(path)[:200]} would be a PNG file. Call it {called[:200]}.")
    FigureCanvasAgg(figure)
    for kind in ("pdf", "png"):
        content = io.BytesIO()
        figure.savefig(content, dpi=150, format=kind)
        write_whole(path.with_suffix(f".{kind}"), content.getvalue())
    return path


def whole_steps(*axes: Any) -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
