"""Which choices a policy turns down, and which it crowns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
import torch

from agents import Keep, Reinforce, Softmax
from agents.controllers.native import ReinforceOptions
from gar_env.errors import ConfigurationError


def learned(agent: Reinforce, pay: torch.Tensor, steps: int = 200, n: int = 64) -> torch.Tensor:
    """Probabilities after ``steps`` in which choice ``a`` was paid ``pay[a]``, and noise."""
    k, generator = len(pay), torch.Generator().manual_seed(0)
    space = gymnasium.spaces.Discrete(k)
    agent.begin(SimpleNamespace(num_envs=n, unwrapped=None, single_action_space=space))  # pyright: ignore
    for _ in range(steps):
        actions = agent.act(None)
        agent.learn(pay[actions] + 0.1 * torch.randn(n, generator=generator), False, {})
    policy: Any = agent.policy
    return policy.probabilities()


def test_keep_turns_down_any_number_of_choices_and_leaves_the_others_alike():
    found = learned(Reinforce(Keep(6), normalise="size"), torch.tensor([1.0, -1.0, 0.2, -0.5, 5.0, 0.3]))
    assert found[[1, 3]].max() < 0.01
    torch.testing.assert_close(found[[0, 2, 4, 5]], torch.full((4,), 0.25), atol=0.02, rtol=0)


def test_keep_crowns_none_where_all_are_wanted():
    found = learned(Reinforce(Keep(4), normalise="size"), torch.tensor([0.1, 0.1, 10.0, 0.1]))
    torch.testing.assert_close(found, torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_keep_moves_only_the_logits_of_what_was_drawn():
    policy = Keep(5)
    policy.log_probability(torch.tensor([1, 1, 3]), policy.logits).sum().backward()
    expected = torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0]) * (1 - torch.sigmoid(torch.tensor(2.0)))
    assert policy.logits.grad is not None
    torch.testing.assert_close(policy.logits.grad, expected)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_softmax_crowns_the_best_and_draws_each_at_least_as_often_as_its_floor(floor):
    found = learned(Reinforce(Softmax(5, floor=floor)), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    assert found[2] == pytest.approx(1 - floor + floor / 5, abs=0.02)
    assert found.min() >= floor / 5
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("policy", [Softmax(4, floor=0.0), Softmax(4, floor=0.3)], ids=["plain", "floor"])
def test_softmax_knows_the_chance_of_what_it_draws(policy):
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([2.0, -1.0, 0.0, -30.0]))
    found = policy.log_probability(torch.arange(4), policy.logits)
    torch.testing.assert_close(found.exp(), policy.probabilities())
    drawn = policy.sample(20_000, torch.Generator().manual_seed(1)).bincount(minlength=4) / 20_000
    torch.testing.assert_close(drawn, policy.probabilities(), atol=0.01, rtol=0)


def test_size_normalisation_leaves_signs_and_ratios():
    normaliser = Reinforce(Keep(3), normalise="size").normaliser
    torch.testing.assert_close(normaliser(torch.tensor([3.0, -1.0, 0.0, -4.0]), 4), torch.tensor([1.5, -0.5, 0, -2]))
    assert normaliser(torch.zeros(3), 3).tolist() == [0, 0, 0]


def test_the_step_size_halves_and_goes_on_from_a_state():
    def agent() -> Reinforce:
        return Reinforce(Softmax(3), step_size=0.4, half_after=10, seed=1)

    one, other = agent(), agent()
    pay = torch.tensor([0.0, 1.0, 0.5])
    learned(one, pay, steps=11)
    assert one.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    other.load_state_dict(one.state_dict())
    assert learned(one, pay, steps=20).tolist() == learned(other, pay, steps=20).tolist()
    assert one.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Keep(1), "num_choices=1: a policy needs at least 2"),
        (lambda: Keep(3, start=float("nan")), "start=nan must be a number between -100 and 100"),
        (lambda: Softmax(3, floor=1.0), "floor=1.0 must be at least 0 and below 1"),
        (lambda: Softmax(0), "num_choices=0"),
        (lambda: Reinforce(Keep(3), half_after=0), "half_after=0 must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("policy", "normalise"), [("inverted", "step"), ("softmax", "step"), ("keep", "size")], ids=lambda it: it
)
def test_the_controller_has_them_by_name(policy, normalise):
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8, num_steps=3)
    agent: Any = ReinforceOptions(policy=policy).build(env, 0)
    assert agent.normaliser.kind == normalise
    assert agent.policy.action_space == env.single_action_space
    with pytest.raises(ConfigurationError, match="policy='keeper' is unknown"):
        ReinforceOptions(policy="keeper").build(env, 0)  # pyright: ignore
    env.close()
