"""One training run on a mixture, by whom and paid by what."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gar_env  # noqa: F401 - registers the environments
from agents.agent import Agent, train
from agents.controllers.native import DomainWeightsOptions, ReinforceOptions
from agents.jobs.provenance import fingerprint, fingerprint_of, provenance
from agents.jobs.results import Row
from agents.policies import FixedPolicy
from agents.studies.mixture.sources import UNWANTED, mixture_dataset, wanted
from gar_env.data import Dataset
from gar_env.envs import DataSplitVectorEnv

TARGET_BYTES = 50_000
"""Of each wanted source, put aside as a target."""

TRAINING: dict[str, Any] = {
    "splits": "group", "network": "transformer-96-2", "optimizer": "adamw", "step_size": 2e-3, "schedule": "cosine",
    "weight_decay": 0.01,
}  # fmt: skip
SLOTS = 32

SOFTMAX = ReinforceOptions("softmax", step_size=0.05, floor=0.05)
KEEP = ReinforceOptions("keep", step_size=0.1)
SMALL: dict[str, Any] = {"target_batch_size": 4}
"""Chosen among nine settings by one run on seed 1000."""


@dataclass(frozen=True)
class Arm:
    """Who draws, and what pays.

    Args:
        agent: ``None`` for an agent that does not learn.
        options: Of the environment.
        target: Whether a sample of the wanted sources pays.
        avoids: Whether it never draws from unwanted sources, which it is told.
    """

    agent: ReinforceOptions | DomainWeightsOptions | None = None
    options: dict[str, Any] = field(default_factory=dict)
    target: bool = False
    avoids: bool = False


PLAIN: dict[str, Any] = {"reward": "random", "reward_timing": "next_step"}

ARMS: dict[str, Arm] = {
    "uniform": Arm(options=PLAIN),
    "oracle": Arm(options=PLAIN, avoids=True),
    "target, softmax": Arm(SOFTMAX, SMALL, target=True),
    "target, keep": Arm(KEEP, SMALL, target=True),
    "target, DoGE's weights": Arm(DomainWeightsOptions(), SMALL, target=True),
    "target, DGA's weights": Arm(DomainWeightsOptions(average=0.9), SMALL, target=True),
    "gar, softmax": Arm(SOFTMAX, {"reference": "policy"}),
    "distinct_gar, uniform reference, keep": Arm(KEEP, {"reference": "uniform", "reward": "distinct_gar"}),
    "distinct_gar, keep": Arm(KEEP, {"reference": "policy", "reward": "distinct_gar"}),
}


@dataclass(frozen=True)
class MixtureJob:
    """One network; see :class:`~agents.jobs.job.Job`.

    Args:
        arm: Of :data:`ARMS`.
        seed: Of network, data and agent.
        text: See :func:`mixture_dataset`.
        sgd_steps: In all arms: a reference batch that is trained on counts.
        device: Where.
    """

    arm: str
    seed: int
    text: str
    sgd_steps: int
    device: str = "cpu"

    @property
    def _trains_on_reference(self) -> bool:
        return "reference" in ARMS[self.arm].options

    @property
    def steps(self) -> int:
        """Of the environment."""
        return self.sgd_steps // (2 if self._trains_on_reference else 1)

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result."""
        arm, data = ARMS[self.arm], mixture_dataset(self.text)
        config = [self.sgd_steps, str(arm), TRAINING, SLOTS, TARGET_BYTES, fingerprint_of(data)]
        return {"arm": self.arm, "seed": self.seed, "config": fingerprint(config)}

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train one network, and test it on each wanted source."""
        arm, data = ARMS[self.arm], mixture_dataset(self.text)
        env = environment_of(arm, data, steps=self.steps, device=self.device)
        agent = agent_of(arm, env, self.seed)
        begun = time.process_time()
        final = train(env, agent, seed=self.seed, on_step=lambda *_: on_step())
        spent = time.process_time() - begun
        slots = env.unwrapped
        assert slots.learner.steps == self.sgd_steps, "arms take equal numbers of steps"
        diverged = bool(final["diverged"][0])
        losses = {} if diverged else {name: one["test_loss"] for name, one in slots.evaluate_sources().items()}
        env.close()
        return {
            "test_loss": float(np.mean(list(losses.values()))) if losses else None,
            "losses": losses,
            "draws": dict(zip(data.groups, slots.usage.tolist(), strict=True)),
            "diverged": diverged,
            "cpu_seconds": round(spent, 2),
            "device": self.device,
            **provenance(),
        }


def environment_of(arm: Arm, data: Dataset, *, steps: int, device: str = "cpu") -> Any:
    """An arm's environment, of so many steps."""
    options = {**TRAINING, **arm.options}
    if arm.target:
        options["target"] = target_of(data)
    return DataSplitVectorEnv(SLOTS, num_steps=steps, dataset=data, device=device, output="torch", **options)


def agent_of(arm: Arm, env: Any, seed: int) -> Agent:
    """Who draws in it."""
    if arm.agent is not None:
        return arm.agent.build(env, seed)
    groups = env.unwrapped.dataset.groups
    avoided = [groups.index(name) for name in UNWANTED] if arm.avoids else []
    return FixedPolicy.never(len(groups), avoided, seed=seed)


def target_of(data: Dataset) -> str:
    """The option: a share of each wanted source, some 50 kB of it."""
    assert data.group_train is not None
    counts, length = data.group_train.bincount(minlength=len(data.groups)).tolist(), data.input_shape[0]
    shares = {name: min(0.5, TARGET_BYTES / (counts[data.groups.index(name)] * length)) for name in wanted(data)}
    return ", ".join(f"{name}({share:.6f})" for name, share in shares.items())
