"""What all figures share."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.files import write_whole
from gar_env.errors import ConfigurationError


def save(figure: Figure, path: str | Path) -> Path:
    """Write a PNG; its folder is made.

    Raises:
        ConfigurationError: If the name ends otherwise.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"{path} would be a PNG file. Call it {path.with_suffix('.png').name}.")
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format="png")
    write_whole(path, content.getvalue())
    return path
