"""Baselines for data weights: which examples of a batch to keep."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor

from gar_env.errors import ConfigurationError


class SmallLoss:
    """Keep the examples with the smallest losses, as many as a known share of noise leaves.

    Args:
        drop_share: Share of each batch to drop, in [0, 1): the share of wrong labels, which this baseline is told.
        ramp: Share of training over which it grows from 0 to ``drop_share``, in [0, 1].

    Raises:
        ConfigurationError: If a share is out of range.

    Source:
        Han et al. (2018), "Co-teaching": the small-loss trick and its schedule, with one network.
    """

    def __init__(self, drop_share: float, *, ramp: float = 0.1) -> None:
        if not 0 <= drop_share < 1 or not 0 <= ramp <= 1:
            raise ConfigurationError(f"drop_share={drop_share} must be in [0, 1), ramp={ramp} in [0, 1].")
        self.drop_share, self.ramp = drop_share, ramp

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If slots do not observe their loss's rank.
        """
        names = getattr(env.unwrapped, "observation_names", ())
        if "loss_rank" not in names or "progress" not in names:
            raise ConfigurationError(
                "Small-loss selection needs the observations loss_rank and progress; found "
                f"{', '.join(names) or 'none'}. Use it on GAR/DataWeight-v1."
            )
        self._rank, self._progress = names.index("loss_rank"), names.index("progress")
        self._keep = _highest(env)

    def act(self, observations: Any) -> Tensor:
        """int64 ``[n]``."""
        observations = torch.as_tensor(observations)
        grown = 1.0 if self.ramp == 0 else min(1.0, float(observations[0, self._progress]) / self.ramp)
        n = len(observations)
        lower = (observations[:, self._rank] * (n - 1)).round()
        return (lower < round((1 - self.drop_share * grown) * n)).long() * self._keep

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it goes by what it sees."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


class KeepHighest:
    """Keep the rows in which an observed feature is highest, as many as a known share of corrupted ones leaves.

    Args:
        feature: Its name, such as ``"inner_gar"``.
        drop_share: Share of each batch to drop, in [0, 1), which this baseline is told.

    Raises:
        ConfigurationError: If the share is out of range.
    """

    def __init__(self, feature: str, drop_share: float) -> None:
        if not 0 <= drop_share < 1:
            raise ConfigurationError(f"drop_share={drop_share} must be in [0, 1).")
        self.feature, self.drop_share = feature, drop_share

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If rows do not observe the feature.
        """
        names = getattr(env.unwrapped, "observation_names", ())
        if self.feature not in names:
            raise ConfigurationError(
                f"There is no feature {self.feature!r} to keep rows by; {type(env.unwrapped).__name__} shows "
                f"{', '.join(names) or 'none'}."
            )
        self._place, self._keep = names.index(self.feature), _highest(env)

    def act(self, observations: Any) -> Tensor:
        """int64 ``[n]``."""
        values = torch.as_tensor(observations)[:, self._place]
        actions = torch.full((len(values),), self._keep, device=values.device)
        actions[values.argsort()[: round(self.drop_share * len(values))]] = 0
        return actions

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it goes by what it sees."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


class DropSpoiled:
    """Drop the corrupted examples, or tasks, and no others: an oracle that is told which they are."""

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If the environment does not tell which examples are corrupted.
        """
        if not hasattr(env.unwrapped, "spoiled"):
            raise ConfigurationError(
                "This oracle weighs examples or tasks. Use it on GAR/DataWeight-v1 or GAR/GradientAgreement-v0."
            )
        self._slots: Any = env.unwrapped
        self._keep = _highest(env)

    def act(self, observations: Any) -> Tensor:
        """int64 ``[n]``."""
        return (~self._slots.spoiled).long() * self._keep

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it goes by what it sees."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def _highest(env: VectorEnv) -> int:
    space: Any = env.single_action_space
    if not isinstance(space, Discrete):
        raise ConfigurationError(f"To keep is the highest of some levels, and an action here is {space}. Use levels.")
    return int(space.n) - 1
