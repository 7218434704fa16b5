"""The progress bar of all commands: steps done, time taken, time left; quiet when not a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

WINDOW = 600  # seconds that the estimate of the time left looks back on


def step_progress(console: Console) -> Progress:
    """A bar that counts steps; tasks are added by the caller."""
    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=WINDOW,
    )
