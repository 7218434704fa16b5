"""Examples whose predicted reward is too low are dropped; where nothing can be predicted, none is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents import ValueRegression, check_agent, train
from agents.controllers.native import ValueRegressionOptions
from gar_env.errors import ConfigurationError


def fake(d: int = 3, **more: Any) -> Any:
    box = gymnasium.spaces.Box(-1, 1, (d,), np.float32)
    return SimpleNamespace(single_observation_space=box, single_action_space=gymnasium.spaces.Discrete(2),
                           unwrapped=SimpleNamespace(**more), num_envs=64)  # fmt: skip


def run(agent: ValueRegression, pay: Any, *, told: bool, steps: int = 200) -> torch.Tensor:
    """The share kept of examples whose first feature is below, and above, 0; in the last steps."""
    generator, kept = torch.Generator().manual_seed(0), torch.zeros(2, 2)
    agent.begin(fake())
    for step in range(steps):
        seen = 2 * torch.rand(64, 3, generator=generator) - 1
        actions = agent.act(seen.numpy())
        values = pay(seen, torch.randn(64, generator=generator))
        infos = {"reward_if_kept": values.numpy(), "_reward_if_kept": np.ones(64, bool)} if told else {}
        agent.learn(values * actions, np.zeros(64, bool), infos)
        if step >= steps - 50:
            for side in (0, 1):
                own = (seen[:, 0] > 0) == bool(side)
                kept[side] += torch.tensor([float(actions[own].sum()), float(own.sum())])
    return kept[:, 0] / kept[:, 1]


@pytest.mark.parametrize("told", [True, False], ids=["of dropped ones too", "of kept ones alone"])
def test_it_drops_what_is_paid_badly(told):
    found = run(ValueRegression(3), lambda seen, noise: torch.sign(seen[:, 0]) + 0.5 * noise, told=told)
    assert found[0] < 0.3
    assert found[1] > 0.95


@pytest.mark.parametrize("told", [True, False])
def test_it_keeps_all_where_rewards_are_noise(told):
    assert run(ValueRegression(3), lambda seen, noise: noise, told=told).min() > 0.85


def test_it_keeps_all_in_a_warm_up_and_learns_meanwhile():
    agent = ValueRegression(3, warmup=100)
    assert run(agent, lambda seen, noise: seen[:, 0], told=True, steps=100).min() == 1
    assert run(ValueRegression(3), lambda seen, noise: seen[:, 0], told=True, steps=100)[0] < 0.5


def test_each_episode_has_its_warm_up():
    agent, kept = ValueRegression(3, warmup=2, threshold=100.0, explore=0.0), []
    agent.begin(fake())
    for step in range(9):
        kept.append(int(agent.act(torch.rand(8, 3)).sum()))
        agent.learn(torch.ones(8), np.full(8, step % 3 == 2), {})
    assert kept == [8, 8, 0] * 3


def test_it_goes_on_from_its_state():
    one, other = ValueRegression(3, seed=1), ValueRegression(3, seed=2)
    run(one, lambda seen, noise: seen[:, 0], told=True, steps=20)
    other.load_state_dict(one.state_dict())
    seen = torch.rand(64, 3)
    assert torch.equal(one.act(seen), other.act(seen))
    for agent in (one, other):
        agent.learn(seen[:, 1], None, {})
    assert torch.equal(one.network(seen), other.network(seen))


def test_it_trains_on_the_environment_and_is_an_agent():
    env = gymnasium.make_vec("GAR/DataWeight-v0", num_envs=32, num_steps=5, pay_dropped=True, keep_all_steps=2)
    agent = ValueRegressionOptions().build(env, 0)
    final = train(env, agent, seed=0)
    assert 0 < final["test_accuracy"][0] <= 1
    check_agent(lambda: ValueRegressionOptions().build(env, 0), "GAR/DataWeight-v0", pay_dropped=True)
    env.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ValueRegression(3, explore=1.5), "explore=1.5"),
        (lambda: ValueRegression(3, threshold=float("nan")), "threshold=nan"),
        (lambda: ValueRegression(3, explore="a"), "explore='a'"),  # pyright: ignore
        (lambda: ValueRegression(3, keep=0), "keep=0"),
        (lambda: ValueRegression(3, hidden=0), "hidden=0: sizes and keep must be at least 1"),
        (lambda: ValueRegression(3, step_size=-1), "step_size=-1"),
        (lambda: ValueRegression(2).begin(fake()), "takes 2 features and drops or keeps"),
        (lambda: ValueRegression(3).begin(fake(reward_timing="next_step")), "needs reward_timing='same_step'"),
        (lambda: ValueRegression(3).learn(None, None, {}), r"learn\(\) was called before act"),
    ],
)
def test_uses_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
