"""The checks that come with extension points: ours pass, broken ones are named."""

import numpy as np
import pytest
import torch
from torch import nn

from agents import FixedPolicy, InvertedSoftmax, Reinforce, check_agent
from agents.policies import SmallLoss
from gar_env import (
    check_reward,
    check_rule,
    check_rule_part,
    check_stacked_layer,
    check_update_rule,
    register_binary,
    register_operand,
    register_unary,
)
from gar_env.alignment import register_output_tangent
from gar_env.alignment.rules import OUTPUT_TANGENTS
from gar_env.errors import ConformanceError, UnknownNameError
from gar_env.learner import UpdateRule
from gar_env.learner.update_rules import RULES
from gar_env.optimizers.functions import BINARY, OPERANDS, UNARY
from gar_env.rewards import REWARDS, Need, RewardSignal


@pytest.mark.parametrize("name", [name for name in REWARDS if name not in ("small",)])
def test_our_signals_pass(name):
    check_reward(name)


class Mixes(RewardSignal):
    needs = Need.ALIGNMENT

    def __call__(self, evidence):
        return evidence.alignment.roll(1)


class Unasked(RewardSignal):
    needs = Need.NEXT_LOSS

    def __call__(self, evidence):
        return evidence.alignment


class Writes(RewardSignal):
    needs = Need.NEXT_GRADIENT

    def __call__(self, evidence):
        for g in evidence.next_gradient.values():
            g.mul_(2)
        return torch.zeros(evidence.n)


class Restless(RewardSignal):
    needs = Need.NEXT_LOSS

    def __call__(self, evidence):
        return torch.rand(evidence.n)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (Mixes(), "An example's reward depends on its place"),
        (Unasked(), r"Unasked reads evidence.alignment; add Need.ALIGNMENT"),
        (Writes(), "Training goes another way with it"),
        (Restless(), "pays other rewards when the same training is run again"),
        (lambda evidence: 0, "It is no signal"),
    ],
)
def test_broken_signals_are_named(signal, message):
    with pytest.raises(ConformanceError, match=message):
        check_reward(signal)


LAYERS = [
    (nn.Linear(3, 2), (4, 3)),
    (nn.Conv2d(2, 3, 3), (4, 2, 5, 5)),
    (nn.LayerNorm(6), (4, 6)),
    (nn.GroupNorm(2, 4), (3, 4, 5)),
]


@pytest.mark.parametrize(
    ("layer", "shape"),
    LAYERS,
    ids=lambda case: str(case),
)  # fmt: skip
def test_our_rules_pass(layer, shape):
    check_rule(layer, torch.randn(*shape))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.weight


def test_a_wrong_rule_is_named_and_a_missing_one():
    with pytest.raises(ConformanceError, match=r"Scale has no rule.*register_output_tangent\(Scale\)"):
        check_rule(Scale(), torch.randn(4, 3))
    try:
        register_output_tangent(Scale)(lambda layer, x, direction: 2 * x * direction["weight"])
        with pytest.raises(ConformanceError, match="The rule of Scale"):
            check_rule(Scale(), torch.randn(4, 3))
        OUTPUT_TANGENTS[Scale] = lambda layer, x, direction: (x * direction["weight"]).roll(1, 0)
        with pytest.raises(ConformanceError, match="The rule of Scale"):
            check_rule(Scale(), torch.randn(4, 3))
        OUTPUT_TANGENTS[Scale] = lambda layer, x, direction: x * direction["weight"]
        check_rule(Scale(), torch.randn(4, 3))
    finally:
        del OUTPUT_TANGENTS[Scale]


@pytest.mark.parametrize("name", RULES)
def test_our_update_rules_pass(name):
    check_update_rule(name)


class Leaning(UpdateRule):
    def direction(self, gradient, memory, steps, parameters):
        return {name: -g + g.mean() for name, g in gradient.items()}, memory


class InPlace(UpdateRule):
    remembers = ("mean",)

    def direction(self, gradient, memory, steps, parameters):
        for name, g in gradient.items():
            memory["mean"][name].mul_(0.9).add_(g)
        return {name: -m for name, m in memory["mean"].items()}, memory


