"""What the tables of all experiments share."""

from __future__ import annotations

import hashlib
import io
from csv import writer
from functools import lru_cache

from agents.experiments.results import fingerprint
from gar_env.data import load_dataset


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


@lru_cache(maxsize=4)
def data_fingerprint(dataset: str) -> str:
    """Tells one data set from another, whatever its file is called."""
    data = load_dataset(dataset)
    arrays = [data.x_train, data.y_train, data.x_test, data.y_test]
    if data.group_train is not None:
        arrays.append(data.group_train)
    digests = [hashlib.sha256(array.contiguous().numpy()).hexdigest() for array in arrays]  # pyright: ignore[reportArgumentType]
    return fingerprint([digests, [list(array.shape) for array in arrays], list(data.classes), list(data.groups)])
