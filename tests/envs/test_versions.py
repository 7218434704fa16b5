"""Later versions of environments: the same, with other defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.controllers.native import ReinforceOptions
from agents.policies import InvertedSoftmax, Keep
from agents.training.arguments import parse
from gar_env.data import load_dataset, token_dataset
from gar_env.errors import ConfigurationError, UnknownNameError, UnsupportedLayerError
from gar_env.rewards import Need, RewardSignal

N = 16
STREAMS = {"counting": bytes(range(48, 58)) * 60, "words": b"the cat sat on the mat and " * 30}


def made(env_id: str, **options: Any) -> Any:
    return gymnasium.make_vec(env_id, num_envs=N, **{"network": "fc", "num_steps": 6} | options).unwrapped


def rewards_of(env: Any, actions: np.ndarray) -> list[np.ndarray]:
    env.reset(seed=0)
    return [env.step(actions)[1] for _ in range(4)]


def test_mixtures_are_paid_by_distinct_gar_and_are_otherwise_the_first_version():
    env, first = made("GAR/DataSplit-v1"), made("GAR/DataSplit-v0")
    assert (env.evaluator.name, env.reference) == ("distinct_gar", "uniform")
    assert (first.evaluator.name, first.reference) == ("gar", "policy")
    assert made("GAR/DataSplit-v1", reward_timing="next_step").reference is None
    actions = np.arange(N) % 10
    old = rewards_of(first, actions)
    new = rewards_of(made("GAR/DataSplit-v1", reward="gar", reference="policy"), actions)
    for one, other in zip(old, new, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_are_paid_by_the_other_half_and_are_otherwise_the_first_version():
    spelled = {"reference": "other_half", "reference_weights": "mae", "keep_bonus": 0.15}
    actions = np.arange(N) % 2
    new, old = rewards_of(made("GAR/DataWeight-v1"), actions), rewards_of(made("GAR/DataWeight-v0", **spelled), actions)
    for one, other in zip(new, old, strict=True):
        np.testing.assert_array_equal(one, other)


class ReadsTheStep(RewardSignal):
    """Needs more than a gradient."""

    needs = Need.ALIGNMENT | Need.NEXT_LOSS

    def __call__(self, evidence):
        return evidence.alignment


@pytest.mark.parametrize(
    ("options", "reference", "weights"),
    [
        ({}, "other_half", "mae"),
        ({"reward": "distinct_gar"}, "other_half", "mae"),
        ({"reference": "other_half", "reference_weights": "all"}, "other_half", "all"),
        ({"reference": "uniform"}, "uniform", "all"),
        ({"reference": "policy", "reference_weights": "agree"}, "policy", "agree"),
        ({"reward_timing": "next_step"}, None, "all"),
        ({"reward": "nslr"}, "policy", "all"),
        ({"reward": "meta_gradient"}, "policy", "all"),
        ({"reward": "validation_gar"}, "policy", "all"),
        ({"reward": ReadsTheStep()}, "policy", "all"),
    ],
    ids=str,
)
def test_defaults_give_way_to_what_they_do_not_go_with(options, reference, weights):
    env = made("GAR/DataWeight-v1", **options)
    assert (env.reference, env.config.resolved_weights) == (reference, weights)
    rewards_of(env, np.arange(N) % 2)


def test_networks_that_the_default_reward_cannot_read_are_told_what_can():
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = torch.nn.LSTM(8, 8, batch_first=True), torch.nn.Linear(8, 10)

        def forward(self, x):
            return self.out(self.inner(x[:, 0])[0][:, -1])

    for options in ({"network": lambda shape, outputs: Recurrent()}, {"way": "finite_difference"}):
        env = made("GAR/DataSplit-v1", **options)
        env.reset(seed=0)
        with pytest.raises(UnsupportedLayerError, match="reward='gar' does without"):
            env.step(np.arange(N) % 10)
        rewards_of(made("GAR/DataSplit-v1", reward="gar", **options), np.arange(N) % 10)
    with pytest.raises(ConfigurationError, match=r"num_envs is 1\. Use 2 at least, or reference='policy'"):
        gymnasium.make_vec("GAR/DataWeight-v1", num_envs=1, network="fc")
    with pytest.raises(UnknownNameError, match="No reference weight is called ''"):
        made("GAR/DataWeight-v1", reference_weights="")


def test_a_target_takes_the_place_of_the_other_half():
    digits = load_dataset("digits")
    own = replace(digits, group_train=(digits.y_train % 2).long(), groups=("even", "odd"))
    env = made("GAR/DataWeight-v1", dataset=own, target="each(0.1)")
    assert (env.reference, env.config.resolved_weights) == ("heldout", "all")
    rewards_of(env, np.arange(N) % 2)


def test_labels_of_ones_own_data_are_left_as_they_are():
    toy, own = made("GAR/DataWeight-v1"), made("GAR/DataWeight-v1", dataset=load_dataset("digits"))
    for env, share in ((toy, 0.4), (own, 0.0)):
        env.reset(seed=0)
        assert float(env.pool.spoiled.float().mean()) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("env_id", ["GAR/DataSplit-v1", "GAR/DataWeight-v1"])
def test_text_needs_no_option_more(env_id):
    data = token_dataset(STREAMS, {name: stream[:200] for name, stream in STREAMS.items()}, length=12)
    splits = {"splits": "group"} if "Split" in env_id else {}
    env = made(env_id, dataset=data, network="transformer-32-1", **splits)
    assert all(np.isfinite(one).all() and one.any() for one in rewards_of(env, np.arange(N) % 2))


def test_a_command_line_shows_and_takes_the_defaults_of_the_version():
    assert parse(["--env", "GAR/DataSplit-v1"]).config.env_options.reward == "distinct_gar"
    assert parse(["--env", "GAR/DataSplit-v0"]).config.env_options.reward == "gar"
    options = parse(["--env", "GAR/DataWeight-v1"]).config.env_options
    assert (options.keep_bonus, options.corrupt, options.reference) == (0.15, None, None)
    assert parse([]).config.env == "GAR/DataSplit-v1"


def test_reinforce_keeps_sources_and_leaves_out_other_choices_unless_told():
    splits, weights = made("GAR/DataSplit-v1"), made("GAR/DataWeight-v1")
    for env, policy, kind, normalise in (
        (splits, "auto", Keep, "size"),
        (splits, "inverted", InvertedSoftmax, "step"),
        (weights, "auto", InvertedSoftmax, "step"),
    ):
        agent: Any = ReinforceOptions(policy=policy).build(env, 0)
        assert type(agent.policy) is kind
        assert agent.normaliser.kind == normalise
