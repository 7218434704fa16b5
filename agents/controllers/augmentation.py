"""Controllers of ``GAR/Augment-v0``: the paper's online one, and baselines that never learn."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.agent import Agent
from agents.controllers.registry import register_controller
from agents.files import write_whole
from agents.normaliser import Normalisation
from agents.policies import FixedAugmentation, OnlineAugmentation
from agents.policies.augmentation import Distribution, layout_of
from agents.reinforce import Reinforce

KEPT = 400  # snapshots of a policy


class OnlineLearner(Reinforce):
    """:class:`~agents.Reinforce` over augmentations, which remembers how its policy changed.

    Args:
        policy: What to learn.
        **options: Of :class:`~agents.Reinforce`.
    """

    policy: OnlineAugmentation

    def __init__(self, policy: OnlineAugmentation, **options: Any) -> None:
        super().__init__(policy, **options)
        self.steps, self.every = 0, 1
        self.history: list[tuple[int, Distribution]] = []

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """As :meth:`Reinforce.learn`; of a long run every second, fourth, ... step is remembered."""
        if self.steps % self.every == 0:
            self.history.append((self.steps, self._now()))
        super().learn(rewards, ended, infos)
        self.steps += 1
        if len(self.history) >= KEPT:
            self.history, self.every = self.history[::2], 2 * self.every

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`Reinforce.state_dict`, and what is remembered."""
        history = [(step, tuple(distribution)) for step, distribution in self.history]
        return {**super().state_dict(), "history": history, "steps": (self.steps, self.every)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As :meth:`Reinforce.load_state_dict`."""
        super().load_state_dict(state)
        self.history = [(step, Distribution(*parts)) for step, parts in state["history"]]
        self.steps, self.every = state["steps"]

    def _now(self) -> Distribution:
        return Distribution(*(part.cpu() for part in self.policy.distribution()))

    def save(self, folder: Path) -> None:
        """Write ``policy.npz``: arrays as :func:`agents.measures.augmentation_figures.policy_figure` takes them."""
        steps, distributions = zip(*self.history, (self.steps, self._now()), strict=True)
        parts = {
            name: np.stack([getattr(distribution, name).numpy() for distribution in distributions])
            for name in Distribution._fields
        }
        content = io.BytesIO()
        space = self.policy.space
        parts |= {"steps": np.array(steps), "names": np.array(space.names), "space": np.array(space.to_json())}
        np.savez_compressed(content, **parts)  # pyright: ignore[reportArgumentType]
        write_whole(folder / "policy.npz", content.getvalue())


@register_controller("ola")
@dataclass(frozen=True)
class OlaOptions:
    """Online learning of augmentations: REINFORCE on number, strengths and keep coins, a policy step every batch.

    Args:
        normalise: "step" within each step (the paper's), "running" over all steps, or "none". "step" erases a reward
            that all slots share, such as nslr.
        step_size: Of Adam.
        gradient_clip: Largest entry of the policy gradient.
    """

    normalise: Normalisation = "step"
    step_size: float = 0.1
    gradient_clip: float = 5.0

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller with logits for the environment's search space, on the environment's device."""
        layout = layout_of(env)
        return OnlineLearner(
            OnlineAugmentation(layout.space, layout.places, getattr(env.unwrapped, "device", "cpu")),
            reward_timing=getattr(env.unwrapped, "reward_timing", "same_step"),
            normalise=self.normalise,
            step_size=self.step_size,
            gradient_clip=self.gradient_clip,
            seed=seed,
        )


@register_controller("no-augmentation")
@dataclass(frozen=True)
class NoAugmentationOptions:
    """No operation; what is left is the environment's own crop, flip and Cutout."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        layout_of(env)
        return FixedAugmentation.none(seed=seed)


@register_controller("uniform-augment")
@dataclass(frozen=True)
class UniformAugmentOptions:
    """UniformAugment: two operations, each applied with chance one half, at any strength."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        layout_of(env)
        return FixedAugmentation.uniform_augment(seed=seed)


@register_controller("rand-augment")
@dataclass(frozen=True)
class RandAugmentOptions:
    """RandAugment: n operations at strength m.

    Args:
        n: Operations for every image.
        m: Strength, 0..30.
    """

    n: int = 2
    m: int = 14

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        layout_of(env)
        return FixedAugmentation.rand_augment(self.n, self.m, seed=seed)


@register_controller("trivial-augment")
@dataclass(frozen=True)
class TrivialAugmentOptions:
    """TrivialAugment: one operation at any strength."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        layout_of(env)
        return FixedAugmentation.trivial_augment(seed=seed)


@register_controller("random-augment")
@dataclass(frozen=True)
class RandomAugmentOptions:
    """Everything by chance: what ola does before it has learned anything."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        layout_of(env)
        return FixedAugmentation.random(seed=seed)
