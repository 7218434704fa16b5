"""Instances from a table of one's own."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gar_env.envs.runs.instances import PARTS, Instance, InstanceSet, hashed
from gar_env.errors import ConfigurationError
from gar_env.registry import did_you_mean, shown

COLUMNS = ("part", "num_steps", "step_size", "share", "widths")


class TableOfInstances(InstanceSet):
    """A table of one's own: each run is one of its lines.

    Args:
        lines: By part. A part without lines is refused where it is asked for.
        name: For messages.
    """

    def __init__(self, lines: dict[str, list[Instance]], name: str) -> None:
        self.lines, self.name = lines, name
        every = [one for part in lines.values() for one in part]
        counts = {None if one.widths is None else len(one.widths) for one in every}
        if not every:
            raise ConfigurationError(f"{name} holds no instances.")
        if len(counts) > 1:
            raise ConfigurationError(
                f"{name} has instances with {' and '.join(sorted(map(str, counts)))} widths. They train as one stack: "
                "give all of them as many, and make one environment for each network."
            )
        self.layers = counts.pop()

    @classmethod
    def read(cls, path: str | Path) -> TableOfInstances:
        """From a CSV file: a header with some of ``part``, ``num_steps``, ``step_size``, ``share``, ``widths``.

        ``part`` is ``train`` (the default) or ``test``, ``widths`` as in ``20-50-500``; what a table has no column for
        is as in :class:`Instance`.

        Raises:
            ConfigurationError: If it is not there or empty, has other columns, or a line cannot be read: with its
                number.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"The instances {shown(str(path))} cannot be read: {reason}.") from error
        header = [name.strip() for name in rows[0]] if rows else []
        odd = [name for name in header if name not in COLUMNS]
        if odd or not header or len(set(header)) < len(header):
            what = f"a column {shown(odd[0])}.{did_you_mean(odd[0], COLUMNS)}" if odd else "a column twice, or none."
            raise ConfigurationError(f"{path} has {what} Known: {', '.join(COLUMNS)}.")
        lines: dict[str, list[Instance]] = {part: [] for part in PARTS}
        for number, row in enumerate(rows[1:], start=2):
            if not row:
                continue
            try:
                part, instance = _read(header, row)
            except ConfigurationError as error:
                raise ConfigurationError(f"{path}, line {number}: {error}") from error
            lines[part].append(instance)
        return cls(lines, str(path))

    def train(self, generator: np.random.Generator) -> Instance:
        """See :class:`InstanceSet`."""
        return self._of("train")[int(generator.integers(len(self._of("train"))))]

    def test(self, generator: np.random.Generator) -> Instance:
        """See :class:`InstanceSet`."""
        return self._of("test")[int(generator.integers(len(self._of("test"))))]

    def widest(self, part: str) -> tuple[int, ...] | None:
        """See :class:`InstanceSet`."""
        widths = [one.widths for one in self._of(part) if one.widths is not None]
        return tuple(map(max, zip(*widths, strict=True))) if widths else None

    def longest(self, part: str) -> int:
        """See :class:`InstanceSet`."""
        return max(one.num_steps for one in self._of(part))

    def smallest_share(self, part: str) -> float:
        """See :class:`InstanceSet`."""
        return min(one.share for one in self._of(part))

    def step_sizes(self, part: str) -> tuple[float, ...]:
        """See :class:`InstanceSet`."""
        return tuple(one.step_size for one in self._of(part))

    @property
    def identity(self) -> str:
        """See :class:`InstanceSet`."""
        return f"table {hashed(self.lines)}"

    def _of(self, part: str) -> list[Instance]:
        if not self.lines.get(part):
            raise ConfigurationError(f"{self.name} has no instances of part={part!r}. Add lines with part {part}.")
        return self.lines[part]


def _read(header: list[str], cells: list[str]) -> tuple[str, Instance]:
    if len(cells) != len(header):
        raise ConfigurationError(f"there are {len(cells)} cells, and {len(header)} columns.")
    texts = dict(zip(header, map(str.strip, cells), strict=True))
    part = texts.pop("part", "") or "train"
    if part not in PARTS:
        raise ConfigurationError(f"part={shown(part)} is unknown. Choose one of {', '.join(PARTS)}.")
    found = {}
    for name, text in texts.items():
        kind, words = _CELLS[name]
        try:
            found[name] = kind(text)
        except ValueError:
            raise ConfigurationError(f"{name}={shown(text)} is no {words}.") from None
    return part, Instance(**found)


_CELLS: dict[str, tuple[Callable[[str], Any], str]] = {
    "num_steps": (int, "whole number"),
    "step_size": (float, "number"),
    "share": (float, "number"),
    "widths": (lambda text: tuple(map(int, text.split("-"))), "list of widths, as in 20-50-500"),
}
