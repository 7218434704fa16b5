"""What a slot observes: named, bounded features, in one flat float32 row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from gar_env.errors import NonFiniteObservationError
from gar_env.state import plain


class Feature(NamedTuple):
    """One column of an observation.

    Args:
        name: Unique in its environment.
        low: Smallest value.
        high: Largest value.
        meaning: For people, with the unit.
    """

    name: str
    low: float
    high: float
    meaning: str


PROGRESS = Feature("progress", 0, 1, "steps taken / num_steps")
RUNNING_LOSS = Feature("running_loss", 0, 1, "x / (1 + x) of the batch loss x in nats, decay 0.9")
LAST_REWARD = Feature("last_reward", -1, 1, "tanh of the slot's last reward / running root mean square of rewards")


RUNNING = 0.9  # decay per step of running means


@plain
class RunningSize:
    """Root mean square of what it was shown, decay 0.9 per call, corrected for its start from 0.

    Args:
        device: Of what it is shown.
    """

    state_fields = ("_square", "_calls")

    def __init__(self, device: torch.device) -> None:
        self._square = torch.zeros((), device=device)
        self._calls = 0

    def of(self, rewards: Tensor) -> Tensor:
        """Take in rewards ``[n]``; the size so far, a scalar above 0."""
        self._calls += 1
        self._square = RUNNING * self._square + (1 - RUNNING) * rewards.square().mean()
        size = (self._square / (1 - RUNNING**self._calls)).sqrt()
        return size.clamp_min(torch.finfo(torch.float32).tiny)


def squashed(positive: Tensor) -> Tensor:
    """``x / (1 + x)`` of non-negative numbers, in [0, 1]; NaN and infinity, as after divergence, are 1."""
    return (positive / (1 + positive)).nan_to_num(nan=1.0, posinf=1.0)


def observation_box(features: Sequence[Feature]) -> Box:
    """The space of one row, float32 ``[d]``."""
    return Box(
        np.array([feature.low for feature in features], np.float32),
        np.array([feature.high for feature in features], np.float32),
        dtype=np.float32,
    )


def observe(features: Sequence[Feature], columns: Sequence[float | Tensor], n: int, device: torch.device) -> Tensor:
    """Write columns into a new float32 ``[n, d]``, clamped to their bounds.

    Args:
        features: What the columns are, ``d`` in all.
        columns: One or more per feature: a scalar, ``[n]``, or ``[n, w]`` for ``w`` features in a row.
        n: How many rows.
        device: Where.

    Raises:
        NonFiniteObservationError: If a value is NaN or infinite; the message names the features.
    """
    row_blocks = []
    for column in columns:
        column = torch.as_tensor(column, dtype=torch.float32, device=device)
        row_blocks.append(column.expand(n, 1) if column.ndim == 0 else column.view(n, -1))
    observations = torch.cat(row_blocks, dim=1)
    finite = observations.isfinite()
    if not bool(finite.all()):
        names = [features[i].name for i in (~finite).any(0).nonzero().flatten().tolist()]
        raise NonFiniteObservationError(
            f"The observation features {', '.join(names)} are NaN or infinite in {int((~finite).any(1).sum())} of {n} "
            "slots. A feature must stay finite also when training diverges: bound it where it is computed."
        )
    return observations.clamp(*_bounds(tuple(features), device))


@lru_cache(maxsize=32)
def _bounds(features: tuple[Feature, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lowest and highest values, float32 ``[d]`` each."""
    low, high = ([getattr(feature, name) for feature in features] for name in ("low", "high"))
    return torch.tensor(low, device=device), torch.tensor(high, device=device)
