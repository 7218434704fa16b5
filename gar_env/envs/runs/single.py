"""One training run as one environment."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from gar_env.envs.runs.base import RunVectorEnv
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
        for name in ("autoreset_mode", "output"):
            if name in options:
                raise ConfigurationError(
                    f"{name} goes with make_vec. make gives a single environment with numpy output, reset by its user."
                )
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
        return observations[0], _of_one(infos, ended=False)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step. Errors as :meth:`RowVectorEnv.step`."""
        observations, rewards, terminations, truncations, infos = self.runs.step([action])
        ended = bool(terminations[0])
        return observations[0], float(rewards[0]), ended, bool(truncations[0]), _of_one(infos, ended=ended)

    def close(self) -> None:
        """Close the run."""
        self.runs.close()


def _of_one(infos: dict[str, Any], *, ended: bool) -> dict[str, Any]:
    # Numbers that are absent are left out until the end, where loggers look for them: two NaN are not equal.
    there = {key: value[0].item() for key, value in infos.items() if not key.startswith("_")}
    return {key: value for key, value in there.items() if ended or infos[f"_{key}"][0]}
