"""What a controller is, and the loop that runs it. Copy the loop to write your own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

from gymnasium.vector import AutoresetMode, VectorEnv

from gar_env.errors import ConfigurationError


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
    """Run until every row has ended an episode - one training run of the network - while the agent learns.

    Args:
        env: Any vector environment. Where rows end apart, those that are done go on until the last is.
        agent: The controller.
        seed: Of the episode.
        on_step: Called after each step with the rewards and infos, to log or to draw a progress bar.

    Returns:
        The infos of the step in which each row first ended, ``test_accuracy`` among them.

    Raises:
        ConfigurationError: If rows ended before others with autoreset disabled: somebody has to reset them.
    """
    observations, infos = env.reset(seed=seed)
    agent.begin(env)
    mode = env.metadata.get("autoreset_mode")
    done, final = None, {}
    while done is None or not done.all():
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
        agent.learn(rewards, infos)
        if on_step:
            on_step(rewards, infos)
        ended = terminations | truncations
        fresh = ended if done is None else ended & ~done
        done = ended if done is None else done | ended
        if fresh.any():
            _take(final, infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos, fresh)
        if ended.any() and mode is AutoresetMode.DISABLED and not done.all():
            raise ConfigurationError("Some rows ended before others, and autoreset is disabled. Pass another mode.")
    return final


def _take(final: dict[str, Any], infos: dict[str, Any], rows: Any) -> None:
    """Keep these rows of all arrays."""
    for key, value in infos.items():
        if key in final:
            final[key][rows] = value[rows]
        elif hasattr(value, "shape"):
            final[key] = copy.deepcopy(value)
