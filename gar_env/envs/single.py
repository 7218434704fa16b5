"""The single-agent view of a slot environment: one agent acts for the whole batch."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode

from gar_env.envs.slots.base import SlotVectorEnv
from gar_env.envs.views import first_row, refuse_vector_options
from gar_env.errors import ConfigurationError
from gar_env.registry import shown


class SingleAgentEnv(gymnasium.Env):
    """One environment around ``batch_size`` slots.

    Action: ``MultiDiscrete`` or ``Box``, the slots' actions one after the other. Observation: the slots' rows one after
    the other, float32 ``[batch_size * d]``. Reward: the mean over the slots; ``info["rewards"]`` has each slot's. The
    other infos are the vector environment's, as Python numbers; those that are absent are left out, and NaN at the end.

    ``make_vec(id, num_envs=k, vectorization_mode="sync")`` runs ``k`` independent trainings of this view; plain
    ``make_vec(id, num_envs=n)`` gives one training with ``n`` slots.

    Args:
        batch_size: How many slots.
        **options: Of the vector environment.
    """

    vector_env_class: ClassVar[Any]
    metadata: dict[str, Any] = dict(SlotVectorEnv.metadata)

    def __init__(self, batch_size: int = 128, **options: Any) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size={shown(batch_size)} must be a whole number, at least 1.")
        if "num_envs" in options:
            raise ConfigurationError(
                "make gives one agent for the whole batch, of batch_size examples. Pass batch_size instead of "
                "num_envs, or use make_vec for one agent per example."
            )
        refuse_vector_options(options)
        self.slots: SlotVectorEnv = self.vector_env_class(batch_size, autoreset_mode=AutoresetMode.DISABLED, **options)
        self.render_mode = self.slots.render_mode
        of_a_slot = self.slots.single_action_space
        if isinstance(of_a_slot, Box):
            low, high = (np.tile(limit.reshape(-1), batch_size) for limit in (of_a_slot.low, of_a_slot.high))
            self.action_space = Box(low, high, dtype=np.float32)
        else:
            assert isinstance(of_a_slot, (Discrete, MultiDiscrete))
            entries = of_a_slot.nvec if isinstance(of_a_slot, MultiDiscrete) else of_a_slot.n
            self.action_space = MultiDiscrete(np.tile(entries, batch_size))
        self.reward_timing = self.slots.reward_timing
        rows = self.slots.observation_space
        assert isinstance(rows, Box)
        self.observation_space = Box(rows.low.reshape(-1), rows.high.reshape(-1), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a training run."""
        super().reset(seed=seed)
        observations, infos = self.slots.reset(seed=seed, options=options)
        rewards = np.zeros(self.slots.num_envs, np.float32)
        return observations.reshape(-1), {"rewards": rewards, **first_row(infos, ended=False)}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of all slots. Errors as :meth:`RowVectorEnv.step`."""
        observations, rewards, terminations, truncations, infos = self.slots.step(self._by_slot(action))
        return (
            observations.reshape(-1),
            float(rewards.mean()),
            bool(terminations[0]),
            bool(truncations[0]),
            {"rewards": rewards, **first_row(infos, ended=bool(terminations[0]))},
        )

    def _by_slot(self, action: Any) -> Any:
        """Rows of several entries from the flat action; what does not fit is left for the slots to refuse."""
        shape = self.slots.action_space.shape
        try:
            if shape is None or len(shape) == 1 or np.shape(action) != self.action_space.shape:
                return action
            return np.reshape(action, shape)
        except Exception:  # what is no array
            return action

    def render(self) -> Any:
        """The dashboard: a string or uint8 ``[h, w, 3]``."""
        frames = self.slots.render()
        return frames[0] if frames else None

    def close(self) -> None:
        """Close the slots."""
        self.slots.close()
