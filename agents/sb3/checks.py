"""Combinations of controller and environment that cannot learn."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from agents.sb3.shifted import ShiftedRolloutBuffer
from agents.sb3.vec_env import SB3VecEnv
from gar_env.errors import ConfigurationError


def slots_of(model: BaseAlgorithm) -> SB3VecEnv | None:
    """The adapter below all of a model's wrappers, if it has one."""
    env = model.get_env()
    adapter = None if env is None else env.unwrapped
    return adapter if isinstance(adapter, SB3VecEnv) else None


def check_controller(model: BaseAlgorithm) -> None:
    """Refuse a controller that cannot learn from its environment's rewards. Does nothing with other environments.

    With late rewards, a reward belongs to the action before the last. With ``gamma=0`` nothing of it reaches that
    action; a value function can only tell what is coming from an observation that shows the pending action.

    Raises:
        ConfigurationError: If rewards are late and the controller takes no account of it, or the other way round.
    """
    adapter = slots_of(model)
    if adapter is None:
        return
    rollouts: Any = getattr(model, "rollout_buffer", None)
    shifted = isinstance(rollouts, ShiftedRolloutBuffer)
    if not adapter.late_rewards:
        if shifted:
            raise ConfigurationError(
                "ShiftedRolloutBuffer credits rewards to the action before, but this environment pays the action just "
                "taken (reward_timing='same_step'). Use SB3's own buffer, or reward_timing='next_step'."
            )
        return
    name, gamma = type(model).__name__, float(model.gamma)  # pyright: ignore[reportAttributeAccessIssue]
    if rollouts is not None and not shifted and gamma == 0:
        raise ConfigurationError(
            f"{name} has gamma=0 and reward_timing='next_step' pays one step late: no action is ever credited with its "
            "reward. Use reward_timing='same_step', or rollout_buffer_class=ShiftedRolloutBuffer."
        )
    if rollouts is None and (gamma == 0 or not _shows_pending_action(adapter)):
        why = "gamma=0" if gamma == 0 else "an observation that does not show the pending action"
        raise ConfigurationError(
            f"{name} learns from single transitions, and reward_timing='next_step' pays one step late: with {why} the "
            "reward says nothing about the action beside it. Use reward_timing='same_step'."
        )


def _shows_pending_action(adapter: SB3VecEnv) -> bool:
    names = getattr(adapter.env.unwrapped, "observation_names", ())
    return any(name.startswith("last_action") for name in names)
