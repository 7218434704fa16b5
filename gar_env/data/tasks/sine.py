"""Sine waves: the regression tasks of MAML and of Reptile."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gar_env.data.tasks.source import Tasks, TaskSource, check_draw, register_tasks
from gar_env.errors import ConfigurationError
from gar_env.registry import shown

LIMIT = 5.0
"""Inputs are in [-5, 5]."""


@register_tasks("sine")
class SineTasks(TaskSource):
    """``y = a sin(x + b)``, amplitude ``a`` in [0.1, 5], phase ``b`` in [0, 2 pi], on 50 points from -5 to 5, evenly.

    To train on, S of the points and Q others; with S = 50, all points are support, and queries are the same points. To
    test on, S of them, and by default all 50 are queries.

    Args:
        shots: S.

    Raises:
        ConfigurationError: If there are fewer points than shots.

    Source:
        The demonstration of Reptile (Nichol, Achiam & Schulman, 2018), which the sine waves of Eshratifar et al.
        (2018) follow.
    """

    name, input_shape, outputs = "sine", (1,), 1
    loss: ClassVar[str] = "squared_error"
    highest_phase: ClassVar[float] = 2 * math.pi
    points: ClassVar[int] = 50

    def __init__(self, shots: int = 10) -> None:
        if type(shots) is not int or not 1 <= shots <= self.points:
            raise ConfigurationError(f"shots={shown(shots)} must be from 1 to {self.points}, the points of a wave.")
        self.shots = shots

    def draw(self, n: int, generator: Generator, *, part: str = "train", queries: int | None = None) -> Tasks:
        """See :class:`TaskSource`."""
        check_draw(part, queries)
        count, shots, points = self.points if queries is None else queries, self.shots, self.points
        if count > points:
            raise ConfigurationError(f"queries={shown(queries)} must be from 1 to {points}, the points of a wave.")
        grid = torch.linspace(-LIMIT, LIMIT, points)
        order = torch.rand(n, points, generator=generator).argsort(1)
        first = shots if shots + count <= points else points - count
        places = order[:, :shots], (order[:, first : first + count] if count < points else None)
        waves = self._waves(n, generator)
        x = grid[places[0]], (grid.expand(n, points) if places[1] is None else grid[places[1]])
        return _tasks(waves, *x)

    def _waves(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        amplitude = 0.1 + 4.9 * torch.rand(n, 1, generator=generator)
        return amplitude, self.highest_phase * torch.rand(n, 1, generator=generator)


@register_tasks("sine_maml")
class MamlSineTasks(SineTasks):
    """``y = a sin(x - b)``, amplitude ``a`` in [0.1, 5], phase ``b`` in [0, pi], inputs uniform in [-5, 5].

    By default as many queries as shots to train on, and 100 to test on.

    Args:
        shots: S.

    Source:
        Finn, Abbeel & Levine (2017).
    """

    name = "sine_maml"
    points = 10**6

    def draw(self, n: int, generator: Generator, *, part: str = "train", queries: int | None = None) -> Tasks:
        """See :class:`TaskSource`."""
        check_draw(part, queries)
        count = queries or (self.shots if part == "train" else 100)
        amplitude = 0.1 + 4.9 * torch.rand(n, 1, generator=generator)
        phase = math.pi * torch.rand(n, 1, generator=generator)
        x = LIMIT * (2 * torch.rand(n, self.shots + count, generator=generator) - 1)
        return _tasks((amplitude, -phase), x[:, : self.shots], x[:, self.shots :])


def _tasks(waves: tuple[Tensor, Tensor], support: Tensor, query: Tensor) -> Tasks:
    amplitude, phase = waves
    x = [one[..., None] for one in (support, query)]
    y = [(amplitude * torch.sin(one + phase))[..., None] for one in (support, query)]
    return Tasks(x[0], y[0], x[1], y[1], torch.zeros(len(amplitude), dtype=torch.bool))
