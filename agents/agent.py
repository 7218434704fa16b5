"""What a controller is, and the loop that runs it. Copy the loop to write your own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from gar_env.errors import ConfigurationError


class Agent(Protocol):
    """Anything with these three methods can be trained with :func:`train`.

    ``gar-env train`` saves it by ``state_dict()``, which returns numbers, text and tensors in lists, tuples and dicts,
    and goes on with it by ``load_state_dict(state)``.
    """

    def begin(self, env: VectorEnv) -> None:
        """An episode starts: forget what belonged to the last one."""
        ...

    def act(self, observations: Any) -> Any:
        """Choose an action for each slot, from observations ``[n, d]``."""
        ...

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Take in what one step came to.

        Args:
            rewards: ``[n]``. With ``next_step`` timing they pay the actions before the last.
            ended: bool ``[n]``: whose episode is over, by termination or truncation. Where rows end together,
                :meth:`begin` is called next; where they end apart, these rows go on with a new episode by themselves.
            infos: Of the environment.
        """
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
        observations, rewards, terminations, truncations, infos = env.step(taken(env, agent.act(observations)))
        ended = terminations | truncations
        agent.learn(rewards, ended, infos)
        if on_step:
            on_step(rewards, infos)
        fresh = ended if done is None else ended & ~done
        done = ended if done is None else done | ended
        if fresh.any():
            _take(final, infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos, fresh)
        if ended.any() and mode is AutoresetMode.DISABLED and not done.all():
            raise ConfigurationError("Some rows ended before others, and autoreset is disabled. Pass another mode.")
    return final


def taken(env: VectorEnv, actions: Any) -> Any:
    """Actions as an environment takes them: ours take tensors too, Gymnasium's own arrays."""
    ours = hasattr(env.unwrapped, "output")
    return actions.detach().cpu().numpy() if isinstance(actions, torch.Tensor) and not ours else actions


def _take(final: dict[str, Any], infos: dict[str, Any], rows: Any) -> None:
    """Keep these rows of all arrays."""
    for key, value in infos.items():
        if key in final:
            final[key][rows] = value[rows]
        elif hasattr(value, "shape"):
            final[key] = copy.deepcopy(value)
