"""Combinations of controller and environment that cannot learn."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv

from agents.sb3.shifted import ShiftedRolloutBuffer
from agents.sb3.vec_env import SB3VecEnv
from gar_env.errors import ConfigurationError


def adapter_of(model: BaseAlgorithm) -> SB3VecEnv | None:
    """The adapter below all of a model's wrappers, if it has one."""
    env = model.get_env()
    adapter = None if env is None else env.unwrapped
    return adapter if isinstance(adapter, SB3VecEnv) else None


def check_controller(model: BaseAlgorithm) -> None:
    """Refuse a controller that cannot learn from its environment's rewards. Does nothing with other environments.

    With late rewards, a reward belongs to the action before the last. With ``gamma=0`` nothing of it reaches that
    action. Nor does it where single transitions are learned from, as by DQN, or by A2C and PPO with ``gae_lambda=0`` or
    one step: a value function can only tell what is coming from an observation that shows the pending action.

    Raises:
        ConfigurationError: If rewards are late and the controller takes no account of it, or the other way round.
    """
    env, gamma = model.get_env(), getattr(model, "gamma", None)
    if env is None or gamma is None or not env.has_attr("reward_timing"):
        return  # another environment, or a controller such as ARS that is paid by whole episodes
    rollouts: Any = getattr(model, "rollout_buffer", None)
    shifted = isinstance(rollouts, ShiftedRolloutBuffer)
    if env.get_attr("reward_timing")[0] != "next_step":
        if shifted:
            raise ConfigurationError(
                "ShiftedRolloutBuffer credits rewards to the action before, but this environment pays the action just "
                "taken (reward_timing='same_step'). Use SB3's own buffer, or reward_timing='next_step'."
            )
        return
    if shifted:
        return
    name = type(model).__name__
    if rollouts is not None and gamma == 0:
        shift = ", or rollout_buffer_class=ShiftedRolloutBuffer" if type(rollouts) is RolloutBuffer else ""
        raise ConfigurationError(
            f"{name} has gamma=0 and reward_timing='next_step' pays one step late: no action is ever credited with its "
            f"reward. Use reward_timing='same_step'{shift}."
        )
    single = rollouts is None or rollouts.buffer_size == 1 or rollouts.gae_lambda == 0
    if single and (gamma == 0 or not _shows_pending_action(env)):
        why = "gamma=0" if gamma == 0 else "an observation that does not show the pending action"
        raise ConfigurationError(
            f"{name} learns from single transitions, and reward_timing='next_step' pays one step late: with {why} the "
            "reward says nothing about the action beside it. Use reward_timing='same_step'."
        )


def _shows_pending_action(env: VecEnv) -> bool:
    names = env.get_attr("observation_names")[0] if env.has_attr("observation_names") else ()
    return any(name.startswith("last_action") for name in names)
