import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer

import gar_env  # noqa: F401 - registers the environments
from agents.sb3 import (
    ShiftedRolloutBuffer,
)
from gar_env.errors import ConfigurationError
from sb3_models import N, make, small


def late_rollouts(gamma, gae_lambda, episode_length, n_steps, rollouts, envs=2, seed=0):
    """Fill buffers as SB3 does; rewards name the action they pay. Returns the paid rows of each rollout."""
    generator = np.random.default_rng(seed)
    space = Box(-1, 1, (1,), np.float32)
    buffer = ShiftedRolloutBuffer(n_steps, space, Discrete(1000), gamma=gamma, gae_lambda=gae_lambda, n_envs=envs)
    steps, values, found = [], [], []
    for rollout in range(rollouts):
        buffer.reset()
        for step in range(rollout * n_steps, (rollout + 1) * n_steps):
            start = step % episode_length == 0
            value = torch.tensor(generator.normal(size=envs), dtype=torch.float32)
            values.append(value.numpy())
            steps.append(start)
            reward = np.zeros(envs) if start else np.full(envs, step - 1.0)
            actions = np.full((envs, 1), step)
            observations = np.full((envs, 1), step / 100, np.float32)
            buffer.add(observations, actions, reward, np.full(envs, start), value, torch.zeros(envs))
        done = (step + 1) % episode_length == 0
        buffer.compute_returns_and_advantage(torch.full((envs, 1), 1e6), np.full(envs, done))
        rows = list(buffer.get(None))
        found.append(rows[0] if rows else None)
    return found, np.array(values)


@pytest.mark.parametrize(("episode_length", "n_steps"), [(5, 3), (4, 4), (3, 5), (100, 4)])
def test_every_paid_action_is_handed_out_once_with_its_own_reward(episode_length, n_steps):
    rollouts = 4
    found, values = late_rollouts(0.0, 0.0, episode_length, n_steps, rollouts)
    handed = []
    for rows in found:
        for action, observation, ret, value in zip(
            rows.actions, rows.observations, rows.returns, rows.old_values, strict=True
        ):
            step = int(action)
            assert float(observation) == pytest.approx(step / 100), "an action with another's observation"
            assert float(ret) == pytest.approx(step, abs=1e-4), "rewards name the action that they pay"
            assert float(value) in values[step]
            handed.append(step)
    last = rollouts * n_steps - 1  # its reward has not come
    paid = [step for step in range(last) if (step + 1) % episode_length]
    assert sorted(handed) == sorted(paid * 2), "two environments, each paid action once"


@pytest.mark.parametrize(("episode_length", "n_steps"), [(5, 3), (4, 4), (3, 6)])
def test_advantages_are_those_of_a_buffer_that_was_paid_in_time(episode_length, n_steps):
    """The oracle: SB3's own buffer over all paid actions of one environment, with episodes one action shorter."""
    gamma, gae_lambda = 0.9, 0.8
    found, values = late_rollouts(gamma, gae_lambda, episode_length, n_steps, rollouts=3, envs=1)
    for rollout, rows in enumerate(found):
        order = np.argsort(rows.actions[:, 0].numpy())
        steps = rows.actions[order, 0].long().tolist()
        space = Box(-1, 1, (1,), np.float32)
        oracle = RolloutBuffer(len(steps), space, Discrete(1000), gamma=gamma, gae_lambda=gae_lambda)
        for step in steps:
            start = np.array([step % episode_length == 0])
            action, reward = np.array([[step]]), np.array([float(step)])
            oracle.add(np.zeros((1, 1)), action, reward, start, torch.tensor(values[step]), torch.zeros(1))
        follows = steps[-1] + 1
        # The next action is never paid if it is the last of its episode: then nothing follows.
        over = np.array([follows % episode_length == episode_length - 1])
        oracle.compute_returns_and_advantage(torch.tensor(values[follows]), over)
        np.testing.assert_allclose(
            rows.advantages[order], oracle.advantages[:, 0], rtol=1e-5, atol=1e-5, err_msg=f"rollout {rollout}"
        )


def test_paid_rows_come_in_random_order():
    space = Box(-1, 1, (1,), np.float32)
    buffer = ShiftedRolloutBuffer(50, space, Discrete(1000), n_envs=1)
    for step in range(50):
        buffer.add(
            np.zeros((1, 1)), np.array([[step]]), np.zeros(1), np.array([step == 0]), torch.zeros(1), torch.zeros(1)
        )
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([False]))
    order = torch.cat([rows.actions[:, 0] for rows in buffer.get(10)]).tolist()
    assert order != sorted(order)
    assert sorted(order) == list(range(49))


def test_a_shifted_rollout_needs_two_steps_and_episodes_too():
    with pytest.raises(ConfigurationError, match="A rollout of 1 step holds no paid action"):
        small(
            A2C,
            make(reward_timing="next_step", late_rewards=True),
            n_steps=1,
            rollout_buffer_class=ShiftedRolloutBuffer,
        )
    env = make(num_steps=1, reward_timing="next_step", late_rewards=True)
    with pytest.raises(ConfigurationError, match="No action of this rollout was paid"):
        small(PPO, env, rollout_buffer_class=ShiftedRolloutBuffer).learn(N * 2)
