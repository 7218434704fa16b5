"""Tables of results on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(table: Any, console: Console, markdown: bool) -> None:
    """A table for the eye on a terminal, as Markdown elsewhere, where nothing may be cut to a width."""
    if markdown or not console.is_terminal:
        print(f"\n{table.title}\n\n{table.markdown()}")
        return
    drawn = Table(title=table.title)
    for name in table.header:
        drawn.add_column(name)
    for row in table:
        drawn.add_row(*row)
    console.print(drawn)
