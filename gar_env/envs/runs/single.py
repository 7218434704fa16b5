"""One training run as one environment."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from gar_env.envs.runs.base import RunVectorEnv
from gar_env.envs.views import first_row, refuse_vector_options
from gar_env.errors import ConfigurationError


class SingleRunEnv(gymnasium.Env):
    """One row of a run environment, by itself.

    ``make_vec(id, num_envs=k)`` trains ``k`` runs together, which is faster than ``k`` of these
    (``vectorization_mode="sync"``).

    Args:
        **options: Of the vector environment.
    """

    vector_env_class: ClassVar[Any]
    metadata: dict[str, Any] = {**RunVectorEnv.metadata, "render_modes": []}

    def __init__(self, **options: Any) -> None:
        if "num_envs" in options:
            raise ConfigurationError("make gives one training run. Use make_vec for num_envs of them.")
        refuse_vector_options(options)
        self.runs: RunVectorEnv = self.vector_env_class(1, autoreset_mode=AutoresetMode.DISABLED, **options)
        self.render_mode = None
        self.action_space = self.runs.single_action_space
        self.observation_space = self.runs.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a run."""
        super().reset(seed=seed)
        observations, infos = self.runs.reset(seed=seed, options=options)
        return observations[0], first_row(infos, ended=False)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step. Errors as :meth:`RowVectorEnv.step`."""
        observations, rewards, terminations, truncations, infos = self.runs.step([action])
        ended = bool(terminations[0])
        return observations[0], float(rewards[0]), ended, bool(truncations[0]), first_row(infos, ended=ended)

    def close(self) -> None:
        """Close the run."""
        self.runs.close()
