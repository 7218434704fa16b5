"""Which runs there are: sets of instances by name, and tables of one's own."""

from __future__ import annotations

import csv
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gar_env.envs.options import LARGEST_INT
from gar_env.errors import ConfigurationError
from gar_env.networks.layered import WIDEST
from gar_env.registry import Registry, check_positive, did_you_mean, shown

PARTS = ("train", "test")


@dataclass(frozen=True)
class Instance:
    """What a training run is like.

    Args:
        num_steps: Its length, at least 2: a run of one step decides nothing.
        step_size: Where it starts: the step size before the first action.
        share: Of the training examples, which it may see, in (0, 1].
        widths: Of the network's layers; ``None`` are those of the environment's network.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    num_steps: int = 200
    step_size: float = 0.1
    share: float = 1.0
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if type(self.num_steps) is not int or not 2 <= self.num_steps < LARGEST_INT:
            raise ConfigurationError(
                f"num_steps={shown(self.num_steps)} must be a whole number from 2 to {LARGEST_INT - 1}."
            )
        check_positive("step_size", self.step_size)
        if type(self.share) not in (int, float) or not 0 < self.share <= 1:
            raise ConfigurationError(f"share={shown(self.share)} must be a number above 0, and at most 1.")
        fits = self.widths is None or (isinstance(self.widths, tuple) and len(self.widths) > 0)
        if not fits or any(type(width) is not int or not 1 <= width <= WIDEST for width in self.widths or ()):
            raise ConfigurationError(f"widths={shown(self.widths)} must be whole numbers from 1 to {WIDEST}.")


class InstanceSet(ABC):
    """Instances by the seeds of runs. Those to learn on and those to test on have nothing in common."""

    layers: int | None = None
    """How many widths each instance has; ``None`` if it has none of its own."""

    @abstractmethod
    def train(self, generator: np.random.Generator) -> Instance:
        """One to learn on."""

    @abstractmethod
    def test(self, generator: np.random.Generator) -> Instance:
        """One to test on."""

    @abstractmethod
    def widest(self, part: str) -> tuple[int, ...] | None:
        """The largest width of each layer in a part."""

    @abstractmethod
    def longest(self, part: str) -> int:
        """Most steps in a part."""

    @property
    def identity(self) -> str:
        """Tells it from others: a state of an environment with one set belongs to no environment with another."""
        return type(self).__qualname__

    def draw(self, part: str, generator: np.random.Generator) -> Instance:
        """One of a part, held against what the set says of itself.

        Raises:
            ConfigurationError: If it is no instance, or longer or wider than any should be.
        """
        found = self.train(generator) if part == "train" else self.test(generator)
        name, widest, longest = type(self).__name__, self.widest(part), self.longest(part)
        if not isinstance(found, Instance):
            raise ConfigurationError(f"{name}.{part} returned {shown(found)}; expected an Instance.")
        if found.num_steps > longest:
            raise ConfigurationError(
                f"{name}.{part} returned num_steps={found.num_steps}, and longest({part!r}) is {longest}."
            )
        own, most = (None if widths is None else len(widths) for widths in (found.widths, widest))
        if not own == most == self.layers or any(a > b for a, b in zip(found.widths or (), widest or (), strict=True)):
            raise ConfigurationError(
                f"{name}.{part} returned widths={found.widths}; layers={self.layers}, and widest({part!r}) is {widest}."
            )
        return found

    def smallest_share(self, part: str) -> float:
        """Of the data, in a part."""
        return 1.0

    def step_sizes(self, part: str) -> tuple[float, ...]:
        """The smallest and the largest initial step size in a part, held against the bounds when it is made."""
        return ()


INSTANCES: Registry[type[InstanceSet]] = Registry("instance set")
register_instances = INSTANCES.register


LOWEST, HIGHEST = 1e-5, 1.0
"""Initial step sizes of our sets."""


class _Drawn(InstanceSet):
    """A set by what is known of its parts."""

    longest_of: ClassVar[dict[str, int]]
    widest_of: ClassVar[dict[str, tuple[int, ...]]]
    smallest_of: ClassVar[dict[str, float]]

    def widest(self, part: str) -> tuple[int, ...] | None:
        """See :class:`InstanceSet`."""
        return self.widest_of[part]

    def longest(self, part: str) -> int:
        """See :class:`InstanceSet`."""
        return self.longest_of[part]

    def smallest_share(self, part: str) -> float:
        """See :class:`InstanceSet`."""
        return self.smallest_of[part]

    def step_sizes(self, part: str) -> tuple[float, ...]:
        """See :class:`InstanceSet`."""
        return LOWEST, HIGHEST


def _log_uniform(generator: np.random.Generator) -> float:
    return float(math.exp(generator.uniform(math.log(LOWEST), math.log(HIGHEST))))


@register_instances("fixed")
class FixedInstances(InstanceSet):
    """The environment's own network, all the data, 300 steps, a step size of 0.1."""

    def train(self, generator: np.random.Generator) -> Instance:
        """See :class:`InstanceSet`."""
        return Instance(num_steps=300)

    def test(self, generator: np.random.Generator) -> Instance:
        """The same: there is nothing to tell apart."""
        return self.train(generator)

    def widest(self, part: str) -> tuple[int, ...] | None:
        """See :class:`InstanceSet`."""
        return None

    def longest(self, part: str) -> int:
        """See :class:`InstanceSet`."""
        return 300


