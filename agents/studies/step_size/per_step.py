"""Agents that are paid step by step: PPO of Stable-Baselines3, and REINFORCE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import torch

from agents.controllers.native import ReinforceLinearOptions
from agents.controllers.stable_baselines import PPOOptions
from agents.policies import LinearSoftmax
from gar_env.envs.runs.statistics import OBSERVED

STEPS = 2100
"""Of 64 runs, that are learned from: 134,400 actions."""

SEEN = ",".join((*OBSERVED["paper"], "log_step_size", "log_loss", "progress"))
"""What they observe."""

PPO = PPOOptions(gamma=0.99, n_steps=150, n_epochs=6, minibatches=6, ent_coef=0.0, normalize_observation=True)
REINFORCE = ReinforceLinearOptions()


class PPOAgent:
    """A trained model of Stable-Baselines3, without its exploration.

    Args:
        model: On ``VecNormalize``.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.normalise = model, model.get_vec_normalize_env().normalize_obs

    def begin(self, env: Any) -> None:
        """Nothing is remembered."""

    def act(self, observations: Any) -> Any:
        """The means of its actions."""
        return self.model.predict(self.normalise(observations), deterministic=True)[0]


class LinearAgent:
    """A linear softmax, without its exploration.

    Args:
        policy: That was learned.
    """

    def __init__(self, policy: LinearSoftmax) -> None:
        self.policy = policy

    def begin(self, env: Any) -> None:
        """Nothing is remembered."""

    def act(self, observations: Any) -> Any:
        """The most likely choices."""
        return self.policy.probabilities(torch.as_tensor(observations)).argmax(1).numpy()


def _runs(rule: str, action: str) -> Any:
    options = {"rule": rule, "action": action, "observed": SEEN, "num_steps": 150, "test_examples": 0}
    return gymnasium.make_vec("GAR/StepSize-v0", num_envs=64, autoreset_mode="SameStep", **options)


def _ppo(rule: str, seed: int) -> PPOAgent:
    model = PPO.build(_runs(rule, "multiply"), seed)
    model.env.seed(seed)
    return PPOAgent(model.learn(STEPS * 64))


def _reinforce(rule: str, seed: int) -> LinearAgent:
    env = _runs(rule, "discrete")
    agent: Any = REINFORCE.build(env, seed)
    observations, _ = env.reset(seed=seed)
    agent.begin(env)
    for _ in range(STEPS):
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
        agent.learn(rewards, terminations | truncations, infos)
    return LinearAgent(agent.policy)


class PerStep(NamedTuple):
    """How one of them is learned.

    Args:
        action: Of the environment.
        options: A dataclass.
        learn: From an update rule and a seed to an agent.
    """

    action: str
    options: Any
    learn: Callable[[str, int], Any]


PER_STEP = {
    "ppo": PerStep("multiply", PPO, _ppo),
    "reinforce": PerStep("discrete", REINFORCE, _reinforce),
}
"""By arm."""
