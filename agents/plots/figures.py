"""What all figures share."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gar_env.errors import ConfigurationError


def save(figure: Figure, path: str | Path) -> Path:
    """Write a PNG; its folder is made.

    Raises:
        ConfigurationError: If the name ends otherwise.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"{path} would be a PNG file. Call it {path.with_suffix('.png').name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)
    return path