@register_instances("small")
class SmallInstances(_Drawn):
    """One hidden layer. To learn on: 8 to 31 units, 0.2 to 0.9 of the data, 100 to 300 steps. To test on: 32, 64 or 128
    units, all the data, 300 to 600 steps. Step sizes log-uniform from 1e-5 to 1.
    """

    layers = 1
    longest_of = {"train": 300, "test": 600}
    widest_of = {"train": (31,), "test": (128,)}
    smallest_of = {"train": 0.2, "test": 1.0}

    def train(self, generator: np.random.Generator) -> Instance:
        """See :class:`InstanceSet`."""
        return Instance(
            int(generator.integers(100, 301)),
            _log_uniform(generator),
            float(generator.uniform(0.2, 0.9)),
            (int(generator.integers(8, 32)),),
        )

    def test(self, generator: np.random.Generator) -> Instance:
        """See :class:`InstanceSet`."""
        width = int(generator.choice([32, 64, 128]))
        return Instance(int(generator.integers(300, 601)), _log_uniform(generator), 1.0, (width,))


@register_instances("paper")
class PaperInstances(_Drawn):
    """Three widths, for ``cpcpcrcs-...``. To learn on: 2 to 9, 5 to 24 and 50 to 249 channels, 0.1 to 0.5 of the data,
    300 to 999 steps. To test on: 20, 50 and 500 channels, all the data, 2,000 steps. Step sizes log-uniform from 1e-5
    to 1.

    Source:
        The instances of "Automated dynamic algorithm configuration" (Adriaensen et al., 2022) for Daniel, Taylor &
        Nowozin (2016); a run's part of the data is random here, and the first examples there.
    """

    layers = 3
    longest_of = {"train": 999, "test": 2000}
    widest_of = {"train": (9, 24, 249), "test": (20, 50, 500)}
    smallest_of = {"train": 0.1, "test": 1.0}

    def train(self, generator: np.random.Generator) -> Instance:
        """See :class:`InstanceSet`."""
        widths = tuple(int(generator.integers(low, high)) for low, high in ((2, 10), (5, 25), (50, 250)))
        return Instance(
            int(generator.integers(300, 1000)), _log_uniform(generator), float(generator.uniform(0.1, 0.5)), widths
        )

    def test(self, generator: np.random.Generator) -> Instance:
        """See :class:`InstanceSet`."""
        return Instance(2000, _log_uniform(generator), 1.0, (20, 50, 500))


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
        return f"{self.name} ({hashlib.sha256(repr(self.lines).encode()).hexdigest()[:12]})"

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


def load_instances(instances: str | InstanceSet) -> InstanceSet:
    """A registered set, one from a CSV file, or one that is built already.

    Raises:
        ConfigurationError: If there is no such set and no such file.
    """
    if isinstance(instances, InstanceSet):
        return instances
    if instances in INSTANCES:
        return INSTANCES[instances]()
    if instances.endswith(".csv"):
        return TableOfInstances.read(instances)
    raise ConfigurationError(
        f"instances={shown(instances)} is unknown.{did_you_mean(instances, INSTANCES)} Choose one of "
        f"{', '.join(INSTANCES)}, or the path of a .csv file."
    )
