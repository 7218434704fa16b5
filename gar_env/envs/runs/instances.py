"""What a training run is like, and what a set of such runs says of itself."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from gar_env.envs.options import LARGEST_INT
from gar_env.errors import ConfigurationError
from gar_env.networks.layered import WIDEST
from gar_env.registry import Registry, check_positive, shown

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
        own = {key: value for key, value in vars(self).items() if isinstance(value, _SIMPLE)}
        return f"{type(self).__qualname__}({hashed(own)})"

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


_SIMPLE = (bool, int, float, str, tuple, list, dict)


def hashed(thing: object) -> str:
    """A short name for what its words describe."""
    return hashlib.sha256(repr(thing).encode()).hexdigest()[:12]


INSTANCES: Registry[type[InstanceSet]] = Registry("instance set")
register_instances = INSTANCES.register
