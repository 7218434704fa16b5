"""Stable-Baselines3's algorithms by name, with defaults that learn within one training run of the network.

A run has a few hundred steps, a reward belongs to one action, and gradients shrink as the network learns. So the
discount is 0, rollouts are short, and rewards are divided by their running size (``VecNormalize``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from gymnasium.vector import VectorEnv

from agents.controllers.registry import register_controller
from gar_env.envs.options import check_types
from gar_env.errors import ConfigurationError, GarEnvError, MissingExtraError

MOST_EPOCHS = 1000


@dataclass(frozen=True)
class SB3Options(ABC):
    """What all algorithms share.

    Args:
        learning_rate: Of the optimizer.
        gamma: Discount; a slot's reward belongs to one action, so later ones say nothing about it.
        hidden: Widths of the policy's hidden layers.
        normalize_reward: Whether rewards are divided by their running size (VecNormalize).
        normalize_observation: Whether observations are shifted and scaled by their running statistics (VecNormalize);
            those of GAR/StepSize-v0 are logarithms far from 0.
    """

    learning_rate: float = 1e-3
    gamma: float = 0.0
    hidden: tuple[int, ...] = (64, 64)
    normalize_reward: bool = True
    normalize_observation: bool = False

    name: ClassVar[str]

    def build(self, env: VectorEnv, seed: int) -> Any:
        """The algorithm, on the environment's adapter.

        Raises:
            MissingExtraError: If Stable-Baselines3 is not installed.
            ConfigurationError: If it cannot act in this environment, or cannot learn from rewards at this time.
        """
        from stable_baselines3.common.vec_env import VecNormalize

        from agents.sb3 import SB3VecEnv, check_controller

        check_types(self)
        epochs = getattr(self, "n_epochs", 1)
        if epochs > MOST_EPOCHS:
            raise ConfigurationError(f"n_epochs={epochs} must be at most {MOST_EPOCHS}: passes over one rollout.")
        for name in ("n_steps", "minibatches", "n_epochs", "buffer_size", "batch_size", "gradient_steps"):
            if getattr(self, name, 1) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be at least 1.")
        if any(width < 1 for width in self.hidden):
            raise ConfigurationError(f"hidden={self.hidden} must be widths of at least 1.")
        if not 0 <= self.gamma <= 1 or not 0 < self.learning_rate < 1e37:
            raise ConfigurationError(
                f"gamma={self.gamma} must be in [0, 1], learning_rate={self.learning_rate} above 0."
            )
        late = getattr(env.unwrapped, "reward_timing", "same_step") == "next_step"
        adapter: Any = SB3VecEnv(env, late_rewards=late)
        if self.normalize_reward or self.normalize_observation:
            adapter = VecNormalize(
                adapter, norm_obs=self.normalize_observation, norm_reward=self.normalize_reward, gamma=self.gamma
            )
        common = {
            "learning_rate": self.learning_rate,
            "gamma": self.gamma,
            "policy_kwargs": {"net_arch": list(self.hidden)},
            "seed": seed,
            "device": "cpu",
        }
        try:
            model = self.algorithm()("MlpPolicy", adapter, **common, **self.more(env.num_envs, late))
        except GarEnvError:
            raise
        except (AssertionError, ValueError, TypeError, RuntimeError) as error:
            raise ConfigurationError(f"{self.name} cannot be built for {env.single_action_space}: {error}") from error
        check_controller(model)
        return model

    @abstractmethod
    def algorithm(self) -> Any:
        """The class."""

    @abstractmethod
    def more(self, num_envs: int, late: bool) -> dict[str, Any]:
        """Arguments of this algorithm alone, for so many slots; ``late``: rewards come one step late."""


@dataclass(frozen=True)
class RolloutOptions(SB3Options):
    """What on-policy algorithms share.

    Args:
        n_steps: Environment steps per rollout.
        ent_coef: Weight of the entropy bonus. A policy that settles before the network has learned something is paid
            for agreeing with itself, whatever it settled on.
    """

    n_steps: int = 4
    ent_coef: float = 0.03

    def rollouts(self, num_envs: int, late: bool) -> dict[str, Any]:
        """With late rewards, the buffer that credits them to the action before."""
        from agents.sb3 import ShiftedRolloutBuffer

        if self.n_steps * num_envs < 2:
            raise ConfigurationError(
                f"n_steps={self.n_steps} with {num_envs} slots: a rollout needs at least 2 actions to compare."
            )
        options: dict[str, Any] = {"n_steps": self.n_steps, "ent_coef": self.ent_coef}
        return {**options, "rollout_buffer_class": ShiftedRolloutBuffer} if late else options


@register_controller("sb3-ppo")
@dataclass(frozen=True)
class PPOOptions(RolloutOptions):
    """Proximal policy optimisation of Stable-Baselines3.

    Args:
        minibatches: Gradient steps per pass over a rollout.
        n_epochs: Passes over a rollout.
    """

    minibatches: int = 2
    n_epochs: int = 4

    name: ClassVar[str] = "sb3-ppo"

    def algorithm(self) -> Any:
        """stable_baselines3.PPO."""
        from stable_baselines3 import PPO

        return PPO

    def more(self, num_envs: int, late: bool) -> dict[str, Any]:
        """Of PPO."""
        if self.minibatches > self.n_steps * num_envs:
            raise ConfigurationError(
                f"minibatches={self.minibatches} must be at most n_steps * num_envs, {self.n_steps * num_envs}."
            )
        size = -(-self.n_steps * num_envs // self.minibatches)
        return {**self.rollouts(num_envs, late), "batch_size": size, "n_epochs": self.n_epochs}


@register_controller("sb3-maskable-ppo")
@dataclass(frozen=True)
class MaskablePPOOptions(PPOOptions):
    """PPO of sb3-contrib, which never takes an action that the environment masks."""

    name: ClassVar[str] = "sb3-maskable-ppo"

    def algorithm(self) -> Any:
        """sb3_contrib.MaskablePPO."""
        try:
            from sb3_contrib import MaskablePPO
        except ImportError as error:
            raise MissingExtraError(
                f"sb3-maskable-ppo needs sb3-contrib, which cannot be imported ({error}): pip install 'gar-env[sb3]'."
            ) from error
        return MaskablePPO

    def more(self, num_envs: int, late: bool) -> dict[str, Any]:
        """Of MaskablePPO.

        Raises:
            ConfigurationError: If rewards are late: its rollouts hold masks, and no shifted ones are there for it.
        """
        if late:
            raise ConfigurationError(
                "sb3-maskable-ppo cannot credit late rewards. Use reward_timing='same_step', or sb3-ppo."
            )
        return super().more(num_envs, late)


@register_controller("sb3-a2c")
@dataclass(frozen=True)
class A2COptions(RolloutOptions):
    """Advantage actor-critic of Stable-Baselines3, with Adam and normalised advantages.

    One gradient step per rollout, hence short ones; late rewards (reward_timing="next_step") need n_steps of 2.
    """

    learning_rate: float = 3e-3
    n_steps: int = 1
    ent_coef: float = 0.01

    name: ClassVar[str] = "sb3-a2c"

    def algorithm(self) -> Any:
        """stable_baselines3.A2C."""
        from stable_baselines3 import A2C

        return A2C

    def more(self, num_envs: int, late: bool) -> dict[str, Any]:
        """Of A2C."""
        return {**self.rollouts(num_envs, late), "use_rms_prop": False, "normalize_advantage": True}


@register_controller("sb3-dqn")
@dataclass(frozen=True)
class DQNOptions(SB3Options):
    """Deep Q-learning of Stable-Baselines3.

    On data splits its greedy action is the same for most slots. Use reference="uniform" there: a reference batch that
    is drawn like the actions would come from that one split too, and a noisy split agrees with itself.

    Args:
        buffer_size: Transitions remembered; old ones were paid by another network.
        learning_starts: Transitions before the first gradient step.
        batch_size: Transitions per gradient step.
        gradient_steps: Per environment step of all slots.
        exploration_fraction: Share of training over which random actions become rare.
        exploration_final_eps: Share of random actions after that.
    """

    buffer_size: int = 10_000
    learning_starts: int = 1000
    batch_size: int = 256
    gradient_steps: int = 8
    exploration_fraction: float = 0.2
    exploration_final_eps: float = 0.05

    name: ClassVar[str] = "sb3-dqn"

    def algorithm(self) -> Any:
        """stable_baselines3.DQN."""
        from stable_baselines3 import DQN

        return DQN

    def more(self, num_envs: int, late: bool) -> dict[str, Any]:
        """Of DQN; one collected step is one of all slots.

        Raises:
            ConfigurationError: If learning starts before the first transition, or a share is out of range.
        """
        if self.learning_starts < 0:
            raise ConfigurationError(f"learning_starts={self.learning_starts} must be at least 0.")
        for name in ("exploration_fraction", "exploration_final_eps"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be in [0, 1].")
        return {
            "buffer_size": self.buffer_size,
            "learning_starts": self.learning_starts,
            "batch_size": self.batch_size,
            "gradient_steps": self.gradient_steps,
            "train_freq": 1,
            "exploration_fraction": self.exploration_fraction,
            "exploration_final_eps": self.exploration_final_eps,
        }
