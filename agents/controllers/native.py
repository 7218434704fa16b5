"""The controllers of this package: REINFORCE and baselines."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv

from agents.agent import Agent
from agents.controllers.registry import register_controller
from agents.domain_weights import DomainWeights
from agents.normaliser import Normalisation
from agents.policies import (
    DropSpoiled,
    FixedPolicy,
    InvertedSoftmax,
    Keep,
    KeepHighest,
    LinearSoftmax,
    SmallLoss,
    Softmax,
)
from agents.reinforce import Reinforce
from agents.value_regression import ValueRegression
from gar_env.envs import DataSplitVectorEnv
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice

POLICIES = ("auto", "inverted", "softmax", "keep")


@register_controller("reinforce")
@dataclass(frozen=True)
class ReinforceOptions:
    """REINFORCE with one logit per choice; it does not look at observations.

    Args:
        policy: "keep": a chance to keep each choice, which turns down any number of them and crowns none. "inverted":
            the inverted softmax (the paper's), which leaves out at most one choice. "softmax": the ordinary one, which
            may settle on one choice. "auto": "keep" where choices are sources of data, else "inverted".
        normalise: "step" within each step, "running" over all steps, "size" over mean size without centring, or "none".
            "step" erases a reward that all slots share, such as nslr. "auto": "size" for "keep", else "step".
        aggregate: Rewarded steps per policy update.
        step_size: Of Adam.
        half_after: Updates after which the step size is half of that; by default it stays.
        floor: Of "softmax": share of the draws that are uniform, in [0, 1).
    """

    policy: Literal["auto", "inverted", "softmax", "keep"] = "auto"
    normalise: Literal["auto", "step", "running", "size", "none"] = "auto"
    aggregate: int = 1
    step_size: float = 0.1
    half_after: float | None = None
    floor: float = 0.1

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller with one logit per choice."""
        check_choice("policy", self.policy, POLICIES)
        k = _choices(env, "reinforce")
        kinds = {"inverted": InvertedSoftmax, "softmax": partial(Softmax, floor=self.floor), "keep": Keep}
        of_sources = isinstance(env.unwrapped, DataSplitVectorEnv)
        policy = ("keep" if of_sources else "inverted") if self.policy == "auto" else self.policy
        usual: Normalisation = "size" if policy == "keep" else "step"
        return Reinforce(
            kinds[policy](k),
            reward_timing=getattr(env.unwrapped, "reward_timing", "same_step"),
            normalise=usual if self.normalise == "auto" else self.normalise,
            aggregate=self.aggregate,
            step_size=self.step_size,
            half_after=self.half_after,
            seed=seed,
        )


@register_controller("reinforce-linear")
@dataclass(frozen=True)
class ReinforceLinearOptions:
    """REINFORCE with a softmax that is linear in what a row observes, on each step's own reward.

    Args:
        normalise: "step" within each step, "running" over all steps, or "none".
        aggregate: Rewarded steps per policy update.
        step_size: Of Adam.
    """

    normalise: Normalisation = "running"
    aggregate: int = 8
    step_size: float = 0.01

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller with a row of weights per choice; features that reach far beyond 1 are divided by 10."""
        space: Any = env.single_observation_space
        scales = [10.0 if far > 5 else 1.0 for far in np.maximum(abs(space.low), abs(space.high))]
        return Reinforce(
            LinearSoftmax(_choices(env, "reinforce-linear"), scales),
            reward_timing=getattr(env.unwrapped, "reward_timing", "same_step"),
            normalise=self.normalise,
            aggregate=self.aggregate,
            step_size=self.step_size,
            seed=seed,
        )


@register_controller("uniform")
@dataclass(frozen=True)
class UniformOptions:
    """Every choice equally often: on data splits, plain training on all the data."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        return FixedPolicy.uniform(_choices(env, "uniform"), seed=seed)


@register_controller("oracle")
@dataclass(frozen=True)
class OracleOptions:
    """Knows what was corrupted: never draws such a split, or drops such an example and no other."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns.

        Raises:
            ConfigurationError: If the environment does not tell what was corrupted.
        """
        slots: Any = env.unwrapped
        if hasattr(slots, "spoiled"):
            return DropSpoiled()
        if hasattr(slots, "corrupted_splits"):
            return FixedPolicy.never(_choices(env, "oracle"), slots.corrupted_splits, seed=seed)
        raise ConfigurationError(
            f"{type(slots).__name__} does not tell what was corrupted (corrupted_splits or spoiled), so there is no "
            "oracle for it. Choose another --agent."
        )


@register_controller("keep-all")
@dataclass(frozen=True)
class KeepAllOptions:
    """Keep every example, or task: plain training on the data as they are."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        return _drop_at_random(env, 0.0, seed, "keep-all")


@register_controller("random-drop")
@dataclass(frozen=True)
class RandomDropOptions:
    """Drop examples at random.

    Args:
        drop_share: Chance of each example, in [0, 1].
    """

    drop_share: float = 0.4

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        return _drop_at_random(env, self.drop_share, seed, "random-drop")


@register_controller("small-loss")
@dataclass(frozen=True)
class SmallLossOptions:
    """Keep the examples with the smallest losses; it is told the share of wrong labels.

    Args:
        drop_share: Share of each batch to drop, in [0, 1).
        ramp: Share of training over which it grows to that, in [0, 1].
    """

    drop_share: float = 0.4
    ramp: float = 0.1

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        _check_weighs(env, "small-loss")
        return SmallLoss(self.drop_share, ramp=self.ramp)


@register_controller("domain-weights")
@dataclass(frozen=True)
class DomainWeightsOptions:
    """Weights of sources by their mean reward: DoGE's rule, and with an average DGA's.

    Args:
        step_size: Of the weights' logarithms, rewards being over their root mean square.
        average: Decay of a running mean of the weights, in [0, 1).
        floor: Share of the draws that are uniform, in [0, 1).
    """

    step_size: float = 0.1
    average: float = 0.0
    floor: float = 0.05

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller with one weight per choice."""
        return DomainWeights(_choices(env, "domain-weights"), seed=seed, **dataclasses.asdict(self))


@register_controller("value-regression")
@dataclass(frozen=True)
class ValueRegressionOptions:
    """Predicts each example's reward from what its slot shows, and drops what is predicted too low.

    Args:
        threshold: Of predictions, in root mean squares of the rewards.
        explore: Chance that an example is kept whatever is predicted, in [0, 1].
        warmup: Steps at the start of an episode in which all is kept.
        step_size: Of Adam.
        hidden: Units of the one hidden layer.
        memory: Last examples to learn from.
        batch_size: Of them in each update, one a step.
    """

    threshold: float = -0.15
    explore: float = 0.05
    warmup: int = 0
    step_size: float = 3e-3
    hidden: int = 32
    memory: int = 4096
    batch_size: int = 256

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that learns from every example, of pay_dropped=True of dropped ones too."""
        _check_weighs(env, "value-regression")
        space: Any = env.single_observation_space
        return ValueRegression(
            space.shape[0], keep=_choices(env, "value-regression") - 1, seed=seed, **dataclasses.asdict(self)
        )


@register_controller("keep-highest")
@dataclass(frozen=True)
class KeepHighestOptions:
    """Keep the tasks, or examples, in which an observed feature is highest; it is told the share of corrupted ones.

    Args:
        feature: That rows observe.
        drop_share: Share of each batch to drop, in [0, 1).
    """

    feature: str = "inner_gar"
    drop_share: float = 0.3

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        return KeepHighest(self.feature, self.drop_share)


def _drop_at_random(env: VectorEnv, share: float, seed: int, name: str) -> Agent:
    _check_weighs(env, name)
    if not 0 <= share <= 1:
        raise ConfigurationError(f"drop_share={share} must be in [0, 1].")
    return FixedPolicy([share, *[0.0] * (_choices(env, name) - 2), 1 - share], seed=seed)


def _check_weighs(env: VectorEnv, name: str) -> None:
    if not hasattr(env.unwrapped, "spoiled"):
        raise ConfigurationError(
            f"{name} drops or keeps examples or tasks; {type(env.unwrapped).__name__} has other actions. Use it on "
            "GAR/DataWeight-v1 or GAR/GradientAgreement-v0."
        )


def _choices(env: VectorEnv, name: str) -> int:
    space = env.single_action_space
    if not isinstance(space, Discrete):
        raise ConfigurationError(
            f"{name} chooses among k actions (Discrete); a slot's action here is {space}. Choose another --agent."
        )
    return int(space.n)
