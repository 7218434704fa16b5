"""What a controller is, and the loop that runs it. Copy the loop to write your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gymnasium.vector import AutoresetMode, VectorEnv


class Agent(Protocol):
    """Anything with these three methods can be trained with :func:`train`."""

    def begin(self, env: VectorEnv) -> None:
        """An episode starts: forget what belonged to the last one."""
        ...

    def act(self, observations: Any) -> Any:
        """Choose an action for each slot, from observations ``[n, d]``."""
        ...

    def learn(self, rewards: Any, infos: dict[str, Any]) -> None:
        """Take in the rewards ``[n]`` of one step. With ``next_step`` timing they pay the actions before the last."""
        ...


def train(
    env: VectorEnv,
    agent: Agent,
    *,
    seed: int | None = None,
    on_step: Callable[[Any, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run one episode - one training run of the network - while the agent learns.

    Args:
        env: Any vector environment whose rows end together.
        agent: The controller.
        seed: Of the episode.
        on_step: Called after each step with the rewards and infos, to log or to draw a progress bar.

    Returns:
        The infos of the last step, ``test_accuracy`` among them.
    """
    observations, infos = env.reset(seed=seed)
    agent.begin(env)
    ended = False
    while not ended:
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
        agent.learn(rewards, infos)
        if on_step:
            on_step(rewards, infos)
        ended = bool((terminations | truncations).all())
    same_step = env.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP
    return infos["final_info"] if same_step else infos
