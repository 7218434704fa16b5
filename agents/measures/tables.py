"""Tables: as Markdown, as CSV, on a terminal."""

from __future__ import annotations

import io
from csv import writer

import rich.table
from rich.console import Console


class Table(list[list[str]]):
    """Rows of text under a header.

    Args:
        title: Above it.
        header: One per column.
    """

    def __init__(self, title: str, header: list[str]) -> None:
        super().__init__()
        self.title, self.header = title, header

    def markdown(self) -> str:
        """As a Markdown table."""
        lines = [self.header, ["---"] * len(self.header), *self]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def csv(self) -> str:
        """As comma-separated values, with the title left out."""
        text = io.StringIO()
        writer(text, lineterminator="\n").writerows([self.header, *self])
        return text.getvalue()


def show(table: Table, console: Console, markdown: bool) -> None:
    """A table for the eye on a terminal, as Markdown elsewhere, where nothing may be cut to a width."""
    if markdown or not console.is_terminal:
        print(f"\n{table.title}\n\n{table.markdown()}")
        return
    drawn = rich.table.Table(title=table.title)
    for name in table.header:
        drawn.add_column(name)
    for row in table:
        drawn.add_row(*row)
    console.print(drawn)
