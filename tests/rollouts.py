"""Small environments and rollouts with repeatable actions."""

import gymnasium
import numpy as np

import gar_env  # noqa: F401 - registers the environments

N = 12


def make(num_envs=N, *, env_id="GAR/DataSplit-v0", **options):
    return gymnasium.make_vec(env_id, num_envs=num_envs, **{"num_steps": 4, **options})


def rollout(env, steps=4, seed=0):
    """Actions, rewards and infos of some steps with repeatable actions."""
    env.reset(seed=seed)
    actions = np.random.default_rng(seed).integers(env.single_action_space.n, size=(steps, env.num_envs))
    return [(a, *env.step(a)[1:]) for a in actions]
