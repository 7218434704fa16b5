"""Baselines that never learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import shown
from gar_env.seeding import named_generator


class FixedPolicy:
    """An agent that draws every action from the same distribution.

    Args:
        probabilities: One per choice, non-negative, sum 1 up to rounding.
        seed: Of its draws.

    Raises:
        ConfigurationError: If the probabilities are none.
    """

    def __init__(self, probabilities: Any, *, seed: int = 0) -> None:
        self.probabilities = torch.as_tensor(np.asarray(probabilities, np.float64))
        total = float(self.probabilities.sum())
        # Written so that NaN is refused too.
        if self.probabilities.ndim != 1 or not bool((self.probabilities >= 0).all()) or not abs(total - 1) <= 1e-6:
            raise ConfigurationError(
                f"probabilities must be non-negative and sum to 1; found {list(self.probabilities.shape)}, "
                f"sum {total:g}."
            )
        self.generator = named_generator(seed, "policy")

    @classmethod
    def uniform(cls, num_choices: int, *, seed: int = 0) -> FixedPolicy:
        """Every choice equally often: plain training on all the data."""
        return cls.never(num_choices, (), seed=seed)

    @classmethod
    def never(cls, num_choices: int, avoided: Iterable[int], *, seed: int = 0) -> FixedPolicy:
        """Never ``avoided``, the rest equally often: an oracle that knows which splits are corrupted."""
        if type(num_choices) is not int or num_choices < 1:
            raise ConfigurationError(f"num_choices={shown(num_choices)} must be at least 1, and a whole number.")
        wrong = [i for i in avoided if not 0 <= i < num_choices]
        if wrong:
            raise ConfigurationError(f"There is no choice {shown(wrong[0])} to avoid: 0..{num_choices - 1}.")
        weights = np.ones(num_choices)
        weights[list(avoided)] = 0
        return cls(weights / max(weights.sum(), 1), seed=seed)

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`."""
        self.num_envs = env.num_envs

    def act(self, observations: Any) -> Tensor:
        """int64 ``[n]``."""
        return torch.multinomial(self.probabilities, self.num_envs, replacement=True, generator=self.generator)

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Its draws."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.generator.set_state(state["generator"])