class Forgets(UpdateRule):
    remembers = ("mean",)

    def direction(self, gradient, memory, steps, parameters):
        return {name: -g for name, g in gradient.items()}, {}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Leaning(), "rows lean on each other"),
        (InPlace(), "changes the memory 'mean'"),
        (Forgets(), "memory changes names"),
    ],
)
def test_broken_update_rules_are_named(rule, message):
    with pytest.raises(ConformanceError, match=message):
        check_update_rule(rule)


def test_stacked_layers_are_held_against_layers_alone():
    check_stacked_layer(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.LayerNorm(4)), torch.randn(5, 3))
    with pytest.raises(ConformanceError, match="There is no rule for all of it"):
        check_stacked_layer(lambda: nn.Sequential(nn.Linear(3, 3), Scale()), torch.randn(5, 3))


@pytest.mark.parametrize(
    ("build", "id"),
    [
        (lambda: Reinforce(InvertedSoftmax(10)), "GAR/DataSplit-v0"),
        (lambda: FixedPolicy.uniform(10), "GAR/DataSplit-v0"),
        (lambda: SmallLoss(0.4), "GAR/DataWeight-v0"),
    ],
)
def test_our_agents_pass(build, id):
    check_agent(build, id)


class Plain:
    def begin(self, env):
        self.n, self.k = env.num_envs, env.single_action_space.n
        self.generator = np.random.default_rng(0)

    def act(self, observations):
        return self.generator.integers(self.k, size=self.n)

    def learn(self, rewards, ended, infos):
        pass


class TooFew(Plain):
    def act(self, observations):
        return super().act(observations)[1:]


class Scribbles(Plain):
    def learn(self, rewards, ended, infos):
        rewards -= rewards.mean()


class Scrawls(Plain):
    def act(self, observations):
        observations *= 0
        return super().act(observations)


class Forgetful(Plain):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.generator.random(7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (TooFew, r"act\(\) returned int64 \[7\]"),
        (Scribbles, r"learn\(\) writes into the rewards"),
        (Scrawls, r"act\(\) writes into the observations"),
        (Forgetful, "acts otherwise: the state lacks something"),
        (object, r"object has no method begin\(\)"),
    ],
)
def test_broken_agents_are_named(build, message):
    check_agent(Plain)
    with pytest.raises(ConformanceError, match=message):
        check_agent(build)


@pytest.mark.parametrize("name", [*OPERANDS, *UNARY, *BINARY])
def test_our_parts_of_update_rules_pass(name):
    check_rule_part(name)


WRONG_PARTS = {
    "leans on others": (register_unary, {}, lambda x: x / x.abs().max(), "rows lean on each other|depends on others"),
    "a mean": (register_unary, {}, lambda x: x.mean(-1, keepdim=True).expand_as(x), "depends on others"),
    "in place": (register_unary, {}, lambda x: x.mul_(2), "the second time|changes what it is given"),
    "another shape": (register_unary, {}, lambda x: x.sum(), "expected the same"),
    "another type": (register_unary, {}, lambda x: x.bool(), "expected the same"),
    "not odd": (register_unary, {"odd": True}, torch.exp, "said to be odd"),
    "not even": (register_unary, {"even": True}, torch.exp, "said to be even"),
    "does not commute": (register_binary, {"commutes": True}, torch.sub, "said to commute"),
    "draws anew": (register_operand, {}, lambda at, _: torch.rand_like(at.g), "the second time"),
}


@pytest.mark.parametrize("case", WRONG_PARTS)
def test_wrong_parts_of_update_rules_are_told_what_is_wrong(case):
    register, claims, compute, message = WRONG_PARTS[case]
    register("wrong_part", **claims)(compute)
    try:
        with pytest.raises(ConformanceError, match=message):
            check_rule_part("wrong_part")
    finally:
        for registry in (OPERANDS, UNARY, BINARY):
            registry._objects.pop("wrong_part", None)


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(UnknownNameError, match="No part of update rules is called 'tan'"):
        check_rule_part("tan")
