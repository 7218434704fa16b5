"""Multiplicative weights over sources, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents import DomainWeights, train
from agents.controllers.native import DomainWeightsOptions
from gar_env.errors import ConfigurationError, RewardError


def begun(agent: DomainWeights, k: int, n: int = 6, **more: Any) -> DomainWeights:
    space = gymnasium.spaces.Discrete(k)
    agent.begin(SimpleNamespace(num_envs=n, single_action_space=space, unwrapped=SimpleNamespace(**more)))  # pyright: ignore
    return agent


@pytest.mark.parametrize("average", [0.0, 0.8])
def test_two_steps_by_hand(average):
    agent = begun(DomainWeights(3, step_size=0.5, average=average, floor=0.1), 3)
    logarithms, weights, square, count = np.zeros(3), np.full(3, 1 / 3), 0.0, 0
    for rewards in (np.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.0]), np.array([0.1, 0.2, -0.3, 0.0, 0.5, -0.1])):
        actions = agent.act(None).numpy()
        agent.learn(rewards, None, {})
        square, count = square + (rewards**2).sum(), count + 6
        scaled = rewards / np.sqrt(square / count)
        means = np.array([scaled[actions == s].mean() if (actions == s).any() else 0.0 for s in range(3)])
        logarithms = logarithms + 0.5 * means
        fresh = np.exp(logarithms) / np.exp(logarithms).sum()
        weights = average * weights + (1 - average) * fresh
        np.testing.assert_allclose(agent.probabilities().numpy(), 0.9 * weights + 0.1 / 3, rtol=1e-12)


def test_it_goes_to_what_is_paid_and_keeps_a_floor():
    agent = begun(DomainWeights(4, floor=0.2), 4, n=32)
    for _ in range(200):
        agent.learn((agent.act(None) == 2).double(), None, {})
    found = agent.probabilities()
    assert found[2] > 0.8
    assert found.min() >= 0.05 - 1e-12


def test_it_goes_on_from_its_state():
    one, other = begun(DomainWeights(3, seed=1), 3), begun(DomainWeights(3, seed=2), 3)
    one.act(None)
    other.load_state_dict(one.state_dict())
    for agent in (one, other):
        agent.learn(torch.arange(6.0), None, {})
    assert torch.equal(one.act(None), other.act(None))
    assert torch.equal(one.probabilities(), other.probabilities())


def test_it_finds_the_noisy_split_by_held_out_data():
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=64, num_steps=120, reference="heldout")
    agent: Any = DomainWeightsOptions().build(env, 0)
    train(env, agent, seed=0)
    assert agent.probabilities()[0] < 0.03


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DomainWeights(1), ConfigurationError, "num_choices=1"),
        (lambda: DomainWeights(3, average=1.0), ConfigurationError, "average=1.0 must be at least 0 and below 1"),
        (lambda: DomainWeights(3, floor=-0.1), ConfigurationError, "floor=-0.1"),
        (lambda: DomainWeights(3, step_size=0), ConfigurationError, "step_size=0"),
        (lambda: begun(DomainWeights(3), 4), ConfigurationError, "There are 3 weights, and an action here is"),
        (lambda: begun(DomainWeights(3), 3, reward_timing="next_step"), ConfigurationError, "need reward_timing"),
        (lambda: begun(DomainWeights(3), 3).learn([1.0], None, {}), RewardError, "one for each of act"),
    ],
)
def test_uses_that_make_no_sense_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
