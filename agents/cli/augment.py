"""``gar-env augment``: what a search space holds, and what it looks like."""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.console import Console

from gar_env.errors import ConfigurationError


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
    from agents.measures.tables import Table, show
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
        from agents.measures.augmentation_figures import operations_grid
        from agents.measures.figures import save
        from agents.measures.picture import read_picture, shrunk

        whole = read_picture(image)
        pixels = shrunk(whole)
        if pixels is not whole:
            console.print(f"Drawn at {pixels.shape[1]}x{pixels.shape[2]} pixels, since every panel is small.")
        console.print(str(save(operations_grid(pixels, chosen), plot)), soft_wrap=True, highlight=False)
