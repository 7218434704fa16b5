"""The check for agents of one's own."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

import gar_env  # noqa: F401 - registers the environments
from agents.agent import Agent
from gar_env.errors import ConformanceError
from gar_env.state import as_data, from_data, has_state


def check_agent(
    build: Any, id: str = "GAR/DataSplit-v1", *, num_envs: int = 8, steps: int = 12, **options: Any
) -> None:
    """Hold an agent against what :func:`agents.train` and ``gar-env train`` rely on.

    It acts within the action space, an action for every row, on arrays that it must not write to; learns from a step
    that ended episodes, and from one that paid nothing; and if it has ``state_dict()`` and ``load_state_dict()``,
    another one goes on from there with the very same actions.

    Args:
        build: Makes the agent: called with nothing, or the class itself.
        id: The environment to act in.
        num_envs: Rows.
        steps: Steps taken; episodes are shorter.
        **options: Of the environment.

    Raises:
        ConformanceError: With what does not hold.
    """
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        env = gymnasium.make_vec(id, num_envs=num_envs, autoreset_mode=mode, **{"num_steps": 5, **options})
        agent, twin = _built(build), _built(build)
        observations, _ = env.reset(seed=0)
        agent.begin(env)
        for step in range(steps):
            actions = _actions(agent, observations, env, step)
            observations, rewards, terminations, truncations, infos = env.step(actions)
            ended = terminations | truncations
            given = {"the rewards": rewards, "ended": ended, "infos": infos}
            kept = copy.deepcopy(given)
            agent.learn(rewards, ended, infos)
            for what, value in kept.items():
                if not _same(given[what], value):
                    raise ConformanceError(f"learn() writes into {what}, which others read too. Copy first.")
            if ended.all():
                agent.begin(env)
        own: Any = agent
        if has_state(own):
            _check_state(own, twin, env, observations)
        env.close()


def _built(build: Any) -> Agent:
    agent = build()
    for name in ("begin", "act", "learn"):
        if not callable(getattr(agent, name, None)):
            raise ConformanceError(f"{type(agent).__name__} has no method {name}(): see agents.Agent.")
    return agent


def _actions(agent: Agent, observations: Any, env: Any, step: int) -> Any:
    before = np.array(observations)
    actions = agent.act(observations)
    if not np.array_equal(before, observations):
        raise ConformanceError("act() writes into the observations, which others read too. Copy them first.")
    plain = np.asarray(actions)
    if plain.shape != env.action_space.shape or not env.action_space.contains(plain.astype(env.action_space.dtype)):
        raise ConformanceError(
            f"In step {step} act() returned {plain.dtype} {list(plain.shape)}, which is not in {env.action_space}: one "
            "action for every row."
        )
    return actions


def _check_state(agent: Any, twin: Any, env: Any, observations: Any) -> None:
    twin.begin(env)
    twin.load_state_dict(from_data(as_data(agent.state_dict())))
    for _ in range(4):
        one, other = (np.asarray(each.act(observations)) for each in (agent, twin))
        if not np.array_equal(one, other):
            raise ConformanceError(
                "An agent that goes on from a state_dict() acts otherwise: the state lacks something."
            )
        observations, rewards, terminations, truncations, infos = env.step(one)
        for each in (agent, twin):
            each.learn(rewards, terminations | truncations, infos)
            if (terminations | truncations).all():
                each.begin(env)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are alike, NaN included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype == object:
        return one.shape == other.shape and all(map(_same, one.ravel(), other.ravel()))
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
