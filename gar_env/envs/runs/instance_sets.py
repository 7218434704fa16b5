"""Which runs there are: sets of instances by name, or from a file."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from gar_env.envs.runs.instance_tables import TableOfInstances
from gar_env.envs.runs.instances import INSTANCES, Instance, InstanceSet, register_instances
from gar_env.errors import ConfigurationError
from gar_env.registry import did_you_mean, shown

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
